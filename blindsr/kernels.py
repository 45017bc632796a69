"""Small facts about a kernel: its centre of mass and its widths."""

from __future__ import annotations

import torch
from torch import Tensor


def center_of_mass(kernels: Tensor) -> Tensor:
    """Return the centre of mass (n, 2) as (column, row), pixels from index 0, of kernels (n, 1, K, K) summing to 1."""
    k = kernels.squeeze(1)
    axis = torch.arange(k.shape[-1], dtype=k.dtype, device=k.device)
    return torch.stack([(k.sum(1) * axis).sum(1), (k.sum(2) * axis).sum(1)], dim=1)


def covariance(kernels: Tensor) -> Tensor:
    """Return the second central moments (n, 2, 2), axes (column, row), pixels², of kernels (n, 1, K, K)."""
    size, k = kernels.shape[-1], kernels.flatten(1)
    axis = torch.arange(size, dtype=k.dtype, device=k.device) - (size - 1) / 2
    x, y = axis.repeat(size), axis.repeat_interleave(size)
    raw = k @ torch.stack([x, y, x * x, x * y, x * y, y * y], 1)
    mean, second = raw[:, :2], raw[:, 2:].view(-1, 2, 2)
    return second - mean[:, :, None] * mean[:, None, :]


def width(kernels: Tensor) -> Tensor:
    """Return the root mean square width (n,), sqrt(trace(covariance) / 2), in HR pixels."""
    c = covariance(kernels)
    return ((c[:, 0, 0] + c[:, 1, 1]) / 2).clamp_min(0).sqrt()
