"""The MLMC paper's tables and figures as small TOML files: what each shows, and its quick version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blindsr.bench.dataset import SAMPLES, DataSet
from blindsr.bench.spec import Bench
from blindsr.bench.toml_table import Places, at_least, read_fields, read_toml
from blindsr.errors import UserError

FOLDER = Path(__file__).parent / "tables"
KINDS = ("table", "sets", "crops", "sweep", "convergence", "kernels")
QUICK_CROP = 96


@dataclass(frozen=True)
class Quick:
    """The `[quick]` table: pictures, scales, seeds and rows of the quick version, and a short preset for every row."""

    data: tuple[DataSet, ...] = ()
    rows: tuple[str, ...] = ()
    scales: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    preset: str = ""
    steps: int | None = at_least(1)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str, places: Places) -> Quick:
        """Read a `[quick]` table."""
        return cls(**read_fields(cls, table, where, places))


@dataclass(frozen=True)
class Paper(Bench):
    """A table or figure of the paper: a bench and how its results are shown."""

    kind: str = "table"
    """What is made: "table", a line for each group and row; "sets", a column for each data set; "crops", results side
    by side; "sweep", PSNR against a number of the rows; "convergence", kernels in the course of a run; "kernels", draws
    from a prior."""
    shows: str = ""
    """What the paper shows there, and what had to be chosen."""
    quick: Quick | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise UserError(f"kind {self.kind}: choose {', '.join(KINDS)}")

    def shortened(self) -> Paper:
        """Return the quick version."""
        if self.quick is None:
            return self
        q = self.quick
        rows = [replace(r, preset=q.preset or r.preset, steps=q.steps or r.steps) for r in self.rows]
        return replace(
            self,
            title=f"{self.title} (quick)",
            rows=tuple(r for r in rows if not q.rows or r.label in q.rows),
            data=q.data or self.data,
            scales=q.scales or self.scales,
            seeds=q.seeds or self.seeds,
        )


def names() -> list[str]:
    """Return the names of the tables and figures."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_paper(
    name: str,
    data: Path | None,
    *,
    quick: bool,
    images: tuple[str, ...] | None,
    say: Callable[[str], None],
) -> Paper:
    """Read a table or figure, such as "table1" or "figure5", without the rows and data sets that are missing.

    The folder `data` holds the data sets and weights; None: the working folder. `images` keeps only these pictures, and
    `say` takes a line on each thing that is missing. Raises UserError if there is no such table, or nothing of it is
    left.
    """
    if name not in names():
        raise UserError(f"reproduce {name}: unknown; choose {', '.join(names())}")
    if data is not None and not data.is_dir():
        raise UserError(f"--data {data}: no such folder")
    path, places = FOLDER / f"{name}.toml", Places((data or Path("."), FOLDER))
    given = read_fields(Paper, read_toml(path), path.name, places, optional=("data", "rows"))
    paper = Paper(**{"data": (DataSet(SAMPLES),), "rows": ()} | given)
    paper = paper.shortened() if quick else paper
    return paper if paper.kind == "kernels" else _without_missing(paper, name, images, quick, say)


def _without_missing(
    paper: Paper, name: str, images: tuple[str, ...] | None, quick: bool, say: Callable[[str], None]
) -> Paper:
    """Leave out what is missing, with a line on each."""
    data: list[DataSet] = []
    for one in paper.data:
        line = one.missing()
        if line is None:
            data.append(one)
        elif quick and one.truth:
            spare = DataSet(
                SAMPLES, f"{SAMPLES}-{QUICK_CROP}", one.crop or QUICK_CROP, first=len(one.images) if one.images else 2
            )
            say(f"{line}; the sample photos of scikit-image are taken instead")
            data += [spare] if spare not in data else []
        else:
            say(line)
    missing = {row.label: row.missing() for row in paper.rows}
    for line in missing.values():
        if line is not None:
            say(line)
    rows = [row for row in paper.rows if missing[row.label] is None]
    if images is not None:
        data = [replace(d, images=there) for d in data if (there := _among(d, images))]
    for what, left in (("data set", data), ("method", rows)):
        if not left:
            raise UserError(f"reproduce {name}: no {what} of it is there (see docs/bench.md for what goes where)")
    return replace(paper, data=tuple(data), rows=tuple(rows))


def _among(data: DataSet, images: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the pictures that are in a data set."""
    there = {path.stem for _, path in replace(data, images=None, first=None).files()}
    return tuple(name for name in images if name in there)
