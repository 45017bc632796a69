"""Laplace approximation of the kernel's posterior given y alone: a mode, a density and draws.

The posterior is the marginal likelihood of `likelihood.spectral` times a `KernelDensity` that does not depend on y. Its
mode is found jointly over the kernel's z and the parameters of the content (`posteriors.laplace`). The density is
Laplace's approximation there: a normal over z whose precision is the Schur complement of the joint curvature, that is,
with the content integrated out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blindsr.likelihood.spectral import SpectralLikelihood, SpectralSettings
from blindsr.operators.degradation import Degradation
from blindsr.operators.kernels import covariance
from blindsr.posteriors.laplace import SpectralMode, spectral_mode
from blindsr.priors.base import KernelDensity
from blindsr.priors.normal import GaussianShape, log_covariance
from blindsr.threads import one_thread


@dataclass(frozen=True)
class SpectralPosterior:
    """A normal approximation of p(z | y) over the parameters z of a kernel family.

    It draws kernels (`KernelPrior`), but is not a prior density: y has been used already.

    Parameters
    ----------
    family : KernelDensity
        The kernel family and its prior; kernels are `family.kernel(z)`.
    mode : Tensor
        (dim,), float64.
    precision : Tensor
        (dim, dim), float64, positive definite.
    noise_std : float
        Noise level at the mode, in units of 0..1.
    energy_at_mode : float
        Negative log posterior at the mode, up to a constant that is the same for all families on one y.
    """

    family: KernelDensity
    mode: Tensor
    precision: Tensor
    noise_std: float
    energy_at_mode: float

    @property
    def kernel_size(self) -> int:
        """Side K."""
        return self.family.kernel_size

    @property
    def dim(self) -> int:
        """Dimension of z."""
        return self.family.dim

    @property
    def mode_kernel(self) -> Tensor:
        """Kernel (1, 1, K, K) at the mode, float32."""
        return self.family.kernel(self.mode[None]).float()

    def log_density(self, z: Tensor) -> Tensor:
        """Log density of z (n, dim): (n,)."""
        p, gap = self.precision.to(z), z - self.mode.to(z)
        square: Tensor = ((gap @ p) * gap).sum(1)
        constant: float = torch.linalg.slogdet(self.precision).logabsdet.item() - self.dim * math.log(2 * math.pi)
        return (constant - square) / 2

    def sample_z(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n parameter vectors (n, dim)."""
        white = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        factor = torch.linalg.cholesky(self.precision)
        z: Tensor = self.mode + torch.linalg.solve_triangular(factor.T, white.T, upper=True).T
        return z.float()

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n kernels (n, 1, K, K)."""
        return self.kernel(self.sample_z(n, generator=generator))

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of z (n, dim)."""
        return self.family.kernel(z)

    @classmethod
    def fit(
        cls,
        y: Tensor,
        degradation: Degradation,
        family: KernelDensity | None = None,
        settings: SpectralSettings | None = None,
    ) -> SpectralPosterior:
        """Find the mode for y (1, C, h, w), values 0..1, and the density around it.

        Of the degradation only scale and kernel size matter. The default family is Gaussian
        (`priors.normal.GaussianShape`).
        """
        shape: KernelDensity = family or GaussianShape(degradation.kernel_size, degradation.scale)
        with one_thread():
            return cls.of(spectral_mode(SpectralLikelihood(y, degradation.scale, settings), shape), y.shape[1])

    @classmethod
    def of(cls, mode: SpectralMode, channels: int) -> SpectralPosterior:
        """Laplace's approximation at a mode, for a y of `channels` colour planes."""
        d = mode.family.dim
        rest = mode.precision[d:, d:]
        schur = mode.precision[:d, :d] - mode.precision[:d, d:] @ torch.linalg.solve(rest, mode.precision[d:, :d])
        noise = mode.likelihood.noise_std(mode.position[d:], channels)
        return cls(mode.family, mode.position[:d], 0.5 * (schur + schur.T), noise, mode.energy)


@dataclass(frozen=True)
class MomentEnergy:
    """The spectral posterior as an energy of any kernel, by its second moments: Φ(k) = ½ (m(k) - m₀)ᵀ Λ (m(k) - m₀).

    m(k) are the log-covariance coordinates of the kernel, m₀ those of the mode, and Λ the precision of m under the
    posterior. It keeps a kernel from drifting while it is refined on an image (Eq. 3 of the MLMC paper: γ Φ(k)).
    """

    mean: Tensor
    precision: Tensor

    @classmethod
    def of(cls, posterior: SpectralPosterior, n: int = 512) -> MomentEnergy:
        """Match the second moments of m(k) about the mode over n draws (with a fixed seed)."""
        drawn = posterior.sample(n, generator=torch.Generator().manual_seed(0)).double()
        moments = log_covariance(covariance(drawn))
        center = log_covariance(covariance(posterior.mode_kernel.double()))[0]
        gap = moments - center
        spread = gap.T @ gap / n + 1e-4 * torch.eye(3, dtype=torch.float64)
        return cls(center, torch.linalg.inv(spread))

    def energy(self, kernel: Tensor) -> Tensor:
        """Φ of kernels (n, 1, K, K): (n,)."""
        gap = log_covariance(covariance(kernel.double())) - self.mean
        total: Tensor = 0.5 * ((gap @ self.precision) * gap).sum(1)
        return total.to(kernel.dtype)
