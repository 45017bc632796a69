"""Small facts about a kernel: its centre of mass and its widths."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def center_of_mass(kernels: Tensor) -> Tensor:
    """Return the centre of mass (n, 2) as (column, row), pixels from index 0, of kernels (n, 1, K, K) summing to 1."""
    k = kernels.squeeze(1)
    axis = torch.arange(k.shape[-1], dtype=k.dtype, device=k.device)
    return torch.stack([(k.sum(1) * axis).sum(1), (k.sum(2) * axis).sum(1)], dim=1)


def covariance(kernels: Tensor) -> Tensor:
    """Return the second central moments (n, 2, 2), axes (column, row), pixels², of kernels (n, 1, K, K)."""
    k = kernels.squeeze(1)
    axis = torch.arange(k.shape[-1], dtype=k.dtype, device=k.device)
    mean = center_of_mass(kernels)
    dx, dy = axis - mean[:, :1], axis - mean[:, 1:]
    xx = (k.sum(1) * dx**2).sum(1)
    yy = (k.sum(2) * dy**2).sum(1)
    xy = (k * dy[:, :, None] * dx[:, None, :]).sum((1, 2))
    return torch.stack([torch.stack([xx, xy], -1), torch.stack([xy, yy], -1)], -2)


def width(kernels: Tensor) -> Tensor:
    """Return the root mean square width (n,), sqrt(trace(covariance) / 2), in HR pixels."""
    c = covariance(kernels)
    return ((c[:, 0, 0] + c[:, 1, 1]) / 2).clamp_min(0).sqrt()


def tilted(kernels: Tensor, center: float, steps: int = 8) -> Tensor:
    """Move centres of mass by an exponential tilt: the kernels nearest in relative entropy with the centre given.

    k'(u) ∝ k(u) exp(a · u), with a from Newton's method on the centre of mass; differentiable.

    Parameters
    ----------
    kernels : Tensor
        (n, 1, K, K), non-negative, summing to one.
    center : float
        Where the centre of mass shall lie on both axes, pixels from index 0.
    steps : int
        Damped Newton steps.

    Returns
    -------
    Tensor
        (n, 1, K, K), non-negative, summing to one, zero where the kernels are.
    """
    axis = torch.arange(kernels.shape[-1], dtype=kernels.dtype, device=kernels.device) - center
    limit, k = 20 / float(axis.abs().max()), kernels  # of one step: no weight beyond e^±40
    ridge = 10 * torch.finfo(k.dtype).eps * torch.eye(2, dtype=k.dtype, device=k.device)
    for _ in range(steps):
        gap = center - center_of_mass(k)
        full = torch.linalg.solve(covariance(k) + ridge, gap)
        step = full / (1 + (full * gap).sum(1, keepdim=True).clamp_min(1e-30).sqrt())  # damped by the Newton decrement
        step = step.clamp(-limit, limit)
        weights = (step[:, :1, None] * axis[None, None, :] + step[:, 1:, None] * axis[None, :, None]).exp()
        k = k * weights[:, None]
        k = k / k.sum((2, 3), keepdim=True)
    return k


def framed(kernels: Tensor, size: int) -> Tensor:
    """Cut or pad kernels (..., K, K) to (..., size, size) about their middle; K and size are odd."""
    gap = (size - kernels.shape[-1]) // 2
    return F.pad(kernels, (gap, gap, gap, gap))
