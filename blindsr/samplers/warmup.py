"""Warm-up of rwm, mala and hmc: step size, metric and trajectory length are learnt, then kept fixed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blindsr.samplers.adaptation import DualAveraging, Moments, TrajectoryLength, harmonic_mean
from blindsr.samplers.base import State
from blindsr.samplers.hmc import CAREFUL, NEAR_NORMAL, Hmc
from blindsr.samplers.mala import Mala
from blindsr.samplers.rwm import RandomWalk

Tunable = RandomWalk | Mala | Hmc

ACCEPTANCE = {RandomWalk: 0.234, Mala: 0.27, Hmc: 0.651}
"""Acceptance to aim at: for rwm the mean over the chains, for mala and hmc the harmonic mean.

In many dimensions, where the energy error is Gaussian, the harmonic means belong to means of 0.574 and 0.77.
"""

FRESH_ENDS = (0.1, 0.2, 0.4, 0.75)
"""Ends of the windows after which the metric is learnt anew, as shares of the warm-up."""

DENSE_UP_TO = 512
"""Dimensions up to which a dense covariance is learnt where none is given."""

GIVEN_ENDS = (0.3, 0.75)
"""The same where the caller gave a covariance; the first window is then left out, as the chains still come in."""

REACH = 3.0
"""How much longer than √dim the drift of mala may be after the last window."""

GIVEN_WEIGHT = 50.0
"""Independent draws that a given covariance counts for."""


@dataclass(frozen=True)
class Warm:
    """What a warm-up leaves: a tuned sampler, its chains, evaluations for each chain, whether it was cut short."""

    sampler: Tunable
    state: State
    gradients: int
    stopped: bool


def reasonable_step(sampler: Tunable, state: State, generator: torch.Generator) -> Tensor:
    """Double or halve the step size until half of the single steps are accepted (Hoffman and Gelman 2014)."""
    step, direction = sampler.step_size, 0
    for _ in range(40):
        trial = replace(sampler, step_size=step)
        if isinstance(trial, Hmc):
            trial = replace(trial, max_steps=1)
        good = float(trial.step(state, generator)[1].acceptance.mean()) > 0.5
        if direction and good != (direction > 0):
            break
        direction = 1 if good else -1
        step = step * 2.0**direction
    return step


def window_ends(warmup: int, *, given: bool) -> set[int]:
    """Transitions after which the metric is learnt anew; none in a warm-up of less than 20."""
    return {round(warmup * share) for share in (GIVEN_ENDS if given else FRESH_ENDS)} if warmup >= 20 else set()


@dataclass(frozen=True)
class Tuning:
    """What is learnt at present: step size, length, moments of the window."""

    step: DualAveraging
    length: TrajectoryLength
    moments: Moments

    def applied(self, sampler: Tunable) -> Tunable:
        """Return the sampler with the step size and length to try next."""
        sampler = replace(sampler, step_size=self.step.log_step.exp())
        if isinstance(sampler, Hmc):
            sampler = replace(sampler, length=math.exp(self.length.log_length), careful=0.0)
        return sampler

    def settled(self, sampler: Tunable) -> Tunable:
        """Return the sampler with the averaged step size and length, to be kept."""
        sampler = replace(sampler, step_size=self.step.log_mean.exp())
        if isinstance(sampler, Hmc):
            careful = 0.0 if sampler.center is None else CAREFUL
            sampler = replace(sampler, length=math.exp(self.length.log_mean), careful=careful)
        return sampler


def fresh_tuning(sampler: Tunable, state: State, generator: torch.Generator, *, dense: bool) -> Tuning:
    """Tuning for a sampler with a new metric: a new first step, the trajectory a quarter period, an empty window."""
    step = reasonable_step(sampler, state, generator)
    near_normal = isinstance(sampler, Hmc) and sampler.center is not None
    return Tuning(
        DualAveraging.begin(step, ACCEPTANCE[type(sampler)]),
        TrajectoryLength(math.log(NEAR_NORMAL), math.log(NEAR_NORMAL)) if near_normal else TrajectoryLength(),
        Moments.begin(state.position[None], dense=dense),
    )


def learn(sampler: Tunable, state: State, tuning: Tuning, generator: torch.Generator) -> tuple[State, Tuning, int]:
    """One transition, and what it teaches; the last item is its number of evaluations."""
    length = tuning.length
    if isinstance(sampler, Hmc):
        run = sampler.propose(state, generator)
        new, info = sampler.settle(state, run, generator)
        if tuning.moments.count and sampler.center is None:
            length = length.update(sampler, state, run, info.acceptance, tuning.moments.mean[0])
        acceptance = harmonic_mean(info.acceptance)
    else:
        new, info = sampler.step(state, generator)
        mean = harmonic_mean if isinstance(sampler, Mala) else torch.mean
        acceptance = mean(info.acceptance)
    tuning = Tuning(tuning.step.update(acceptance), length, tuning.moments.update(new.position[None]))
    return new, tuning, info.gradients


def warm_up(
    sampler: Tunable,
    state: State,
    *,
    steps: int,
    generator: torch.Generator,
    given: bool,
    deadline: Callable[[], bool] | None = None,
) -> Warm:
    """Run `steps` transitions that tune the sampler: expanding windows for the metric, dual averaging for the step.

    Parameters
    ----------
    sampler : RandomWalk, Mala or Hmc
        Its metric is the frame in which covariances are shrunk.
    state : State
        Starts.
    steps : int
        Transitions.
    generator : torch.Generator
        Source of all randomness.
    given : bool
        Whether the frame is a covariance to be trusted: fewer windows then.
    deadline : callable or None
        Tells when to stop early.

    Returns
    -------
    Warm
        The sampler no longer changes after it.
    """
    frame, ends, gradients = sampler.metric, window_ends(steps, given=given), 0
    dense = frame.factor.ndim > 1 or frame.dim <= DENSE_UP_TO
    tuning = fresh_tuning(sampler, state, generator, dense=dense)
    for i in range(1, steps + 1):
        if deadline is not None and deadline():
            return Warm(tuning.settled(sampler), state, gradients, True)
        state, tuning, used = learn(tuning.applied(sampler), state, tuning, generator)
        gradients += used
        if i in ends:
            if not given:
                sampler = replace(tuning.settled(sampler), metric=tuning.moments.metric(frame))
            elif i > min(ends):
                metric = tuning.moments.metric(frame, weight=GIVEN_WEIGHT)
                sampler = replace(tuning.settled(sampler), metric=metric)
                if isinstance(sampler, Hmc) and sampler.center is not None:
                    sampler = replace(sampler, center=tuning.moments.mean[0, 0])
            if i == max(ends) and isinstance(sampler, Mala):
                sampler = replace(sampler, reach=REACH)
            tuning = fresh_tuning(sampler, state, generator, dense=dense)
    return Warm(tuning.settled(sampler), state, gradients, False)
