"""Disks and generalised Gaussians with independent laws of their physical parameters: true kernels for simulations.

The test protocol of the literature has Gaussian kernels only. These laws are as wide as its Gaussians
(`priors.gaussian.protocol_variances`), so that families can be compared at the same scale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Uniform

from blindsr.operators.degradation import Degradation, default_kernel_size
from blindsr.priors.gaussian import protocol_variances
from blindsr.priors.normal import DiskShape, GeneralizedGaussianShape
from blindsr.priors.parametric import IndependentParameters, ParametricKernels

EXPONENTS = (1.0, 8.0)
"""Range of the exponent β of the radius: that of Real-ESRGAN (Wang et al., ICCV Workshops 2021), whose exponents of the
squared radius are 0.5 to 4. β = 2 is a Gaussian."""


class DiskKernelPrior(ParametricKernels):
    """Defocus disks, θ = (radius,), with one centre.

    Parameters
    ----------
    shape : DiskShape
        Kernel size and scale, which set the centre, (K - s)/2.
    low, high : float
        The radius is U[low, high], HR pixels.
    """

    names = ("radius",)

    def __init__(self, shape: DiskShape, low: float, high: float) -> None:
        self.kernel_size, self.shape = shape.kernel_size, shape
        self.parameters = IndependentParameters([Uniform(low, high)])

    @classmethod
    def protocol(cls, degradation: Degradation) -> DiskKernelPrior:
        """Return disks as wide as the protocol's Gaussians, or wider in kernels larger than the usual size K₀.

        A disk of radius R has the variance R²/4 on each axis. The radius is uniform from 2 sqrt(λ_min) to
        2 sqrt(λ_max) max(1, K/K₀), where λ_min and λ_max bound the protocol's variances: up to 4.5 pixels at x2 and 6.3
        at x4, and up to 12.6 pixels for K = 31 at x2. Such a disk lies inside a kernel of the usual size or larger.
        """
        low, high = (2 * math.sqrt(v) for v in protocol_variances(degradation.scale))
        larger = max(1.0, degradation.kernel_size / default_kernel_size(degradation.scale))
        return cls(DiskShape.of(degradation), low, high * larger)

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
