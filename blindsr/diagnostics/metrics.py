"""Image and kernel scores, by the protocol of this literature."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
        """Border in HR pixels."""
        return scale if self is Border.S else scale**2


def luma(image: Array) -> Array:
    """Y of BT.601 YCbCr, 16..235, from an image (H, W), (H, W, 1) or RGB (H, W, 3) in 0..1, rounded to 8 bits first."""
    rgb = np.round(np.clip(np.atleast_3d(image), 0, 1).astype(np.float64) * 255)
    if rgb.shape[2] == 1:
        rgb = np.repeat(rgb, 3, axis=2)
    y: Array = rgb @ (np.array([65.481, 128.553, 24.966]) / 255) + 16
    return y


def _pair(a: Array, b: Array, border: int) -> tuple[Array, Array]:
    ya, yb = luma(a), luma(b)
    if ya.shape != yb.shape:
        raise ValueError(f"images differ in size: {ya.shape[1]}x{ya.shape[0]} and {yb.shape[1]}x{yb.shape[0]} pixels")
    if min(ya.shape) <= 2 * border:
        raise ValueError(f"a border of {border} pixels leaves nothing of an image of {ya.shape[1]}x{ya.shape[0]}")
    inner = slice(border, -border or None)
    return ya[inner, inner], yb[inner, inner]


def psnr(image: Array, truth: Array, border: int) -> float:
    """Peak signal-to-noise ratio on Y in dB, 20 log10(255 / rmse), peak 255.

    Parameters
    ----------
    image, truth : array
        (H, W) or (H, W, 3), 0..1.
    border : int
        Pixels left out on each side.

    Raises
    ------
    ValueError
        If the sizes differ or the border leaves nothing.
    """
    a, b = _pair(image, truth, border)
    mse = float(np.mean((a - b) ** 2))
    return float("inf") if mse == 0 else 10 * np.log10(255**2 / mse)


def ssim(image: Array, truth: Array, border: int) -> float:
    """Structural similarity on Y: 11x11 Gaussian window, σ = 1.5, population moments, mean over the valid area.

    NaN where the image without its border is smaller than the window.
    """
    from skimage.metrics import structural_similarity

    a, b = _pair(image, truth, border)
    if min(a.shape) < 11:
        return float("nan")
    _, full = structural_similarity(
        a, b, data_range=255.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    return float(np.mean(full[5:-5, 5:-5]))


def kernel_psnr(kernel: Array, truth: Array) -> float:
    """PSNR of a kernel (K, K) with peak 1: 20 log10(1 / rmse), in dB. No alignment is made.

    Raises
    ------
    ValueError
        If the sizes differ.
    """
    if kernel.shape != truth.shape:
        raise ValueError(f"kernels differ in size: {kernel.shape} and {truth.shape}")
    mse = float(np.mean((kernel.astype(np.float64) - truth.astype(np.float64)) ** 2))
    return float("inf") if mse == 0 else -10 * np.log10(mse)
