"""Crops of y for both networks, drawn in proportion to the gradients that they hold, as in the published code."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from blindsr.estimators.kernelgan.networks import STEP

WINDOW = 5
"""Side of the box that smooths a gradient map, and width of the border that is left out of it."""
SHARE = 0.97
"""Share of the pixels whose gradient counts as zero."""


def gradient_map(image: Tensor) -> Tensor:
    """Return where the strong edges of a grey image (h, w) are: (h, w), with mean one.

    The sum of three maps, each scaled to sum one: the strongest 3 % of the pixels in |∂x|, the same in |∂y|, and the
    magnitude of the gradient. The sum is smoothed by a box.
    """
    dy, dx = torch.gradient(image)
    maps = [_strongest(_framed(dx.abs(), WINDOW)), _strongest(_framed(dy.abs(), WINDOW))]
    maps.append(_framed((dx.square() + dy.square()).sqrt(), WINDOW))
    total = torch.stack([m / m.sum().clamp_min(1e-12) for m in maps]).sum(0)
    blurred = _box(total, WINDOW)
    return blurred / blurred.mean().clamp_min(1e-12)


def probability_map(strength: Tensor, crop: int) -> Tensor:
    """Return the probability (h, w) of each pixel as the centre of a crop: mean strength in a box of half its side.

    Zero where a crop would extend beyond the image; uniform if the strength is zero everywhere else.
    """
    inside = _framed(_box(strength, crop // 2), crop // 2)
    return inside / inside.sum() if float(inside.sum()) > 0 else torch.full_like(inside, 1 / inside.numel())


def _framed(a: Tensor, edge: int) -> Tensor:
    """Set a frame of `edge` pixels to zero."""
    out = torch.zeros_like(a)
    inner = slice(edge, max(a.shape[0] - edge, edge)), slice(edge, max(a.shape[1] - edge, edge))
    out[inner] = a[inner]
    return out


def _strongest(a: Tensor) -> Tensor:
    """Zero up to the `SHARE` quantile, and constant above it (clipped at the next larger value)."""
    ordered = a.flatten().sort().values
    pivot = min(int(SHARE * len(ordered)), len(ordered) - 2)
    low, high = ordered[pivot], ordered[pivot + 1]
    return a.clamp(low, torch.maximum(high, low + 1e-5)) - low


def _box(a: Tensor, side: int) -> Tensor:
    """Mean over a box, with zeros beyond the border; a box of even side reaches one pixel farther up and left."""
    before, after = side // 2, (side - 1) // 2
    padded = F.pad(a[None, None], (before, after, before, after))
    return F.avg_pool2d(padded, side, stride=1)[0, 0]


@dataclass(frozen=True)
class Crops:
    """Draws crops from a picture."""

    picture: Tensor  # (1, C, h, w), values -1..1
    side: int  # Side of a crop
    probability: Tensor  # (h, w) probability of the centre of a crop

    @classmethod
    def of(cls, picture: Tensor, grey: Tensor, side: int, *, shrunk: bool) -> Crops:
        """Compute the distribution of the crops from the gradients of a grey picture (h, w), values 0..1.

        `grey` is the luma of the picture (1, C, h, w) that crops are taken from. With `shrunk`, the gradients are those
        of the picture at half its size, as for the crops of the generator, which are downscaled by it.
        """
        strength = gradient_map(grey)
        if shrunk:
            h, w = grey.shape
            small = F.interpolate(grey[None, None], scale_factor=1 / STEP, mode="bicubic", antialias=True)[0, 0]
            strength = F.interpolate(gradient_map(small)[None, None], (h, w), mode="nearest")[0, 0]
        return cls(picture, side, probability_map(strength, side))

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw a crop (1, C, side, side), whose rows and columns start at even pixels."""
        h, w = self.probability.shape
        center = int(torch.multinomial(self.probability.flatten(), 1, generator=generator))
        top, left = (
            min(max(c - self.side // 2, 0), n - self.side) // STEP * STEP
            for c, n in zip(divmod(center, w), (h, w), strict=True)
        )
        return self.picture[..., top : top + self.side, left : left + self.side]
