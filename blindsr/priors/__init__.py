"""Kernel and image priors."""

from blindsr.priors.base import ImagePrior, KernelDensity, KernelPrior
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import HyperLaplacian, NoPrior, Tikhonov, TotalVariation
from blindsr.priors.motion import CameraShakePrior, LineKernelPrior
from blindsr.priors.parametric import Delta

__all__ = [
    "CameraShakePrior",
    "Delta",
    "GaussianKernelPrior",
    "HyperLaplacian",
    "ImagePrior",
    "KernelDensity",
    "KernelPrior",
    "LineKernelPrior",
    "NoPrior",
    "Tikhonov",
    "TotalVariation",
]
