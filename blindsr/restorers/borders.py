"""Borders for methods that take a picture as periodic.

References
----------
Liu, Jia, "Reducing Boundary Artifacts in Image Deconvolution", ICIP 2008 (why a border that closes smoothly).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blindsr.operators.degradation import Degradation, Padding


def border_width(degradation: Degradation) -> int:
    """LR pixels that a periodic method must add on each side: one kernel width, none where y is periodic itself."""
    circular = degradation.padding is Padding.CIRCULAR
    return 0 if circular else math.ceil(degradation.kernel_size / degradation.scale)


def _mirror(i: Tensor, n: int) -> Tensor:
    """Indices of an axis of n pixels that is continued by its mirror image on both sides, edge pixels twice."""
    i = i % (2 * n)
    return torch.minimum(i, 2 * n - 1 - i)


def close_border(y: Tensor, pad: int) -> Tensor:
    """Add a border of `pad` pixels on each side that makes y (B, C, h, w) periodic without a jump.

    The mirror image at one end fades into that at the other: (B, C, h + 2 pad, w + 2 pad), with y itself in the middle.
    """
    t = torch.arange(2 * pad)
    fade = ((t + 0.5) / (2 * pad)).to(y)
    for axis, weight in ((-2, fade[:, None]), (-1, fade)):
        n = y.shape[axis]
        after = y.index_select(axis, _mirror(n + t, n).to(y.device))
        before = y.index_select(axis, _mirror(t - 2 * pad, n).to(y.device))
        y = torch.cat([y, torch.lerp(after, before, weight)], axis).roll(pad, axis)
    return y
