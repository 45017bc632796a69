"""The spectral marginal likelihood of a kernel that has no parameters: its pixels, content's parameters profiled."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blindsr.likelihood.spectral import SpectralLikelihood

SETTLED = 0.01
"""Gain of a step, in nats, below which the content's parameters have converged."""


@torch.no_grad()
def fit_content(
    likelihood: SpectralLikelihood, kernel: Tensor, start: Tensor | None = None, steps: int = 15
) -> tuple[float, Tensor]:
    """Minimise −log L(k, u) + ½ ‖u‖² over the content's parameters u, by Levenberg-Marquardt steps.

    Parameters
    ----------
    likelihood : SpectralLikelihood
        Of y.
    kernel : Tensor
        (K, K), non-negative, sum one.
    start : Tensor, optional
        u (n_nuisance,) to start from. Default: `SpectralLikelihood.start`.
    steps : int
        At most.

    Returns
    -------
    tuple of (float, Tensor)
        The energy in nats, and u (n_nuisance,), float64.
    """
    power = likelihood.power(kernel[None, None].double())
    u = likelihood.start(power[0]) if start is None else start
    flat = torch.zeros(0, *power[0].shape, dtype=torch.float64)

    def energy(v: Tensor) -> float:
        return float(0.5 * v.square().sum() - likelihood.log_likelihood(power, v[None])[0])

    now, damping = energy(u), 1e-3
    for _ in range(steps):
        at, gain = likelihood.curvature(power[0], flat, u), 0.0
        gradient, matrix = at.gradient + u, at.matrix + torch.eye(len(u), dtype=torch.float64)
        for _ in range(8):
            step = torch.linalg.solve(matrix + damping * torch.diag(matrix.diagonal()), -gradient)
            trial = u + step * min(1.0, 4 / max(float(step.abs().max()), 1e-12))
            new = energy(trial)
            if new < now:
                u, gain, now = trial, now - new, new
                break
            damping *= 6
        damping = max(damping / 4, 1e-6)
        if gain < SETTLED:
            break
    return now, u


def roughness(kernel: Tensor) -> Tensor:
    """Sum of squared differences of neighbouring pixels of k (K, K), zero outside: a scalar."""
    k = torch.nn.functional.pad(kernel, (1, 1, 1, 1))
    total: Tensor = k.diff(dim=0).square().sum() + k.diff(dim=1).square().sum()
    return total


def free_kernel_step(
    likelihood: SpectralLikelihood,
    kernel: Tensor,
    content: Tensor,
    form: tuple[Tensor, Tensor],
    *,
    share: float,
    edges: float,
    smoothness: float,
    steps: int,
) -> Tensor:
    """Lower −share log L(k, u) + edges (kᵀAk − 2 bᵀk) + smoothness · roughness(k) over the simplex, u fixed.

    Parameters
    ----------
    likelihood : SpectralLikelihood
        Of y.
    kernel : Tensor
        (K, K), to start from.
    content : Tensor
        u (n_nuisance,).
    form : tuple of Tensor
        A (K², K²) and b (K²,), float64.
    share, edges, smoothness : float
        Weights of the three terms.
    steps : int
        Iterations of L-BFGS-B at most.

    Returns
    -------
    Tensor
        (K, K), float32, non-negative, sum one.
    """
    from scipy.optimize import minimize  # not loaded with the package

    (a, b), size = form, kernel.shape[-1]
    unit = size**2 / 20  # brings the pixels of a kernel near one, where L-BFGS-B is well scaled

    def value_and_gradient(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        q = torch.from_numpy(point.copy()).requires_grad_()
        total = q.sum()
        k = (q / total).view(size, size)
        v = k.flatten()
        value = -share * likelihood.log_likelihood(likelihood.power(k[None, None]), content[None])[0]
        value = value + edges * (v @ (a @ v) - 2 * (b @ v)) + smoothness * roughness(k)
        value = value + 5 * (total / unit - 1).square()  # the scale of q, which k does not see
        (gradient,) = torch.autograd.grad(value, q)
        return float(value.detach()), gradient.numpy()

    start = (kernel.clamp_min(0) / kernel.clamp_min(0).sum()).double().flatten().numpy() * unit
    options = {"maxiter": steps, "maxcor": 20, "maxfun": 2 * steps}
    with torch.enable_grad():
        done = minimize(
            value_and_gradient, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * size**2, options=options
        )
    k = torch.from_numpy(done.x / done.x.sum()).view(size, size)
    return k.float()
