"""Bicubic enlargement on the right grid: the baseline that every table starts with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from blindsr.operators.degradation import Alignment, Degradation
from blindsr.restorers.base import Restorer


def keys(t: Tensor) -> Tensor:
    """Cubic convolution kernel with a = -1/2 (Keys 1981)."""
    t = t.abs()
    near = (1.5 * t - 2.5) * t**2 + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t <= 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def _matrix(n: int, scale: int, alignment: Alignment) -> Tensor:
    """Interpolation along an axis of n LR pixels: (scale n, n), edge pixels repeated."""
    half = (scale - 1) / 2
    shift = half if alignment is Alignment.FKP else -half
    position = (torch.arange(scale * n, dtype=torch.float64) + shift) / scale
    first = position.floor().long() - 1
    out = torch.zeros(scale * n, n, dtype=torch.float64)
    for tap in range(4):
        index = first + tap
        out.scatter_add_(1, index.clamp(0, n - 1)[:, None], keys(position - index)[:, None])
    return out.float()


def bicubic(y: Tensor, scale: int, alignment: Alignment = Alignment.FKP) -> Tensor:
    """Enlarge y (B, C, h, w) by `scale` to (B, C, s h, s w), clipped to 0..1, by cubic convolution.

    HR pixel p lies at the LR position (p ± (s-1)/2)/s, with + for the alignment fkp and - for centered.
    """
    rows, cols = (_matrix(n, scale, alignment).to(y) for n in y.shape[-2:])
    return (rows @ y @ cols.T).clamp(0, 1)


@dataclass(frozen=True)
class BicubicRestorer(Restorer):
    """Restorer that ignores the kernel: `bicubic` on the degradation's grid."""

    needs_kernel: ClassVar[bool] = False
    needs_noise: ClassVar[bool] = False

    def __call__(self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float) -> Tensor:
        """Enlarge y, see `blindsr.restorers.base.Restorer`."""
        return bicubic(y, degradation.scale, degradation.alignment)
