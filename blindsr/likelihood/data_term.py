"""Data terms: the distance of a predicted LR image from y, on the scale of a mean squared error.

The Gaussian negative log-likelihood (Eqs. 35 and 39 of the MLMC paper) over n LR values is (n / 2σ²) · MSE. The loss is
that divided by n / 2σ² (by its mean where σ² is a map), so that another σ² changes the weight of the priors but not the
size of Adam's steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F


@runtime_checkable
class DataTerm(Protocol):
    """A loss between a predicted LR image and y."""

    def loss(self, prediction: Tensor, y: Tensor, variance: Tensor, step: int) -> Tensor:
        """Scalar loss of (1, C, h, w) images at a step of the run, given the noise variance."""
        ...


def gaussian_window(size: int, std: float) -> Tensor:
    """Return a 1-D Gaussian window (size,), summing to one."""
    u = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    w = torch.exp(-0.5 * (u / std) ** 2)
    return w / w.sum()


def ssim(a: Tensor, b: Tensor, *, size: int = 11, std: float = 1.5) -> Tensor:
    """Mean structural similarity of images (B, C, H, W) in [0, 1], a scalar of at most 1 (Wang et al. 2004).

    `size` and `std` describe the Gaussian window; the images are padded with zeros, as in the published data term.
    """
    w = gaussian_window(size, std).to(a)
    stack = torch.cat([a, b, a * a, b * b, a * b]).flatten(0, 1).unsqueeze(1)
    blurred = F.conv2d(stack, w.view(1, 1, -1, 1), padding=(size // 2, 0))
    blurred = F.conv2d(blurred, w.view(1, 1, 1, -1), padding=(0, size // 2))
    mu_a, mu_b, aa, bb, ab = blurred.chunk(5)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mu_a * mu_b + c1) / (mu_a.square() + mu_b.square() + c1)
    structure = (2 * (ab - mu_a * mu_b) + c2) / (aa - mu_a.square() + bb - mu_b.square() + c2)
    return (luminance * structure).mean()


@dataclass(frozen=True)
class GaussianLikelihood:
    """mean over u of (σ̄²/σ²(u)) (prediction - y)², with σ̄² the mean variance: the plain MSE for one σ²."""

    def loss(self, prediction: Tensor, y: Tensor, variance: Tensor, step: int) -> Tensor:
        """Scalar weighted mean squared error."""
        squared = (prediction - y).square()
        return squared.mean() if variance.ndim == 0 else (squared * (variance.mean() / variance)).mean()


@dataclass(frozen=True)
class SsimThenMse:
    """1 - SSIM for the first `switch` steps, then the Gaussian likelihood where there is noise.

    1 - SSIM finds the image sooner than the squared error does, but then fits the noise.

    Parameters
    ----------
    switch : int
        First step that uses the squared error. Published: 405 (81 outer iterations of 5).
    ssim_below : float
        Noise level (units of 0..1) below which 1 - SSIM is kept after the switch. Published: 0, always switch.
    """

    switch: int = 405
    ssim_below: float = 0.0

    def loss(self, prediction: Tensor, y: Tensor, variance: Tensor, step: int) -> Tensor:
        """Scalar loss."""
        if step < self.switch or float(variance.mean()) < self.ssim_below**2:
            return 1 - ssim(prediction, y)
        return GaussianLikelihood().loss(prediction, y, variance, step)
