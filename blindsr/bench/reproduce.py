"""`blindsr reproduce`: a table or a figure of the paper, from its TOML file to a picture or a table on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from blindsr.bench.course import draw_course, draw_snapshots, follow
from blindsr.bench.degrading import Degrading
from blindsr.bench.engine import RUNS, Engine
from blindsr.bench.gallery import draw_crops, draw_kernels
from blindsr.bench.job import Finished, check_engine, ended, run_bench
from blindsr.bench.measure import scene
from blindsr.bench.paper import Paper, read_paper
from blindsr.bench.report import RENDER, cell, markdown
from blindsr.bench.report import Column as ReportColumn
from blindsr.bench.summary import Line
from blindsr.bench.sweep import draw_sweep
from blindsr.commands.batch import INTERRUPTED
from blindsr.commands.interrupt import Interrupt
from blindsr.errors import UserError
from blindsr.estimators.loop import Problem
from blindsr.io.files import atomic_path, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 10
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
    """Make a table or a figure anew.

    Parameters
    ----------
    name : str
        Such as "table1".
    out : Path
        Results go to a folder of that name in it.
    engine : Engine
        How runs are made.
    data : Path, optional
        Folder of data sets and weights.
    quick : bool
        Whether to make the quick version.
    threads : int, optional
        Of each run.
    images : tuple of str, optional
        Only these pictures.
    say : callable
        Takes one-line notes for the user.

    Returns
    -------
    int, str
        Exit code as for `blindsr bench`, and what to print.

    Raises
    ------
    UserError
        If there is no such table, or what it needs is not there.
    """
    check_engine(engine)
    paper = read_paper(name, data, quick=quick, images=images, say=say)
    if threads is not None:
        paper = replace(paper, bench=replace(paper.bench, threads=threads))
    folder = out / (f"{name}-quick" if quick else name)
    say(f"{paper.bench.title}: {' '.join(paper.shows.split())}")
    if paper.kind == "kernels":
        return _saved(_kernels(paper), folder, name)
    with Interrupt().listening() as interrupt:
        if paper.kind == "course":
            return _course(paper, folder, interrupt)
        engine = replace(engine, keep=engine.keep or paper.kind == "crops")
        finished = run_bench(paper.bench, folder, engine, interrupt=interrupt, say=say)
    code = ended(finished.tally, folder, engine, say)
    text = _set_columns(finished.lines) if paper.kind == "sets" else RENDER["md"](finished.lines)
    if paper.kind == "sets":
        write_text(folder / f"{name}.md", f"# {paper.bench.title}\n\n{text}")
    figure = _figure(paper, finished, folder)
    if figure is not None:
        _saved(figure, folder, name)
        text += f"\n{folder / name}.png\n"
    return code, text


def _figure(paper: Paper, finished: Finished, folder: Path) -> Figure | None:
    done = [r["key"] for r in finished.records if r["status"] == "done"]
    tasks = [t for t in finished.tasks if t.key in done]
    if not tasks:
        return None
    if paper.kind == "crops":
        return draw_crops(paper.bench.title, tasks, folder / RUNS, {r["key"]: r for r in finished.records})
    return draw_sweep(paper.bench.title, finished.lines, paper.bench.rows) if paper.kind == "sweep" else None


def _saved(figure: Figure, folder: Path, name: str) -> tuple[int, str]:
    path = folder / f"{name}.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=140)
    return 0, f"{path}\n"


def _set_columns(lines: Sequence[Line]) -> str:
    """Return the layout of the paper's Tables I and II: a column for each data set, PSNR / SSIM in it."""
    sets = list(dict.fromkeys(line.group[0] for line in lines))
    places = list(dict.fromkeys((line.group[1], line.group[2], line.label) for line in lines))
    by = {(line.group, line.label): line for line in lines}
    rows = []
    for scale, degradation, label in places:
        cells = []
        for data in sets:
            line = by.get(((data, scale, degradation), label))
            scores = line.scores if line is not None else {}
            shown = (("psnr", 2), ("ssim", 4), ("kernel_psnr", 1))
            cells.append(" / ".join(cell(scores.get(n), ReportColumn("", n, digits)) for n, digits in shown))
        rows.append([label, f"x{scale}", *cells])
    return markdown(["method", "scale", *(f"{data}: PSNR / SSIM / kernel PSNR" for data in sets)], rows)


def _kernels(paper: Paper) -> Figure:
    """Draws of what the first row's Monte Carlo step draws from."""
    bench = paper.bench
    degradation = Degrading("gaussian").operator(bench.scales[0])
    prior = bench.rows[0].compose(degradation).estimator.prior
    if prior is None:
        raise UserError(f"{paper.name}: {bench.rows[0].label} draws no kernels")
    return draw_kernels(bench.title, prior(Problem(torch.zeros(1, 1, 8, 8), degradation)), SHOWN, bench.seeds[0])


def _course(paper: Paper, folder: Path, interrupt: Interrupt) -> tuple[int, str]:
    """Follow each row on the first picture of the bench."""
    bench = paper.bench
    tasks = bench.tasks()[: len(bench.rows)]
    courses = []
    for task in tasks:
        course = follow(task, scene(task), interrupt)
        if course is None:
            return INTERRUPTED, ""
        courses.append(course)
    draw = draw_course if len(courses) == 1 else draw_snapshots
    return _saved(draw(bench.title, courses), folder, paper.name)
