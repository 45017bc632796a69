"""Pixel-wise uncertainty of a restored image from draws of the kernel, and error-uncertainty curves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from blindsr.diagnostics.moments import RunningMoments
from blindsr.diagnostics.style import new_figure, show_picture
from blindsr.io.files import atomic_path, write_text
from blindsr.likelihood.noise import check_noise
from blindsr.operators.degradation import Degradation
from blindsr.operators.luma import luma
from blindsr.restorers.base import Restorer
from blindsr.restorers.canvas import Canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRACTIONS = 50
"""Number of points of an error-uncertainty curve."""


@dataclass(frozen=True)
class UncertaintyMap:
    """A restored image and how uncertain each of its pixels is.

    Attributes
    ----------
    mean : Tensor
        The image (1, C, H, W), values 0..1: the mean of the draws, or the result whose uncertainty is mapped.
    std : Tensor
        (1, C, H, W), or (1, 1, H, W) for the luma alone: standard deviations in units of the image, 0..1.
    n : int
        Number of draws behind the standard deviations.
    """

    mean: Tensor
    std: Tensor
    n: int


def check_inputs(y: Tensor, kernels: Tensor, degradation: Degradation, noise_std: float) -> None:
    """Raise ValueError unless y is (1, C, h, w), the kernels are (n, 1, K, K), n ≥ 2, all is finite, and noise ≥ 0."""
    k = degradation.kernel_size
    if y.ndim != 4 or y.shape[0] != 1:
        raise ValueError(f"the image has shape {tuple(y.shape)}: (1, channels, height, width) is needed")
    if kernels.ndim != 4 or kernels.shape[1:] != (1, k, k) or len(kernels) < 2:
        raise ValueError(f"kernel draws have shape {tuple(kernels.shape)}: (n, 1, {k}, {k}) with n >= 2 is needed")
    if not bool(torch.isfinite(y).all()) or not bool(torch.isfinite(kernels).all()):
        raise ValueError("the image or the kernel draws contain NaN or infinite values")
    check_noise(noise_std)


@torch.no_grad()
def uncertainty_map(
    y: Tensor,
    kernels: Tensor,
    restorer: Restorer,
    degradation: Degradation,
    noise_std: float,
    *,
    generator: torch.Generator,
    bootstrap: bool = False,
    interrupt: Callable[[], bool] | None = None,
) -> UncertaintyMap:
    """Restore the image with each draw of the kernel, and return the mean and standard deviation of the results.

    The standard deviation covers the uncertainty of the kernel and, with `bootstrap`, the noise. It does not cover the
    bias of the restorer's prior or the null space of the operator, which make up most of the error (see
    `image_posterior.restoration_uncertainty`).

    Parameters
    ----------
    y : Tensor
        LR image (1, C, h, w), values 0..1.
    kernels : Tensor
        Draws (n, 1, K, K) with n ≥ 2.
    restorer : Restorer
        Any restorer.
    degradation : Degradation
        Scale, kernel size, alignment, padding.
    noise_std : float
        Noise level, units of 0..1.
    generator : torch.Generator
        Source of the noise of the bootstrap.
    bootstrap : bool
        Parametric bootstrap (Efron 1979): for each kernel k, degrade the restored image R(y) again, with and without
        new noise n, and restore both; the draw is x_i = R(y) + R((R(y) ⊗ k)↓s + n) − R((R(y) ⊗ k)↓s).
    interrupt : callable, optional
        Called after each draw; once it returns True and there are two draws, the map of the draws so far is returned.

    Raises
    ------
    ValueError
        If a shape does not fit, or a value is not finite or out of range.
    """
    check_inputs(y, kernels, degradation, noise_std)
    moments = RunningMoments()
    for kernel in kernels.split(1):
        x = restorer(y, kernel, degradation, noise_std)
        if bootstrap:
            clean = _degrade(x, kernel, y, degradation)
            noise = noise_std * torch.randn(y.shape, generator=generator).to(y)
            again = restorer((clean + noise).to(y), kernel, degradation, noise_std)
            x = x + again - restorer(clean.to(y), kernel, degradation, noise_std)
        moments.add(x)
        if interrupt is not None and interrupt() and moments.count >= 2:
            break
    return as_map(moments, y)


def as_map(moments: RunningMoments, like: Tensor) -> UncertaintyMap:
    """Return the mean and standard deviation (divisor n − 1) of images, with the dtype and device of `like`."""
    mean, std = (v[None].to(like) for v in (moments.mean, moments.std(1)))
    return UncertaintyMap(mean, std, moments.count)


def _degrade(x: Tensor, kernel: Tensor, y: Tensor, degradation: Degradation) -> Tensor:
    """Degrade an image to the size of y; where pixels beyond its border are needed, the border is repeated."""
    canvas = Canvas(y, kernel, degradation)
    return canvas.degrade(canvas.fill(x.double())).to(y)


@dataclass(frozen=True)
class Sparsification:
    """Error of the remaining pixels after the most uncertain ones have been left out.

    Attributes
    ----------
    fractions : Tensor
        (m,) fractions of the pixels that are left out, from 0.
    error, oracle : Tensor
        (m,) mean absolute error of the remaining pixels relative to that of all pixels, when those with the largest
        standard deviation, or with the largest error, are left out first.
    ause, ause_random : float
        Area between the curve and that of the oracle (0 for a perfect ranking), and the same for a random order.
    spearman : float
        Spearman rank correlation of the standard deviation and the absolute error.
    """

    fractions: Tensor
    error: Tensor
    oracle: Tensor
    ause: float
    ause_random: float
    spearman: float


def sparsification(std: Tensor, error: Tensor) -> Sparsification:
    """Error-uncertainty curve (Ilg et al., "Uncertainty estimates and multi-hypotheses networks", ECCV 2018).

    Parameters
    ----------
    std : Tensor
        Uncertainties, of any shape; only their order matters.
    error : Tensor
        Errors of the same shape; only their absolute values matter.

    Raises
    ------
    ValueError
        If the shapes differ, values are not finite, there are fewer than 50 pixels or the error is zero in
        every pixel.
    """
    from scipy.stats import spearmanr

    if std.shape != error.shape or std.numel() < FRACTIONS:
        raise ValueError(
            f"error-uncertainty curve: std {tuple(std.shape)} and error {tuple(error.shape)} must have the same "
            f"shape and at least {FRACTIONS} pixels"
        )
    s, e = std.flatten().double(), error.flatten().double().abs()
    if not bool(torch.isfinite(s).all()) or not bool(torch.isfinite(e).all()):
        raise ValueError("error-uncertainty curve: std or error contains NaN or infinite values")
    if not float(e.max()) > 0:
        raise ValueError("error-uncertainty curve: the error is zero in every pixel, so there is nothing to rank")
    fractions = torch.arange(FRACTIONS, dtype=torch.float64) / FRACTIONS
    kept = (len(e) * (1 - fractions)).round().long()

    def curve(order: Tensor) -> Tensor:
        rest: Tensor = e[order].cumsum(0)[kept - 1] / kept
        return rest / e.mean()

    by_std, oracle = curve(s.argsort(stable=True)), curve(e.argsort(stable=True))
    ause, random = (float(torch.trapezoid(c - oracle, fractions)) for c in (by_std, torch.ones_like(oracle)))
    return Sparsification(fractions, by_std, oracle, ause, random, float(spearmanr(s.numpy(), e.numpy()).statistic))


def save_uncertainty(folder: Path, found: UncertaintyMap) -> None:
    """Write uncertainty.npy (standard deviations, float32, (H, W) or (H, W, C), units of 0..1), .png and .json.

    Parameters
    ----------
    folder : Path
        Where to write the files.
    found : UncertaintyMap
        The map.

    Raises
    ------
    UserError
        If a file cannot be written.
    """
    std = found.std[0].permute(1, 2, 0).float().cpu().numpy()
    std = std[..., 0] if std.shape[2] == 1 else std
    with atomic_path(folder / "uncertainty.npy") as path, path.open("wb") as file:
        np.save(file, std)
    with atomic_path(folder / "uncertainty.png") as path:
        draw_uncertainty(found).savefig(path, format="png")
    note = {
        "what": "standard deviation of the image's luma" if found.std.shape[1] == 1 else "standard deviation",
        "units": "0..1",
        "draws": found.n,
        "mean": float(std.mean()),
        "median": float(np.median(std)),
        "max": float(std.max()),
    }
    write_text(folder / "uncertainty.json", json.dumps(note, indent=1) + "\n")


def draw_uncertainty(found: UncertaintyMap, truth: Tensor | None = None) -> Figure:
    """Plot the image, its standard deviation and, if the truth is given, the absolute error of its luma.

    Parameters
    ----------
    found : UncertaintyMap
        The map.
    truth : Tensor, optional
        True image (1, C, H, W), values 0..1.
    """
    picture = found.mean[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy()
    maps = [("Standard deviation", 255 * found.std[0].double().square().mean(0).sqrt().cpu().numpy())]
    if truth is not None:
        maps.append(("Absolute error", 255 * (luma(found.mean) - luma(truth))[0, 0].abs().double().cpu().numpy()))
    top = max(float(np.quantile(maps[0][1], 0.995)), 0.1)
    n, (h, w) = 1 + len(maps), picture.shape[:2]
    figure = new_figure(4.6 * n, 4.3 * min(max(h / w, 0.4), 2) + 0.7, dpi=130)
    axes = figure.subplots(1, n)
    show_picture(axes[0], picture if picture.shape[2] == 3 else picture.mean(2), "Result", size=13)
    for panel, (title, values) in zip(axes[1:], maps, strict=True):
        shown = panel.imshow(values, cmap="magma", vmin=0, vmax=top, interpolation="nearest")
        panel.set_title(title, fontsize=13)
        bar = figure.colorbar(shown, ax=panel, fraction=0.046, pad=0.03, extend="max")
        bar.set_label("grey levels of 255", fontsize=11)
        panel.axis("off")
    return figure


def draw_sparsification(curves: dict[str, Sparsification]) -> Figure:
    """Plot error-uncertainty curves by name, with the oracle of the first one and the line of a random order."""
    figure = new_figure(9.2, 4.4, dpi=150)
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(100 * curve.fractions, curve.error, lw=1.8, label=f"{name}: area {curve.ause:.3f}")
    first = next(iter(curves.values()))
    axes.plot(100 * first.fractions, first.oracle, color="black", lw=1.2, ls="--", label="by the error itself: area 0")
    axes.axhline(1, color="grey", lw=1.2, ls=":", label=f"random order: area {first.ause_random:.3f}")
    axes.set(xlim=(0, 100), ylim=(0, 1.08))
    axes.set_xlabel("most uncertain pixels left out (%)", fontsize=12)
    axes.set_ylabel("mean absolute error of the rest,\nover that of all pixels", fontsize=12)
    figure.legend(fontsize=11, loc="outside right center", frameon=False)
    return figure
