"""Kernel and image priors."""

from blindsr.priors.base import ImagePrior, KernelDensity, KernelPrior
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import HyperLaplacian, NoPrior, Tikhonov, TotalVariation
from blindsr.priors.motion import CameraShakePrior, LineKernelPrior

__all__ = [
    "CameraShakePrior",
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
