"""What makes an image and a kernel from parameters."""

from blindsr.generators.base import Generator
from blindsr.generators.kernel import (
    FixedKernel,
    GaussianKernel,
    KernelNetwork,
    ParametricKernel,
    ScaledKernel,
    SimplexKernel,
)
from blindsr.generators.latent import SphericalLatent
from blindsr.generators.pixels import Pixels
from blindsr.generators.skip import SkipNetwork, SkipSettings

__all__ = [
    "FixedKernel",
    "GaussianKernel",
    "Generator",
    "KernelNetwork",
    "ParametricKernel",
    "Pixels",
    "ScaledKernel",
    "SimplexKernel",
    "SkipNetwork",
    "SkipSettings",
    "SphericalLatent",
]
