"""Restorers that were made for another pixel grid than that of the run: their result is shifted onto the run's grid.

Where an LR pixel u lies on the HR grid of a result, in HR pixels:

    fkp         s u − (s−1)/2     the protocol of this literature (`Alignment.FKP`)
    corner      s u               a kernel centred on its middle pixel, then every s-th pixel from 0
    centered    s u + (s−1)/2     pixel centres aligned: bicubic resizing, most networks (`Alignment.CENTERED`)

A result on the wrong grid is shifted by up to s − 1 pixels, which costs several decibels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.restorers.base import Restorer


class Grid(StrEnum):
    """Where LR pixels lie on the HR grid, see the head of this module."""

    FKP = "fkp"
    CORNER = "corner"
    CENTERED = "centered"

    def position(self, scale: int) -> float:
        """HR position of LR pixel 0, in HR pixels."""
        return {Grid.FKP: -1, Grid.CORNER: 0, Grid.CENTERED: 1}[self] * (scale - 1) / 2


MARGIN = 4
"""LR pixels by which y is extended on the side that the result moves from."""


@dataclass(frozen=True)
class OnGrid(Restorer):
    """Call a restorer that was made for `grid`, and shift its result onto the grid of the degradation.

    The shift is the position of an LR pixel on `grid` minus that on the grid of the degradation. Between fkp and
    centered it is s − 1 whole pixels, and nothing is interpolated; to or from corner it is (s−1)/2, and half pixels are
    interpolated by quintic splines. Pixels beyond the border of y come from an extension of y by `MARGIN` LR pixels,
    which is circular under CIRCULAR and else repeats the edge.

    Parameters
    ----------
    restorer : Restorer
        The restorer that is called.
    grid : Grid
        The grid that it was made for. A restorer that uses the kernel is given that of the run unchanged.
    """

    restorer: Restorer
    grid: Grid

    @property
    def needs_kernel(self) -> bool:
        """Whether the other restorer requires the kernel."""
        return self.restorer.needs_kernel

    @property
    def needs_noise(self) -> bool:
        """Whether the other restorer uses the noise level."""
        return self.restorer.needs_noise

    @property
    def parameters(self) -> int | None:
        """Number of trained weights of the other restorer."""
        return self.restorer.parameters

    def with_seed(self, seed: int) -> Self:
        """Return the same with another seed of the other restorer."""
        return replace(self, restorer=self.restorer.with_seed(seed))

    def __call__(self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float) -> Tensor:
        """Restore an image, see `blindsr.restorers.base.Restorer`."""
        s, (h, w) = degradation.scale, y.shape[-2:]
        away = self.grid.position(s) - Grid(degradation.alignment).position(s)
        if away == 0:
            return self.restorer(y, kernel, degradation, noise_std)
        before, after = (0, MARGIN) if away > 0 else (MARGIN, 0)
        mode = "circular" if degradation.padding is Padding.CIRCULAR else "replicate"
        wider = F.pad(y, (before, after, before, after), mode=mode)
        part = degradation.for_part()
        if self.grid is not Grid.CORNER:
            part = replace(part, alignment=Alignment(self.grid))
        x = self.restorer(wider, kernel, part, noise_std)
        start = s * before + away
        first = int(start // 1)
        if start != first:
            x = half_pixel_on(x)
        return x[..., first : first + s * h, first : first + s * w]


def half_pixel_on(x: Tensor) -> Tensor:
    """Shift an image (1, C, H, W), values 0..1, by half a pixel up and left, by quintic splines with repeated edges."""
    from scipy.ndimage import shift

    moved = shift(x.double().cpu().numpy(), (0, 0, -0.5, -0.5), order=5, mode="nearest")
    return torch.from_numpy(moved).to(x).clamp(0, 1)
