"""`blindsr bench`: make the missing runs, then write summary.md, .csv, .tex and bench.png beside the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindsr.bench.engine import DATABASE, Engine, Tally, run_tasks
from blindsr.bench.figure import draw_bench, save_figure
from blindsr.bench.report import FORMATS, RENDER, document
from blindsr.bench.spec import Bench, Options, from_file, from_options
from blindsr.bench.store import Store
from blindsr.bench.summary import Line, summarise
from blindsr.bench.task import Task, oracle_restorer
from blindsr.commands.batch import INTERRUPTED, SOME_FAILED
from blindsr.commands.interrupt import Interrupt
from blindsr.errors import UserError
from blindsr.io.files import write_text

FIGURE = "bench.png"
FILES = {"md": "summary.md", "csv": "summary.csv", "latex": "summary.tex"}


@dataclass(frozen=True)
class Finished:
    """The state of a bench: its runs, their records in the database, their summary, and how many are left."""

    tasks: Sequence[Task]
    records: Sequence[dict[str, Any]]
    lines: Sequence[Line]
    tally: Tally


def run_bench(bench: Bench, out: Path, engine: Engine, *, interrupt: Interrupt, say: Callable[[str], None]) -> Finished:
    """Run a bench to its end, or until it is interrupted, and write its summary.

    Raises
    ------
    UserError
        If the bench makes no sense or its folder cannot be used; nothing has been run then.
    """
    oracle_restorer(bench.oracle, bench.oracle_weights)
    tasks = bench.tasks()
    tally = run_tasks(tasks, out, engine, interrupt=interrupt, say=say)
    with Store(out / DATABASE) as store:
        records = store.records(t.key for t in tasks)
    finished = Finished(tasks, records, summarise(tasks, records), tally)
    if any(r["status"] == "done" for r in records):
        _write(bench.title, finished, out)
    return finished


def _write(title: str, finished: Finished, out: Path) -> None:
    descriptions = {t.key: t.description for t in finished.tasks}
    errors = [f"{descriptions[r['key']]}: {r['error']}" for r in finished.records if r["status"] == "failed"]
    write_text(out / FILES["md"], document(title, finished.lines, errors, provenance(finished.records)))
    for form in ("csv", "latex"):
        write_text(out / FILES[form], RENDER[form](finished.lines))
    figure = draw_bench(title, finished.lines)
    if figure is not None:
        save_figure(out / FIGURE, figure)


def provenance(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line on where, when and with what the finished runs were made."""
    done = [r for r in records if r["status"] == "done"]
    if not done:
        return []
    days = sorted({r["date"][:10] for r in done})
    machines = sorted({f"{r['machine']}, {r['threads']} threads a run" for r in done})
    versions = sorted({", ".join(f"{n} {v}" for n, v in r["versions"].items()) for r in done})
    return [" to ".join(dict.fromkeys((days[0], days[-1]))) + f"; {'; '.join(machines)}; {'; '.join(versions)}."]


def bench_files(
    spec: Path | None,
    options: Options,
    out: Path,
    engine: Engine,
    table: str,
    *,
    say: Callable[[str], None],
) -> tuple[int, str]:
    """Run what the command line asks for; return the exit code and the summary to print.

    The code is 0, or 1 if a run failed, or 130 if it was interrupted. Raises UserError, before anything is run, if
    something makes no sense.
    """
    if table not in FORMATS:
        raise UserError(f"--table {table}: choose {', '.join(FORMATS)}")
    bench = from_options(options) if spec is None else from_file(spec, options)
    with Interrupt().listening() as interrupt:
        finished = run_bench(bench, out, engine, interrupt=interrupt, say=say)
    return conclude(finished.tally, out, say), RENDER[table](finished.lines)


def conclude(tally: Tally, out: Path, say: Callable[[str], None]) -> int:
    """Say how a bench ended and return the exit code."""
    line = f"{out}: {tally.done} runs done"
    if tally.failed:
        line += f", {tally.failed} failed (--retry-failed makes them again)"
    if tally.left:
        line += f", {tally.left} left (the same command continues)"
    say(line)
    return INTERRUPTED if tally.left else SOME_FAILED if tally.failed else 0
