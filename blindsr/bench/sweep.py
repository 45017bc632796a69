"""PSNR against a number of the rows: Figure 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from blindsr.bench.figure import DOT, MEAN, plain
from blindsr.bench.row import Row
from blindsr.bench.summary import Line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERS = {"n_kernels": "L, kernels in a Monte Carlo simulation", "meta_interval": "P, steps of a meta-loss window"}


def draw_sweep(title: str, lines: Sequence[Line], rows: Sequence[Row]) -> Figure | None:
    """Draw mean image PSNR, with the spread over seeds, against each number that some rows set and others do not.

    A row that sets one number stands in that number's panel. Groups are lines of their own.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(NUMBERS), 3.8), layout="constrained")
    axes = figure.subplots(1, len(NUMBERS), sharey=True)
    drawn = False
    for ax, (number, name) in zip(axes, NUMBERS.items(), strict=True):
        alone = {
            r.label: getattr(r, number) for r in rows if [n for n in NUMBERS if getattr(r, n) is not None] == [number]
        }
        for group in dict.fromkeys(line.group for line in lines):
            mine = [x for x in lines if x.group == group and x.label in alone and "psnr" in x.scores]
            points = sorted((alone[x.label], x.scores["psnr"].mean, x.scores["psnr"].sd or 0.0) for x in mine)
            if points:
                x, y, e = zip(*points, strict=True)
                ax.errorbar(x, y, yerr=e, fmt="o-", color=MEAN, ecolor=DOT, capsize=3)
                ax.annotate(plain(f"{group[0]} x{group[1]}"), (x[-1], y[-1]), fontsize=8, va="bottom", ha="right")
                drawn = True
        ax.set_xlabel(name, fontsize=9)
        ax.set_ylabel("image PSNR (dB)", fontsize=9)
        ax.grid(color="0.92")
        ax.locator_params(axis="x", integer=True)
    figure.suptitle(plain(title))
    return figure if drawn else None
