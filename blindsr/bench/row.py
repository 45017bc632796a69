"""A row of a bench: a label, a method, and what is put in the place of the method's own parts and numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from blindsr.bench.entry import Entry
from blindsr.commands.settings import RunSettings
from blindsr.errors import UserError
from blindsr.methods.base import Method
from blindsr.methods.parts import RESTORERS
from blindsr.methods.rows import Choice
from blindsr.methods.table import METHODS, compose
from blindsr.operators.degradation import Degradation


@dataclass(frozen=True)
class Row:
    """What one line of a table is: a method with other parts in some places. Words are those of `blindsr run`.

    Attributes
    ----------
    label : str
        Name in tables and figures.
    method : str
        A row of `blindsr methods`.
    preset : str
        Sizes, steps and rates.
    prior, optimizer, image_prior, noise, restorer : str or None
        Parts instead of the method's own.
    weights : str or None
        State dict of `restorer = "usrnet"`.
    steps : int or None
        Inner steps instead of the preset's; a method that makes none ignores it.
    time_limit : float or None
        Seconds for each picture.
    n_kernels : int or None
        L, kernels in one Monte Carlo simulation (Eq. 24), instead of the preset's.
    meta_interval : int or None
        P, steps between two updates of the kernel (Eq. 34), for methods with the meta-learned optimizer.
    needs : str
        What to do if the method or its files are missing, for the line that says so.
    """

    label: str
    method: str
    preset: str = "balanced"
    prior: str | None = None
    optimizer: str | None = None
    image_prior: str | None = None
    noise: str | None = None
    restorer: str | None = None
    weights: str | None = None
    steps: int | None = None
    time_limit: float | None = None
    n_kernels: int | None = None
    meta_interval: int | None = None
    needs: str = ""

    @classmethod
    def of(cls, word: str) -> Row:
        """Read `METHOD[:PRESET][+RESTORER]`, as on the command line: `mlmc:fast`, `fast-map+bicubic`.

        That is the label, too; of a restorer's file only its name.

        Raises
        ------
        UserError
            If a part of it is empty.
        """
        left, plus, restorer = word.partition("+")
        method, colon, preset = left.partition(":")
        if not method or (plus and not restorer) or (colon and not preset):
            raise UserError(f"--methods {word}: write METHOD, METHOD:PRESET or METHOD+RESTORER")
        label = f"{left}+{Path(restorer).name}" if restorer else left
        return cls(label, method, preset or "balanced", restorer=restorer or None)

    @classmethod
    def read(cls, entry: Entry, folder: Path, data: Path | None = None) -> Row:
        """Read a `[[rows]]` table; files in it are looked for in `data`, then in `folder` (that of the TOML file).

        Raises
        ------
        UserError
            If a key is missing, unknown or of the wrong type.
        """
        method = entry.needed("method")
        restorer, weights = entry.text("restorer"), entry.text("weights")
        made = cls(
            label=entry.text("label") or method,
            method=method,
            preset=entry.text("preset") or "balanced",
            prior=_part(entry.text("prior"), folder, data),
            optimizer=_part(entry.text("optimizer"), folder, data),
            image_prior=_part(entry.text("image_prior"), folder, data),
            noise=entry.text("noise"),
            restorer=_part(restorer, folder, data),
            weights=None if weights is None else found(weights, folder, data),
            steps=entry.whole("steps", 1),
            time_limit=entry.number("time_limit"),
            n_kernels=entry.whole("n_kernels", 1),
            meta_interval=entry.whole("meta_interval", 1),
            needs=entry.text("needs") or "",
        )
        entry.end()
        return made

    def missing(self) -> str | None:
        """Say in one line what this row would need that is not there, or None: for rows that may be skipped."""
        why = None
        restorer = "usrnet" if self.restorer is None and self.weights is not None else self.restorer
        if self.method not in METHODS:
            why = f"there is no method {self.method} (`blindsr methods` lists them)"
        elif restorer == "usrnet" and (self.weights is None or not Path(self.weights).is_file()):
            why = f"no file {self.weights}" if self.weights else "no weights are named"
        elif restorer is not None and _is_file(restorer):
            file = _split(restorer)[0]
            why = None if Path(file).is_file() else f"no file {file}"
        elif restorer is not None and restorer != "usrnet" and restorer not in RESTORERS:
            why = f"there is no restorer {restorer}"
        return why and f"{self.label}: skipped, {why}" + (f"; {self.needs}" if self.needs else "")

    def choice(self) -> Choice:
        """Return the row as the choice of a method; steps are left to `settings`."""
        words = (
            "method",
            "prior",
            "optimizer",
            "image_prior",
            "noise",
            "restorer",
            "preset",
            "n_kernels",
            "meta_interval",
        )
        weights = None if self.weights is None else Path(self.weights)
        return Choice(weights=weights, **{name: getattr(self, name) for name in words})

    def compose(self, degradation: Degradation) -> Method:
        """Return the method with this row's parts in their places.

        Raises
        ------
        UserError
            If a name is unknown, or a part does not keep its contract or go with the method.
        """
        return compose(self.choice(), degradation)

    def settings(self, degradation: Degradation, seed: int, device: str) -> RunSettings:
        """Return what `blindsr run` would be told.

        Raises
        ------
        UserError
            As `compose`, or if the preset is unknown.
        """
        settings = RunSettings(
            **vars(self.choice()),
            scale=degradation.scale,
            kernel_size=degradation.kernel_size,
            alignment=degradation.alignment,
            padding=degradation.padding,
            seed=seed,
            time_limit=self.time_limit,
            device=device,
            resume=True,
            bare=True,
        )
        if self.steps is not None and settings.composed.estimator.takes_steps:
            settings = replace(settings, iterations=self.steps)
        settings.check()
        return settings

    def absolute(self) -> Row:
        """Return the row with full paths, for another process or machine."""
        words = ("prior", "optimizer", "image_prior", "restorer", "weights")
        paths: dict[str, Any] = {n: full(getattr(self, n)) for n in words if getattr(self, n) is not None}
        return replace(self, **paths)

    def plain(self) -> dict[str, Any]:
        """Return the row as plain values, from which `Row(**plain)` makes it again."""
        return asdict(self)


def found(name: str, folder: Path, data: Path | None) -> str:
    """Return where a file that a TOML file names is: in the data folder, beside the TOML file, or as it stands.

    Where it is in none of these places, the place in the data folder (else beside the TOML file) is named.
    """
    file, rest = _split(name)
    places = [base / file for base in (data, folder) if base is not None] + [Path(file)]
    place = next((p for p in places if p.exists()), places[0])
    return f"{place}{rest}"


def full(word: str) -> str:
    """Return a word with the full path of the file that it names, if it names one."""
    file, rest = _split(word)
    return f"{Path(file).resolve()}{rest}" if _is_file(word) else word


def _split(name: str) -> tuple[str, str]:
    """Tell a file from what may stand behind it: `:part` of a Python file, `@grid` of any."""
    bare, at, grid = name.rpartition("@")
    if not at or not grid.isalpha():
        bare, at, grid = name, "", ""
    file, colon, part = bare.rpartition(":") if ".py:" in bare else (bare, "", "")
    return file, f"{colon}{part}{at}{grid}"


def _is_file(word: str) -> bool:
    """Whether a word names a file, not a part of a table."""
    return bool(Path(_split(word)[0]).suffix)


def _part(word: str | None, folder: Path, data: Path | None) -> str | None:
    """A part's word, its file found where it names one."""
    return found(word, folder, data) if word is not None and _is_file(word) else word
