"""The commands `bench` and `reproduce`, which `blindsr.cli.root` registers; they hold no logic of their own."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from blindsr.cli.console import one_line_errors, say
from blindsr.errors import UserError
from blindsr.methods.presets import PRESETS

OutOption = Annotated[Path, typer.Option(help="Folder of bench.sqlite and the summary; name it again to continue.")]
WorkersOption = Annotated[
    int | None, typer.Option(help="Make this many runs at a time, by Dask; default: one at a time, without Dask.")
]
SchedulerOption = Annotated[
    str | None, typer.Option(help="Run on the workers of the Dask scheduler at tcp://HOST:PORT.")
]
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Make failed runs again.")]
KeepOption = Annotated[
    bool, typer.Option("--keep", help="Keep the folder of each run, runs/KEY, with sr.png and the kernel.")
]
TableOption = Annotated[str, typer.Option(help="What to print: md, csv or latex.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads of each run; default 1.")]


LISTS: dict[str, tuple[type, str]] = {
    "methods": (str, "fast-map,mlmc:fast,fast-map+bicubic"),
    "scales": (int, "2,4"),
    "degradations": (str, "gaussian,motion+0.0392"),
    "seeds": (int, "0,1,2"),
    "images": (str, "butterfly,woman"),
}
"""Options that are lists separated by commas: the type of an entry, and an example."""


def listed(option: str, text: str | None) -> tuple[Any, ...] | None:
    """Read the list of an option in `LISTS`; UserError if an entry is not what it should be."""
    if text is None:
        return None
    words, (kind, example) = [word.strip() for word in text.split(",")], LISTS[option]
    try:
        if not all(words):
            raise ValueError
        return tuple(kind(word) for word in words)
    except ValueError as error:
        raise UserError(f"--{option} {text}: a list separated by commas is needed, such as {example}") from error


def bench(
    spec: Annotated[
        Path | None, typer.Argument(help="TOML file; options take precedence over it.", show_default=False)
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of HR images, or scikit-image; with a TOML file: the folder that its data sets are in."
        ),
    ] = None,
    photos: Annotated[list[Path] | None, typer.Option(help="Folder of photos without ground truth.")] = None,
    methods: Annotated[str | None, typer.Option(help="METHOD[:PRESET][+RESTORER], separated by commas.")] = None,
    scales: Annotated[str | None, typer.Option(help="Separated by commas; default 4.")] = None,
    degradations: Annotated[
        str | None,
        typer.Option(help="wide, a kernel family, or a kernel file, each [+NOISE], separated by commas."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Separated by commas; default 0.")] = None,
    crop: Annotated[
        int | None, typer.Option(help="Side in pixels of a central square that is cut out of each picture.")
    ] = None,
    images: Annotated[str | None, typer.Option(help="Only these pictures, by name, separated by commas.")] = None,
    preset: Annotated[str | None, typer.Option(help=f"For all methods: {', '.join(PRESETS)}.")] = None,
    restorer: Annotated[str | None, typer.Option(help="For all methods, as for `blindsr run`.")] = None,
    weights: Annotated[Path | None, typer.Option(help="State dict of usrnet.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Inner steps, for all methods.")] = None,
    time_limit: Annotated[float | None, typer.Option(min=0, help="Seconds for each run, for all methods.")] = None,
    oracle: Annotated[str | None, typer.Option(help="Restorer of the oracle gap: map, usrnet, ... or none.")] = None,
    oracle_weights: Annotated[Path | None, typer.Option(help="State dict of --oracle usrnet.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps; default cpu.")] = None,
    threads: ThreadsOption = None,
    out: OutOption = Path("blindsr-bench"),
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    retry_failed: RetryOption = False,
    keep: KeepOption = False,
    table: TableOption = "md",
) -> None:
    """Compare methods on data: every run once in bench.sqlite, a summary with intervals, and a figure."""
    given = dict(locals())
    from blindsr.bench.command import bench_files
    from blindsr.bench.engine import Engine
    from blindsr.bench.spec import Options

    with one_line_errors():
        given |= {name: listed(name, given[name]) for name in LISTS}
        given |= {name: tuple(given[name] or ()) for name in ("data", "photos")}
        options = Options(**{field.name: given[field.name] for field in fields(Options)})
        engine = Engine(workers, scheduler, retry_failed, keep)
        code, text = bench_files(spec, options, out, engine, table, say=say)
    typer.echo(text, nl=False)
    raise typer.Exit(code)


def reproduce(
    name: Annotated[str, typer.Argument(help="table1 to table8, figure2 to figure9.", metavar="TABLE")],
    quick: Annotated[bool, typer.Option("--quick", help="A short version: small crops and short presets.")] = False,
    data: Annotated[Path | None, typer.Option(help="Folder with Set5/, Set14/, ... and weights/.")] = None,
    images: Annotated[str | None, typer.Option(help="Only these pictures, by name, separated by commas.")] = None,
    out: Annotated[Path, typer.Option(help="Where results go; each table has a folder of its own.")] = Path(
        "blindsr-reproduce"
    ),
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    retry_failed: RetryOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Make a table or a figure of the paper again; files that are missing for it are named."""
    from blindsr.bench.engine import Engine
    from blindsr.bench.reproduce import reproduce as make

    with one_line_errors():
        engine = Engine(workers, scheduler, retry_failed)
        names = listed("images", images)
        code, text = make(name, out, engine, data=data, quick=quick, threads=threads, images=names, say=say)
    typer.echo(text, nl=False)
    raise typer.Exit(code)
