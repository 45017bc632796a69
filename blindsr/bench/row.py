"""A row of a bench: a label, a method, and what replaces the method's own parts and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blindsr.bench.toml_table import Places, absolute, at_least, names_file, read_fields, split_reference
from blindsr.commands.settings import RunSettings
from blindsr.errors import UserError
from blindsr.methods.base import Method
from blindsr.methods.parts import RESTORERS
from blindsr.methods.rows import Choice
from blindsr.methods.table import METHODS, compose
from blindsr.operators.degradation import Degradation

PARTS = ("prior", "optimizer", "image_prior", "noise", "restorer")


@dataclass(frozen=True)
class Row:
    """One row of a table: a method, with other parts in some places. The words are those of `blindsr run`."""

    method: str
    """A method that `blindsr methods` lists."""
    label: str = ""
    """Name in tables and figures; by default the method."""
    preset: str = "balanced"
    """Sizes, steps and rates."""
    prior: str | None = None
    optimizer: str | None = None
    image_prior: str | None = None
    noise: str | None = None
    restorer: str | None = None
    """Parts that replace the method's own."""
    weights: str | None = None
    """State dict for `restorer = "usrnet"`."""
    steps: int | None = at_least(1)
    """Inner steps instead of the preset's; a method without steps ignores it."""
    time_limit: float | None = at_least(0)
    """Seconds for each picture."""
    n_kernels: int | None = at_least(1)
    """L, the number of kernels in one Monte Carlo simulation (MLMC paper, Eq. 24), instead of the preset's."""
    meta_interval: int | None = at_least(1)
    """P, the number of steps between two updates of the kernel (MLMC paper, Eq. 34), for the meta-learned optimizer."""
    needs: str = ""
    """What to do if the method or its files are missing, for the message that says so."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.method)

    @classmethod
    def parse(cls, word: str) -> Row:
        """Read `METHOD[:PRESET][+RESTORER]` as on the command line, such as `mlmc:fast` or `fast-map+bicubic`.

        The word is the label, too, with only the name of a restorer's file. Raises UserError if a part of the word is
        empty.
        """
        left, plus, restorer = word.partition("+")
        method, colon, preset = left.partition(":")
        if not method or (plus and not restorer) or (colon and not preset):
            raise UserError(f"--methods {word}: write METHOD, METHOD:PRESET or METHOD+RESTORER")
        label = f"{left}+{Path(restorer).name}" if restorer else left
        return cls(method, label, preset or "balanced", restorer=restorer or None)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str, places: Places) -> Row:
        """Read a `[[rows]]` table; UserError if a key is missing or unknown, or a value is of the wrong type."""
        return cls(**read_fields(cls, table, where, places))._with_files(places.find)

    def _with_files(self, change: Callable[[str], str]) -> Row:
        """Replace the path of every file that the row names."""
        words = {name: getattr(self, name) for name in (*PARTS, "weights")}
        files: dict[str, Any] = {n: change(w) for n, w in words.items() if w and (n == "weights" or names_file(w))}
        return replace(self, **files)

    def absolute(self) -> Row:
        """Return the row with full paths, for another process or machine."""
        return self._with_files(absolute)

    def missing(self) -> str | None:
        """Return one line on what the row needs and does not find, or None; such a row may be skipped."""
        why = None
        restorer = "usrnet" if self.restorer is None and self.weights is not None else self.restorer
        if self.method not in METHODS:
            why = f"there is no method {self.method} (`blindsr methods` lists them)"
        elif restorer == "usrnet" and (self.weights is None or not Path(self.weights).is_file()):
            why = f"no file {self.weights}" if self.weights else "no weights are named"
        elif restorer is not None and names_file(restorer):
            file = split_reference(restorer)[0]
            why = None if Path(file).is_file() else f"no file {file}"
        elif restorer is not None and restorer != "usrnet" and restorer not in RESTORERS:
            why = f"there is no restorer {restorer}"
        return why and f"{self.label}: skipped, {why}" + (f"; {self.needs}" if self.needs else "")

    def choice(self) -> Choice:
        """Return the row as the choice of a method; steps are left to `settings`."""
        weights = Path(self.weights) if self.weights else None
        words = ("method", "preset", *PARTS, "n_kernels", "meta_interval")
        return Choice(weights=weights, **{name: getattr(self, name) for name in words})

    def compose(self, degradation: Degradation) -> Method:
        """Return the method with this row's parts in place.

        Raises UserError if a name is unknown, or a part breaks its contract or does not go with the method.
        """
        return compose(self.choice(), degradation)

    def settings(self, degradation: Degradation, seed: int, device: str) -> RunSettings:
        """Return the settings of `blindsr run` for this row; UserError as `compose`, or if the preset is unknown."""
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
