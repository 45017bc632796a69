"""Figures of what chains say about kernels and data; and, for runs without chains, of optimizers and restarts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blindsr.diagnostics.chain_plots import SHOWN, label
from blindsr.diagnostics.style import COLORS, color_bar, label_axes, new_figure, show_kernel, show_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]


def kernel_mean(mean: Array, sd: Array, title: str, truth: Array | None = None) -> Figure:
    """Draw mean and standard deviation of the kernel (K, K) over all draws and, if given, the truth and the error."""
    top = float(max(mean.max(), 0 if truth is None else truth.max()))
    panels = [(mean, "posterior mean", "magma", top), (sd, "posterior standard deviation", "viridis", None)]
    if truth is not None:
        panels += [(truth, "true kernel", "magma", top), (np.abs(mean - truth), "|mean - truth|", "viridis", None)]
    figure = new_figure(3.7 * len(panels), 3.9, title)
    flat = figure.subplots(1, len(panels), squeeze=False).ravel()
    for axes, (values, name, colors, limit) in zip(flat, panels, strict=True):
        show_kernel(axes, values, name, top=limit, cmap=colors)
    return figure


def _tiled(kernels: Array) -> Array:
    """Kernels (m, n, K, K) side by side as one picture, with an empty pixel between them."""
    m, n, side, _ = kernels.shape
    page = np.full((m, side + 1, n, side + 1), np.nan)
    page[:, :side, :, :side] = kernels.swapaxes(1, 2)
    return page.reshape(m * (side + 1), n * (side + 1))[:-1, :-1]


def kernel_draws(draws: Array, mean: Array, title: str) -> Figure:
    """Draw kernels (chains, draws, K, K), a row for each chain, and beside them the same minus the mean (K, K)."""
    rows, columns, side = min(draws.shape[0], 6), min(draws.shape[1], 5), draws.shape[-1]
    shown = draws[:rows, np.linspace(0, draws.shape[1] - 1, columns).astype(int)]
    figure = new_figure(2.4 * columns + 2, 1.25 * rows + 1.2, title)
    largest = float(np.abs(shown - mean).max()) or 1.0
    left, right = figure.subplots(1, 2)
    for axes, values, name, colors, low, high in (
        (left, shown, "kernels", "magma", 0.0, float(shown.max())),
        (right, shown - mean, "minus the posterior mean", "RdBu_r", -largest, largest),
    ):
        picture = axes.imshow(_tiled(values), cmap=colors, vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(name, fontsize=10)
        axes.set_xticks([])
        middles = np.arange(rows) * (side + 1) + (side - 1) / 2
        axes.set_yticks(middles, [f"chain {i}" for i in range(rows)], fontsize=8)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        color_bar(axes, picture)
    return figure


def _channels(values: Array) -> Array:
    """Mean over the channels of an image (C, h, w) or (h, w)."""
    return values.mean(0) if values.ndim == 3 else values


def _histogram(axes: Axes, observed: Array, predicted: Array) -> None:
    """Draw where the data fall among the predictive draws: flat if the model predicts them well."""
    below = (predicted < observed[None]).mean(0).ravel()
    bins = min(20, len(predicted) + 1)
    axes.hist(below, bins=bins, range=(0, 1), density=True, color=COLORS[0], alpha=0.8)
    axes.axhline(1, color="black", lw=0.8, ls=":")
    label_axes(axes, "Data among predictions", "share of predictions below the datum", "density (1: as predicted)")


def predicted_image(observed: Array, predicted: Array, title: str) -> Figure:
    """Draw the LR image, its mean prediction, the residual in predictive standard deviations, and ranks of the data.

    The image is (C, h, w) or (h, w), units of 0..1; `predicted` are n draws of it, (n, ...).
    """
    figure = new_figure(14.5, 4, title)
    a, b, c, d = figure.subplots(1, 4)
    mean, sd = predicted.mean(0), predicted.std(0)
    for axes, picture, name in ((a, observed, "observed LR image"), (b, mean, "mean of predictions")):
        colour = picture.ndim == 3 and len(picture) == 3
        show_picture(axes, np.moveaxis(picture, 0, -1) if colour else _channels(picture), name, size=10)
    residual = _channels((observed - mean) / np.maximum(sd, 1e-12))
    map_ = c.imshow(residual, cmap="RdBu_r", vmin=-4, vmax=4, interpolation="nearest")
    c.set_title("residual (predictive sds)", fontsize=10)
    c.axis("off")
    color_bar(c, map_)
    _histogram(d, observed, predicted)
    return figure


def predicted_values(observed: Array, predicted: Array, title: str, what: str) -> Figure:
    """Draw data of any shape against the 90 % band of draws (n, ...) of it, sorted by prediction; ranks of the data."""
    figure = new_figure(11, 4, title)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [2.2, 1]})
    flat, drawn = observed.ravel(), predicted.reshape(len(predicted), -1)
    order = np.argsort(drawn.mean(0))
    low, middle, high = np.quantile(drawn[:, order], (0.05, 0.5, 0.95), axis=0)
    at = np.arange(len(order))
    left.plot(at, flat[order], ".", ms=2, color="0.45", label="observed", rasterized=True)
    left.fill_between(at, low, high, color=COLORS[0], alpha=0.35, lw=0, label="90 % of predictions")
    left.plot(at, middle, color=COLORS[0], lw=1.2, label="median prediction")
    label_axes(left, x="value, sorted by its mean prediction", y=what)
    left.legend(fontsize=8, frameon=False, loc="upper left")
    _histogram(right, flat, drawn)
    return figure


def optimizer_trace(rows: Mapping[str, Array], title: str) -> Figure:
    """Draw the columns of trace.csv, (steps,) each, against `step`, one of them; NaN where a step has no value.

    An optimizer's iterates are not a sample of any distribution.
    """
    names = [name for name, v in rows.items() if name != "step" and np.isfinite(v).any()][:SHOWN]
    figure = new_figure(9, 1.6 * max(len(names), 1) + 1, title)
    grid = figure.subplots(max(len(names), 1), 1, squeeze=False, sharex=True).ravel()
    for axes, name in zip(grid, names, strict=False):
        values = rows[name]
        good = np.isfinite(values)
        axes.plot(rows["step"][good], values[good], color=COLORS[0], lw=1.0)
        if (values[good] > 0).all() and values[good].max() > 20 * values[good].min():
            axes.set_yscale("log")
        label_axes(axes, y=label(name))
    grid[-1].set_xlabel("inner step", fontsize=9)
    return figure


def restart_spread(kernels: Array, losses: Array, widths: Array, title: str) -> Figure:
    """Draw the kernels of restarts, their losses against the step, and the mean and spread of the kernels.

    Kernels (restarts, K, K); losses (restarts, steps), NaN after a restart's end; root mean square widths (restarts,),
    HR pixels.
    """
    columns = max(min(len(kernels), 8), 3)
    figure = new_figure(1.75 * columns + 1, 6.6, title)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 1.6])
    upper, lower = parts
    top = float(kernels.max())
    for i, axes in enumerate(upper.subplots(1, columns)):
        axes.axis("off")
        if i < len(kernels):
            show_kernel(axes, kernels[i], f"restart {i}\nwidth {widths[i]:.2f} px", top=top, scale=False)
    left, middle, right = lower.subplots(1, 3, gridspec_kw={"width_ratios": [1.5, 1, 1]})
    for i, loss in enumerate(losses):
        left.semilogy(np.arange(1, len(loss) + 1), loss, color=COLORS[i % len(COLORS)], lw=0.9, label=f"restart {i}")
    label_axes(left, x="inner step", y="data term")
    if len(losses) <= SHOWN:
        left.legend(fontsize=8, frameon=False)
    show_kernel(middle, kernels.mean(0), "mean over restarts")
    sd = kernels.std(0)
    show_kernel(right, sd, "spread over restarts", cmap="viridis", top=float(sd.max()) or 1.0)
    return figure
