"""Running a bench: what is still to do, one run after the other or on many machines, every result into one file."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindsr.bench.nursery import Nursery, Stopped
from blindsr.bench.progress import for_terminal
from blindsr.bench.store import Store
from blindsr.bench.task import Task
from blindsr.commands.interrupt import Interrupt

DATABASE = "bench.sqlite"
RUNS = "runs"
"""Folder of the runs that go on, by key, and of those that are kept."""


@dataclass(frozen=True)
class Engine:
    """How a bench is run.

    Attributes
    ----------
    workers : int or None
        Processes of a Dask cluster on this machine.
    scheduler : str or None
        Address of a Dask scheduler. With neither, runs go one after the other and Dask is not needed.
    retry_failed : bool
        Whether runs that failed are made again.
    keep : bool
        Whether the folder of each run (sr.png, kernel, trace) is kept.
    """

    workers: int | None = None
    scheduler: str | None = None
    retry_failed: bool = False
    keep: bool = False


@dataclass(frozen=True)
class Tally:
    """How many runs of a bench are done, failed and left."""

    done: int
    failed: int
    left: int


Ended = tuple[Task, dict[str, Any], float]
"""A run, its outcome, and the seconds it took in all."""


def to_do(tasks: Sequence[Task], status: dict[str, str], engine: Engine, out: Path) -> list[Task]:
    """Return the runs that are to be made, each once: new, failed (if tried again), done but not kept."""
    skipped = {"done"} if engine.retry_failed else {"done", "failed"}

    def kept(task: Task) -> bool:
        return not engine.keep or status[task.key] == "failed" or (out / RUNS / task.key / "run" / "run.json").exists()

    return list({t.key: t for t in tasks if status.get(t.key) not in skipped or not kept(t)}.values())


def run_tasks(
    tasks: Sequence[Task], out: Path, engine: Engine, *, interrupt: Interrupt, say: Callable[[str], None]
) -> Tally:
    """Make the runs that are still to do and write each result as it comes.

    Parameters
    ----------
    tasks : sequence of Task
        The whole bench.
    out : Path
        Folder of bench.sqlite.
    engine : Engine
        How to run.
    interrupt : Interrupt
        Ends the bench early when set.
    say : callable
        Takes one-line notes for the user.

    Raises
    ------
    UserError
        If the file of results cannot be used, or Dask is not there.
    """
    with Store(out / DATABASE) as store:
        status = store.status()
        todo = to_do(tasks, status, engine, out)
        if not engine.keep:
            _tidy(out, [key for key in status if status[key] == "done"])
        planned = len({t.key for t in tasks})
        if len(todo) < planned:
            say(f"{out / DATABASE}: {planned - len(todo)} of {planned} runs are there")
        if todo:
            with closing(_ended(todo, out, engine, interrupt, say)) as results:
                _collect(results, todo, store, out, engine)
        status = store.status()
    count = [status.get(key) for key in {t.key for t in tasks}]
    return Tally(count.count("done"), count.count("failed"), count.count(None))


def _ended(
    todo: list[Task], out: Path, engine: Engine, interrupt: Interrupt, say: Callable[[str], None]
) -> Generator[Ended, None, None]:
    if engine.workers is None and engine.scheduler is None:
        return one_by_one(todo, out, interrupt)
    from blindsr.bench.cluster import on_cluster

    return on_cluster(todo, out if engine.keep else None, engine.workers, engine.scheduler, interrupt, say)


def _collect(results: Iterator[Ended], todo: list[Task], store: Store, out: Path, engine: Engine) -> None:
    with for_terminal(todo, engine.workers or 1) as progress:
        for task, outcome, seconds in results:
            store.add(task, outcome)
            if not engine.keep or outcome["status"] == "failed":
                _tidy(out, [task.key])
            progress.update(task, outcome, seconds)


def _tidy(out: Path, keys: Sequence[str]) -> None:
    """Remove the folders of runs that have ended, and the folder of folders with the last."""
    runs = out / RUNS
    for key in keys if runs.is_dir() else ():
        shutil.rmtree(runs / key, ignore_errors=True)
    if runs.is_dir() and not any(runs.iterdir()):
        runs.rmdir()


def one_by_one(todo: Sequence[Task], out: Path, interrupt: Interrupt) -> Generator[Ended, None, None]:
    """Make runs one after the other, each in a process of its own; an interrupt stops the one that goes on.

    A run that was stopped, or killed with the bench, goes on from its checkpoint the next time.
    """
    with Nursery(max((t.threads for t in todo), default=1)) as nursery:
        for task in todo:
            if interrupt.raised:
                return
            start = time.perf_counter()
            try:
                outcome = nursery.run(task.plain(), out / RUNS / task.key, lambda: interrupt.raised)
            except Stopped:
                return
            yield task, outcome, time.perf_counter() - start
