"""KernelGAN's four regularisers of the kernel (KernelGAN paper, Sec. 4.1), and its bicubic initial phase.

All are functions of the generator's kernel (1, 1, K, K), of any sign and sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from blindsr.estimators.kernelgan.networks import STEP
from blindsr.restorers.bicubic import keys

POWER = 0.2
"""Exponent of the sparsity term."""
EDGE = 30.0
"""Factor of the boundary mask."""


def sum_to_one(kernel: Tensor) -> Tensor:
    """|1 - Σ k|."""
    return (1 - kernel.sum()).abs()


def boundary_mask(size: int) -> Tensor:
    """Weights (K, K) that grow towards the border: 30 (1 - exp(-r² / 2K²)), and 0 in the middle.

    The middle is everything but a frame of ⌊K/4⌋ - 1 pixels (2 for K = 13).
    """
    axis = torch.arange(size, dtype=torch.float32) - size // 2
    bell = torch.exp(-axis.square() / (2 * size**2))
    mask = EDGE * (1 - bell[:, None] * bell[None, :])
    frame = (size - (size // 2 + size % 2)) // 2 - 1
    mask[frame : size - frame, frame : size - frame] = 0
    return mask


def boundary(kernel: Tensor, mask: Tensor) -> Tensor:
    """Return mean |k m|, which penalises values near the border."""
    return (kernel * mask).abs().mean()


def sparsity(kernel: Tensor) -> Tensor:
    """Return mean |k|^0.2, which penalises many small values more than a few large ones."""
    return (kernel.abs() + 1e-12).pow(POWER).mean()


def off_center(kernel: Tensor, center: float) -> Tensor:
    """Mean over both axes of the squared distance of the centre of mass from `center`, pixels²."""
    axis = torch.arange(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    k = kernel[0, 0] / kernel.sum()
    mass = torch.stack([k.sum(0) @ axis, k.sum(1) @ axis])
    return (mass - center).square().mean()


def bicubic_kernel(size: int, center: float) -> Tensor:
    """Kernel (1, 1, size, size) of bicubic downscaling by 2 (Keys' cubic, stretched by 2) about `center`."""
    line = keys((torch.arange(size, dtype=torch.float64) - center) / STEP)
    line = (line / line.sum()).float()
    return (line[:, None] * line[None, :])[None, None]


def bicubic_gap(shrunk: Tensor, picture: Tensor, bicubic: Tensor) -> Tensor:
    """Mean squared difference between the generator's output for planes (N, 1, h, w) and bicubic downscaling."""
    return (shrunk - F.conv2d(picture, bicubic, stride=STEP)).square().mean()


@dataclass(frozen=True)
class Weights:
    """Weights of the terms, and how they change (published values).

    At first `bicubic` dominates, so that the generator learns to downscale like bicubic interpolation. Once the gap has
    been below `near` three times in a row, `bicubic` is divided by `decay` every `interval` steps; once it is below
    `late`, sparsity and centre are added permanently.

    `near` is a ninth of the published 0.4: that code sums the three colours of the bicubic picture, which makes a
    grey picture three times as bright and its squared error nine times as large.
    """

    sum_to_one: float = 0.5
    boundary: float = 0.5
    sparsity: float = 5.0
    center: float = 1.0
    bicubic: float = 5.0
    near: float = 0.4 / 9
    decay: float = 100.0
    interval: int = 200
    least: float = 5e-6
    late: float = 5e-3


@dataclass(frozen=True)
class Schedule:
    """The current state of the weights."""

    bicubic: float  # Weight of the bicubic term
    near: int = 0  # Number of times in a row that the gap was small, up to 3, where it stays
    late: bool = False  # Whether sparsity and centre have been added

    def after(self, step: int, gap: float, weights: Weights) -> Schedule:
        """Return the state after step `step` (from 1) whose bicubic gap was `gap`."""
        if self.near < 3:
            return replace(self, near=self.near + 1 if gap < weights.near else 0)
        if step % weights.interval or self.bicubic <= weights.least:
            return self
        bicubic = max(self.bicubic / weights.decay, weights.least)
        return replace(self, bicubic=bicubic, late=self.late or bicubic < weights.late)

    def penalty(self, kernel: Tensor, mask: Tensor, center: float, weights: Weights) -> Tensor:
        """Return the weighted sum of the four regularisers."""
        total = weights.sum_to_one * sum_to_one(kernel) + weights.boundary * boundary(kernel, mask)
        if self.late:
            total = total + weights.sparsity * sparsity(kernel) + weights.center * off_center(kernel, center)
        return total
