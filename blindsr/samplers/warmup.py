"""Warm-up of rwm, mala and hmc: step size, metric and trajectory length are learnt, then kept fixed."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from blindsr.posteriors.base import Target
from blindsr.samplers import metropolis
from blindsr.samplers.adaptation import DualAveraging, Moments, harmonic_mean
from blindsr.samplers.base import Info, State, Transition
from blindsr.samplers.chains import Chains
from blindsr.samplers.metric import Metric
from blindsr.samplers.request import Kept, Request, collect
from blindsr.samplers.sampler import MarkovSampler
from blindsr.samplers.trajectory import TrajectoryLength

FRESH_ENDS = (0.1, 0.2, 0.4, 0.75)
"""Ends of the windows after which the metric is re-estimated, as shares of the warm-up."""

DENSE_UP_TO = 512
"""Largest dimension for which a dense covariance is learnt if none is given."""

GIVEN_ENDS = (0.3, 0.75)
"""Ends of the windows if the caller gave a covariance; the first window is discarded, as it holds the burn-in."""

GIVEN_WEIGHT = 50.0
"""Number of independent draws that a given covariance counts for."""


@dataclass(frozen=True)
class Tunable(Transition):
    """A transition that can be tuned; what the warm-up needs beyond `init` and `step`.

    The trajectory length concerns transitions with trajectories alone; the others ignore it.

    Parameters
    ----------
    density : callable
        The log density, with its gradient if the transition uses one.
    metric : Metric
        Linear map from whitened coordinates.
    step_size : Tensor
        Above 0, a scalar or (chains, 1), in whitened units.
    """

    density: Callable[[Tensor], Any]
    metric: Metric
    step_size: Tensor

    def init(self, position: Tensor) -> State:
        """State, with a gradient, of chains at position (chains, dim)."""
        return metropolis.start(self.density, position)

    def for_search(self) -> Self:
        """Return the transition with which a first step size is searched."""
        return self

    def first_length(self) -> TrajectoryLength:
        """Return the trajectory length at the start of a window."""
        return TrajectoryLength()

    def trial(self, step_size: Tensor, length: float) -> Self:
        """Return the transition with the step size (and mean trajectory length) to try next."""
        return replace(self, step_size=step_size)

    def settled(self, step_size: Tensor, length: float) -> Self:
        """Return the transition with the averaged step size (and mean trajectory length) that is kept."""
        return replace(self, step_size=step_size)

    def recentred(self, mean: Tensor) -> Self:
        """Return the transition told of the mean (dim,) of the chains over the last window."""
        return self

    def after_last_window(self) -> Self:
        """Return the transition whose metric will not change any more."""
        return self

    def learn(
        self, state: State, generator: torch.Generator, length: TrajectoryLength, mean: Tensor | None
    ) -> tuple[State, Info, TrajectoryLength]:
        """Make one step, and adapt the trajectory length to it; mean (1, dim) of the window so far, None at its start.

        Returns the new state and its info, as `step` does, and the adapted length.
        """
        return *self.step(state, generator), length

    def mean_acceptance(self, acceptance: Tensor) -> Tensor:
        """Mean over the chains that the step size is tuned by: the harmonic one."""
        return harmonic_mean(acceptance)

    def tuning(self, gradients_per_step: float) -> dict[str, float]:
        """What was learnt, as plain numbers; `gradients_per_step` is the mean over the kept transitions."""
        return {"step_size": float(self.step_size)}


class AdaptiveSampler(MarkovSampler):
    """A Markov sampler with a warm-up that tunes its transition; each has an `acceptance` to aim at."""

    acceptance: float

    def __post_init__(self) -> None:
        if not 0 < self.acceptance < 1:
            raise ValueError(f"{self.name}: acceptance {self.acceptance:g} must lie between 0 and 1")

    @abstractmethod
    def transition(self, target: Target, metric: Metric, request: Request) -> Tunable:
        """Build the transition for a target, before it is tuned."""

    def run(self, target: Target, request: Request) -> Chains:
        """Tune the transition in the warm-up, then draw."""
        began = time.perf_counter()
        position, metric = request.start(target)
        transition = self.transition(target, metric, request)
        warm = warm_up(
            transition,
            transition.init(position),
            steps=request.warmup,
            generator=request.generator,
            acceptance=self.acceptance,
            given=request.covariance is not None,
            deadline=request.deadline,
        )
        kept: Kept = collect(warm.transition, warm.state, request)
        tuning = warm.transition.tuning(kept.gradients / max(kept.draws.shape[1] * request.thin, 1))
        step = warm.transition.step_size.expand(request.chains).clone()
        total = (warm.gradients + kept.gradients) * request.chains
        return self.chains(target, request, kept, step, total, began, tuning)


def first_step(metric: Metric) -> Tensor:
    """dim^(-1/4), where the search for a step size of gradient-based samplers begins."""
    return torch.tensor(metric.dim**-0.25, dtype=torch.float64)


@dataclass(frozen=True)
class Warm:
    """The result of a warm-up: a tuned transition, its chains and evaluations per chain."""

    transition: Tunable
    state: State
    gradients: int


def reasonable_step(transition: Tunable, state: State, generator: torch.Generator) -> Tensor:
    """Double or halve the step size until half of the single steps are accepted (Hoffman and Gelman 2014)."""
    step, direction = transition.step_size, 0
    for _ in range(40):
        trial = replace(transition.for_search(), step_size=step)
        good = float(trial.step(state, generator)[1].acceptance.mean()) > 0.5
        if direction and good != (direction > 0):
            break
        direction = 1 if good else -1
        step = step * 2.0**direction
    return step


def window_ends(warmup: int, *, given: bool) -> set[int]:
    """Transitions after which the metric is re-estimated; none in a warm-up of fewer than 20."""
    return {round(warmup * share) for share in (GIVEN_ENDS if given else FRESH_ENDS)} if warmup >= 20 else set()


@dataclass(frozen=True)
class Tuning:
    """What the current window has learnt: step size, trajectory length, moments."""

    step: DualAveraging
    length: TrajectoryLength
    moments: Moments

    @classmethod
    def begin(
        cls, transition: Tunable, state: State, generator: torch.Generator, acceptance: float, *, dense: bool
    ) -> Tuning:
        """Begin a window: a new first step size and length, empty moments."""
        step = reasonable_step(transition, state, generator)
        moments = Moments.begin(state.position[None], dense=dense)
        return cls(DualAveraging.begin(step, acceptance), transition.first_length(), moments)

    def learn(self, transition: Tunable, state: State, generator: torch.Generator) -> tuple[Tuning, State, Info]:
        """Make one transition, and learn from it."""
        trial = transition.trial(self.step.log_step.exp(), math.exp(self.length.log_length))
        mean = self.moments.mean[0] if self.moments.count else None
        new, info, length = trial.learn(state, generator, self.length, mean)
        step = self.step.update(trial.mean_acceptance(info.acceptance))
        return Tuning(step, length, self.moments.update(new.position[None])), new, info

    def settled(self, transition: Tunable) -> Tunable:
        """Return the transition with what was learnt."""
        return transition.settled(self.step.log_mean.exp(), math.exp(self.length.log_mean))


def warm_up(
    transition: Tunable,
    state: State,
    *,
    steps: int,
    generator: torch.Generator,
    acceptance: float,
    given: bool,
    deadline: Callable[[], bool] | None = None,
) -> Warm:
    """Tune a transition by `steps` transitions: expanding windows for the metric, dual averaging for the step size.

    Covariances are shrunk in the coordinates that the transition's metric whitens. `acceptance` is the mean acceptance
    to aim at (`Tunable.mean_acceptance`); `given` tells whether the metric comes from a covariance to be trusted, in
    which case there are fewer windows; `deadline`, when to stop early.
    """
    frame, ends, gradients = transition.metric, window_ends(steps, given=given), 0
    dense = frame.factor.ndim > 1 or frame.dim <= DENSE_UP_TO
    tuning = Tuning.begin(transition, state, generator, acceptance, dense=dense)
    for i in range(1, steps + 1):
        if deadline is not None and deadline():
            return Warm(tuning.settled(transition), state, gradients)
        tuning, state, info = tuning.learn(transition, state, generator)
        gradients += info.gradients
        if i in ends:
            if not given:
                transition = replace(tuning.settled(transition), metric=tuning.moments.metric(frame))
            elif i > min(ends):
                metric = tuning.moments.metric(frame, weight=GIVEN_WEIGHT)
                transition = replace(tuning.settled(transition), metric=metric).recentred(tuning.moments.mean[0, 0])
            if i == max(ends):
                transition = transition.after_last_window()
            tuning = Tuning.begin(transition, state, generator, acceptance, dense=dense)
    return Warm(tuning.settled(transition), state, gradients)
