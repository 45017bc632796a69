"""Spectral kernel prior: what y alone says about the kernel, as a mode, a density and draws.

The marginal likelihood of `likelihood.spectral` times a `KernelDensity` that does not depend on y. Its mode is found
by L-BFGS over the kernel's z and the content's parameters together; the density is Laplace's approximation there, a
normal over z whose precision is the Schur complement of the joint Hessian (the content's parameters integrated out).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blindsr.degradation import Degradation
from blindsr.kernels import covariance
from blindsr.likelihood.spectral import SpectralLikelihood, SpectralSettings
from blindsr.priors.base import KernelDensity
from blindsr.priors.normal import GaussianShape, SmoothKernels, log_covariance

BOUND = 4.0
"""The search stays within this many prior standard deviations of the prior mean of z, and within 3 times it for the
content's parameters: a line search that goes far beyond meets overflow, not a better kernel."""


@dataclass(frozen=True)
class SpectralPrior:
    """A normal density over the parameters z of a kernel family, given y.

    Parameters
    ----------
    family : KernelDensity
        What z means: `family.kernel(z)`.
    mode : Tensor
        (dim,), float64.
    precision : Tensor
        (dim, dim), float64, positive definite.
    noise_std : float
        Noise level that goes with the mode, units of 0..1.
    energy_at_mode : float
        Negative log posterior at the mode, up to a constant that families on the same y share: for comparing them.
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

    def log_prob(self, z: Tensor) -> Tensor:
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

    def widened(self, factor: float, spread: float) -> SpectralPrior:
        """Return the density with its standard deviations times `factor`, and `spread` added to each in squares."""
        covariance = factor**2 * torch.linalg.inv(self.precision)
        covariance = covariance + spread**2 * torch.eye(self.dim, dtype=torch.float64)
        return replace(self, precision=torch.linalg.inv(covariance))

    @classmethod
    def fit(
        cls,
        y: Tensor,
        degradation: Degradation,
        family: KernelDensity | None = None,
        settings: SpectralSettings | None = None,
    ) -> SpectralPrior:
        """Find the mode for y (1, C, h, w), values 0..1, and the density around it.

        Parameters
        ----------
        y : Tensor
            LR image.
        degradation : Degradation
            Scale and kernel size (alignment and padding do not matter here).
        family : KernelDensity, optional
            Kernel family with its prior; default Gaussians, `priors.normal.GaussianShape`.
        settings : SpectralSettings, optional
            What the image model assumes.
        """
        shape: KernelDensity = family or GaussianShape(degradation.kernel_size, degradation.scale)
        with one_thread():
            return cls._fit(shape, SpectralLikelihood(y, degradation.scale, settings), y.shape[1])

    @classmethod
    def _fit(cls, shape: KernelDensity, likelihood: SpectralLikelihood, channels: int) -> SpectralPrior:
        starts = shape.starts() if isinstance(shape, SmoothKernels) else _drawn_start(shape)
        if len(starts) > 2:
            rough = [_descend(likelihood, shape, start, steps=10)[0] for start in starts]
            starts = starts[torch.tensor(rough).topk(2, largest=False).indices]
        found = [_descend(likelihood, shape, start) for start in starts]
        energy, z = min(found, key=lambda pair: pair[0])
        return cls(
            shape,
            z[: shape.dim],
            _precision(likelihood, shape, z),
            likelihood.noise_std(z[shape.dim :], channels),
            energy,
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside the block: for many small operations, a second one costs more than it does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _drawn_start(family: KernelDensity) -> Tensor:
    """Centre of the prior's draws: a start for a family that names none."""
    drawn = family.sample_z(256, generator=torch.Generator().manual_seed(0)).double()
    return drawn.median(0, keepdim=True).values


def _energy(likelihood: SpectralLikelihood, family: KernelDensity, z: Tensor) -> Tensor:
    kernel = family.kernel(z[None, : family.dim])
    return likelihood.energy(likelihood.power(kernel), z[family.dim :]) - family.log_prob(z[None, : family.dim])[0]


def _box(likelihood: SpectralLikelihood, family: KernelDensity, z: Tensor) -> list[tuple[float, float]]:
    """Bounds of the search, see `BOUND`."""
    if isinstance(family, SmoothKernels):
        box = [(m - BOUND * s, m + BOUND * s) for m, s in zip(family.mean, family.std, strict=True)]
    else:
        box = [(v - 10.0, v + 10.0) for v in z[: family.dim].tolist()]
    c, n = likelihood.settings, likelihood.n_windows
    box += [(c.slope - 12 * c.slope_std, c.slope + 12 * c.slope_std), (-6 * c.noise_log_std, 6 * c.noise_log_std)]
    level = z[family.dim + 2]
    box += [(float(level) - 30, float(level) + 30)] * (1 + n)
    return box + [(-6 * c.angular_std, 6 * c.angular_std)] * (4 * n) + [(-8 * c.slope_spread, 8 * c.slope_spread)] * n


def minimise(
    energy: Callable[[Tensor], Tensor], start: Tensor, *, steps: int = 200, box: list[tuple[float, float]] | None = None
) -> tuple[float, Tensor]:
    """Minimise a differentiable scalar of a float64 vector by L-BFGS; return the value and the point."""
    from scipy.optimize import minimize

    def value_and_gradient(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = torch.from_numpy(point.copy()).requires_grad_()
        value = energy(z)
        (gradient,) = torch.autograd.grad(value, z)
        return float(value.detach()), gradient.numpy()

    options = {"maxiter": steps, "maxcor": 20}
    done = minimize(value_and_gradient, start.numpy(), jac=True, method="L-BFGS-B", bounds=box, options=options)
    return float(done.fun), torch.tensor(done.x, dtype=torch.float64)


def _descend(
    likelihood: SpectralLikelihood, family: KernelDensity, start: Tensor, steps: int = 200
) -> tuple[float, Tensor]:
    """Minimise over z and the content's parameters together; return the energy and the point."""
    with torch.no_grad():
        content = likelihood.start(likelihood.power(family.kernel(start[None])))
    z0 = torch.cat([start, content])
    return minimise(lambda z: _energy(likelihood, family, z), z0, steps=steps, box=_box(likelihood, family, z0))


def _hessian(likelihood: SpectralLikelihood, family: KernelDensity, z: Tensor) -> Tensor:
    """Joint Hessian at z. Windows do not interact, so one product serves one parameter of all windows at once."""
    z = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_energy(likelihood, family, z), z, create_graph=True)
    shared = family.dim + 3
    hessian = torch.zeros(len(z), len(z), dtype=z.dtype)

    def product(places: Tensor) -> Tensor:
        direction = torch.zeros_like(z)
        direction[places] = 1.0
        column: Tensor = torch.autograd.grad(gradient, z, direction, retain_graph=True)[0]
        return column

    for i in range(shared):
        hessian[i] = hessian[:, i] = product(torch.tensor([i]))
    own = likelihood.window_places() + family.dim  # (6, n)
    for j in range(len(own)):
        column = product(own[j])
        for i in range(len(own)):
            hessian[own[i], own[j]] = column[own[i]]
    return hessian


def _precision(likelihood: SpectralLikelihood, family: KernelDensity, z: Tensor) -> Tensor:
    """Schur complement of the joint Hessian at z, kept positive definite."""
    hessian = _hessian(likelihood, family, z)
    d = family.dim
    rest = hessian[d:, d:]
    rest = rest + 1e-6 * torch.eye(len(rest), dtype=rest.dtype) * rest.diagonal().abs().mean()
    schur = hessian[:d, :d] - hessian[:d, d:] @ torch.linalg.solve(rest, hessian[d:, :d])
    values, vectors = torch.linalg.eigh(0.5 * (schur + schur.T))
    precision: Tensor = (vectors * values.clamp_min(0.05)) @ vectors.T
    return precision


@dataclass(frozen=True)
class MomentEnergy:
    """The spectral density carried over to any kernel by its second moments: Φ(k) = ½ (m(k) - m₀)ᵀ Λ (m(k) - m₀).

    m(k) are the log-covariance coordinates of the kernel; m₀ those of the mode, Λ the precision of m under the density.
    Keeps a free kernel, or an explicit one, from drifting while it is refined on an image (Eq. 3: γ Φ(k)).
    """

    mean: Tensor
    precision: Tensor

    @classmethod
    def of(cls, prior: SpectralPrior, n: int = 512) -> MomentEnergy:
        """Match mean and covariance of m(k) over draws of the density (fixed seed)."""
        drawn = prior.sample(n, generator=torch.Generator().manual_seed(0)).double()
        moments = log_covariance(covariance(drawn))
        center = log_covariance(covariance(prior.mode_kernel.double()))[0]
        gap = moments - center
        spread = gap.T @ gap / n + 1e-4 * torch.eye(3, dtype=torch.float64)
        return cls(center, torch.linalg.inv(spread))

    def energy(self, kernel: Tensor) -> Tensor:
        """Φ of kernels (n, 1, K, K): (n,)."""
        gap = log_covariance(covariance(kernel.double())) - self.mean
        total: Tensor = 0.5 * ((gap @ self.precision) * gap).sum(1)
        return total.to(kernel.dtype)
