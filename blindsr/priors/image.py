"""Image priors Ω(x) on differences of neighbouring pixels (Eqs. 36-39 and Table VII): total variation and its kin.

Each has its energy, which the joint loop minimises by gradients, and its proximal map, which MAP restoration uses (see
`priors.base.ImagePrior`). Energies sum over the channels; a difference that would reach over the border is left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

SMALL = 1e-8
"""Added under the power, as published, so that its gradient stays finite at 0."""

PROX_STEPS = 300
"""Primal-dual steps of a proximal map without closed form. Total variation's then agrees with scikit-image's to 2e-4
of the range of values, for steps up to 0.02 (`tests/test_image_priors.py`)."""

NEWTON_STEPS = 6
"""Newton steps of a shrinkage; the result is then within 1e-9 of the least objective (`tests/test_image_priors.py`)."""

VERTICAL, HORIZONTAL, DIAGONAL, ANTIDIAGONAL = (1, 0), (0, 1), (1, 1), (1, -1)


def _ends(x: Tensor, offset: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Views of x (..., H, W) on the far and near pixels of all pairs (near + offset, near) inside the image."""
    (i, j), (h, w) = offset, x.shape[-2:]
    return x[..., i:, max(j, 0) : w + min(j, 0)], x[..., : h - i, max(-j, 0) : w - max(j, 0)]


def difference(x: Tensor, offset: tuple[int, int]) -> Tensor:
    """x(u + offset) − x(u) for every pair of pixels inside images (..., H, W)."""
    far, near = _ends(x, offset)
    return far - near


def shrink(magnitude: Tensor, weight: float, exponent: float) -> Tensor:
    """Minimise t w^γ + (w − v)²/2 over w ≥ 0 by Newton's method from the right; v ≥ 0, t ≥ 0 and 0 < γ ≤ 2.

    For γ < 1 the minimum jumps from 0 to w* = (2 t (1 − γ))^(1/(2−γ)) at v* = w* + t γ w*^(γ−1) (Krishnan & Fergus,
    "Fast Image Deconvolution using Hyper-Laplacian Priors", 2009); above it the derivative is convex and increasing, so
    Newton's steps from v converge from one side. For γ > 1 the same holds in w^(γ−1).
    """
    if exponent == 1 or weight == 0:
        return (magnitude - weight).clamp_min(0)
    if exponent > 1:
        return _shrink_smooth(magnitude, weight, exponent)
    g = exponent
    jump = (2 * weight * (1 - g)) ** (1 / (2 - g))
    threshold = jump + weight * g * jump ** (g - 1)
    v = magnitude.clamp_min(threshold)
    w = v
    for _ in range(NEWTON_STEPS):
        w = w - (w - v + weight * g * w ** (g - 1)) / (1 + weight * g * (g - 1) * w ** (g - 2))
    return torch.where(magnitude > threshold, w, torch.zeros_like(w))


def _shrink_smooth(v: Tensor, weight: float, exponent: float) -> Tensor:
    """`shrink` for γ > 1, solved for r = w^(γ−1) from r^p + t γ r = v with p = 1/(γ − 1)."""
    power, slope = 1 / (exponent - 1), weight * exponent
    r = torch.minimum(v ** (exponent - 1), v / slope)
    for _ in range(2 * NEWTON_STEPS):
        r = r - (r**power + slope * r - v) / (power * r ** (power - 1) + slope)
    return r**power


class GradientPrior(ABC):
    """Ω(x) = Σ φ(differences of x), with a φ whose proximal map, a shrinkage, has a closed form."""

    offsets: ClassVar[tuple[tuple[int, int], ...]]
    """Steps from a pixel to its neighbours: one filter f_i each."""

    @abstractmethod
    def energy(self, x: Tensor) -> Tensor:
        """Energy of images (B, C, H, W): (B,)."""

    @abstractmethod
    def shrink(self, differences: Tensor, weight: float) -> Tensor:
        """Minimise t φ(w) + ‖w − g‖²/2 over w, with t ≥ 0.

        The differences g are (filters, B, C, H, W), each at the pixel that its filter starts from.
        """

    @torch.no_grad()
    def prox(self, x: Tensor, step: float) -> Tensor:
        """Minimise Ω(v) + ‖v − x‖²/(2 step) over v, images (B, C, H, W), as exactly as `PROX_STEPS` steps do.

        By the accelerated primal-dual method of Chambolle & Pock ("A First-Order Primal-Dual Algorithm for Convex
        Problems", 2011, Algorithm 2), whose dual step is `shrink` by Moreau's identity. Where φ is not convex (an
        exponent below 1), it finds a good local minimum, never one above x itself.
        """
        tau, bound = 10 * float(step), 4.0 * len(self.offsets)  # ‖f_i‖² is at most 4
        sigma = 1 / (bound * tau)
        v = ahead = x
        dual = torch.zeros(len(self.offsets), *x.shape, dtype=x.dtype, device=x.device)
        for _ in range(PROX_STEPS):
            q = dual + sigma * self._forward(ahead)
            dual = q - sigma * self.shrink(q / sigma, 1 / sigma)
            old, v = v, (v - tau * self._adjoint(dual) + tau / step * x) / (1 + tau / step)
            theta = (1 + 2 * tau / step) ** -0.5
            tau, sigma = theta * tau, sigma / theta
            ahead = v + theta * (v - old)
        rise = self.energy(v) + (v - x).square().sum((1, 2, 3)) / (2 * step) - self.energy(x)
        return torch.where(rise[:, None, None, None] > 0, x, v)

    def _forward(self, x: Tensor) -> Tensor:
        """Differences (filters, *x.shape), 0 where the neighbour lies outside."""
        out = x.new_zeros(len(self.offsets), *x.shape)
        for field, offset in zip(out, self.offsets, strict=True):
            _ends(field, offset)[1].copy_(difference(x, offset))
        return out

    def _adjoint(self, fields: Tensor) -> Tensor:
        out = torch.zeros_like(fields[0])
        for field, offset in zip(fields, self.offsets, strict=True):
            value = _ends(field, offset)[1]
            far, near = _ends(out, offset)
            far += value
            near -= value
        return out


@dataclass(frozen=True)
class HyperLaplacian(GradientPrior):
    """Ω(x) = Σ_i Σ (|f_i ⊗ x| + 1e-8)^γ over four filters: vertical, horizontal, both diagonals (Eqs. 36-39).

    The shrinkage and the proximal map leave the 1e-8 out.

    Parameters
    ----------
    gamma : float
        Exponent, in (0, 2]; published 0.67.

    Raises
    ------
    ValueError
        If the exponent lies outside its range.
    """

    gamma: float = 0.67
    rho: ClassVar[float] = 0.2
    """Published, with 2σ² held at 1e-3 (Xia et al. 2024)."""
    map_weight: ClassVar[float] = 1.25
    """Chosen on DATA/dev by `benchmarks/map_weights.py`, like those of the other priors here."""
    offsets: ClassVar = (VERTICAL, HORIZONTAL, DIAGONAL, ANTIDIAGONAL)

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 2:
            raise ValueError(f"hyper-Laplacian exponent {self.gamma}: a number in (0, 2] is needed")

    def energy(self, x: Tensor) -> Tensor:
        """Energy of images (B, C, H, W), a sum over pixels: (B,)."""
        parts = [(difference(x, o).abs() + SMALL).pow(self.gamma).sum((1, 2, 3)) for o in self.offsets]
        return torch.stack(parts).sum(0)

    def shrink(self, differences: Tensor, weight: float) -> Tensor:
        """Shrink each difference by itself, see `GradientPrior.shrink`."""
        return differences.sign() * shrink(differences.abs(), weight, self.gamma)


@dataclass(frozen=True)
class TotalVariation(GradientPrior):
    """Isotropic total variation Ω(x) = Σ sqrt((∂v x)² + (∂h x)² + 1e-8), differences zero past the border.

    The shrinkage and the proximal map leave the 1e-8 out, which is at most 1e-4 a pixel.

    Parameters
    ----------
    coupled : bool
        Whether the squares are summed over the channels as well, under one root (Bresson & Chan 2008, "Fast Dual
        Minimization of the Vectorial Total Variation Norm"), so that the edges of the channels coincide.
    """

    coupled: bool = False
    rho: ClassVar[float] = 0.2
    map_weight: ClassVar[float] = 5.0
    offsets: ClassVar = (VERTICAL, HORIZONTAL)

    def energy(self, x: Tensor) -> Tensor:
        """Energy of images (B, C, H, W): (B,)."""
        dv = torch.nn.functional.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
        dh = torch.nn.functional.pad(x[..., :, 1:] - x[..., :, :-1], (0, 1))
        squares = dv.square() + dh.square()
        if self.coupled:
            squares = squares.sum(1, keepdim=True)
        return (squares + SMALL).sqrt().sum((1, 2, 3))

    def shrink(self, differences: Tensor, weight: float) -> Tensor:
        """Shrink the length of each pixel's gradient, see `GradientPrior.shrink`."""
        size = differences.square().sum((0, 2) if self.coupled else 0, keepdim=True).sqrt()
        return differences * (shrink(size, weight, 1.0) / size.clamp_min(1e-12))


@dataclass(frozen=True)
class Tikhonov:
    """Ω(x) = Σ_i Σ (f_i ⊗ x)² over the vertical and horizontal differences."""

    rho: ClassVar[float] = 2.0
    """Ten times the published 0.2: squares of differences are smaller than the differences."""
    map_weight: ClassVar[float] = 100.0
    """Chosen on DATA/dev by `benchmarks/map_weights.py`."""

    def energy(self, x: Tensor) -> Tensor:
        """Energy of images (B, C, H, W): (B,)."""
        return torch.stack([difference(x, o).square().sum((1, 2, 3)) for o in (VERTICAL, HORIZONTAL)]).sum(0)

    def prox(self, x: Tensor, step: float) -> Tensor:
        """Solve (1 + 2 step Σ f_iᵀ f_i) v = x exactly: on x and its mirror images both are circular, so by FFT."""
        wide = torch.cat([x, x.flip(-1)], -1)
        wide = torch.cat([wide, wide.flip(-2)], -2)
        angles = (2 * torch.pi * torch.fft.fftfreq(n, dtype=x.dtype, device=x.device) for n in wide.shape[-2:])
        rows, columns = (2 - 2 * angle.cos() for angle in angles)
        solved: Tensor = torch.fft.ifft2(torch.fft.fft2(wide) / (1 + 2 * step * (rows[:, None] + columns))).real
        return solved[..., : x.shape[-2], : x.shape[-1]]


@dataclass(frozen=True)
class NoPrior:
    """Ω(x) = 0."""

    rho: ClassVar[float] = 0.0

    def energy(self, x: Tensor) -> Tensor:
        """Zeros (B,)."""
        return x.new_zeros(x.shape[0])

    def prox(self, x: Tensor, step: float) -> Tensor:
        """X itself."""
        return x
