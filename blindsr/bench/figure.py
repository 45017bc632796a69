"""The figure of a bench: for each group, each row's difference from the first row, picture by picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blindsr.bench.report import main_score, number
from blindsr.bench.store import SCORES
from blindsr.bench.summary import Group, Line
from blindsr.diagnostics.style import panels
from blindsr.io.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOT, MEAN = "#8fb3d1", "#1b3a57"
"""Colours of single values and of their means."""
LABEL = 24
"""Letters in a line of a label."""
ACROSS = 3
"""Panels side by side."""


def plain(text: str) -> str:
    """Return a text in which matplotlib sees no formulas."""
    return text.replace("$", r"\$")


def wrapped(label: str) -> str:
    """Return a label in at most two short lines."""
    return "\n".join(textwrap.wrap(label, LABEL, max_lines=2, placeholder=" ..."))


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG; UserError if the file cannot be written."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def draw_bench(title: str, lines: Sequence[Line]) -> Figure | None:
    """Draw the paired differences of the main score; None where no two rows can be compared.

    Each small dot is a picture (mean over seeds), the large one the mean, the bar its 95 % bootstrap interval.
    """
    main = main_score(lines)
    groups: dict[Group, list[Line]] = {}
    for line in lines:
        if main is not None and main in line.scores:
            groups.setdefault(line.group, []).append(line)
    groups = {g: rows for g, rows in groups.items() if len(rows) > 1}
    if main is None or not groups:
        return None
    most = max(len(rows) for rows in groups.values())
    figure, axes = panels(len(groups), ACROSS, (4.6, 1.5 + 0.42 * most), plain(title))
    for (group, rows), ax in zip(groups.items(), axes, strict=True):
        _panel(ax, group, rows, main)
    return figure


def _panel(ax: Axes, group: Group, rows: Sequence[Line], main: str) -> None:
    for place, line in enumerate(rows):
        score = line.scores[main]
        dots = line.pairs.get(main, [])
        spread = np.linspace(-0.18, 0.18, len(dots)) if len(dots) > 1 else np.zeros(len(dots))
        ax.plot(dots, place + spread, "o", color=DOT, markersize=4, zorder=2)
        middle = 0.0 if place == 0 else score.difference
        if middle is None:
            continue
        if score.low is not None and score.high is not None:
            ax.plot([score.low, score.high], [place, place], "-", color=MEAN, lw=2.2, zorder=3)
        ax.plot([middle], [place], "o", color=MEAN, markersize=8, zorder=4)
    names = [f"{wrapped(line.label)}\n{number(line.scores[main].mean, 2)} dB" for line in rows]
    ax.axvline(0, color="0.6", lw=0.8, zorder=1)
    ax.set_yticks(range(len(rows)), [plain(n) for n in names], fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(axis="x", labelsize=8)
    above = f"{SCORES[main].split(',')[0]}, dB above {plain(textwrap.shorten(rows[0].label, LABEL))}"
    ax.set_xlabel(textwrap.fill(above, 48), fontsize=8)
    data, scale, degradation = group
    ax.set_title(plain("\n".join(textwrap.wrap(f"{data}  x{scale}  {degradation}", 2 * LABEL))), fontsize=10)
    ax.grid(axis="x", color="0.92", lw=0.8)
    ax.set_axisbelow(True)
