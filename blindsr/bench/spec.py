"""What a bench consists of, read from a TOML file or from options, and the runs that follow from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from blindsr.bench.dataset import DataSet
from blindsr.bench.degrading import Degrading
from blindsr.bench.row import Row
from blindsr.bench.task import Task, plain_settings, settings_of
from blindsr.bench.toml_table import Places, absolute, at_least, read_fields, read_toml
from blindsr.errors import UserError
from blindsr.io.files import file_hash
from blindsr.operators.degradation import SCALES

T = TypeVar("T", Row, DataSet, "Bench")

SEED_STRIDE = 100
"""The seed of a true kernel and its noise is 100 times the run's seed plus the number of the picture in its set."""


@dataclass(frozen=True)
class Bench:
    """Data sets x scales x degradations x rows x seeds.

    Raises UserError if a part is empty, a number is out of range, or two members of a part have the same name.

    Attributes
    ----------
    data : tuple of DataSet
        Sets without ground truth are not degraded.
    rows : tuple of Row
        The others are compared with the first.
    scales, seeds : tuple of int
        A run's seed is that of its method and, with the number of the picture, of the true kernel and the noise.
    degradations : tuple of Degrading
        How LR images are made.
    oracle, oracle_weights : str, str or None
        The restorer that the oracle gap is measured with ("none": no gap), and the state dict of `usrnet`.
    device : str
        As for `blindsr run`.
    threads : int
        Threads of each run.
    title : str
        Heading of the summary.
    """

    data: tuple[DataSet, ...]
    rows: tuple[Row, ...]
    scales: tuple[int, ...] = (4,)
    degradations: tuple[Degrading, ...] = (Degrading("gaussian"),)
    seeds: tuple[int, ...] = (0,)
    oracle: str = "map"
    oracle_weights: str | None = None
    device: str = "cpu"
    threads: int = at_least(1, default=1)
    title: str = "blindsr bench"

    def __post_init__(self) -> None:
        parts: dict[str, tuple[Any, ...]] = {
            "data": tuple(d.name for d in self.data),
            "rows": tuple(r.label for r in self.rows),
            "degradations": tuple(d.name for d in self.degradations),
            "scales": self.scales,
            "seeds": self.seeds,
        }
        for part, names in parts.items():
            if not names:
                raise UserError(f"{part}: at least one is needed")
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise UserError(f"{part}: {twice[0]} appears twice; give each a name of its own")
        for scale in self.scales:
            if scale not in SCALES:
                raise UserError(f"scales: {scale}: choose among 2, 3, 4 and 8")
        most = 2**32 // SEED_STRIDE - SEED_STRIDE
        for seed in self.seeds:
            if not 0 <= seed < most:
                raise UserError(f"seeds: {seed}: at least 0 and less than {most} is needed")

    def tasks(self) -> list[Task]:
        """Return every run, with seeds outermost, so that the first results already span the bench.

        Raises UserError if a picture, a part or a file cannot be found, or two rows are the same.

        Notes
        -----
        A picture that is in two data sets gives two tasks of one key: one run, which counts in both.
        """
        tasks = list(self._each())
        labels: dict[tuple[Any, ...], str] = {}
        for task in tasks:
            other = labels.setdefault((task.group, task.key), task.label)
            if other != task.label:
                raise UserError(f"rows: {other} and {task.label} are the same method with the same settings")
        return tasks

    def _each(self) -> Iterator[Task]:
        @cache
        def settings(row: Row, scale: int, degrading: Degrading | None) -> dict[str, Any]:
            return plain_settings(settings_of(row, scale, degrading, 0, self.device))

        hashed = cache(file_hash)
        files = {d.name: d.files() for d in self.data}
        rows = [row.absolute() for row in self.rows]
        degradations = [replace(d, kernel=absolute(d.kernel)) for d in self.degradations]
        weights = None if self.oracle_weights is None else absolute(self.oracle_weights)
        for seed, data, scale in itertools.product(self.seeds, self.data, self.scales):
            for degrading in degradations if data.truth else (None,):
                for (index, path), row in itertools.product(files[data.name], rows):
                    yield Task(
                        key="",
                        data=data.name,
                        image=path.stem,
                        label=row.label,
                        path=str(path.resolve()),
                        image_sha256=hashed(path),
                        crop=data.crop,
                        truth=data.truth,
                        scale=scale,
                        degrading=asdict(degrading) if degrading else None,
                        kernel_seed=SEED_STRIDE * seed + index,
                        row=asdict(row),
                        seed=seed,
                        oracle={"restorer": self.oracle, "weights": weights},
                        device=self.device,
                        threads=self.threads,
                        settings=settings(row, scale, degrading) | {"seed": seed},
                    ).with_key()


@dataclass(frozen=True)
class Options:
    """What the command line says, alone or on top of a TOML file; None means not given."""

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

    def __post_init__(self) -> None:
        if self.crop is not None and self.crop < 16:
            raise UserError(f"--crop {self.crop}: at least 16 pixels are needed")

    def data_sets(self) -> tuple[DataSet, ...]:
        """Return the data sets that the options name."""
        folders = [(folder, True) for folder in self.data] + [(folder, False) for folder in self.photos]
        return tuple(DataSet(str(f), crop=self.crop, images=self.images, truth=truth) for f, truth in folders)

    def rows(self) -> tuple[Row, ...]:
        """Return the rows that the options name, with the options that apply to all of them."""
        return tuple(self.row(Row.parse(word), has_preset=":" in word.partition("+")[0]) for word in self.methods or ())

    def row(self, row: Row, *, has_preset: bool = False) -> Row:
        """Apply the options for all rows to one row, which keeps the preset and restorer of its own word."""
        usrnet = (row.restorer or self.restorer or "usrnet") == "usrnet"
        return _changed(
            row,
            steps=self.steps,
            time_limit=self.time_limit,
            preset=None if has_preset else self.preset,
            restorer=None if row.restorer else self.restorer,
            weights=str(self.weights) if self.weights is not None and usrnet else None,
        )

    def apply(self, bench: Bench) -> Bench:
        """Replace what a bench says by what the options say, except for its data sets and rows."""
        if self.oracle is not None or self.oracle_weights is not None:
            weights = None if self.oracle_weights is None else str(self.oracle_weights)
            bench = replace(bench, oracle=self.oracle or "usrnet", oracle_weights=weights)
        return _changed(
            bench,
            scales=self.scales,
            seeds=self.seeds,
            device=self.device,
            threads=self.threads,
            degradations=None if self.degradations is None else tuple(Degrading.of(w) for w in self.degradations),
        )


def _changed(thing: T, **changes: Any) -> T:
    """Return a dataclass with the changes that are not None."""
    return replace(thing, **{name: value for name, value in changes.items() if value is not None})


def from_options(options: Options) -> Bench:
    """Make a bench of options alone; UserError if something is missing or makes no sense."""
    if not options.data and not options.photos:
        raise UserError(
            "--data: a folder of HR images is needed (or --photos: one of photos without ground truth; or a TOML file)"
        )
    if not options.methods:
        raise UserError("--methods: name at least one, such as fast-map,mlmc:fast")
    return options.apply(Bench(data=options.data_sets(), rows=options.rows()))


def from_file(path: Path, options: Options) -> Bench:
    """Make a bench of a TOML file; options take precedence over the file.

    Raises UserError if the file or an option makes no sense.
    """
    places = Places((*options.data[:1], path.parent))
    given = read_fields(Bench, read_toml(path), str(path), places, optional=("data", "rows"))
    sets = given.get("data", ())
    if len(options.data) > 1 and sets:
        raise UserError("--data: give one folder, which holds the data sets that the TOML file names")
    if options.photos and sets:
        raise UserError(f"--photos: {path} names the data sets; write truth = false there")
    sets = tuple(_changed(d, crop=options.crop, images=options.images) for d in sets) or options.data_sets()
    if not sets:
        raise UserError(f"{path}: names no [[data]]; add them, or give --data DIR")
    given["data"] = sets
    given["rows"] = options.rows() or tuple(options.row(row) for row in given.get("rows", ()))
    if given.get("oracle_weights"):
        given["oracle_weights"] = places.find(given["oracle_weights"])
    return options.apply(Bench(**given))
