"""The paper's tables and figures as small TOML files: what each is, and its quick version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from blindsr.bench.dataset import SAMPLES, DataSet
from blindsr.bench.entry import Entry, read_toml
from blindsr.bench.spec import Bench, read_bench
from blindsr.errors import UserError

FOLDER = Path(__file__).parent / "tables"
KINDS = ("table", "sets", "crops", "sweep", "course", "kernels")
QUICK_CROP = 96


@dataclass(frozen=True)
class Paper:
    """A table or figure of the paper.

    Attributes
    ----------
    name : str
        Its file's name, such as "table1".
    kind : str
        "table": a line for each group and row; "sets": a column for each data set; "crops": results side by side;
        "sweep": PSNR against a number of the rows; "course": kernels as a run goes on; "kernels": draws of a prior.
    bench : Bench
        What is run, or whose first row and set are looked at.
    shows : str
        What the paper shows there, and what had to be chosen.
    """

    name: str
    kind: str
    bench: Bench
    shows: str


def names() -> list[str]:
    """Return the tables and figures that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_paper(
    name: str,
    data: Path | None,
    *,
    quick: bool,
    images: tuple[str, ...] | None,
    say: Callable[[str], None],
) -> Paper:
    """Read a table or figure, without the rows and data sets that are missing, each of which is named in a line.

    Parameters
    ----------
    name : str
        Such as "table1" or "figure5".
    data : Path, optional
        Folder of the data sets and weights; default: the working folder.
    quick : bool
        Whether the quick version is wanted.
    images : tuple of str, optional
        Only these pictures.
    say : callable
        Takes the lines.

    Raises
    ------
    UserError
        If there is no such table, or nothing is left of it.
    """
    path = FOLDER / f"{name}.toml"
    if name not in names():
        raise UserError(f"reproduce {name}: unknown; choose {', '.join(names())}")
    place = data if data is not None else Path(".")
    if data is not None and not data.is_dir():
        raise UserError(f"--data {data}: no such folder")
    entry = Entry(read_toml(path), path.name)
    kind, shows = entry.needed("kind"), entry.needed("shows")
    if kind not in KINDS:
        raise UserError(f"{path.name}: kind {kind}: choose {', '.join(KINDS)}")
    sets = tuple(DataSet.read(e, FOLDER, place) for e in entry.tables("data"))
    hurry = entry.table("quick")
    bench = read_bench(entry, sets or (DataSet("none", SAMPLES),), FOLDER, place)
    entry.end()
    if hurry is not None:
        short = _quick(bench, hurry, place)
        bench = short if quick else bench
    if kind != "kernels":
        bench = _present(bench, name, images, quick, say)
    return Paper(name, kind, bench, shows)


def _quick(bench: Bench, entry: Entry, place: Path) -> Bench:
    """Return the quick version: other pictures, scales and seeds, and a short preset for every row."""
    sets = tuple(DataSet.read(e, FOLDER, place) for e in entry.tables("data"))
    preset, steps = entry.text("preset"), entry.whole("steps", 1)
    rows = tuple(replace(r, preset=preset or r.preset, steps=steps or r.steps) for r in bench.rows)
    labels = entry.words("rows")
    kept = tuple(r for r in rows if labels is None or r.label in labels)
    scales, seeds = entry.wholes("scales") or bench.scales, entry.wholes("seeds") or bench.seeds
    entry.end()
    title = f"{bench.title} (quick)"
    return replace(bench, data=sets or bench.data, rows=kept, scales=scales, seeds=seeds, title=title)


def _present(bench: Bench, name: str, images: tuple[str, ...] | None, quick: bool, say: Callable[[str], None]) -> Bench:
    """Leave out what is not there, and say so."""
    data, rows = [], []
    for one in bench.data:
        line = one.missing()
        if line is None:
            data.append(one)
        elif quick and one.truth:
            spare = DataSet(f"{SAMPLES}-{QUICK_CROP}", SAMPLES, one.crop or QUICK_CROP, first=len(one.images or "12"))
            say(f"{line}; the sample photos of scikit-image are taken instead")
            data += [spare] if spare not in data else []
        else:
            say(line)
    for row in bench.rows:
        line = row.missing()
        if line is None:
            rows.append(row)
        else:
            say(line)
    if images is not None:
        data = [replace(d, images=mine) for d in data if (mine := _named(d, images))]
    for what, left in (("data set", data), ("method", rows)):
        if not left:
            raise UserError(f"reproduce {name}: no {what} of it is there (see docs/bench.md for what goes where)")
    return replace(bench, data=tuple(data), rows=tuple(rows))


def _named(data: DataSet, images: tuple[str, ...]) -> tuple[str, ...]:
    there = {path.stem for _, path in replace(data, images=None, first=None).files()}
    return tuple(n for n in images if n in there)
