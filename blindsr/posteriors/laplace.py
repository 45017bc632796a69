"""The mode of the spectral posterior, and the curvature there: Levenberg-Marquardt over kernel and content together.

    E(z, u) = -log L(k(z), u) - log p(z) + ½ ‖u‖²

where L is the likelihood of `likelihood.spectral` and u are the content's parameters, each N(0, 1) a priori. The
Gauss-Newton matrix is positive definite, so every damped step descends; at the mode it is the precision of Laplace's
approximation. There are spurious modes, in which the content's curvature imitates a kernel, so the search starts at
several kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blindsr.likelihood.spectral import SpectralLikelihood
from blindsr.priors.base import KernelDensity
from blindsr.priors.normal import SmoothKernels

STEP = 1e-5
"""Step of the central differences that give the kernel's derivatives."""
SETTLED = 1e-6
"""Gain of a step, in nats, below which the descent has converged."""


@dataclass(frozen=True)
class SpectralMode:
    """A mode of the spectral posterior."""

    likelihood: SpectralLikelihood  # The likelihood of y
    family: KernelDensity  # The kernel family and its prior
    position: Tensor  # (dim + n_nuisance,), float64: z, then u
    energy: float  # E there: a negative log posterior, up to a constant that is the same for all families on one y
    precision: Tensor  # Gauss-Newton matrix of E there, (dim + n_nuisance,) square


def starts(family: KernelDensity) -> Tensor:
    """Starting points (m, dim): the family's own, or else the median of draws from the prior."""
    if isinstance(family, SmoothKernels):
        return family.starts()
    drawn = family.sample_z(256, generator=torch.Generator().manual_seed(0)).double()
    return drawn.median(0, keepdim=True).values


def spectral_mode(likelihood: SpectralLikelihood, family: KernelDensity, start: Tensor | None = None) -> SpectralMode:
    """Find the mode from the best of several starts (m, dim) in z; by default `starts(family)`."""
    begin = starts(family) if start is None else start.double()
    found = [descend(likelihood, family, z, steps=8 if len(begin) > 4 else 80) for z in begin]
    best = sorted(found, key=lambda mode: mode.energy)[: 2 if len(begin) > 4 else 1]
    if len(begin) > 4:
        best = [descend(likelihood, family, mode.position) for mode in best]
    return min(best, key=lambda mode: mode.energy)


def _energy(likelihood: SpectralLikelihood, family: KernelDensity, at: Tensor) -> float:
    d = family.dim
    with torch.no_grad():
        power = likelihood.power(family.kernel(at[None, :d]))
        value = likelihood.log_likelihood(power, at[None, d:])[0] + family.log_prob(at[None, :d])[0]
        energy = float(0.5 * at[d:].square().sum() - value)
    return energy if np.isfinite(energy) else float("inf")


@torch.enable_grad()
def _prior_curvature(family: KernelDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and positive part of the Hessian of -log p at z (dim,)."""
    at = z.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(-family.log_prob(at[None])[0], at, create_graph=True)
    rows = [torch.autograd.grad(g, at, retain_graph=True, allow_unused=True)[0] for g in gradient if g.requires_grad]
    hessian = torch.stack([r if r is not None else torch.zeros_like(z) for r in rows]) if rows else z.new_zeros(0)
    if hessian.shape != (len(z), len(z)):  # a density whose gradient does not vary: no curvature
        hessian = torch.zeros(len(z), len(z), dtype=z.dtype)
    values, vectors = torch.linalg.eigh(0.5 * (hessian + hessian.T))
    return gradient.detach(), (vectors * values.clamp_min(0)) @ vectors.T


def _curvature(likelihood: SpectralLikelihood, family: KernelDensity, at: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and Gauss-Newton matrix of E."""
    d = family.dim
    with torch.no_grad():
        shift = STEP * torch.eye(d, dtype=torch.float64)
        power = likelihood.power(family.kernel(torch.cat([at[None, :d], at[:d] + shift, at[:d] - shift])))
        data = likelihood.curvature(power[0], (power[1 : d + 1] - power[d + 1 :]) / (2 * STEP), at[d:])
    gradient, matrix = data.gradient.clone(), data.matrix.clone()
    of_prior, bend = _prior_curvature(family, at[:d])
    gradient[:d] += of_prior
    gradient[d:] += at[d:]
    matrix[:d, :d] += bend
    matrix.diagonal()[d:] += 1.0
    return gradient, matrix


def descend(
    likelihood: SpectralLikelihood,
    family: KernelDensity,
    start: Tensor,
    *,
    steps: int = 80,
    free: Tensor | None = None,
    settled: float = SETTLED,
) -> SpectralMode:
    """Minimise E by at most `steps` steps of the Levenberg-Marquardt method.

    The start is a whole position, or kernel parameters (dim,) for which the content is initialised. Only the
    coordinates with indices `free` are optimised (all by default); the descent has converged when a step gains less
    than `settled` nats.
    """
    at = start.clone()
    if len(at) == family.dim:
        with torch.no_grad():
            power = likelihood.power(family.kernel(at[None]))[0]
        at = torch.cat([at, likelihood.start(power)])
    free = torch.arange(len(at)) if free is None else free
    energy, damping = _energy(likelihood, family, at), 1e-3
    gradient, matrix = _curvature(likelihood, family, at)
    for _ in range(steps):
        gain, block = 0.0, matrix[free][:, free]
        for _ in range(12):
            damped = block + torch.diag(damping * block.diagonal() + 1e-12)
            step = torch.linalg.solve(damped, -gradient[free])
            trial = at.index_add(0, free, step * min(1.0, 4 / max(float(step.abs().max()), 1e-12)))
            new = _energy(likelihood, family, trial)
            if new < energy:
                at, gain, energy = trial, energy - new, new
                break
            damping *= 6
        if gain == 0.0:
            break
        damping = max(damping / 4, 1e-6)
        gradient, matrix = _curvature(likelihood, family, at)
        if gain < settled:
            break
    floor = 0.05 * torch.eye(family.dim, dtype=torch.float64)  # an improper or flat prior still leaves a normal density
    matrix[: family.dim, : family.dim] += floor * (matrix.diagonal()[: family.dim].min() < 0.05)
    return SpectralMode(likelihood, family, at, energy, matrix)


def minimise(energy: Callable[[Tensor], Tensor], start: Tensor, *, steps: int = 200) -> tuple[float, Tensor]:
    """Minimise a differentiable scalar of a float64 vector by L-BFGS; return the value and the point."""
    from scipy.optimize import minimize

    def value_and_gradient(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = torch.from_numpy(point.copy()).requires_grad_()
        value = energy(z)
        (gradient,) = torch.autograd.grad(value, z)
        return float(value.detach()), gradient.numpy()

    options = {"maxiter": steps, "maxcor": 20}
    done = minimize(value_and_gradient, start.numpy(), jac=True, method="L-BFGS-B", options=options)
    return float(done.fun), torch.tensor(done.x, dtype=torch.float64)
