"""Kernel and image priors."""

from blindsr.priors.base import ImagePrior, KernelDensity, KernelEnergy, KernelPrior
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import HyperLaplacian, NoPrior, Tikhonov, TotalVariation
from blindsr.priors.motion import CameraShakePrior, LineKernelPrior
from blindsr.priors.normal import DiskShape, GaussianShape, GeneralizedGaussianShape, LineShape
from blindsr.priors.parametric import Delta
from blindsr.priors.patch_groups import PatchGroups
from blindsr.priors.simplex import SimplexPrior

__all__ = [
    "CameraShakePrior",
    "Delta",
    "DiskShape",
    "GaussianKernelPrior",
    "GaussianShape",
    "GeneralizedGaussianShape",
    "HyperLaplacian",
    "ImagePrior",
    "KernelDensity",
    "KernelEnergy",
    "KernelPrior",
    "LineKernelPrior",
    "LineShape",
    "NoPrior",
    "PatchGroups",
    "SimplexPrior",
    "Tikhonov",
    "TotalVariation",
]
