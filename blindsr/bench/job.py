"""`blindsr bench`: run what is still to do, then write summary.md, .csv, .tex and bench.png beside the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindsr.bench.engine import DATABASE, Engine, Tally, run_tasks
from blindsr.bench.figure import draw_bench
from blindsr.bench.report import FORMATS, RENDER, document
from blindsr.bench.spec import Bench, Options, from_file, from_options
from blindsr.bench.store import Store
from blindsr.bench.summary import Line, summarise
from blindsr.bench.task import Task
from blindsr.commands.batch import INTERRUPTED, SOME_FAILED
from blindsr.commands.interrupt import Interrupt
from blindsr.errors import UserError
from blindsr.io.files import atomic_path, write_text

FIGURE = "bench.png"
FILES = {"md": "summary.md", "csv": "summary.csv", "latex": "summary.tex"}


@dataclass(frozen=True)
class Finished:
    """What came of a bench so far: its runs, their rows in the file of results, their summary, how many are left."""

    tasks: Sequence[Task]
    records: Sequence[dict[str, Any]]
    lines: Sequence[Line]
    tally: Tally


def run_bench(bench: Bench, out: Path, engine: Engine, *, interrupt: Interrupt, say: Callable[[str], None]) -> Finished:
    """Run a bench to its end, or to an interrupt, and write its summary.

    Raises
    ------
    UserError
        If the bench makes no sense or its folder cannot be used; nothing has been run then.
    """
    bench.oracle.made()
    tasks = bench.tasks()
    tally = run_tasks(tasks, out, engine, interrupt=interrupt, say=say)
    with Store(out / DATABASE) as store:
        records = store.records(t.key for t in tasks)
    finished = Finished(tasks, records, summarise(tasks, records), tally)
    if any(r["status"] == "done" for r in records):
        _write(bench.title, finished, out)
    return finished


def _write(title: str, finished: Finished, out: Path) -> None:
    names = {t.key: t.words for t in finished.tasks}
    errors = [f"{names[r['key']]}: {r['error']}" for r in finished.records if r["status"] == "failed"]
    write_text(out / FILES["md"], document(title, finished.lines, errors, provenance(finished.records)))
    for form in ("csv", "latex"):
        write_text(out / FILES[form], RENDER[form](finished.lines))
    figure = draw_bench(title, finished.lines)
    if figure is not None:
        with atomic_path(out / FIGURE) as path:
            figure.savefig(path, format="png", dpi=130)


def provenance(records: Sequence[dict[str, Any]]) -> list[str]:
    """Lines on where and with what the finished runs were made."""
    done = [r for r in records if r["status"] == "done"]
    if not done:
        return []
    days = sorted({r["date"][:10] for r in done})
    machines = sorted({f"{r['machine']}, {r['threads']} threads a run" for r in done})
    versions = sorted({", ".join(f"{n} {v}" for n, v in r["versions"].items()) for r in done})
    return [
        f"{days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") + f"; {'; '.join(machines)}; {'; '.join(versions)}."
    ]


def bench_files(
    spec: Path | None,
    options: Options,
    out: Path,
    engine: Engine,
    table: str,
    *,
    say: Callable[[str], None],
) -> tuple[int, str]:
    """Run what the command line asks for.

    Returns
    -------
    int, str
        Exit code (0; 1: a run failed; 130: interrupted), and the summary to print.

    Raises
    ------
    UserError
        If something makes no sense; nothing has been run then.
    """
    check_engine(engine)
    if table not in FORMATS:
        raise UserError(f"--table {table}: choose {', '.join(FORMATS)}")
    bench = from_options(options) if spec is None else from_file(spec, options)
    with Interrupt().listening() as interrupt:
        finished = run_bench(bench, out, engine, interrupt=interrupt, say=say)
    return ended(finished.tally, out, engine, say), RENDER[table](finished.lines)


def check_engine(engine: Engine) -> None:
    """Refuse what cannot be together.

    Raises
    ------
    UserError
        If both a local cluster and a scheduler are named.
    """
    if engine.workers is not None and engine.scheduler is not None:
        raise UserError("--workers and --scheduler: name one of them")


def ended(tally: Tally, out: Path, engine: Engine, say: Callable[[str], None]) -> int:
    """Say how a bench ended; return the exit code."""
    words = f"{out}: {tally.done} runs done"
    if tally.failed:
        words += f", {tally.failed} failed (again with --retry-failed)"
    if tally.left:
        words += f", {tally.left} left (the same command goes on)"
    say(words)
    return INTERRUPTED if tally.left else SOME_FAILED if tally.failed else 0
