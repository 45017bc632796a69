"""Disks and generalised Gaussians with independent laws of their physical parameters: true kernels for simulations.

The test protocol of the literature has Gaussian kernels only. These laws are as wide as its Gaussians
(`priors.gaussian.protocol_variances`), so that families can be compared at the same scale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Uniform

from blindsr.operators.degradation import Degradation
from blindsr.priors.gaussian import protocol_variances
from blindsr.priors.normal import DiskShape, GeneralizedGaussianShape
from blindsr.priors.parametric import IndependentParameters, ParametricKernels

EXPONENTS = (1.0, 8.0)
"""Range of the exponent β of the radius: that of Real-ESRGAN (Wang et al., ICCV Workshops 2021), whose exponents of the
squared radius are 0.5 to 4. β = 2 is a Gaussian."""


class DiskKernelPrior(ParametricKernels):
    """Defocus disks, θ = (radius,), centred at (K - s)/2, for the scale and kernel size of a degradation.

    A disk of radius R has the variance R²/4 on each axis. The radius is uniform from 2 sqrt(λ_min) to 2 sqrt(λ_max), HR
    pixels, where λ_min and λ_max bound the protocol's variances; such a disk lies inside a kernel of the usual size.
    """

    names = ("radius",)

    def __init__(self, degradation: Degradation) -> None:
        self.kernel_size = degradation.kernel_size
        self.shape = DiskShape.of(degradation)
        low, high = (2 * math.sqrt(v) for v in protocol_variances(degradation.scale))
        self.parameters = IndependentParameters([Uniform(low, high)])

    def kernel_of(self, theta: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of θ (n, 1)."""
        return self.shape.kernel(theta.log())


class GeneralizedGaussianKernelPrior(ParametricKernels):
    """Generalised Gaussians, θ = (λ₁, λ₂, angle, log β), for the scale and kernel size of a degradation.

    They are k(u) ∝ exp(-½ r^β), centred at (K - s)/2. λ₁ and λ₂ (HR pixels²) and the angle follow the test protocol's
    law of Gaussians, log β is uniform over `EXPONENTS`. The λ are the eigenvalues of Σ in r² = (u-c)ᵀ Σ⁻¹ (u-c), which
    are the kernel's variances for β = 2 alone.
    """

    names = ("variance_1", "variance_2", "angle", "log_exponent")

    def __init__(self, degradation: Degradation) -> None:
        self.kernel_size = degradation.kernel_size
        self.shape = GeneralizedGaussianShape.of(degradation)
        variance = Uniform(*protocol_variances(degradation.scale))
        exponent = Uniform(math.log(EXPONENTS[0]), math.log(EXPONENTS[1]))
        self.parameters = IndependentParameters([variance, variance, Uniform(0.0, math.pi), exponent])

    def kernel_of(self, theta: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of θ (n, 4)."""
        log1, log2, turn = theta[:, 0].log(), theta[:, 1].log(), 2 * theta[:, 2]
        size, stretch = (log1 + log2) / 2, (log1 - log2) / 2  # log Σ is a rotation of diag(log λ₁, log λ₂)
        z = [size, stretch * turn.cos(), stretch * turn.sin(), theta[:, 3] - math.log(2)]
        return self.shape.kernel(torch.stack(z, 1))
