"""The kernel's power and the spectral log-likelihood as autograd functions, with gradients in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LEAST_GAIN = 1e-24
"""Floor of |K|², so that it can be divided out of a product again."""

CHUNK = 250_000
"""Numbers in the largest array of one pass: as many as fit into a core's cache."""


class KernelPower(torch.autograd.Function):
    """|K(f')|² of kernels (n, K, K) by Fourier sums along both axes, read at some places of their outer product."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, along_y: Tensor, along_x: Tensor, place: Tensor) -> Tensor:
        """Squared absolute values (n, F, s²)."""
        transform = along_y @ (k.to(along_x.dtype) @ along_x)
        chosen = transform.flatten(1)[:, place.flatten()]
        ctx.save_for_backward(chosen, along_y, along_x, place)
        power: Tensor = (chosen.real**2 + chosen.imag**2).unflatten(1, place.shape).double()
        return power

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Gradient with respect to the kernels."""
        chosen, along_y, along_x, place = ctx.saved_tensors
        full = chosen.new_zeros(len(grad), along_y.shape[0] * along_x.shape[1])
        full[:, place.flatten()] = 2 * grad.flatten(1).to(chosen.real.dtype) * chosen
        full = full.unflatten(1, (along_y.shape[0], along_x.shape[1]))
        return (along_y.mH @ (full @ along_x.mH)).real.double(), None, None, None


class Whittle(torch.autograd.Function):
    """Log-likelihood with its gradients made in the same pass: the big arrays (windows, F, s²) are walked once."""

    @staticmethod
    def forward(ctx: Any, power: Tensor, theta: Tensor, variance: Tensor, likelihood: Any) -> Tensor:
        """Log-likelihood (n,)."""
        basis = likelihood.wide_basis  # (terms, s² F): sums over aliases and products with an ordinate run along F
        weight = likelihood.temper * likelihood.weight
        n, terms, kinds = len(power), basis.shape[1], theta.shape[1]
        value, by_variance = power.new_empty(n), power.new_empty(n)
        by_power, by_theta = power.new_empty(power.shape), theta.new_empty(theta.shape)
        chunk = max(1, CHUNK // max(1, kinds * terms))
        for some in (slice(i, i + chunk) for i in range(0, n, chunk)):
            p = power[some].mT.to(basis.dtype).clamp_min(LEAST_GAIN)[:, None]  # (chunk, 1, s², F)
            t = theta[some].to(basis.dtype)
            seen = (t @ basis).exp_().unflatten(2, p.shape[2:]).mul_(p)
            expected = seen.sum(2).double() + variance[some, None, None]
            energy, first, _ = likelihood.score(expected)
            slope = -weight * first / expected
            seen.mul_(slope.to(basis.dtype)[:, :, None])
            value[some] = -(weight * energy).sum((1, 2))
            by_power[some] = (seen.sum(1) / p[:, 0]).mT.double()
            by_theta[some] = (seen.flatten(2) @ basis.T).double()
            by_variance[some] = slope.sum((1, 2))
        ctx.save_for_backward(by_power, by_theta, by_variance)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients times those of the values."""
        by_power, by_theta, by_variance = ctx.saved_tensors
        wide = grad[:, None, None]
        return by_power * wide, by_theta * wide, by_variance * grad, None
