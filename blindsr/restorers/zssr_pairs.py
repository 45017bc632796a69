"""The training pairs of ZSSR: pieces of the LR image, and what its own degradation makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from blindsr.operators.degradation import Degradation, Padding

Flip = Callable[[Tensor], Tensor]

AS_IS, UNTOUCHED = 0.05, 0.5
"""Shares of fathers that are a plain crop, and a plain or flipped one; the rest is warped."""
LEAST_SCALE, STRETCH, SHEAR = 0.5, 0.25, 0.1
"""Warps: smallest scale; standard deviations of the scales' difference between the axes and of the shear."""
SYMMETRIC = 0.1
"""Share of a kernel's mass that a flip may move for the kernel to count as symmetric under it."""
LEAST_SON = 4
"""Smallest side of a son, LR pixels of it, where nothing is assumed of its border."""


class Fathers:
    """Pieces of y (1, C, h, w), and what the degradation makes of them; every random draw comes from `source`.

    A piece has sides of at most `crop`. Nothing is assumed beyond its border where its size allows that.
    """

    def __init__(self, y: Tensor, kernel: Tensor, degradation: Degradation, crop: int, source: torch.Generator) -> None:
        self.y, self.kernel, self.source, self.crop = y, kernel, source, crop
        part = degradation.for_part()
        least = part.hr_shape(LEAST_SON, LEAST_SON)[0]
        if LEAST_SCALE * min(*y.shape[-2:], crop) < least:
            part = replace(degradation, padding=Padding.REPLICATE)
            least = part.hr_shape(LEAST_SON, LEAST_SON)[0]
        self.part, self.least = part, least
        self.flips = [there for there, _ in symmetries(kernel, degradation)]

    def son_and_father(self, piece: Tensor) -> tuple[Tensor, Tensor]:
        """Degrade a piece (1, C, H, W), cut to a size that fits; return the son and the part of the piece it shows."""
        h, w = self.part.hr_shape(*self.part.lr_shape(*piece.shape[-2:]))
        piece = piece[..., :h, :w]
        return self.part(piece, self.kernel), self.part.crop(piece)

    def draw(self) -> Tensor:
        """A random piece."""
        chance, flip = (float(u) for u in torch.rand(2, generator=self.source))
        if chance < UNTOUCHED:
            piece = self._cut()
            return piece if chance < AS_IS else self.flips[int(flip * len(self.flips))](piece)
        return self._warped(turned=len(self.flips) > 2)

    def _cut(self) -> Tensor:
        h, w = self.y.shape[-2:]
        play = self.part.scale - 1
        height, width = (max(min(n - play, self.crop), min(n, self.least)) for n in (h, w))
        top, left = (int(torch.randint(n - m + 1, (1,), generator=self.source)) for n, m in ((h, height), (w, width)))
        return self.y[..., top : top + height, left : left + width]

    def _warped(self, turned: bool) -> Tensor:
        """A piece scaled down, stretched, sheared, and turned if so asked."""
        u = torch.rand(4, generator=self.source, dtype=torch.float64)
        stretch, *shears = torch.randn(3, generator=self.source, dtype=torch.float64)
        scale = LEAST_SCALE + (1 - LEAST_SCALE) * u[0]
        spread = (STRETCH * stretch / 2).clamp(-0.4 * scale, 0.4 * scale)
        angle = 2 * math.pi * u[1] if turned else torch.zeros((), dtype=torch.float64)
        turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
        shear = torch.eye(2, dtype=torch.float64)
        shear[0, 1], shear[1, 0] = SHEAR * shears[0], SHEAR * shears[1]
        matrix = turn @ shear @ torch.diag(torch.stack([1 / (scale + spread), 1 / (scale - spread)]))
        h, w = self.y.shape[-2:]
        size = [max(min(int(scale * n), self.crop), min(self.least, n)) for n in (h, w)]
        center = [
            (n - 1) / 2 + (float(v) - 0.5) * max(n - m / float(scale), 0)
            for n, m, v in zip((h, w), size, u[2:], strict=True)
        ]
        return warp(self.y, matrix, (center[0], center[1]), (size[0], size[1]))


def warp(image: Tensor, matrix: Tensor, center: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """Read an image (1, C, h, w) at positions matrix · u + center, u (row, column) about the middle of the result.

    Bicubic, mirrored beyond the border, clipped to 0..1; the result is (1, C, *size).
    """
    h, w = image.shape[-2:]
    rows, columns = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in size)
    u = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1) @ matrix.T
    row, column = u[..., 0] + center[0], u[..., 1] + center[1]
    grid = torch.stack([(2 * column + 1) / w - 1, (2 * row + 1) / h - 1], -1)[None].to(image)
    return F.grid_sample(image, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(0, 1)


def symmetries(kernel: Tensor, degradation: Degradation) -> list[tuple[Flip, Flip]]:
    """Flips and quarter turns (there, back) that leave a kernel (1, 1, K, K) as it is, the identity first.

    About the nominal centre (K - s)/2; `SYMMETRIC` says how much of the kernel may move.
    """
    n = degradation.kernel_size - degradation.scale + 1  # rows and columns 0 .. K - s lie about the centre
    middle = kernel[..., : max(n, 0), : max(n, 0)]
    outside = 1 - float(middle.sum())
    found = []
    for turns in range(4):
        for mirror in (False, True):
            there, back = _flip(turns, mirror)
            moved = float((there(middle) - middle).abs().sum()) / 2 + abs(outside)
            if (turns, mirror) == (0, False) or moved <= SYMMETRIC:
                found.append((there, back))
    return found


def _flip(turns: int, mirror: bool) -> tuple[Flip, Flip]:
    def there(x: Tensor) -> Tensor:
        x = x.rot90(turns, (-2, -1))
        return x.flip(-1) if mirror else x

    def back(x: Tensor) -> Tensor:
        return (x.flip(-1) if mirror else x).rot90(-turns, (-2, -1))

    return there, back
