"""Posteriors: targets for samplers, Laplace approximations and transport maps.

A target is a log density over named, unconstrained parameters: `SpectralTarget` (a) given y alone, `FixedImageTarget`
(b) given y and an image, `NetworkTarget` (c) over the weights of a kernel network.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from blindsr.posteriors.base import BayesTarget, KernelTarget, Target, value_and_gradient
from blindsr.posteriors.fixed_image import FixedImageTarget
from blindsr.posteriors.log_noise import LogNoisePrior
from blindsr.posteriors.network import FlatNetwork, NetworkTarget
from blindsr.posteriors.pyro_models import fixed_image_model, spectral_model
from blindsr.posteriors.spectral import SpectralTarget
from blindsr.posteriors.spectral_laplace import SpectralPosterior
from blindsr.posteriors.transport import Transport, Transported

if TYPE_CHECKING:
    from blindsr.posteriors.laplace_map import nested_laplace

__all__ = [
    "BayesTarget",
    "FixedImageTarget",
    "FlatNetwork",
    "KernelTarget",
    "LogNoisePrior",
    "NetworkTarget",
    "SpectralPosterior",
    "SpectralTarget",
    "Target",
    "Transport",
    "Transported",
    "fixed_image_model",
    "nested_laplace",
    "spectral_model",
    "value_and_gradient",
]


def __getattr__(name: str) -> Any:
    if name == "nested_laplace":  # imports scipy
        return import_module("blindsr.posteriors.laplace_map").nested_laplace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
