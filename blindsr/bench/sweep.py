"""PSNR against a number that the rows set: Figure 4 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from blindsr.bench.figure import DOT, MEAN, plain
from blindsr.bench.row import Row
from blindsr.bench.summary import Line
from blindsr.diagnostics.style import label_axes, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERS = {"n_kernels": "L, kernels in a Monte Carlo simulation", "meta_interval": "P, steps of a meta-loss window"}


def draw_sweep(title: str, lines: Sequence[Line], rows: Sequence[Row]) -> Figure | None:
    """Draw mean image PSNR, with its spread over seeds, against each number that some rows set and others do not.

    A row that sets exactly one number appears in that number's panel. Each group has its own curve.
    """
    figure, axes = panels(len(NUMBERS), len(NUMBERS), (5, 3), plain(title))
    drawn = False
    for ax, (number, name) in zip(axes, NUMBERS.items(), strict=True):
        values = {
            r.label: getattr(r, number) for r in rows if [n for n in NUMBERS if getattr(r, n) is not None] == [number]
        }
        for group in dict.fromkeys(line.group for line in lines):
            points = sorted(
                (values[line.label], line.scores["psnr"].mean, line.scores["psnr"].sd or 0.0)
                for line in lines
                if line.group == group and line.label in values and "psnr" in line.scores
            )
            if points:
                x, y, sd = zip(*points, strict=True)
                ax.errorbar(x, y, yerr=sd, fmt="o-", color=MEAN, ecolor=DOT, capsize=3)
                ax.annotate(plain(f"{group[0]} x{group[1]}"), (x[-1], y[-1]), fontsize=8, va="bottom", ha="right")
                drawn = True
        label_axes(ax, x=name, y="image PSNR (dB)")
        ax.grid(color="0.92")
        ax.locator_params(axis="x", integer=True)
    low, high = zip(*(ax.get_ylim() for ax in axes), strict=True)
    for ax in axes:
        ax.set_ylim(min(low), max(high))
    return figure if drawn else None
