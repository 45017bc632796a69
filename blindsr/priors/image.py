"""Image priors Ω(x) as energies over gradient filters f_i (Eqs. 36-39 and Table VII)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALL = 1e-8
"""Added under the power, as published, so that its gradient stays finite at 0."""


def gradients(x: Tensor, *, diagonal: bool) -> list[Tensor]:
    """First differences of x (B, C, H, W): vertical, horizontal and, if asked, both diagonals (valid area)."""
    out = [x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]]
    if diagonal:
        out += [x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:]]
    return out


@dataclass(frozen=True)
class HyperLaplacian:
    """Ω(x) = Σ_i Σ (|f_i ⊗ x| + 1e-8)^γ over four filters: vertical, horizontal, both diagonals (Eqs. 36-39).

    Parameters
    ----------
    gamma : float
        Exponent, in (0, 2]; published 0.67.
    """

    gamma: float = 0.67

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 2:
            raise ValueError(f"hyper-Laplacian exponent {self.gamma}: a number in (0, 2] is needed")

    def energy(self, x: Tensor) -> Tensor:
        """Energy of images (B, C, H, W), a sum over pixels: (B,)."""
        parts = [(g.abs() + SMALL).pow(self.gamma).sum((1, 2, 3)) for g in gradients(x, diagonal=True)]
        return torch.stack(parts).sum(0)


@dataclass(frozen=True)
class TotalVariation:
    """Isotropic total variation Ω(x) = Σ sqrt((∂v x)² + (∂h x)² + 1e-8), differences zero past the border."""

    def energy(self, x: Tensor) -> Tensor:
        """Energy of images (B, C, H, W): (B,)."""
        dv = torch.nn.functional.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
        dh = torch.nn.functional.pad(x[..., :, 1:] - x[..., :, :-1], (0, 1))
        return (dv.square() + dh.square() + SMALL).sqrt().sum((1, 2, 3))


@dataclass(frozen=True)
class Tikhonov:
    """Ω(x) = Σ_i Σ (f_i ⊗ x)² over the vertical and horizontal differences."""

    def energy(self, x: Tensor) -> Tensor:
        """Energy of images (B, C, H, W): (B,)."""
        return torch.stack([g.square().sum((1, 2, 3)) for g in gradients(x, diagonal=False)]).sum(0)


@dataclass(frozen=True)
class NoPrior:
    """Ω(x) = 0."""

    def energy(self, x: Tensor) -> Tensor:
        """Zeros (B,)."""
        return x.new_zeros(x.shape[0])
