"""Simulate test images, y = (x ⊗ k)↓s + n, by the protocol of FKP, BSRDM and MLMC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from blindsr.operators.degradation import Degradation, Padding
from blindsr.priors.base import KernelPrior
from blindsr.random import draw_seed, generator


class Quantize(StrEnum):
    """How the LR image becomes 8-bit. The published script truncates, which lowers it by half a grey level."""

    ROUND = "round"
    TRUNCATE = "truncate"
    NONE = "none"


@dataclass(frozen=True)
class TestImage:
    """A simulated LR image with its truth.

    Attributes
    ----------
    y, x : Tensor
        LR image (1, C, h, w), and the HR image (1, C, s h, s w) it was made from, cropped to a multiple of s; 0..1.
    kernel : Tensor
        (1, 1, K, K).
    """

    __test__ = False

    y: Tensor
    x: Tensor
    kernel: Tensor


def quantize(y: Tensor, how: Quantize) -> Tensor:
    """Clip to 0..1 and quantise to 8 bits (NONE leaves y as it is)."""
    if how is Quantize.NONE:
        return y
    levels = y.clamp(0, 1) * 255
    return (levels.round() if how is Quantize.ROUND else (levels + 1e-4).floor()) / 255


def degrade(
    x: Tensor,
    degradation: Degradation,
    kernel: KernelPrior | Tensor,
    *,
    noise_std: float = 0.0,
    seed: int = 0,
    how: Quantize = Quantize.ROUND,
) -> TestImage:
    """Degrade an HR image.

    Parameters
    ----------
    x : Tensor
        (1, C, H, W), 0..1; it is cropped at the right and the bottom to a size that the operator accepts.
    degradation : Degradation
        The operator.
    kernel : KernelPrior or Tensor
        The law of the true kernel, or the kernel itself (1, 1, K, K).
    noise_std : float
        Standard deviation of the Gaussian noise, units of 0..1, at least 0.
    seed : int
        Seed of kernel and noise. Each has its own stream, so changing the noise level does not change the kernel.
    how : Quantize
        8-bit rule.

    Raises
    ------
    ValueError
        If the noise level is negative or not finite, or the image is too small.
    """
    if not 0 <= noise_std < float("inf"):
        raise ValueError(f"noise level {noise_std}: a standard deviation of 0 or more, in units of 0..1, is needed")
    s = degradation.scale
    h, w = (n // s * s for n in x.shape[-2:])
    if min(h, w) < s:
        raise ValueError(f"an image of {x.shape[-1]}x{x.shape[-2]} pixels is too small for scale {s}")
    if degradation.padding is Padding.VALID:
        if min(x.shape[-2:]) < degradation.kernel_size:
            raise ValueError(f"an image of {x.shape[-1]}x{x.shape[-2]} pixels is smaller than the kernel")
        h, w = degradation.hr_shape(*degradation.lr_shape(*x.shape[-2:]))
    x = x[..., :h, :w]
    stream = generator(seed)
    noise_stream = generator(draw_seed(generator(seed)))
    k = kernel if isinstance(kernel, Tensor) else kernel.sample(1, generator=stream)
    y = degradation(x, k)
    if noise_std > 0:
        y = y + noise_std * torch.randn(y.shape, generator=noise_stream)
    return TestImage(quantize(y, how), degradation.crop(x), k)
