"""Figures of chains: traces, rank plots, autocorrelation, pairs, energy. No window, no global state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
Draws = Mapping[str, Array]
"""Draws (chains, draws) of parameters by name."""

COLORS = ("#1b6ca8", "#d1495b", "#edae49", "#4f9d69", "#7a5195", "#8c564b", "#00798c", "#5c5c5c")
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
    """Name of a parameter on an axis."""
    return LABELS.get(name, name.replace("_", " "))


def sheet(width: float, height: float, title: str) -> Figure:
    """An empty figure with a title; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    figure.suptitle(title, fontsize=12)
    return figure


def _small(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.ticklabel_format(useOffset=False)
    axes.spines[["top", "right"]].set_visible(False)


def _chains(figure: Figure, count: int) -> None:
    """Legend of the chains' colours, where there is more than one."""
    from matplotlib.lines import Line2D

    if 1 < count <= len(COLORS):
        handles = [Line2D([], [], color=COLORS[i], label=f"chain {i}") for i in range(count)]
        figure.legend(handles=handles, loc="outside lower center", ncols=count, fontsize=8, frameon=False)


def first(draws: Draws) -> dict[str, Array]:
    """As many parameters as a figure shows."""
    return dict(list(draws.items())[:SHOWN])


def traces(draws: Draws, title: str, divergent: Array | None = None) -> Figure:
    """For each parameter: the distribution of each chain, and its course.

    Parameters
    ----------
    draws : mapping of str to array
        (chains, draws) each.
    title : str
        Above the figure.
    divergent : array, optional
        (chains, draws) bool, marked below the courses.
    """
    shown = first(draws)
    figure = sheet(10, 1.6 * len(shown) + 1, title)
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
    _chains(figure, len(next(iter(shown.values()))))
    return figure


def ranks(draws: Draws, title: str) -> Figure:
    """Rank histograms: ranks among all chains' draws, counted for each chain; flat where chains agree.

    Vehtari et al., Bayesian Analysis 2021.
    """
    from scipy.stats import rankdata

    shown = first(draws)
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    figure = sheet(3.6 * columns, 2.3 * rows + 1, title)
    flat = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, values) in zip(flat, shown.items(), strict=False):
        m, n = values.shape
        bins = min(20, max(n // 5, 2))
        edges = np.linspace(0.5, m * n + 0.5, bins + 1)
        rank = rankdata(values, method="average").reshape(m, n)
        for i in range(m):
            counts = np.histogram(rank[i], edges)[0] / (n / bins)
            axes.stairs(counts, edges / (m * n), color=COLORS[i % len(COLORS)], lw=1.2)
        axes.axhline(1, color="black", lw=0.8, ls=":")
        axes.set_ylim(bottom=0)
        axes.set_title(label(name).replace("\n", " "), fontsize=9)
        axes.set_xlabel("rank among all draws (share)", fontsize=8)
        axes.set_ylabel("count / expected", fontsize=8)
        _small(axes)
    for axes in flat[len(shown) :]:
        axes.axis("off")
    _chains(figure, len(next(iter(shown.values()))))
    return figure


def autocorrelation(chain: Array) -> Array:
    """Autocorrelation (draws,) of one chain (draws,), by the fast Fourier transform; zero where it does not move."""
    centred = chain - chain.mean()
    power = np.abs(np.fft.rfft(centred, 2 * len(chain))) ** 2
    covariance = np.fft.irfft(power)[: len(chain)]
    return covariance / covariance[0] if covariance[0] > 0 else np.zeros(len(chain))


def autocorrelations(draws: Draws, title: str) -> Figure:
    """Autocorrelation of each chain of each parameter, with the band that independent draws would stay in."""
    shown = first(draws)
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    figure = sheet(3.6 * columns, 2.3 * rows + 1, title)
    flat = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, values) in zip(flat, shown.items(), strict=False):
        lags = min(LAGS, values.shape[1] - 1)
        band = 1.96 / np.sqrt(values.shape[1])
        axes.axhspan(-band, band, color="0.9")
        for i, chain in enumerate(values):
            axes.plot(np.arange(lags + 1), autocorrelation(chain)[: lags + 1], color=COLORS[i % len(COLORS)], lw=1.0)
        axes.set_ylim(-0.3, 1.03)
        axes.set_title(label(name).replace("\n", " "), fontsize=9)
        axes.set_xlabel("lag (draws)", fontsize=8)
        axes.set_ylabel("autocorrelation", fontsize=8)
        _small(axes)
    for axes in flat[len(shown) :]:
        axes.axis("off")
    _chains(figure, len(next(iter(shown.values()))))
    return figure


def pairs(draws: Draws, title: str, truth: Mapping[str, float] | None = None) -> Figure:
    """Scatter plots of every two parameters, histograms on the diagonal; the truth as crosses and lines.

    Parameters
    ----------
    draws : mapping of str to array
        (chains, draws) each.
    title : str
        Above the figure.
    truth : mapping of str to float, optional
        True values by name.
    """
    shown = {name: values.ravel() for name, values in first(draws).items()}
    known = {name: value for name, value in (truth or {}).items() if name in shown}
    names, n = list(shown), len(shown)
    figure = sheet(2.1 * n + 1, 2.1 * n + 1, title)
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
    """Ends of an axis: all draws, and the truth unless it is further away than they are wide."""
    low, high = float(values.min()), float(values.max())
    wide = high - low
    if true is not None and low - wide < true < high + wide:
        low, high = min(low, true), max(high, true)
    return low - 0.05 * wide, high + 0.05 * wide


def _mark(axes: Axes, limits: tuple[float, float], true: float | None) -> None:
    """The truth in a histogram: a line, or words where it lies beyond the axis."""
    if true is None:
        return
    if limits[0] < true < limits[1]:
        axes.axvline(true, color=COLORS[1], lw=1.5)
        return
    side = "left" if true < limits[0] else "right"
    axes.set_title(f"true {true:.4g}, {side} of this axis", fontsize=8, color=COLORS[1])


def _ends(axes: Axes, below: str, beside: str) -> None:
    """Labels at the outer sides of a grid only."""
    _small(axes)
    axes.locator_params(axis="x", nbins=3)
    axes.tick_params(labelbottom=bool(below), labelleft=bool(beside))
    axes.set_xlabel(label(below), fontsize=8)
    axes.set_ylabel(label(beside), fontsize=8)


def energies(energy: Array, mixing: Array, title: str) -> Figure:
    """Distribution of the energy and of its change from draw to draw: chains that mix have both alike.

    Parameters
    ----------
    energy : array
        (chains, draws).
    mixing : array
        (chains,) E-BFMI.
    title : str
        Above the figure.
    """
    figure = sheet(7, 4, title)
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
