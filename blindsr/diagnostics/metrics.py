"""Scores of images and kernels, by the protocol of the blind super-resolution literature."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PEAKS = {"uint8": 255.0, "uint16": 65535.0}
"""White, by the type of the pixels; floating-point pixels have white at 1."""
ROUNDING = 1e-4
"""Floating-point pixels this far outside 0..1 are taken for rounding errors and clipped: less than a fiftieth of a grey
level of 255."""


class Border(StrEnum):
    """How many pixels of border the image scores leave out, for scale s.

    S
        s pixels: the convention of most super-resolution papers.
    S2
        s² pixels: the convention of the FKP, BSRDM and MLMC code and of every figure in this project's docs.
    """

    S = "s"
    S2 = "s2"

    def pixels(self, scale: int) -> int:
        """Width of the border in HR pixels."""
        return scale if self is Border.S else scale**2


def _pixels(image: Any) -> NDArray[Any]:
    """Pixels (H, W) or (H, W, C) of an array, a tensor or a PIL image, in their own type."""
    a: NDArray[Any]
    if hasattr(image, "detach"):
        a = image.detach().cpu().numpy()
        a = a[0] if a.ndim == 4 and len(a) == 1 else a
        a = np.moveaxis(a, 0, -1) if a.ndim == 3 else a
    else:
        if getattr(image, "mode", "L") not in ("L", "RGB", "I;16"):
            raise ValueError(f"metrics: a PIL image of mode {image.mode}; convert it to L or RGB first")
        a = np.asarray(image)
    if a.ndim not in (2, 3) or (a.ndim == 3 and a.shape[2] not in (1, 3)):
        raise ValueError(
            f"metrics: an image of shape {tuple(image.shape if hasattr(image, 'shape') else a.shape)}; give an array "
            "(H, W), (H, W, 1) or (H, W, 3), a tensor (C, H, W) or (1, C, H, W), or a grey or RGB picture"
        )
    if a.dtype.name not in PEAKS and a.dtype.kind != "f":
        raise ValueError(f"metrics: pixels of type {a.dtype}; give uint8, uint16, or floating point in 0..1")
    return a


def _unit(image: Any) -> Array:
    """Pixels (H, W) or (H, W, C) as float64 in 0..1."""
    a = _pixels(image)
    values: Array = a.astype(np.float64) / PEAKS.get(a.dtype.name, 1.0)
    if not np.isfinite(values).all():
        raise ValueError("metrics: the image holds NaN or infinite values; replace them first")
    low, high = values.min(initial=0), values.max(initial=0)
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(
            f"metrics: floating-point pixels of {low:.4g}..{high:.4g}; scale them to 0..1, or clip what lies beyond"
        )
    return np.clip(values, 0, 1)


def luma(image: Any, *, rounded: bool = True) -> Array:
    """Luma Y of BT.601 YCbCr, in 16..235.

    Parameters
    ----------
    image : array, tensor or PIL image
        Grey or RGB: an array (H, W), (H, W, 1) or (H, W, 3), a tensor (C, H, W) or (1, C, H, W). uint8, uint16, or
        floating point in 0..1.
    rounded : bool
        Whether the pixels are rounded to 8 bits first, as if they had been saved.

    Returns
    -------
    array
        (H, W), float64.

    Raises
    ------
    ValueError
        If the image has another shape, type or range.
    """
    rgb = np.atleast_3d(_unit(image)) * 255
    rgb = np.round(rgb) if rounded else rgb
    if rgb.shape[2] == 1:
        rgb = np.repeat(rgb, 3, axis=2)
    y: Array = rgb @ (np.array([65.481, 128.553, 24.966]) / 255) + 16
    return y


def _pair(image: Any, truth: Any, border: int, *, rounded: bool = True) -> tuple[Array, Array]:
    kinds = [a.dtype.name if a.dtype.name in PEAKS else "floating point" for a in (_pixels(image), _pixels(truth))]
    if kinds[0] != kinds[1]:
        raise ValueError(f"metrics: one image is {kinds[0]}, the other {kinds[1]}; convert both to the same type")
    a, b = luma(image, rounded=rounded), luma(truth, rounded=rounded)
    if a.shape != b.shape:
        raise ValueError(f"images differ in size: {a.shape[1]}x{a.shape[0]} and {b.shape[1]}x{b.shape[0]} pixels")
    if border < 0 or min(a.shape) <= 2 * border:
        raise ValueError(f"a border of {border} pixels leaves nothing of an image of {a.shape[1]}x{a.shape[0]}")
    inner = slice(border, -border or None)
    return a[inner, inner], b[inner, inner]


def _decibels(a: Array, b: Array) -> float:
    """PSNR of two luma arrays, peak 255; infinite where they are equal."""
    mse = float(np.mean((a - b) ** 2))
    return math.inf if mse == 0 else float(10 * np.log10(255**2 / mse))


def psnr(image: Any, truth: Any, border: int = 0) -> float:
    """Peak signal-to-noise ratio on the luma Y in dB: 20 log10(255 / rmse), Y of pixels rounded to 8 bits.

    Infinite only for images that are equal. Where rounding alone makes different images equal, it is left out.

    Parameters
    ----------
    image, truth : array, tensor or PIL image
        Of the same size and type, as for `luma`.
    border : int
        Pixels left out on each side.

    Raises
    ------
    ValueError
        If types or sizes differ, a range is not 0..1, or the border leaves nothing.
    """
    value = _decibels(*_pair(image, truth, border))
    return value if math.isfinite(value) else _decibels(*_pair(image, truth, border, rounded=False))


def ssim(image: Any, truth: Any, border: int = 0) -> float:
    """Structural similarity on the luma Y, at most 1: Gaussian window of 11x11 pixels and standard deviation 1.5.

    The mean over all positions at which the window lies within the image; NaN for an image that is smaller than the
    window once its border is left out. Moments have divisor n, not n − 1 (Wang, Bovik, Sheikh, Simoncelli, "Image
    quality assessment: from error visibility to structural similarity", IEEE TIP 2004).

    Parameters
    ----------
    image, truth : array, tensor or PIL image
        Of the same size and type, as for `luma`.
    border : int
        Pixels left out on each side.

    Raises
    ------
    ValueError
        As `psnr`.
    """
    from skimage.metrics import structural_similarity

    a, b = _pair(image, truth, border)
    if min(a.shape) < 11:
        return math.nan
    _, full = structural_similarity(
        a, b, data_range=255.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    return float(np.mean(full[5:-5, 5:-5]))


def kernel_psnr(kernel: Any, truth: Any) -> float:
    """PSNR of a kernel in dB, peak 1: 20 log10(1 / rmse). The kernels are not aligned first.

    Parameters
    ----------
    kernel, truth : array or tensor
        Of the same shape, (K, K) or (1, 1, K, K).

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    a, b = (np.asarray(k, dtype=np.float64) for k in (kernel, truth))
    if a.shape != b.shape:
        raise ValueError(f"kernels differ in size: {a.shape} and {b.shape}")
    mse = float(np.mean((a - b) ** 2))
    return math.inf if mse == 0 else float(-10 * np.log10(mse))
