"""Generators make x or k from their parameters: an `nn.Module` that is called without arguments."""

from __future__ import annotations

from torch import Tensor, nn


class Generator(nn.Module):
    """Base of the small generators. `forward()` returns x (1, C, H, W) or k (1, 1, K, K).

    `SkipNetwork` and any other `nn.Module` with such a `forward` serve as well.
    """

    def forward(self) -> Tensor:
        """Return the image or the kernel."""
        raise NotImplementedError

    def retract_(self) -> None:
        """Put the parameters back on their set (a simplex, a sphere, a box) after an optimizer's step."""


def retract_(module: nn.Module) -> None:
    """Call the module's `retract_` if it has one."""
    if isinstance(module, Generator):
        module.retract_()
