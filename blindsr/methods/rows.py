"""Rows of the table of methods: what each is made of, and which of its parts a user may replace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from blindsr.errors import UserError
from blindsr.estimators.base import Estimator
from blindsr.estimators.loop import JointLoop
from blindsr.estimators.problem import KernelFactory, MonteCarloSettings, PriorFactory
from blindsr.estimators.spectral import KernelEstimator
from blindsr.estimators.stopping import MovingVariance
from blindsr.likelihood.data_term import DataTerm, SsimThenMse
from blindsr.likelihood.noise import NoiseModel
from blindsr.methods.base import Method
from blindsr.methods.parts import (
    IMAGE_PRIORS,
    IMAGES,
    KERNELS,
    NOISES,
    OPTIMIZERS,
    RESTORERS,
    ImageMaker,
    Part,
    Regularizer,
)
from blindsr.methods.presets import Preset, find_preset
from blindsr.methods.words import (
    family_part,
    image_prior_part,
    known_level,
    noise_part,
    optimizer_part,
    prior_part,
    restorer_part,
)
from blindsr.operators.degradation import Degradation
from blindsr.optimizers.base import Optimizer
from blindsr.optimizers.meta import MetaLearned
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
    """A method of the table.

    Parameters
    ----------
    name, summary : str
        What it is called, and what it is, in a few words.
    """

    name: str
    summary: str

    @property
    @abstractmethod
    def columns(self) -> tuple[str, str]:
        """What finds the kernel and what makes the image, in words, for the table that is printed."""

    @abstractmethod
    def compose(self, choice: Choice, degradation: Degradation) -> Method:
        """Return the method with the chosen parts in their places.

        Raises
        ------
        UserError
            If a part is unknown, or cannot be combined with this method.
        """

    @property
    def loop_columns(self) -> tuple[str, ...]:
        """Names of the parts of the joint loop: image, kernel, prior, optimizer, image prior, noise; else empty."""
        return ()

    def canonical(self, choice: Choice, degradation: Degradation, rows: Iterable[Row]) -> str:
        """Return the name of the row, of `rows` or itself, that has the chosen parts."""
        return self.name

    def same_parts(self, other: Row) -> bool:
        """Whether another row has the same parts of the joint loop."""
        return False

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


def _stepped(name: str, estimator: Estimator, iterations: int | None) -> Estimator:
    if iterations is None:
        return estimator
    try:
        return estimator.with_steps(iterations)
    except ValueError as error:
        raise UserError(f"--iterations {iterations}: leave it out; {name}: {error}") from error


def _finished(
    name: str, estimator: Estimator, restorer: Part[Restorer | None], parts: tuple[Part[Any], ...], **rest: Any
) -> Method:
    """Put a method together; errors become a user's."""
    files = tuple(p.file for p in (*parts, restorer) if p.file is not None)
    own = tuple(p.name for p in (*parts, restorer) if ".py:" in p.name)
    labels = rest.pop("labels", {}) | {"restorer": restorer.name}
    try:
        return Method(name, estimator, restorer.value, files=files, own_parts=own, labels=labels, **rest)
    except ValueError as error:
        hint = "map" if estimator.has_kernel else "model.pt, model.onnx, weights.pth or my_file.py:restore"
        raise UserError(f"--restorer {restorer.name}: {error}; for example --restorer {hint}") from error


@dataclass(frozen=True)
class LoopRow(Row):
    """A method of the joint loop: one part for each place. None takes the preset's.

    Parameters
    ----------
    image, kernel, prior, optimizer, image_prior, noise, restorer : Part
        The seven columns.
    data_term : DataTerm, optional
        Data term.
    guide : Restorer, optional
        See `JointLoop`.
    kernel_estimator : KernelEstimator
        See `JointLoop`.
    steps : int, optional
        Inner steps.
    stopping : MovingVariance, optional
        Ends the run when its image has settled.
    numbers : Preset, optional
        Sizes and rates of its own, whatever the preset.
    kernel_lr : float, optional
        Adam's rate of the kernel.
    """

    prior: Part[PriorFactory | None]
    optimizer: Part[Optimizer] = OPTIMIZERS["joint"]
    image_prior: Part[Regularizer] = IMAGE_PRIORS["none"]
    noise: Part[NoiseModel] | None = None
    data_term: DataTerm | None = None
    image: Part[ImageMaker] = IMAGES["skip"]
    kernel: Part[KernelFactory] = KERNELS["network"]
    restorer: Part[Restorer | None] = RESTORERS["none"]
    guide: Restorer | None = None
    kernel_estimator: KernelEstimator = field(default_factory=lambda: KernelEstimator(rounds=0))
    steps: int | None = None
    stopping: MovingVariance | None = None
    numbers: Preset | None = None
    kernel_lr: float | None = None

    @property
    def columns(self) -> tuple[str, str]:
        """The loop, and what its image is made by."""
        return "the joint loop", self.image.name if self.restorer.value is None else self.restorer.name

    @property
    def loop_columns(self) -> tuple[str, ...]:
        """Names of the parts, the noise model's last."""
        parts = (self.image, self.kernel, self.prior, self.optimizer, self.image_prior)
        return (*(p.name for p in parts), "preset's" if self.noise is None else self.noise.name)

    def loop(self, preset: Preset) -> JointLoop:
        """Return the estimator for a preset."""
        p = self.numbers or preset
        noise = self.noise or NOISES[p.noise]
        return JointLoop(
            image=self.image.value(p.skip),
            kernel=self.kernel.value,
            optimizer=self.optimizer.value,
            data_term=self.data_term or SsimThenMse(p.ssim_steps, p.ssim_below),
            image_prior=self.image_prior.value.prior,
            noise=noise.value,
            rho=self.image_prior.value.rho,
            prior=self.prior.value,
            monte_carlo=MonteCarloSettings(p.n_kernels, p.n_simulations, p.warmup_steps),
            steps=p.steps if self.steps is None else self.steps,
            inner_steps=p.inner_steps,
            image_lr=p.image_lr,
            kernel_lr=self.kernel_lr or p.kernel_lr,
            average=p.average,
            noise_steps=p.noise_steps,
            noise_std=known_level(noise),
            kernel_estimator=self.kernel_estimator,
            guide=self.guide,
            stopping=self.stopping,
        )

    def with_parts(self, choice: Choice, degradation: Degradation) -> LoopRow:
        """Return the row with the chosen parts in their places."""
        row = self
        if choice.prior is not None:
            row = replace(row, prior=prior_part(choice.prior, degradation))
        if choice.optimizer is not None:
            row = replace(row, optimizer=optimizer_part(choice.optimizer))
        if choice.image_prior is not None:
            row = replace(row, image_prior=image_prior_part(choice.image_prior))
        if choice.noise is not None:
            row = replace(row, noise=noise_part(choice.noise))
        if choice.restorer is not None or choice.weights is not None:
            row = replace(row, restorer=restorer_part(choice.restorer or "usrnet", choice.weights))
        if choice.meta_interval is not None:
            if not isinstance(row.optimizer.value, MetaLearned):
                raise UserError(f"meta_interval: goes with the meta optimizer, not with {self.name}'s")
            meta = MetaLearned(interval=choice.meta_interval)
            row = replace(row, optimizer=Part(f"meta, P = {choice.meta_interval}", meta))
        return row

    def canonical(self, choice: Choice, degradation: Degradation, rows: Iterable[Row]) -> str:
        """Return the name of the row that has the chosen parts, "custom" if none has; a new restorer goes behind it."""
        chosen = self.with_parts(choice, degradation)
        name = next((r.name for r in (self, *rows) if r.same_parts(chosen)), "custom")
        same = chosen.restorer.name == self.restorer.name
        return name if same else f"{name}+{Path(chosen.restorer.name).name}"

    def same_parts(self, other: Row) -> bool:
        """Whether another row differs in nothing but name, summary and restorer."""
        kept = [f.name for f in fields(self) if f.name not in ("name", "summary", "restorer")]
        return type(self) is type(other) and all(getattr(self, n) == getattr(other, n) for n in kept)

    def compose(self, choice: Choice, degradation: Degradation) -> Method:
        """Return the method with the chosen parts in their places."""
        row, preset = self.with_parts(choice, degradation), find_preset(choice.preset)
        if choice.n_kernels is not None:
            preset = replace(preset, n_kernels=choice.n_kernels)
        loop = row.loop(preset)
        noise = row.noise or NOISES[(row.numbers or preset).noise]
        parts = (row.prior, row.optimizer, row.image_prior)
        labels = {n: getattr(row, n).name for n in ("image", "kernel", "prior", "optimizer", "image_prior")}
        labels |= {"noise": noise.name, "preset": choice.preset if row.numbers is None else self.name}
        estimator = _stepped(self.name, loop, choice.iterations)
        return _finished(self.name, estimator, row.restorer, parts, noise_std=known_level(noise), labels=labels)


def _map_under(part: Part[Regularizer]) -> MapRestorer:
    """Return the MAP restorer under an image prior."""
    try:
        return MapRestorer(part.value.prior)
    except ValueError as error:
        raise UserError(f"--image-prior {part.name}: {error}") from error


@dataclass(frozen=True)
class SpectralRow(Row):
    """The kernel from y alone by `KernelEstimator`, then a restorer.

    Parameters
    ----------
    estimator : KernelEstimator
        Numbers of the kernel's estimation.
    restorer : Part
        Makes the image.
    """

    estimator: KernelEstimator = field(default_factory=KernelEstimator)
    restorer: Part[Restorer | None] = RESTORERS["map"]

    @property
    def columns(self) -> tuple[str, str]:
        """The spectral MAP estimate, and the restorer."""
        return "spectral MAP, refined on MAP images", self.restorer.name

    def compose(self, choice: Choice, degradation: Degradation) -> Method:
        """Put a kernel family for `prior`, an image prior into the MAP restorer, a known noise level, a restorer."""
        _refuse(self, choice, ("optimizer",), "estimates the kernel without one")
        estimator, restorer = self.estimator, self.restorer
        labels, parts = {}, []
        if choice.prior is not None:
            name = family_part(choice.prior)
            estimator, labels["prior"] = replace(estimator, families=(name,)), name
        noise = _level(self, choice)
        if noise is not None:
            estimator, labels["noise"] = replace(estimator, noise_std=noise), f"{noise:g}"
        if choice.restorer is not None or choice.weights is not None:
            restorer = restorer_part(choice.restorer or "usrnet", choice.weights)
        if choice.image_prior is not None:
            part = image_prior_part(choice.image_prior, for_map=True)
            if restorer is not self.restorer and restorer.name != "map":
                raise UserError(f"--image-prior {part.name}: goes with --restorer map, not with {restorer.name}")
            restorer = replace(restorer, value=_map_under(part))
            labels["image_prior"] = part.name
            parts.append(part)
        made = _stepped(self.name, estimator, choice.iterations)
        return _finished(self.name, made, restorer, tuple(parts), noise_std=noise, labels=labels)


@dataclass(frozen=True)
class OtherRow(Row):
    """An estimator that no loop part fits into, then a restorer.

    Parameters
    ----------
    words : str
        What finds the kernel, for the table that is printed.
    estimator : Estimator
        Finds the kernel, or does without.
    restorer : Part
        Makes the image.
    file : str, optional
        The user's file that holds the estimator, if it comes from one.
    """

    words: str
    estimator: Estimator
    restorer: Part[Restorer | None]
    file: str | None = None

    @property
    def columns(self) -> tuple[str, str]:
        """As given."""
        return self.words, self.restorer.name

    def compose(self, choice: Choice, degradation: Degradation) -> Method:
        """Put another restorer, and a known noise level."""
        why = (
            "finds its kernel in a way of its own" if self.estimator.has_kernel else "has no kernel and makes no steps"
        )
        _refuse(self, choice, ("prior", "optimizer", "image_prior"), why)
        restorer = self.restorer
        if choice.restorer is not None or choice.weights is not None:
            grid = None if self.estimator.has_kernel else Grid.CENTERED
            restorer = restorer_part(choice.restorer or "usrnet", choice.weights, grid)
        estimator = _stepped(self.name, self.estimator, choice.iterations)
        own = Part(self.words, estimator, self.file)
        return _finished(self.name, estimator, restorer, (own,), noise_std=_level(self, choice))


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
