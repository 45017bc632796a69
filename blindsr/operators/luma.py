"""The luma of a picture."""

from __future__ import annotations

import math

from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in the Y of BT.601."""


def luma_gain(channels: int) -> float:
    """Noise level of `luma` for channels with independent noise of level one."""
    return math.hypot(*LUMA) if channels == 3 else channels**-0.5


def luma(y: Tensor) -> Tensor:
    """Y of BT.601 (1, 1, h, w) of a colour image; the mean of other numbers of channels."""
    if y.shape[1] != 3:
        return y.mean(1, keepdim=True)
    return (y * y.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
