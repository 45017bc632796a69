"""Large images: any restorer on overlapping tiles, which are blended without seams, in the memory of one tile."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from blindsr.operators.degradation import Degradation
from blindsr.restorers.base import Restorer
from blindsr.restorers.bicubic import bicubic

SIDE = 512
"""Side of a tile in HR pixels; a picture of up to one and a half of it is one tile."""
OVERLAP = 64
"""Overlap of neighbouring tiles in HR pixels, at least two kernels."""


def _starts(n: int, side: int, overlap: int) -> list[int]:
    """First LR pixels of the tiles along an axis: equally long, overlapping by at least `overlap`."""
    if n <= side + side // 2:
        return [0]
    count = math.ceil((n - overlap) / (side - overlap))
    return [round(i * (n - side) / (count - 1)) for i in range(count)]


def _ramp(length: int, guard: int, fade: int, first: bool, last: bool) -> Tensor:
    """Weight along an axis of a tile: 0 in the guard, rising over the fade to 1; no guard at the picture's border."""
    i = torch.arange(length, dtype=torch.float32) + 0.5
    up = torch.ones(length) if first else ((i - guard) / fade).clamp(0, 1)
    down = torch.ones(length) if last else ((length - i - guard) / fade).clamp(0, 1)
    return torch.minimum(up, down) + 1e-6


@dataclass
class Mosaic:
    """A picture restored tile by tile.

    Every tile is restored with nothing assumed of its border (`Degradation.for_part`). Its outer guard of half a
    kernel is not used; neighbours fade into each other over the rest of the overlap.
    """

    y: Tensor  # LR image (1, C, h, w)
    kernel: Tensor  # (1, 1, K, K)
    degradation: Degradation  # Of the whole picture. A picture of one tile keeps its padding.

    def __post_init__(self) -> None:
        d, (h, w) = self.degradation, self.y.shape[-2:]
        self.side = SIDE // d.scale
        self.overlap = max(OVERLAP, 2 * d.kernel_size) // d.scale + 1
        self.tops, self.lefts = (_starts(n, self.side, self.overlap) for n in (h, w))
        self.size = tuple(n if len(s) == 1 else self.side for n, s in ((h, self.tops), (w, self.lefts)))
        whole = len(self.tops) == len(self.lefts) == 1
        self.tile_degradation = d if whole else d.for_part()
        self.total = torch.zeros(1, self.y.shape[1], d.scale * h, d.scale * w)
        self.weight = torch.zeros(1, 1, d.scale * h, d.scale * w)
        self.done: set[tuple[int, int]] = set()

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def restore(self, restorer: Restorer, noise_std: float) -> Iterator[int]:
        """Restore tile after tile; yields how many are done after each, and may be left at any time."""
        for top in self.tops:
            for left in self.lefts:
                y = self.y[..., top : top + self.size[0], left : left + self.size[1]]
                self._add(restorer(y, self.kernel, self.tile_degradation, noise_std), top, left)
                yield len(self.done)

    def _add(self, x: Tensor, top: int, left: int) -> None:
        s = self.degradation.scale
        guard = self.degradation.kernel_size // 2
        fade = s * self.overlap - 2 * guard
        rows, cols = (
            _ramp(x.shape[axis], guard, fade, start == 0, start == starts[-1])
            for axis, start, starts in ((-2, top, self.tops), (-1, left, self.lefts))
        )
        weight = rows[:, None] * cols
        h, w = x.shape[-2:]
        area = (..., slice(s * top, s * top + h), slice(s * left, s * left + w))
        self.total[area] += x.cpu() * weight
        self.weight[area] += weight
        self.done.add((top, left))

    def image(self) -> Tensor:
        """The picture (1, C, s h, s w); where no tile is done yet, bicubic."""
        if len(self.done) == len(self):
            return self.total / self.weight
        rest = bicubic(self.y, self.degradation.scale, self.degradation.alignment)
        return torch.where(self.weight > 0, self.total / self.weight.clamp_min(1e-12), rest)


def restore(restorer: Restorer, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float) -> Tensor:
    """Restore a picture of any size; arguments as for a `Restorer`."""
    mosaic = Mosaic(y, kernel, degradation)
    for _ in mosaic.restore(restorer, noise_std):
        pass
    return mosaic.image()
