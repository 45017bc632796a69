"""Random anisotropic Gaussian kernels (Eq. 21 of the MLMC paper).

    k(u) ∝ exp(-½ (u-c)ᵀ Σ⁻¹ (u-c)),   Σ = R(θ) diag(λ₁, λ₂) R(θ)ᵀ,   λ in HR pixels²,

where u is a kernel pixel as (column, row) and R rotates from the column axis towards the row axis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Uniform

from blindsr.operators.degradation import default_kernel_size
from blindsr.priors.parametric import Delta, IndependentParameters, ParametricKernels, near, rotated_grid


def gaussian_kernel(size: int, var1: Tensor, var2: Tensor, angle: Tensor, center: Tensor) -> Tensor:
    """Evaluate Eq. 21 on a grid of side `size` and normalise: (n, 1, size, size), each kernel summing to one.

    The variances along the principal axes (n,) are in pixels², the angle (n,) in radians, and the centre (n, 2), as
    (column, row), in pixels from index 0.
    """
    a, b = rotated_grid(size, angle, center)
    log_k = -0.5 * (a.square() / var1[:, None, None] + b.square() / var2[:, None, None])
    return torch.softmax(log_k.flatten(1), dim=1).reshape(-1, 1, size, size)


def protocol_variances(scale: int) -> tuple[float, float]:
    """Return the range of λ in the test protocol of FKP, BSRDM and MLMC: 0.175 s to min(2.5 s, 10), HR pixels²."""
    return 0.175 * scale, min(2.5 * scale, 10.0)


class GaussianKernelPrior(ParametricKernels):
    """Random Gaussian kernels with independent parameters θ = (λ₁, λ₂, angle, centre column, centre row).

    Parameters
    ----------
    kernel_size : int
        Side K.
    variance : Distribution
        Law of λ₁ (and of λ₂ where the kernels are isotropic), HR pixels²: univariate, with an `icdf`.
    variance2 : Distribution, optional
        Law of λ₂. None makes the kernels isotropic (λ₂ = λ₁).
    angle : Distribution
        Law of the angle, radians.
    center : tuple of Distribution
        Laws of the centre's column and row, in pixels from index 0; `Delta` for a fixed one.
    """

    names = ("variance_1", "variance_2", "angle", "center_column", "center_row")

    def __init__(
        self,
        kernel_size: int,
        variance: Distribution,
        variance2: Distribution | None,
        angle: Distribution,
        center: tuple[Distribution, Distribution],
    ) -> None:
        self.kernel_size = kernel_size
        self.isotropic = variance2 is None
        second = Delta(0.0) if variance2 is None else variance2
        self.parameters = IndependentParameters([variance, second, angle, *center])

    def kernel_of(self, theta: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of θ (n, 5)."""
        var2 = theta[:, 0] if self.isotropic else theta[:, 1]
        return gaussian_kernel(self.kernel_size, theta[:, 0], var2, theta[:, 2], theta[:, 3:5])

    @classmethod
    def uniform(
        cls, kernel_size: int, low: float, high: float, center: float, *, isotropic: bool = False, jitter: float = 0.0
    ) -> GaussianKernelPrior:
        """Return the prior with λ ~ U[low, high] on each axis, angle ~ U[0, π) and a centre within ± `jitter` pixels.

        Raises ValueError if not 0 < low < high, or if the jitter is negative.
        """
        if not 0 < low < high or jitter < 0:
            raise ValueError(f"Gaussian prior: need 0 < low < high and jitter >= 0, got {low}, {high}, {jitter}")
        var, mid = Uniform(low, high), near(center, jitter)
        angle: Distribution = Delta(0.0) if isotropic else Uniform(0.0, math.pi)
        return cls(kernel_size, var, None if isotropic else var, angle, (mid, mid))

    @classmethod
    def truth(
        cls, scale: int, kernel_size: int = 0, *, isotropic: bool = False, jitter: float = 0.0
    ) -> GaussianKernelPrior:
        """Return the law of the true kernels in the test protocol: λ as in `protocol_variances`, centre (K - s)/2.

        Source: Liang et al., CVPR 2021 (FKP); Yue et al., CVPR 2022 (BSRDM) and the MLMC paper test on the same law.
        """
        k = kernel_size or default_kernel_size(scale)
        low, high = protocol_variances(scale)
        return cls.uniform(k, low, high, (k - scale) / 2, isotropic=isotropic, jitter=jitter)

    @classmethod
    def sampling(
        cls, scale: int, kernel_size: int = 0, *, isotropic: bool = False, jitter: float = 0.0
    ) -> GaussianKernelPrior:
        """Return the law that the published Monte Carlo step of MLMC draws from, wider kernels than the true ones.

        λ ~ U[0.175 s + 3 + (s - 4), min(2.5 s, 10) + 10 + (s - 4)] HR pixels², centre (K - s)/2.
        """
        k = kernel_size or default_kernel_size(scale)
        low, high = protocol_variances(scale)
        low, high = low + 3 + (scale - 4), high + 10 + (scale - 4)
        return cls.uniform(k, low, high, (k - scale) / 2, isotropic=isotropic, jitter=jitter)
