"""What a bench is made of, from a TOML file or options, and the runs that follow from it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from blindsr.bench.dataset import DataSet
from blindsr.bench.degrading import Degrading
from blindsr.bench.entry import Entry, read_toml
from blindsr.bench.row import Row, found, full
from blindsr.bench.task import Oracle, Task, run_settings
from blindsr.errors import UserError
from blindsr.operators.degradation import SCALES

SEED_STRIDE = 100
"""The seed of a true kernel and its noise is 100 times the run's seed plus the number of the picture in its set."""


@dataclass(frozen=True)
class Bench:
    """Data sets x scales x degradations x rows x seeds.

    Attributes
    ----------
    data : tuple of DataSet
        Sets without truth take no degradation.
    rows : tuple of Row
        The first is what the others are compared with.
    scales, seeds : tuple of int
        Seed of a run: of its method, and with the number of the picture, of the true kernel and the noise.
    degradations : tuple of Degrading
        How LR images are made.
    oracle : Oracle
        The restorer by which the oracle gap is measured.
    device : str
        As for `blindsr run`.
    threads : int
        Of each run.
    title : str
        Heading of the summary.

    Raises
    ------
    UserError
        If a part is empty, a number is out of range, or two entries of a part have the same name.
    """

    data: tuple[DataSet, ...]
    rows: tuple[Row, ...]
    scales: tuple[int, ...] = (4,)
    degradations: tuple[Degrading, ...] = (Degrading("gaussian"),)
    seeds: tuple[int, ...] = (0,)
    oracle: Oracle = Oracle()
    device: str = "cpu"
    threads: int = 1
    title: str = "blindsr bench"

    def __post_init__(self) -> None:
        parts: dict[str, tuple[Any, ...]] = {
            "data": tuple(d.name for d in self.data),
            "rows": tuple(r.label for r in self.rows),
            "degradations": tuple(d.name for d in self.degradations),
            "scales": self.scales,
            "seeds": self.seeds,
        }
        for name, entries in parts.items():
            if not entries:
                raise UserError(f"{name}: at least one is needed")
            twice = [e for e in entries if entries.count(e) > 1]
            if twice:
                raise UserError(f"{name}: {twice[0]} is there twice; each needs a name of its own")
        for scale in self.scales:
            if scale not in SCALES:
                raise UserError(f"scales: {scale}: choose among 2, 3, 4 and 8")
        for seed in self.seeds:
            if not 0 <= seed < 2**32 // SEED_STRIDE - SEED_STRIDE:
                raise UserError(f"seeds: {seed}: 0 or more, and below {2**32 // SEED_STRIDE - SEED_STRIDE}, is needed")
        if self.threads < 1:
            raise UserError(f"threads: {self.threads}: at least 1 is needed")

    def tasks(self) -> list[Task]:
        """Return every run, seeds outermost, so that the first results already span the bench.

        Raises
        ------
        UserError
            If a picture, a part or a file cannot be found, or two rows ask for the same.

        Notes
        -----
        A picture that is in two data sets gives two tasks of one key: one run, that counts in both.
        """
        tasks = list(self._each())
        labels: dict[tuple[Any, ...], str] = {}
        for task in tasks:
            other = labels.setdefault((task.group, task.key), task.label)
            if other != task.label:
                raise UserError(f"rows: {other} and {task.label} are the same method with the same settings")
        return tasks

    def _each(self) -> Iterator[Task]:
        prepared, sha256 = cache(run_settings), cache(_sha256)
        files = {d.name: d.files() for d in self.data}
        rows = [row.absolute() for row in self.rows]
        degradations = [replace(d, kernel=full(d.kernel)) for d in self.degradations]
        weights = None if self.oracle.weights is None else full(self.oracle.weights)
        for seed, data, scale in itertools.product(self.seeds, self.data, self.scales):
            for degrading in degradations if data.truth else (None,):
                for (index, path), row in itertools.product(files[data.name], rows):
                    yield Task.make(
                        data,
                        path,
                        row,
                        scale=scale,
                        degrading=degrading,
                        kernel_seed=SEED_STRIDE * seed + index,
                        seed=seed,
                        oracle=replace(self.oracle, weights=weights),
                        device=self.device,
                        threads=self.threads,
                        settings=prepared(row, scale, degrading, self.device),
                        image_sha256=sha256(path),
                    )


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


@dataclass(frozen=True)
class Options:
    """What the command line says, in place of or in addition to a TOML file; None: not said."""

    data: tuple[Path, ...] = ()
    photos: tuple[Path, ...] = ()
    methods: tuple[str, ...] | None = None
    scales: tuple[int, ...] | None = None
    degradations: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    crop: int | None = None
    images: tuple[str, ...] | None = None
    preset: str | None = None
    restorer: str | None = None
    weights: Path | None = None
    steps: int | None = None
    time_limit: float | None = None
    oracle: str | None = None
    oracle_weights: Path | None = None
    device: str | None = None
    threads: int | None = None


def rows_of(words: tuple[str, ...], options: Options) -> tuple[Row, ...]:
    """Make the rows that the command line names, with the options that go for all of them."""
    return tuple(_with(Row.of(word), options, own_preset=":" in word.partition("+")[0]) for word in words)


def _with(row: Row, options: Options, *, own_preset: bool) -> Row:
    """Put options that go for all rows into a row; what its own word says (a preset, a restorer) stays."""
    changes: dict[str, Any] = {"steps": options.steps, "time_limit": options.time_limit}
    if not own_preset:
        changes["preset"] = options.preset
    if row.restorer is None:
        changes["restorer"] = options.restorer
    if options.weights is not None and (row.restorer or options.restorer or "usrnet") == "usrnet":
        changes["weights"] = str(options.weights)
    return replace(row, **{name: value for name, value in changes.items() if value is not None})


def from_options(options: Options) -> Bench:
    """Make a bench of options alone.

    Raises
    ------
    UserError
        If something is missing or makes no sense.
    """
    if not options.data and not options.photos:
        raise UserError(
            "--data: a folder of HR images is needed (or --photos: of photos without truth; or a TOML file)"
        )
    if not options.methods:
        raise UserError("--methods: name at least one, such as fast-map,mlmc:fast")
    bench = Bench(data=_sets(options), rows=rows_of(options.methods, options))
    return _changed(bench, replace(options, methods=None))


def from_file(path: Path, options: Options) -> Bench:
    """Make a bench of a TOML file; options go before what the file says.

    Raises
    ------
    UserError
        If the file or an option makes no sense.
    """
    folder = path.parent
    entry = Entry(read_toml(path), str(path))
    data = options.data[0] if options.data else None
    sets = tuple(DataSet.read(e, folder, data) for e in entry.tables("data"))
    if len(options.data) > 1 and sets:
        raise UserError("--data: one folder, that holds the data sets of the TOML file, is needed")
    if options.photos and sets:
        raise UserError(f"--photos: {path} names the data sets; write truth = false there")
    sets = _narrowed(sets, options) or _sets(options)
    if not sets:
        raise UserError(f"{path}: names no [[data]]; add them, or give --data DIR")
    bench = read_bench(entry, sets, folder, data, rows_of(options.methods, options) if options.methods else None)
    entry.end()
    rows = tuple(_with(row, options, own_preset=False) for row in bench.rows)
    return _changed(bench if options.methods else replace(bench, rows=rows), options)


def read_bench(
    entry: Entry, data: tuple[DataSet, ...], folder: Path, place: Path | None, rows: tuple[Row, ...] | None = None
) -> Bench:
    """Read a bench from an open TOML table, all but its data sets.

    Parameters
    ----------
    entry : Entry
        The table; its other keys are left to the caller.
    data : tuple of DataSet
        The data sets.
    folder, place : Path
        Files are looked for in `place`, if given, then in `folder`.
    rows : tuple of Row, optional
        Instead of the table's own.

    Raises
    ------
    UserError
        If a key or a value makes no sense.
    """
    weights = entry.text("oracle_weights")
    oracle = Oracle(entry.text("oracle") or "map", None if weights is None else found(weights, folder, place))
    degradations = tuple(Degrading.read(e, folder, place) for e in entry.tables("degradations"))
    own = tuple(Row.read(e, folder, place) for e in entry.tables("rows"))
    return Bench(
        data=data,
        rows=rows or own,
        scales=entry.wholes("scales") or (4,),
        degradations=degradations or (Degrading("gaussian"),),
        seeds=entry.wholes("seeds") or (0,),
        oracle=oracle,
        device=entry.text("device") or "cpu",
        threads=entry.whole("threads", 1) or 1,
        title=entry.text("title") or "blindsr bench",
    )


def _sets(options: Options) -> tuple[DataSet, ...]:
    crop, images = options.crop, options.images
    if crop is not None and crop < 16:
        raise UserError(f"--crop {crop}: at least 16 pixels are needed")
    given = [(folder, True) for folder in options.data] + [(folder, False) for folder in options.photos]
    return tuple(DataSet.of(folder, crop=crop, images=images, truth=truth) for folder, truth in given)


def _changed(bench: Bench, options: Options) -> Bench:
    """Put what the options say in place of what the bench says."""
    words, rows = options.degradations, bench.rows
    if options.methods:
        rows = rows_of(options.methods, options)
    changes: dict[str, Any] = {
        "scales": options.scales,
        "seeds": options.seeds,
        "device": options.device,
        "threads": options.threads,
        "degradations": tuple(Degrading.of(w) for w in words) if words else None,
    }
    if options.oracle is not None or options.oracle_weights is not None:
        weights = options.oracle_weights
        changes["oracle"] = Oracle(options.oracle or "usrnet", None if weights is None else str(weights))
    return replace(bench, rows=rows, **{name: value for name, value in changes.items() if value is not None})


def _narrowed(data: tuple[DataSet, ...], options: Options) -> tuple[DataSet, ...]:
    """Put --crop and --images in place of what the sets of a file say."""
    changes: dict[str, Any] = {"crop": options.crop, "images": options.images}
    return tuple(replace(d, **{name: value for name, value in changes.items() if value is not None}) for d in data)
