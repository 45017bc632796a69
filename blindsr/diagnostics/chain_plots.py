"""Figures of chains: traces, rank plots, autocorrelation, pairs and energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blindsr.diagnostics.style import COLORS, label_axes, new_figure, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
Draws = Mapping[str, Array]
"""Draws (chains, draws) of parameters by name."""

LAGS = 100
POINTS = 1500
"""Points in a scatter plot, at most."""
SHOWN = 9
"""Parameters in a figure, at most."""

LABELS = {
    "centroid_column": "centroid column\n(HR pixels)",
    "centroid_row": "centroid row\n(HR pixels)",
    "width_1": "long width\n(HR pixels)",
    "width_2": "short width\n(HR pixels)",
    "orientation": "orientation\n(radians)",
}


def label(name: str) -> str:
    """Return the name of a parameter as it stands on an axis."""
    return LABELS.get(name, name.replace("_", " "))


def _small(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.ticklabel_format(useOffset=False)
    axes.spines[["top", "right"]].set_visible(False)


def _by_parameter(draws: Draws, title: str, x: str, y: str) -> tuple[Figure, list[tuple[Axes, Array]]]:
    """A figure with a panel for each parameter, and the panels with the draws (chains, draws) that they show."""
    shown = first(draws)
    figure, axes = panels(len(shown), 3, (3.6, 2.3), title)
    for ax, name in zip(axes, shown, strict=True):
        label_axes(ax, label(name).replace("\n", " "), x, y, size=8)
        _small(ax)
    _chain_legend(figure, len(next(iter(shown.values()))))
    return figure, list(zip(axes, shown.values(), strict=True))


def _chain_legend(figure: Figure, count: int) -> None:
    """Explain the colours of the chains where there is more than one."""
    from matplotlib.lines import Line2D

    if 1 < count <= len(COLORS):
        handles = [Line2D([], [], color=COLORS[i], label=f"chain {i}") for i in range(count)]
        figure.legend(handles=handles, loc="outside lower center", ncols=count, fontsize=8, frameon=False)


def first(draws: Draws) -> dict[str, Array]:
    """Return as many parameters as a figure shows."""
    return dict(list(draws.items())[:SHOWN])


def traces(draws: Draws, title: str, divergent: Array | None = None) -> Figure:
    """Draw for each parameter the distribution of each chain, and the chain itself.

    Below the chains, the draws that `divergent` (chains, draws), bool, has in any chain are marked.
    """
    shown = first(draws)
    figure = new_figure(10, 1.6 * len(shown) + 1, title)
    grid = figure.subplots(len(shown), 2, squeeze=False, gridspec_kw={"width_ratios": [1, 2.6]})
    for (left, right), (name, values) in zip(grid, shown.items(), strict=True):
        edges = np.histogram_bin_edges(values, bins=40)
        for i, chain in enumerate(values):
            color = COLORS[i % len(COLORS)]
            left.stairs(np.histogram(chain, edges, density=True)[0], edges, color=color, lw=1.1)
            right.plot(np.arange(len(chain)), chain, color=color, lw=0.5, alpha=0.8)
        if divergent is not None and divergent.any():
            at = np.flatnonzero(divergent.any(0))
            right.plot(at, np.full(len(at), values.min()), "|", color="black", ms=6)
        left.set_xlabel(label(name), fontsize=9)
        left.set_yticks([])
        left.locator_params(axis="x", nbins=3)
        left.set_ylabel("density", fontsize=8)
        right.set_ylabel(label(name), fontsize=8)
        _small(left)
        _small(right)
    note = "draw (black marks: divergent transitions)" if divergent is not None and divergent.any() else "draw"
    grid[-1, 1].set_xlabel(note, fontsize=9)
    _chain_legend(figure, len(next(iter(shown.values()))))
    return figure


def ranks(draws: Draws, title: str) -> Figure:
    """Draw rank histograms: ranks among the draws of all chains, counted for each chain; flat where the chains agree.

    Vehtari et al., "Rank-normalization, folding, and localization", Bayesian Analysis 2021.
    """
    from scipy.stats import rankdata

    figure, shown = _by_parameter(draws, title, "rank among all draws (share)", "count / expected")
    for axes, values in shown:
        m, n = values.shape
        bins = min(20, max(n // 5, 2))
        edges = np.linspace(0.5, m * n + 0.5, bins + 1)
        rank = rankdata(values, method="average").reshape(m, n)
        for i in range(m):
            counts = np.histogram(rank[i], edges)[0] / (n / bins)
            axes.stairs(counts, edges / (m * n), color=COLORS[i % len(COLORS)], lw=1.2)
        axes.axhline(1, color="black", lw=0.8, ls=":")
        axes.set_ylim(bottom=0)
    return figure


def autocorrelation(chain: Array) -> Array:
    """Return the autocorrelation (draws,) of one chain (draws,), by FFT; zero for a constant chain."""
    centred = chain - chain.mean()
    power = np.abs(np.fft.rfft(centred, 2 * len(chain))) ** 2
    covariance = np.fft.irfft(power)[: len(chain)]
    return covariance / covariance[0] if covariance[0] > 0 else np.zeros(len(chain))


def autocorrelations(draws: Draws, title: str) -> Figure:
    """Draw the autocorrelation of each chain, with the 95 % band of independent draws."""
    figure, shown = _by_parameter(draws, title, "lag (draws)", "autocorrelation")
    for axes, values in shown:
        lags = min(LAGS, values.shape[1] - 1)
        band = 1.96 / np.sqrt(values.shape[1])
        axes.axhspan(-band, band, color="0.9")
        for i, chain in enumerate(values):
            axes.plot(np.arange(lags + 1), autocorrelation(chain)[: lags + 1], color=COLORS[i % len(COLORS)], lw=1.0)
        axes.set_ylim(-0.3, 1.03)
    return figure


def pairs(draws: Draws, title: str, truth: Mapping[str, float] | None = None) -> Figure:
    """Draw scatter plots of all pairs of parameters, histograms on the diagonal, and the truth as crosses and lines."""
    shown = {name: values.ravel() for name, values in first(draws).items()}
    known = {name: value for name, value in (truth or {}).items() if name in shown}
    names, n = list(shown), len(shown)
    figure = new_figure(2.1 * n + 1, 2.1 * n + 1, title)
    grid: Any = figure.subplots(n, n, squeeze=False)
    limits = {name: _limits(values, known.get(name)) for name, values in shown.items()}
    total = next(iter(shown.values())).size
    kept = np.linspace(0, total - 1, min(total, POINTS)).astype(int)
    for i, j in np.ndindex(n, n):
        axes, x, y = grid[i, j], names[j], names[i]
        if j > i:
            axes.axis("off")
            continue
        if i == j:
            axes.hist(shown[x], bins=40, color=COLORS[0], alpha=0.8)
            axes.set_yticks([])
            _mark(axes, limits[x], known.get(x))
        else:
            axes.plot(shown[x][kept], shown[y][kept], ".", ms=1.6, color=COLORS[0], alpha=0.4, rasterized=True)
            if x in known and y in known:
                axes.plot(known[x], known[y], "+", color=COLORS[1], ms=11, mew=2)
            axes.set_ylim(limits[y])
        axes.set_xlim(limits[x])
        _ends(axes, x if i == n - 1 else "", y if j == 0 and i > 0 else "")
    if known and n > 1:
        grid[0, n - 1].text(1, 0.95, "red: the true kernel", color=COLORS[1], fontsize=9, ha="right")
    return figure


def _limits(values: Array, true: float | None) -> tuple[float, float]:
    """Ends of an axis: they hold all draws, and the truth unless it is farther away than the draws are wide."""
    low, high = float(values.min()), float(values.max())
    wide = high - low
    if true is not None and low - wide < true < high + wide:
        low, high = min(low, true), max(high, true)
    return low - 0.05 * wide, high + 0.05 * wide


def _mark(axes: Axes, limits: tuple[float, float], true: float | None) -> None:
    """Mark the truth in a histogram: by a line, or in words where it lies beyond the axis."""
    if true is None:
        return
    if limits[0] < true < limits[1]:
        axes.axvline(true, color=COLORS[1], lw=1.5)
        return
    side = "left" if true < limits[0] else "right"
    axes.set_title(f"true {true:.4g}, {side} of this axis", fontsize=8, color=COLORS[1])


def _ends(axes: Axes, below: str, beside: str) -> None:
    """Put labels only at the outer sides of a grid."""
    _small(axes)
    axes.locator_params(axis="x", nbins=3)
    axes.tick_params(labelbottom=bool(below), labelleft=bool(beside))
    axes.set_xlabel(label(below), fontsize=8)
    axes.set_ylabel(label(beside), fontsize=8)


def energies(energy: Array, mixing: Array, title: str) -> Figure:
    """Draw the distributions of the energy (chains, draws) and of its change, which are alike in chains that mix.

    The E-BFMI of each chain, `mixing` (chains,), stands in the legend.
    """
    figure = new_figure(7, 4, title)
    axes: Any = figure.subplots()
    centred = (energy - energy.mean(1, keepdims=True)).ravel()
    change = np.diff(energy, axis=1).ravel()
    edges = np.histogram_bin_edges(np.concatenate([centred, change]), bins=60)
    axes.hist(centred, edges, density=True, alpha=0.55, color=COLORS[0], label="energy, less its mean")
    axes.hist(change, edges, density=True, alpha=0.55, color=COLORS[2], label="change from draw to draw")
    axes.set_xlabel("energy (nats)", fontsize=9)
    axes.set_ylabel("density", fontsize=9)
    values = ", ".join(f"{v:.2f}" for v in mixing)
    axes.legend(fontsize=9, frameon=False, title=f"E-BFMI by chain: {values}", title_fontsize=9)
    _small(axes)
    return figure
