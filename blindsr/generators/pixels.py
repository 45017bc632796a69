"""The image as its own pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blindsr.generators.base import Generator


class Pixels(Generator):
    """An image (1, C, H, W) whose parameters are its pixels, kept in [0, 1]; it starts from a given one."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.pixels = nn.Parameter(start.clone())

    def forward(self) -> Tensor:
        """Return the pixels."""
        return self.pixels

    @torch.no_grad()
    def retract_(self) -> None:
        """Clip to [0, 1]."""
        self.pixels.clamp_(0, 1)
