"""The options of a run, as given: words and numbers. What follows from them is derived here, once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from blindsr.errors import UserError
from blindsr.methods.base import Method
from blindsr.methods.rows import Choice
from blindsr.methods.table import compose
from blindsr.operators.degradation import Alignment, Degradation, Padding


@dataclass(frozen=True)
class Sampling:
    """Which posterior of the kernel is sampled after the estimate, and how.

    Attributes
    ----------
    sampler : str
        A name in `blindsr.samplers.table.SAMPLERS`.
    chains, draws, warmup, thin : int
        Chains; kept draws of each; transitions left out before; transitions for each kept draw.
    target : str
        "spectral": given y, the image integrated out; "image": given y and the final image.
    family : str or None
        Name of the kernel prior that was asked for; None: the estimate's family, else Gaussians.
    """

    sampler: str
    chains: int = 4
    draws: int = 500
    warmup: int = 200
    thin: int = 1
    target: str = "spectral"
    family: str | None = None


@dataclass(frozen=True)
class RunSettings(Choice):
    """The options of a run on one picture; those that compose its method are inherited from `Choice`.

    Attributes
    ----------
    scale : int
        Factor s.
    kernel_size : int
        Side of the kernel, odd; 0: min(4 s + 3, 21).
    alignment, padding
        Pixel grid, and what lies beyond the border; None: the paper's grid, and the padding that goes with a grid.
    seed : int
        Of everything random.
    time_limit : float or None
        Seconds after which the result so far is saved.
    device : str
        auto, cpu, cuda or mps.
    resume, overwrite : bool
        Whether to go on from a checkpoint; whether a result of other settings, or an unfinished run, may be replaced.
    checkpoint_every : float
        Seconds between two checkpoints, at least.
    sampler, target : str or None
        The kernel's posterior to sample after the estimate, if any, and given what.
    chains, draws, warmup, thin : int or None
        How long; None takes the defaults of `Sampling`.
    restarts : int or None
        Optimisations in all, each from a seed of its own, if more than one.
    bare : bool
        Whether to leave out what nobody looks at or resumes from: overview.png and the checkpoint of a finished run.

    Raises
    ------
    UserError
        From `check`, and from the properties, if an option makes no sense.
    """

    scale: int = 4
    kernel_size: int = 0
    alignment: Alignment | None = None
    padding: Padding | None = None
    seed: int = 0
    time_limit: float | None = None
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False
    checkpoint_every: float = 15.0
    sampler: str | None = None
    chains: int | None = None
    draws: int | None = None
    warmup: int | None = None
    thin: int | None = None
    target: str | None = None
    restarts: int | None = None
    bare: bool = False

    def check(self) -> None:
        """Refuse options that make no sense, before any picture is read.

        Raises
        ------
        UserError
            One line on the first of them.
        """
        for option, seconds in (("time-limit", self.time_limit or 0.0), ("checkpoint-every", self.checkpoint_every)):
            if not seconds >= 0:
                raise UserError(f"--{option} {seconds}: seconds, 0 or more, are needed")
        method = self.composed
        if self.restarts is not None and (self.restarts < 2 or not method.estimator.stochastic):
            few = self.restarts < 2
            why = "at least 2 are needed" if few else f"{method.name} draws nothing, so all would be the same"
            raise UserError(f"--restarts {self.restarts}: {why}")
        _ = self.sampling

    @cached_property
    def degradation(self) -> Degradation:
        """The forward operator."""
        return default_degradation(self.scale, self.kernel_size, self.alignment, self.padding)

    @cached_property
    def composed(self) -> Method:
        """The method, its parts in their places."""
        return compose(self, self.degradation)

    @cached_property
    def sampling(self) -> Sampling | None:
        """Which posterior of the kernel is sampled, and how."""
        from blindsr.commands.posterior import read_sampling

        return read_sampling(
            self.sampler,
            self.chains,
            self.draws,
            self.warmup,
            self.thin,
            self.target,
            prior=self.prior,
            method=self.composed,
            degradation=self.degradation,
        )

    @property
    def steps(self) -> int:
        """Steps of the estimation."""
        return self.composed.steps_for(self.degradation)

    def record(self) -> dict[str, Any]:
        """Return everything that decides the result, as plain values."""
        d, m = self.degradation, self.composed
        record = {
            "scale": d.scale,
            "kernel_size": d.kernel_size,
            "alignment": d.alignment,
            "padding": d.padding,
            "image_generator": m.labels.get("image"),  # "image" is the picture's path
            **{name: m.labels.get(name) for name in LABELS},
            "method": m.name,  # after the parts, so that a refused resume names the part that differs
            "estimator": _without_steps(_plain(m.estimator)),
            "image_by": _plain(m.restorer),
            "seed": self.seed,
            "sampling": None if self.sampling is None else asdict(self.sampling),
            "restarts": self.restarts,
            "files_sha256": {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in m.files},
        }
        plain: dict[str, Any] = json.loads(json.dumps(record))  # enums to words, tuples to lists
        return plain


LABELS = ("kernel", "prior", "optimizer", "image_prior", "noise", "preset", "restorer")
"""Columns whose part is on record by its name, where a method has one."""

AFTERWARDS = ("sampling", "restarts")
"""Entries of `RunSettings.record` that do not touch the first optimisation: its checkpoint serves others too."""


def _without_steps(estimator: Any) -> Any:
    """Leave the number of steps out, since a run may be prolonged; a user's estimator may be a bare name."""
    return {k: v for k, v in estimator.items() if k != "steps"} if isinstance(estimator, dict) else estimator


def _plain(part: Any) -> Any:
    """Describe a part by its class and settings; numbers stay numbers."""
    if part is None or isinstance(part, int | float | str):
        return part
    if is_dataclass(part) and not isinstance(part, type):
        return {"class": type(part).__name__} | {f.name: _plain(getattr(part, f.name)) for f in fields(part)}
    if isinstance(part, dict):
        return {str(k): _plain(v) for k, v in part.items()}
    if isinstance(part, tuple | list):
        return [_plain(v) for v in part]
    return getattr(part, "__name__", type(part).__name__)


def default_degradation(
    scale: int, kernel_size: int = 0, alignment: Alignment | None = None, padding: Padding | None = None
) -> Degradation:
    """Build the operator; the paper's grid, and the padding that goes with the grid, where none is named.

    Raises
    ------
    UserError
        If a number does not fit.
    """
    grid = alignment or Alignment.FKP
    try:
        return Degradation(scale, kernel_size, grid, padding or grid.usual_padding)
    except ValueError as error:
        raise UserError(str(error)) from error
