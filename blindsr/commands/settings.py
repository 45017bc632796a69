"""The options of a run, as given: words and numbers. What follows from them is derived here, once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from blindsr.errors import UserError
from blindsr.methods.base import Method
from blindsr.methods.rows import Choice
from blindsr.methods.table import compose
from blindsr.methods.words import default_degradation
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.results.files import method_record
from blindsr.results.sampling import Sampling, SamplingOptions, read_sampling


@dataclass(frozen=True)
class RunSettings(SamplingOptions, Choice):
    """The options of a run on one picture; those of its method and of sampling are inherited.

    `check` and the properties raise UserError if an option makes no sense.
    """

    scale: int = 4
    """Factor s."""
    kernel_size: int = 0
    """Side of the kernel, odd; 0: min(4 s + 3, 21)."""
    alignment: Alignment | None = None
    padding: Padding | None = None
    """Pixel grid, and what lies beyond the border; None: the paper's grid, and the usual padding of the grid."""
    seed: int = 0
    """Seed of all random draws."""
    time_limit: float | None = None
    """Seconds after which the result so far is saved."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    resume: bool = False
    overwrite: bool = False
    """Whether to go on from a checkpoint; whether a result of other settings, or an unfinished run, may be replaced."""
    checkpoint_every: float = 15.0
    """Seconds between two checkpoints, at least."""
    restarts: int | None = None
    """Total number of optimisations, each with its own seed, if more than one is asked for."""
    bare: bool = False
    """Whether to leave out what a bench does not need: overview.png and the checkpoint of a finished run."""

    def check(self) -> None:
        """Refuse options that make no sense, before any picture is read: UserError on the first of them."""
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
        return read_sampling(self, self.prior, self.composed, self.degradation)

    @property
    def steps(self) -> int:
        """Steps of the estimation."""
        return self.composed.steps_for(self.degradation)

    def record(self) -> dict[str, Any]:
        """Return everything that decides the result, as plain values."""
        made = method_record(self.composed, self.degradation, self.seed)
        sampling = None if self.sampling is None else self.sampling.record()
        return made | {"sampling": sampling, "restarts": self.restarts}


AFTERWARDS = ("sampling", "restarts")
"""Entries of `RunSettings.record` that do not touch the first optimisation: its checkpoint serves others too."""
