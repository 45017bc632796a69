"""A method of the joint loop as a row of parts, each of which a user may replace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from blindsr.errors import UserError
from blindsr.estimators.loop import JointLoop, LoopNumbers
from blindsr.estimators.problem import KernelFactory, PriorFactory
from blindsr.likelihood.data_term import SsimThenMse
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
from blindsr.methods.rows import Choice, Row, chosen_restorer, finished, stepped
from blindsr.methods.words import image_prior_part, known_level, noise_part, optimizer_part, prior_part
from blindsr.operators.degradation import Degradation
from blindsr.optimizers.base import Optimizer
from blindsr.optimizers.meta import MetaLearned
from blindsr.restorers.base import Restorer


@dataclass(frozen=True)
class LoopRow(Row):
    """A method of the joint loop: one part for each place; None takes the preset's.

    `numbers` are sizes and rates of its own, whatever the preset; `own` holds parameters of its `JointLoop` by name.
    """

    prior: Part[PriorFactory | None]
    optimizer: Part[Optimizer] = OPTIMIZERS["joint"]
    image_prior: Part[Regularizer] = IMAGE_PRIORS["none"]
    noise: Part[NoiseModel] | None = None
    image: Part[ImageMaker] = IMAGES["skip"]
    kernel: Part[KernelFactory] = KERNELS["network"]
    restorer: Part[Restorer | None] = RESTORERS["none"]
    numbers: Preset | None = None
    own: Mapping[str, Any] = field(default_factory=dict)

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
        given: dict[str, Any] = {f.name: getattr(p, f.name) for f in fields(LoopNumbers)}
        given |= {
            "image": self.image.value(p.skip),
            "kernel": self.kernel.value,
            "optimizer": self.optimizer.value,
            "data_term": SsimThenMse(p.ssim_steps, p.ssim_below),
            "image_prior": self.image_prior.value.prior,
            "noise": noise.value,
            "rho": self.image_prior.value.rho,
            "prior": self.prior.value,
            "noise_std": known_level(noise),
        }
        return JointLoop(**{**given, **self.own})

    def with_parts(self, choice: Choice, degradation: Degradation) -> LoopRow:
        """Return the row with the chosen parts in their places."""
        part_for: dict[str, Callable[[Any], Part[Any]]] = {
            "prior": partial(prior_part, degradation=degradation),
            "optimizer": optimizer_part,
            "image_prior": image_prior_part,
            "noise": noise_part,
        }
        words = {name: getattr(choice, name) for name in part_for}
        parts: dict[str, Any] = {name: part_for[name](word) for name, word in words.items() if word is not None}
        row = replace(self, **parts, restorer=chosen_restorer(choice, self.restorer))
        if choice.meta_interval is not None:
            if not isinstance(row.optimizer.value, MetaLearned):
                raise UserError(f"meta_interval: goes with the meta optimizer, not with {self.name}'s")
            meta = MetaLearned(interval=choice.meta_interval)
            row = replace(row, optimizer=Part(f"meta, P = {choice.meta_interval}", meta))
        return row

    def named_among(self, chosen: LoopRow, rows: Iterable[Row]) -> str:
        """Return the name of the row that has the chosen parts, "custom" if none has; a new restorer goes behind it."""
        loops = [row for row in (self, *rows) if isinstance(row, LoopRow)]
        rest: dict[str, Any] = {"summary": chosen.summary, "restorer": chosen.restorer}
        name = next((r.name for r in loops if replace(chosen, name=r.name) == replace(r, **rest)), "custom")
        same = chosen.restorer.name == self.restorer.name
        return name if same else f"{name}+{Path(chosen.restorer.name).name}"

    def compose(self, choice: Choice, degradation: Degradation, rows: Iterable[Row] = ()) -> Method:
        """Return the method with the chosen parts in their places."""
        row, preset = self.with_parts(choice, degradation), find_preset(choice.preset)
        if choice.n_kernels is not None:
            preset = replace(preset, monte_carlo=replace(preset.monte_carlo, n_kernels=choice.n_kernels))
        loop = row.loop(preset)
        noise = row.noise or NOISES[(row.numbers or preset).noise]
        parts = (row.prior, row.optimizer, row.image_prior)
        labels = {n: getattr(row, n).name for n in ("image", "kernel", "prior", "optimizer", "image_prior")}
        labels |= {"noise": noise.name, "preset": choice.preset if row.numbers is None else self.name}
        estimator = stepped(self.name, loop, choice.iterations)
        name = self.named_among(row, rows)
        return finished(name, estimator, row.restorer, parts, noise_std=loop.noise_std, labels=labels)
