"""Running a bench: the runs that are missing, one by one or on many machines, with every result in one database."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindsr.bench.fork_server import ForkServer, Stopped
from blindsr.bench.progress import Lines
from blindsr.bench.store import Store
from blindsr.bench.task import Task
from blindsr.commands.interrupt import Interrupt
from blindsr.errors import UserError

DATABASE = "bench.sqlite"
RUNS = "runs"
"""Folder of the runs that are in progress or kept, by key."""


@dataclass(frozen=True)
class Engine:
    """How a bench is run; UserError if both a cluster and a scheduler are named."""

    workers: int | None = None
    """Processes of a Dask cluster on this machine."""
    scheduler: str | None = None
    """Address of a Dask scheduler. With neither, runs are made one by one and Dask is not needed."""
    retry_failed: bool = False
    """Whether failed runs are made again."""
    keep: bool = False
    """Whether the folder of each run (sr.png, kernel, trace) is kept."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.scheduler is not None:
            raise UserError("--workers and --scheduler: name one of them")


@dataclass(frozen=True)
class Tally:
    """How many runs of a bench are done, have failed, and are left."""

    done: int
    failed: int
    left: int


Result = tuple[Task, dict[str, Any], float]
"""A run, its outcome, and the seconds it took in all."""


def pending(tasks: Sequence[Task], status: dict[str, str], engine: Engine, out: Path) -> list[Task]:
    """Return the runs to be made, each once: new ones, failed ones to retry, and those whose folder is missing."""
    skipped = {"done"} if engine.retry_failed else {"done", "failed"}

    def kept(task: Task) -> bool:
        return not engine.keep or status[task.key] == "failed" or (out / RUNS / task.key / "run" / "run.json").exists()

    return list({t.key: t for t in tasks if status.get(t.key) not in skipped or not kept(t)}.values())


def run_tasks(
    tasks: Sequence[Task], out: Path, engine: Engine, *, interrupt: Interrupt, say: Callable[[str], None]
) -> Tally:
    """Make the runs that are missing and write each result as it comes; an interrupt ends the bench early.

    Raises UserError if the database in the folder `out` cannot be used, or Dask is needed and not installed.
    """
    with Store(out / DATABASE) as store:
        status = store.status()
        todo = pending(tasks, status, engine, out)
        if not engine.keep:
            _remove_folders(out, [key for key in status if status[key] == "done"])
        planned = len({t.key for t in tasks})
        if len(todo) < planned:
            say(f"{out / DATABASE}: {planned - len(todo)} of {planned} runs are already there")
        if todo:
            with closing(_results(todo, out, engine, interrupt, say)) as results:
                _collect(results, todo, store, out, engine)
        status = store.status()
    count = [status.get(key) for key in {t.key for t in tasks}]
    return Tally(count.count("done"), count.count("failed"), count.count(None))


def _results(
    todo: list[Task], out: Path, engine: Engine, interrupt: Interrupt, say: Callable[[str], None]
) -> Generator[Result, None, None]:
    if engine.workers is None and engine.scheduler is None:
        return one_by_one(todo, out, interrupt)
    from blindsr.bench.cluster import on_cluster

    return on_cluster(todo, out if engine.keep else None, engine.workers, engine.scheduler, interrupt, say)


def _collect(results: Iterator[Result], todo: list[Task], store: Store, out: Path, engine: Engine) -> None:
    with Lines(todo, engine.workers or 1) as progress:
        for task, outcome, seconds in results:
            store.add(task, outcome)
            if not engine.keep or outcome["status"] == "failed":
                _remove_folders(out, [task.key])
            progress.update(task, outcome, seconds)


def _remove_folders(out: Path, keys: Sequence[str]) -> None:
    """Remove the folders of finished runs, and their common folder once it is empty."""
    runs = out / RUNS
    for key in keys if runs.is_dir() else ():
        shutil.rmtree(runs / key, ignore_errors=True)
    if runs.is_dir() and not any(runs.iterdir()):
        runs.rmdir()


def one_by_one(todo: Sequence[Task], out: Path, interrupt: Interrupt) -> Generator[Result, None, None]:
    """Make runs one by one, each in a process of its own; an interrupt stops the current one.

    A run that was stopped, or killed with the bench, continues from its checkpoint the next time.
    """
    with ForkServer(max((t.threads for t in todo), default=1)) as server:
        for task in todo:
            if interrupt.raised:
                return
            start = time.perf_counter()
            try:
                outcome = server.run(task.plain(), out / RUNS / task.key, lambda: interrupt.raised)
            except Stopped:
                return
            yield task, outcome, time.perf_counter() - start
