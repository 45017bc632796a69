"""`blindsr reproduce`: a table or a figure of the paper, from its TOML file to a picture or a table on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from blindsr.bench.command import Finished, conclude, run_bench
from blindsr.bench.comparison import draw_crops, draw_kernels
from blindsr.bench.convergence import draw_convergence, draw_snapshots, follow
from blindsr.bench.degrading import Degrading
from blindsr.bench.engine import RUNS, Engine
from blindsr.bench.figure import save_figure
from blindsr.bench.measure import make_test_image
from blindsr.bench.paper import Paper, read_paper
from blindsr.bench.report import RENDER, cell, markdown
from blindsr.bench.report import Column as ReportColumn
from blindsr.bench.summary import Line
from blindsr.bench.sweep import draw_sweep
from blindsr.commands.batch import INTERRUPTED
from blindsr.commands.interrupt import Interrupt
from blindsr.errors import UserError
from blindsr.estimators.problem import Problem
from blindsr.io.files import write_text
from blindsr.methods.table import compose

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWS = 10
"""Kernels in a figure of draws."""


def reproduce(
    name: str,
    out: Path,
    engine: Engine,
    *,
    data: Path | None = None,
    quick: bool = False,
    threads: int | None = None,
    images: tuple[str, ...] | None = None,
    say: Callable[[str], None],
) -> tuple[int, str]:
    """Make a table or a figure of the paper, such as "table1"; return an exit code as `bench_files` does, and a text.

    Results go to a folder of that name in `out`. `data` is the folder of data sets and weights, `threads` those of each
    run, and `images` keeps only these pictures. Raises UserError if there is no such table, or what it needs is
    missing.
    """
    paper = read_paper(name, data, quick=quick, images=images, say=say)
    paper = paper if threads is None else replace(paper, threads=threads)
    folder = out / (f"{name}-quick" if quick else name)
    say(f"{paper.title}: {' '.join(paper.shows.split())}")
    figure: Figure | None
    if paper.kind == "kernels":
        code, text, figure = 0, "", _kernels(paper)
    elif paper.kind == "convergence":
        with Interrupt().listening() as interrupt:
            figure = _convergence(paper, interrupt)
        code, text = 0 if figure is not None else INTERRUPTED, ""
    else:
        engine = replace(engine, keep=engine.keep or paper.kind == "crops")
        with Interrupt().listening() as interrupt:
            finished = run_bench(paper, folder, engine, interrupt=interrupt, say=say)
        code = conclude(finished.tally, folder, say)
        text = _set_columns(finished.lines) if paper.kind == "sets" else RENDER["md"](finished.lines)
        if paper.kind == "sets":
            write_text(folder / f"{name}.md", f"# {paper.title}\n\n{text}")
        figure = _figure(paper, finished, folder)
    if figure is not None:
        save_figure(folder / f"{name}.png", figure)
        text += ("\n" if text else "") + f"{folder / name}.png\n"
    return code, text


def _figure(paper: Paper, finished: Finished, folder: Path) -> Figure | None:
    """Draw the figure of finished runs, for the kinds that have one."""
    records = {r["key"]: r for r in finished.records if r["status"] == "done"}
    tasks = [t for t in finished.tasks if t.key in records]
    if not tasks:
        return None
    if paper.kind == "crops":
        return draw_crops(paper.title, tasks, folder / RUNS, records)
    return draw_sweep(paper.title, finished.lines, paper.rows) if paper.kind == "sweep" else None


def _set_columns(lines: Sequence[Line]) -> str:
    """Return the layout of the paper's Tables I and II: a column for each data set, with its scores."""
    sets = list(dict.fromkeys(line.group[0] for line in lines))
    places = list(dict.fromkeys((line.group[1], line.group[2], line.label) for line in lines))
    scores = {(line.group, line.label): line.scores for line in lines}
    shown = (("psnr", 2), ("ssim", 4), ("kernel_psnr", 1))
    rows = []
    for scale, degradation, label in places:
        by_set = [scores.get(((data, scale, degradation), label), {}) for data in sets]
        cells = [" / ".join(cell(s.get(n), ReportColumn("", n, digits)) for n, digits in shown) for s in by_set]
        rows.append([label, f"x{scale}", *cells])
    return markdown(["method", "scale", *(f"{data}: PSNR / SSIM / kernel PSNR" for data in sets)], rows)


def _kernels(paper: Paper) -> Figure:
    """Draw kernels from the prior that the first row's Monte Carlo step draws from."""
    degradation = Degrading("gaussian").operator(paper.scales[0])
    prior = compose(paper.rows[0].choice(), degradation).estimator.prior
    if prior is None:
        raise UserError(f"{paper.title}: {paper.rows[0].label} draws no kernels; name a method with a kernel prior")
    kernels = prior(Problem(torch.zeros(1, 1, 8, 8), degradation))
    return draw_kernels(paper.title, kernels, DRAWS, paper.seeds[0])


def _convergence(paper: Paper, interrupt: Interrupt) -> Figure | None:
    """Follow each row on the first picture of the bench; None after an interrupt."""
    followed = []
    for task in paper.tasks()[: len(paper.rows)]:
        convergence = follow(task, make_test_image(task), interrupt)
        if convergence is None:
            return None
        followed.append(convergence)
    draw = draw_convergence if len(followed) == 1 else draw_snapshots
    return draw(paper.title, followed)
