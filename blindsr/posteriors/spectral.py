"""Target (a): the posterior of a kernel given y alone, the image integrated out (`likelihood.spectral`).

    log π(z, u) = log p(z) + log N(u; 0, I) + log L(k(z), u)

z are the coordinates of the kernel prior, u those of the content and of the noise level. Both are unconstrained, so
there is no further Jacobian; that of a constrained kernel parameter is contained in log p(z).

At low frequencies the logarithm of |K|² has the same form as the curvature ("bend") of the content's spectrum: y
determines their sum sharply and each of them hardly at all, which makes a thin, curved ridge in (z, u). Positions are
therefore (z, v), where v = u + m(k(z)) / shared_std for the three shared bends, and m are the kernel's second moments
in the units of the bend,

    m(k) = π²/s² · ((Σ₁₁ + Σ₂₂)/2, (Σ₁₁ - Σ₂₂)/2, Σ₁₂),

named total_bend, total_bend_cos2, total_bend_sin2. This shear has unit Jacobian.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from blindsr.likelihood.spectral import SpectralLikelihood, SpectralSettings
from blindsr.operators.degradation import Degradation
from blindsr.posteriors.base import WIDER, check_prior, coordinate_names
from blindsr.posteriors.laplace import STEP, SpectralMode, spectral_mode
from blindsr.priors.base import KernelDensity, standard_normal
from blindsr.priors.normal import GaussianShape
from blindsr.threads import one_thread


class SpectralTarget:
    """Posterior of kernel and content parameters given y.

    Parameters
    ----------
    y : Tensor
        LR image (1, C, h, w), values 0..1.
    degradation : Degradation
        Scale and kernel size (alignment and padding do not matter here).
    prior : KernelDensity, optional
        Kernel prior; it must not depend on y. Default: `priors.normal.GaussianShape`.
    settings : SpectralSettings, optional
        What the image model assumes.

    Raises
    ------
    ValueError
        If the prior has no density, or y is so small that no frequency is left.
    """

    def __init__(
        self,
        y: Tensor,
        degradation: Degradation,
        prior: KernelDensity | None = None,
        settings: SpectralSettings | None = None,
    ) -> None:
        self.prior: KernelDensity = prior or GaussianShape(degradation.kernel_size, degradation.scale)
        check_prior(self.prior)
        self.degradation = degradation
        self.likelihood = SpectralLikelihood(y, degradation.scale, settings)
        self._fast = self.likelihood.single()
        self.channels = y.shape[1]
        if not self.likelihood.keep.any():
            raise ValueError(
                f"an LR image of {y.shape[-1]}x{y.shape[-2]} pixels has no frequency to learn from: give a larger one"
            )
        self._bends()
        free = len(self.likelihood.names)
        totals = {j: f"total_{self.likelihood.names[j]}" for j in self._places}
        nuisance = [totals.get(j, self.likelihood.names[j]) for j in range(free)]
        self.names = (*coordinate_names(self.prior), *nuisance)

    def _bends(self) -> None:
        """Find the shared bends among the content's parameters, and the factors from moments to their units."""
        likelihood = self.likelihood
        shared = [likelihood.terms[i] for i in likelihood.shared]
        kinds = [(j, name) for j, name in enumerate(("bend", "bend_cos2", "bend_sin2")) if name in shared]
        self._places = [1 + shared.index(name) for _, name in kinds]
        combined = torch.tensor([[0.5, 0.5, 0.0], [0.5, -0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        self._in_units = torch.zeros(3, likelihood.n_nuisance, dtype=torch.float64)
        for place, (j, name) in zip(self._places, kinds, strict=True):
            unit = likelihood.shared_std[likelihood.terms.index(name)] / (math.pi / self.degradation.scale) ** 2
            self._in_units[:, place] = combined[j] / unit
        size = self.prior.kernel_size
        axis = torch.arange(size, dtype=torch.float64) - size // 2
        x, y = axis.repeat(size), axis.repeat_interleave(size)
        self._monomials = torch.stack([x * x, y * y, x * y, x, y], 1)

    def _shift(self, kernels: Tensor) -> Tensor:
        """Second moments of kernels (n, 1, K, K) in units of the content's parameters: (n, n_nuisance)."""
        raw = kernels.double().flatten(1) @ self._monomials
        return (raw[:, :3] - raw[:, [3, 4, 3]] * raw[:, [3, 4, 4]]) @ self._in_units

    def split(self, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Kernel parameters z (n, d), their kernels (n, 1, K, K) and content parameters u (n, n_nuisance)."""
        z = position[:, : self.n_kernel]
        kernels = self.prior.kernel(z)
        return z, kernels, position[:, self.n_kernel :] - self._shift(kernels)

    def join(self, z: Tensor, u: Tensor) -> Tensor:
        """Positions (n, dim) of kernel parameters z (n, d) and content parameters u (n, n_nuisance)."""
        return torch.cat([z, u + self._shift(self.prior.kernel(z))], 1)

    @property
    def n_kernel(self) -> int:
        """Number of kernel coordinates, which come first."""
        return self.prior.dim

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of positions (n, dim)."""
        return self.prior.kernel(z[:, : self.n_kernel])

    def log_prior(self, z: Tensor) -> Tensor:
        """Normalised log prior (n,) of positions (n, dim)."""
        own, _, u = self.split(z)
        return self.prior.log_prob(own) + standard_normal(u)

    def log_likelihood(self, z: Tensor) -> Tensor:
        """Tempered log-likelihood (n,) of positions (n, dim)."""
        _, kernels, u = self.split(z)
        return self._fast.log_likelihood(self._fast.power(kernels), u)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density (n,) of positions (n, dim), up to a constant."""
        own, kernels, u = self.split(z)
        data = self._fast.log_likelihood(self._fast.power(kernels), u)
        return self.prior.log_prob(own) + standard_normal(u) + data

    def sample_prior(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draws (n, dim) from the prior, float64."""
        z = self.prior.sample_z(n, generator=generator).double()
        u = torch.randn(n, self.likelihood.n_nuisance, generator=generator, dtype=torch.float64)
        return self.join(z, u)

    @cached_property
    def mode(self) -> SpectralMode:
        """The posterior mode and the curvature there."""
        with one_thread():
            return spectral_mode(self.likelihood, self.prior)

    def in_positions(self, mode: SpectralMode) -> tuple[Tensor, Tensor]:
        """Position (dim,) of a (conditional) mode, and the precision (dim, dim) in the coordinates of positions."""
        d, step = self.n_kernel, STEP * torch.eye(self.n_kernel, dtype=torch.float64)
        z, u = mode.position[None, :d], mode.position[None, d:]
        with torch.no_grad():
            up, down = (self._shift(self.prior.kernel(z + h)) for h in (step, -step))
            shear = torch.eye(len(mode.position), dtype=torch.float64)  # d(z, u) / d(position)
            shear[d:, :d] = -((up - down) / (2 * STEP)).T
            return self.join(z, u)[0], shear.T @ mode.precision @ shear

    @cached_property
    def _normal(self) -> tuple[Tensor, Tensor]:
        """Position of the mode, and the Cholesky factor of the precision there."""
        center, precision = self.in_positions(self.mode)
        return center, torch.linalg.cholesky(precision)

    def laplace(self) -> tuple[Tensor, Tensor]:
        """Laplace approximation: position of the mode (dim,) and covariance (dim, dim)."""
        center, factor = self._normal
        return center, torch.cholesky_inverse(factor)

    def initial(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Starting points (n, dim): draws of the Laplace approximation, `WIDER` times as far from the mode."""
        center, factor = self._normal
        white = torch.randn(len(center), n, generator=generator, dtype=torch.float64)
        far: Tensor = torch.linalg.solve_triangular(factor.T, white, upper=True).T
        return center + WIDER * far

    def noise_std(self, z: Tensor) -> Tensor:
        """Noise level (n,) of one channel of y, in units of 0..1."""
        variance = self.likelihood.coefficients(self.split(z)[2])[1]
        return (self.channels * variance).sqrt()

    def observed(self) -> dict[str, Tensor]:
        """Log periodogram of y (windows, F): natural logarithm of squared units of 0..1."""
        return {"log_periodogram": self.likelihood.periodogram.clamp_min(1e-300).log()}

    @torch.no_grad()
    def predict(self, z: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw log periodograms (n, windows, F): exponential about S, or with the heavier tails of the likelihood."""
        expected = self._expected(z)
        uniform = torch.rand(expected.shape, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
        nu = self.likelihood.settings.degrees
        drawn = -torch.log1p(-uniform) if math.isinf(nu) else nu * torch.expm1(-torch.log1p(-uniform) / nu)
        return {"log_periodogram": (expected * drawn).log()}

    @torch.no_grad()
    def pointwise_log_likelihood(self, z: Tensor) -> dict[str, Tensor]:
        """Log-likelihood of each window (n, windows), tempered like their sum."""
        value = self.likelihood.score(self._expected(z))[0]
        return {"log_periodogram": -self.likelihood.temper * (self.likelihood.weight * value).sum(2)}

    def _expected(self, z: Tensor) -> Tensor:
        parts = [self.split(part)[1:] for part in z.split(16)]
        return torch.cat([self.likelihood.expected(self.likelihood.power(k), u) for k, u in parts])
