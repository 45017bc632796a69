"""Figures of calibration: ranks, ECDF differences, coverage, posterior-predictive statistics."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from blindsr.diagnostics.calibration import RankResult
from blindsr.diagnostics.coverage import Coverage, ExpectedCoverage, PredictiveCheck
from blindsr.diagnostics.style import BLUE, GREY, RED, label_axes, new_figure, panels
from blindsr.diagnostics.uniformity import EcdfTest, binomial_band, histogram, histogram_bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
LABEL, TITLE = 11, 12


def _grid(n: int, height: float = 3.1) -> tuple[Figure, list[Axes]]:
    """A figure of n panels, in rows of at most `COLUMNS`."""
    return panels(n, COLUMNS, (3.6, height), dpi=150)


def _title(figure: Figure, text: str, panels: int) -> None:
    """Set the title, broken to the width of the panels."""
    figure.suptitle(textwrap.fill(text, 44 * min(panels, COLUMNS)), fontsize=TITLE + 1)


def _name(text: str) -> str:
    return text.replace("_", " ")


def rank_histograms(result: RankResult) -> Figure:
    """Draw the histogram of each column's ranks, with the 95 % band of each bar for a calibrated posterior."""
    figure, axes = _grid(len(result.names))
    n, bins = len(result.ranks), histogram_bins(len(result.ranks), result.draws)
    edges = np.ceil(np.arange(bins + 1) * (result.draws + 1) / bins) - 0.5
    for panel, name, ranks, test in zip(axes, result.names, result.ranks.T.numpy(), result.tests(), strict=True):
        counts, expected = histogram(ranks, result.draws, bins)
        low, high = binomial_band(n, expected / n, 0.95)
        panel.fill_between(edges, n * np.append(low, low[-1]), n * np.append(high, high[-1]), step="post", color=GREY)
        panel.stairs(counts, edges, color=BLUE, lw=1.8)
        panel.stairs(expected, edges, color="black", lw=0.8, ls="--")
        panel.set_ylim(0, 1.15 * max(counts.max(), n * high.max()))
        panel.set_xlim(edges[0], edges[-1])
        wrong = test.chi_square < 0.01
        label_axes(
            panel,
            f"{_name(name)}\n$\\chi^2$ test: p = {test.chi_square:.2g}",
            f"rank of the truth among {result.draws} draws",
            f"of {n} simulations",
            size=LABEL,
        )
        panel.title.set_color(RED if wrong else "black")
    text = "Ranks: flat if the posterior is calibrated (grey: 95 % of each bar; p Holm-adjusted)"
    _title(figure, text, len(axes))
    return figure


def ecdf_differences(result: RankResult, confidence: float = 0.95) -> Figure:
    """Draw the ECDF of each column's ranks minus that of uniform ranks, with a simultaneous band."""
    figure, axes = _grid(len(result.names))
    test = EcdfTest(len(result.ranks), result.draws)
    low, high = test.band(confidence)
    z = test.points
    for panel, name, ranks, verdict in zip(axes, result.names, result.ranks.T.numpy(), result.tests(), strict=True):
        gap = test.counts(ranks) / test.n - z
        panel.fill_between(z, low - z, high - z, step="mid", color=GREY)
        panel.axhline(0, color="black", lw=0.8, ls="--")
        panel.step(z, gap, where="mid", color=BLUE, lw=1.8)
        wrong = verdict.ecdf < 0.01
        label_axes(
            panel, f"{_name(name)}\nECDF test: p = {verdict.ecdf:.2g}", "rank / (L + 1)", "ECDF − uniform", size=LABEL
        )
        panel.title.set_color(RED if wrong else "black")
        panel.set_xlim(0, 1)
    text = f"Ranks against uniform (grey: holds the whole curve with {100 * confidence:g} %; p Holm-adjusted)"
    _title(figure, text, len(axes))
    return figure


def coverage_curves(result: ExpectedCoverage) -> Figure:
    """Draw observed against nominal coverage of each column, with the exact binomial band."""
    figure, axes = _grid(len(result.names), height=3.4)
    levels = result.levels.numpy()
    for panel, name, rates in zip(axes, result.names, result.rates.T.numpy(), strict=True):
        panel.fill_between(levels, result.low.numpy(), result.high.numpy(), color=GREY)
        panel.plot([0, 1], [0, 1], color="black", lw=0.8, ls="--")
        panel.plot(levels, rates, "o-", color=BLUE, lw=1.8, ms=4)
        panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        label_axes(panel, _name(name), "nominal coverage", "observed coverage", size=LABEL)
    text = f"Central intervals (grey: {100 * result.confidence:g} % of calibrated posteriors, at each level)"
    _title(figure, text, len(axes))
    return figure


def coverage_bars(result: Coverage) -> Figure:
    """Draw the coverage of each column with its confidence interval, and the share of each group beside it."""
    names = [_name(n) for n in result.names]
    figure = new_figure(1.6 * len(names) + 3.2, 4.2, dpi=150)
    axes = figure.subplots()
    rate = result.rate.numpy()
    at = np.arange(len(names))
    axes.axhline(result.level, color="black", lw=0.9, ls="--", label=f"nominal, {100 * result.level:g} %")
    for number, (hits, count) in enumerate(result.by_group().values()):
        label = "one group each" if number == 0 else None
        shift = 0.5 * (number + 0.5) / len(result.by_group()) - 0.25
        axes.plot(at + shift, hits.numpy() / count, "o", color=GREY, ms=5, mec="#8a93a0", label=label)
    ends = np.abs(np.stack([result.low.numpy(), result.high.numpy()]) - rate)
    how = "exact" if result.groups is None else "bootstrap over groups"
    label = f"all {len(result.inside)} cases, {100 * result.confidence:g} % interval ({how})"
    axes.errorbar(at, rate, yerr=ends, fmt="s", color=BLUE, ms=7, capsize=5, lw=1.8, label=label)
    axes.set_xticks(at, names, fontsize=LABEL)
    axes.set(xlim=(-0.6, len(names) - 0.4), ylim=(-0.02, 1.02))
    axes.set_ylabel("share of intervals that hold the truth", fontsize=LABEL)
    axes.legend(fontsize=LABEL - 1, loc="lower left")
    return figure


def predictive_histograms(result: PredictiveCheck) -> Figure:
    """Draw each statistic of the simulated data, and where the data lie."""
    figure, axes = _grid(len(result.names))
    for j, (panel, name) in enumerate(zip(axes, result.names, strict=True)):
        values, p = result.replicated[:, j].numpy(), float(result.p_values[j])
        panel.hist(values, bins=30, color=GREY, edgecolor="#8a93a0", lw=0.4)
        panel.axvline(float(result.observed[j]), color=RED, lw=2.2)
        share = f"p < {1 / len(values):.2g}" if p == 0 else f"p = {p:.2g}"
        label_axes(panel, f"{_name(name)}\n{share}", "statistic of the data", f"of {len(values)} simulated", size=LABEL)
    _title(figure, "Data (red) among data simulated from the posterior (grey)", len(axes))
    return figure
