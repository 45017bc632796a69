"""The part of an LR image that a kernel estimate is refined on: its most detailed square, without the border."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from blindsr.operators.degradation import Degradation, Padding


def contrast(y: Tensor, noise_std: float) -> float:
    """How much there is to fit in a grey image: geometric mean of the rms of its gradient and of its finest detail.

    The finest detail is what the mask [1, -2, 1] along both axes, over 6, leaves (Immerkær 1996), less the noise.
    """
    gradient = y.diff(dim=-1).square().mean() + y.diff(dim=-2).square().mean()
    fine = y[..., 2:] - 2 * y[..., 1:-1] + y[..., :-2]
    fine = (fine[..., 2:, :] - 2 * fine[..., 1:-1, :] + fine[..., :-2, :]) / 6
    detail = (fine.square().mean() - noise_std**2).clamp_min(0)
    rest = (gradient - 4 * noise_std**2).clamp_min(0)  # two differences of two pixels each
    return float((detail * rest) ** 0.25)


def detailed_crop(y: Tensor, degradation: Degradation, side: int) -> tuple[Tensor, Degradation]:
    """Cut y (1, 1, h, w) to the square of `side` LR pixels with most fine detail; nothing is assumed of its border."""
    h, w = y.shape[-2:]
    if max(h, w) <= side:
        return y, degradation
    tall, wide = min(side, h), min(side, w)
    detail = torch.zeros(h, w)
    detail[1:] += y[0, 0].diff(dim=0).abs()
    detail[:, 1:] += y[0, 0].diff(dim=1).abs()
    total = torch.nn.functional.avg_pool2d(detail[None, None], (tall, wide), stride=1)[0, 0]
    top, left = divmod(int(total.argmax()), total.shape[1])
    return y[..., top : top + tall, left : left + wide], degradation.for_part()


def has_interior(y: Tensor, degradation: Degradation) -> bool:
    """Whether `interior` leaves anything of y."""
    if degradation.padding is Padding.CIRCULAR:
        return True
    reach = math.ceil(max(*degradation.margins, 0) / degradation.scale)
    return degradation.kernel_size >= 2 * degradation.scale - 1 and min(y.shape[-2:]) > 2 * reach


def interior(x: Tensor, y: Tensor, degradation: Degradation) -> tuple[Degradation, Tensor, Tensor]:
    """Part of y that a picture x (…, s h, s w) explains without its border, as (degradation, x, y) of that part.

    All of it where the borders are circular; else without the LR pixels whose kernel reaches over the border.
    """
    if degradation.padding is Padding.CIRCULAR:
        return degradation, x, y
    s, size = degradation.scale, degradation.kernel_size
    before, after = degradation.margins
    m = math.ceil(max(before, after, 0) / s)
    if not has_interior(y, degradation):
        raise ValueError(f"an LR image of {y.shape[-1]}x{y.shape[-2]} pixels has no interior for this kernel")
    h, w = y.shape[-2:]
    rows, cols = (slice(s * m - before, s * (n - m - 1) - before + size) for n in (h, w))
    return replace(degradation, padding=Padding.VALID), x[..., rows, cols], y[..., m : h - m, m : w - m]
