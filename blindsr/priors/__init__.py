"""Kernel and image priors, none of which sees y. What trains a flow loads Pyro and is imported when asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from blindsr.priors.base import ImagePrior, KernelDensity, KernelEnergy, KernelPrior
from blindsr.priors.families import FAMILIES, KernelFamily, kernel_family
from blindsr.priors.flow import FlowPrior, flow_for, read_flow
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import HyperLaplacian, NoPrior, Tikhonov, TotalVariation
from blindsr.priors.motion import CameraShakePrior, LineKernelPrior
from blindsr.priors.normal import DiskShape, GaussianShape, GeneralizedGaussianShape, LineShape, SmoothKernels
from blindsr.priors.parametric import Delta, ParametricKernels
from blindsr.priors.patch_groups import PatchGroups
from blindsr.priors.shaped import DiskKernelPrior, GeneralizedGaussianKernelPrior
from blindsr.priors.simplex import SimplexPrior

if TYPE_CHECKING:
    from blindsr.priors.flow_training import FlowRecipe, train_flow

__all__ = [
    "FAMILIES",
    "CameraShakePrior",
    "Delta",
    "DiskKernelPrior",
    "DiskShape",
    "FlowPrior",
    "FlowRecipe",
    "GaussianKernelPrior",
    "GaussianShape",
    "GeneralizedGaussianKernelPrior",
    "GeneralizedGaussianShape",
    "HyperLaplacian",
    "ImagePrior",
    "KernelDensity",
    "KernelEnergy",
    "KernelFamily",
    "KernelPrior",
    "LineKernelPrior",
    "LineShape",
    "NoPrior",
    "ParametricKernels",
    "PatchGroups",
    "SimplexPrior",
    "SmoothKernels",
    "Tikhonov",
    "TotalVariation",
    "flow_for",
    "kernel_family",
    "read_flow",
    "train_flow",
]

_TRAINING = ("FlowRecipe", "train_flow")


def __getattr__(name: str) -> Any:
    if name in _TRAINING:
        return getattr(import_module("blindsr.priors.flow_training"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
