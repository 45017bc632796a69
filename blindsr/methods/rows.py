"""Rows of the table of methods: what each is made of, and which of its parts a user may replace.

A row of the joint loop is in `loop_row`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blindsr.errors import UserError
from blindsr.estimators.base import Estimator
from blindsr.estimators.free_form import FreeFormEstimator
from blindsr.estimators.spectral import KernelEstimator
from blindsr.methods.base import Method
from blindsr.methods.parts import RESTORERS, Part, Regularizer
from blindsr.methods.words import family_part, image_prior_part, known_level, noise_part, restorer_part
from blindsr.operators.degradation import Degradation
from blindsr.restorers.base import Restorer
from blindsr.restorers.grid import Grid
from blindsr.restorers.map import MapRestorer


@dataclass(frozen=True)
class Choice:
    """A method as a user asks for it: a row, and what replaces its parts; words as on the command line, or objects.

    Attributes
    ----------
    method : str, Estimator or None
        A row of `METHODS`, `my_file.py:MyEstimator`, or an estimator as an object. None: the default, or the row that
        the named parts belong to.
    prior, optimizer, image_prior, noise, restorer
        Parts instead of the row's own: names in the tables of `methods.parts`, a user's `my_file.py:MyPart`, objects.
    weights : Path or None
        State dict of `restorer = "usrnet"`.
    preset : str
        Sizes, steps and rates of the joint loop.
    iterations : int or None
        Steps instead of the method's own.
    n_kernels : int or None
        L, kernels in one Monte Carlo simulation (Eq. 24 of Xia et al. 2024), instead of the preset's.
    meta_interval : int or None
        P, steps between two updates of the kernel (their Eq. 34), with the meta-learned optimizer.
    """

    method: str | Estimator | None = None
    prior: Any = None
    optimizer: Any = None
    image_prior: Any = None
    noise: Any = None
    restorer: Any = None
    weights: Path | None = None
    preset: str = "balanced"
    iterations: int | None = None
    n_kernels: int | None = None
    meta_interval: int | None = None


@dataclass(frozen=True)
class Row(ABC):
    """A method of the table."""

    name: str
    summary: str
    """What it is called, and what it is, in a few words."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, str]:
        """What finds the kernel and what makes the image, in words, for the table that is printed."""

    @abstractmethod
    def compose(self, choice: Choice, degradation: Degradation, rows: Iterable[Row] = ()) -> Method:
        """Return the method with the chosen parts; UserError if one is unknown, or cannot be combined with it.

        Where they are the parts of another of the `rows`, the method has that row's name.
        """

    @property
    def loop_columns(self) -> tuple[str, ...]:
        """Names of the parts of the joint loop: image, kernel, prior, optimizer, image prior, noise; else empty."""
        return ()

    def method(self, preset: str = "balanced", degradation: Degradation | None = None) -> Method:
        """Return the method as it stands in the table."""
        return self.compose(Choice(self.name, preset=preset), degradation or Degradation(4))


def _refuse(row: Row, choice: Choice, names: tuple[str, ...], why: str) -> None:
    """Refuse parts that have no place in a row, and name the nearest command that works."""
    for name in names:
        word = getattr(choice, name)
        if word is not None:
            option = f"--{name.replace('_', '-')} {word if isinstance(word, str) else type(word).__name__}"
            raise UserError(f"{option}: {row.name} {why}; `--method mlmc {option}` puts it into the joint loop")
    for name in ("n_kernels", "meta_interval"):
        if getattr(choice, name) is not None:
            raise UserError(f"{name} {getattr(choice, name)}: goes with methods of the joint loop, not with {row.name}")


def chosen_restorer(choice: Choice, own: Part[Restorer | None], grid: Grid | None = None) -> Part[Restorer | None]:
    """Return the restorer that is chosen, usrnet where only its weights are, or else the row's own."""
    if choice.restorer is None and choice.weights is None:
        return own
    return restorer_part(choice.restorer or "usrnet", choice.weights, grid)


def stepped(name: str, estimator: Estimator, iterations: int | None) -> Estimator:
    """Return the estimator of a method with a number of steps, if one is chosen; UserError where it takes none."""
    if iterations is None:
        return estimator
    try:
        return estimator.with_steps(iterations)
    except ValueError as error:
        raise UserError(f"--iterations {iterations}: leave it out; {name}: {error}") from error


def finished(
    name: str, estimator: Estimator, restorer: Part[Restorer | None], parts: tuple[Part[Any], ...], **rest: Any
) -> Method:
    """Put a method together; what does not go together is a UserError."""
    files = tuple(p.file for p in (*parts, restorer) if p.file is not None)
    own = tuple(p.name for p in (*parts, restorer) if ".py:" in p.name)
    labels = rest.pop("labels", {}) | {"restorer": restorer.name}
    try:
        return Method(name, estimator, restorer.value, files=files, own_parts=own, labels=labels, **rest)
    except ValueError as error:
        hint = "map" if estimator.has_kernel else "model.pt, model.onnx, weights.pth or my_file.py:restore"
        raise UserError(f"--restorer {restorer.name}: {error}; for example --restorer {hint}") from error


def _map_under(part: Part[Regularizer]) -> MapRestorer:
    """Return the MAP restorer under an image prior."""
    try:
        return MapRestorer(part.value.prior)
    except ValueError as error:
        raise UserError(f"--image-prior {part.name}: {error}") from error


@dataclass(frozen=True)
class SpectralRow(Row):
    """The kernel from y alone by `KernelEstimator`, or of any shape, then a restorer."""

    estimator: KernelEstimator = field(default_factory=KernelEstimator)
    """Numbers of the kernel's estimation."""
    free: FreeFormEstimator | None = None
    """Where given, a kernel of any shape competes with the families, unless one of them is chosen."""
    restorer: Part[Restorer | None] = RESTORERS["map"]
    """Makes the image."""

    @property
    def columns(self) -> tuple[str, str]:
        """The spectral MAP estimate, and the restorer."""
        if self.free is not None:
            return "spectral MAP, or sparse edges and the spectra", self.restorer.name
        return "spectral MAP", self.restorer.name

    def compose(self, choice: Choice, degradation: Degradation, rows: Iterable[Row] = ()) -> Method:
        """Put a kernel family for `prior`, an image prior into the MAP restorer, a known noise level, a restorer."""
        _refuse(self, choice, ("optimizer",), "estimates the kernel without one")
        estimator, restorer = self.estimator, chosen_restorer(choice, self.restorer)
        labels, parts = {}, []
        if choice.prior is not None:
            name = family_part(choice.prior)
            estimator, labels["prior"] = replace(estimator, families=(name,)), name
        noise = _level(self, choice)
        if noise is not None:
            estimator, labels["noise"] = replace(estimator, noise_std=noise), f"{noise:g}"
        if choice.image_prior is not None:
            part = image_prior_part(choice.image_prior, for_map=True)
            if restorer.name != self.restorer.name:
                raise UserError(
                    f"--image-prior {part.name}: goes with --restorer {self.restorer.name}, not with {restorer.name}"
                )
            restorer = replace(restorer, value=_map_under(part))
            labels["image_prior"] = part.name
            parts.append(part)
        free = None if choice.prior is not None else self.free
        whole = estimator if free is None else replace(free, parametric=estimator)
        made = stepped(self.name, whole, choice.iterations)
        known = noise if free is None else None  # a free kernel adds its own error to the level
        return finished(self.name, made, restorer, tuple(parts), noise_std=known, labels=labels)


@dataclass(frozen=True)
class OtherRow(Row):
    """An estimator that no loop part fits into, then a restorer."""

    words: str
    """What finds the kernel, for the table that is printed."""
    estimator: Estimator
    """Finds the kernel, or does without."""
    restorer: Part[Restorer | None]
    """Makes the image."""
    file: str | None = None
    """The user's file that holds the estimator, if it comes from one."""

    @property
    def columns(self) -> tuple[str, str]:
        """As given."""
        return self.words, self.restorer.name

    def compose(self, choice: Choice, degradation: Degradation, rows: Iterable[Row] = ()) -> Method:
        """Put another restorer, and a known noise level."""
        why = (
            "finds its kernel in a way of its own" if self.estimator.has_kernel else "has no kernel and makes no steps"
        )
        _refuse(self, choice, ("prior", "optimizer", "image_prior"), why)
        restorer = chosen_restorer(choice, self.restorer, None if self.estimator.has_kernel else Grid.CENTERED)
        estimator = stepped(self.name, self.estimator, choice.iterations)
        own = Part(self.words, estimator, self.file)
        return finished(self.name, estimator, restorer, (own,), noise_std=_level(self, choice))


def _level(row: Row, choice: Choice) -> float | None:
    """The noise level that is known, for a method outside the loop."""
    if choice.noise is None:
        return None
    part = noise_part(choice.noise)
    level = known_level(part)
    if level is None and part.name != "iid":
        raise UserError(
            f"--noise {part.name}: a noise model of the joint loop, and {row.name} is none of it; give a standard "
            f"deviation in units of 0..1, or `--method mlmc --noise {part.name}`"
        )
    return level
