"""The training pairs of ZSSR (Shocher, Cohen, Irani, CVPR 2018): crops of the LR image and their degraded versions."""

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
"""Probabilities that a father is an unchanged crop, and that it is an unchanged or flipped one; the rest is warped."""
LEAST_SCALE, STRETCH, SHEAR = 0.5, 0.25, 0.1
"""Warps: smallest scale; standard deviations of the difference in scale between the axes, and of the shear."""
SYMMETRIC = 0.1
"""Largest fraction of a kernel's mass that a flip may move if the kernel is to count as symmetric under it."""
LEAST_SON = 4
"""Smallest side of a son in pixels if its degradation uses no padding."""


class Fathers:
    """Random crops of an LR image, and their degradation.

    The degradation of a crop uses no padding if the crop is large enough (see `LEAST_SON`), else it repeats the border.

    Parameters
    ----------
    y : Tensor
        LR image (1, C, h, w), values 0..1.
    kernel : Tensor
        Blur kernel (1, 1, K, K).
    degradation : Degradation
        Scale, kernel size, alignment, padding.
    crop : int
        Largest side of a crop, in pixels of y.
    source : torch.Generator
        Source of all randomness.
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
        """Cut a crop (1, C, H, W) to a size that fits and degrade it; return the son and the region that it shows."""
        h, w = self.part.hr_shape(*self.part.lr_shape(*piece.shape[-2:]))
        piece = piece[..., :h, :w]
        return self.part(piece, self.kernel), self.part.crop(piece)

    def draw(self) -> Tensor:
        """Draw a father (1, C, H, W)."""
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
        """A crop under a random affine map: scaled down, stretched, sheared and, if `turned`, rotated."""
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
    """Sample an image (1, C, h, w) at matrix · u + center, where u is (row, column) from the middle of the result.

    The interpolation is bicubic with reflection at the border, clipped to 0..1; the result is (1, C, *size).
    """
    h, w = image.shape[-2:]
    rows, columns = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in size)
    u = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1) @ matrix.T
    row, column = u[..., 0] + center[0], u[..., 1] + center[1]
    grid = torch.stack([(2 * column + 1) / w - 1, (2 * row + 1) / h - 1], -1)[None].to(image)
    return F.grid_sample(image, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(0, 1)


def symmetries(kernel: Tensor, degradation: Degradation) -> list[tuple[Flip, Flip]]:
    """Flips and quarter turns about (K - s)/2, each with its inverse, that leave a kernel (1, 1, K, K) unchanged.

    The identity comes first; `SYMMETRIC` says how much of the kernel's mass may move.
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
