"""Parallel tempering: a warm-up that spaces the temperatures for even swap rates, then draws at β = 1."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from blindsr.posteriors.base import BayesTarget, Target
from blindsr.samplers.adaptation import DualAveraging, Moments, harmonic_mean
from blindsr.samplers.base import State
from blindsr.samplers.chains import Chains
from blindsr.samplers.exchange import TemperingTransition
from blindsr.samplers.metric import Metric
from blindsr.samplers.request import Request, collect
from blindsr.samplers.sampler import Sampler

FIRST_RUNGS, FEWEST, MOST = 12, 4, 40
"""Number of temperatures at first, and the fewest and most that the warm-up may choose."""

ENDS = (0.1, 0.25, 0.5)
"""Ends of the windows after which temperatures and metrics are re-estimated, as shares of the warm-up."""


def first_ladder(rungs: int = FIRST_RUNGS) -> Tensor:
    """Inverse temperatures from 1 to 10⁻³ in a geometric sequence, then 0: (rungs,)."""
    return torch.cat([torch.logspace(0, -3, rungs - 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])


def even_ladder(betas: Tensor, rejection: Tensor) -> Tensor:
    """Choose inverse temperatures between which all neighbours swap equally often (Syed et al. 2022, Algorithm 2).

    The mean rejection rates (rungs - 1,) of the pairs, added up from β = 0, give the communication barrier Λ(β), which
    is inverted by interpolation in β^¼. The number of rungs is 2Λ + 1, where round trips are fastest. Ladders, old and
    new, decrease from 1 to 0.
    """
    barrier = torch.cat([torch.zeros(1, dtype=betas.dtype), rejection.flip(0).clamp_min(1e-3).cumsum(0)])
    rungs = min(max(math.ceil(2 * float(barrier[-1])) + 1, FEWEST), MOST)
    place = betas.flip(0) ** 0.25
    wanted = torch.linspace(0, float(barrier[-1]), rungs, dtype=betas.dtype)
    j = torch.searchsorted(barrier, wanted).clamp(1, len(barrier) - 1)
    share = (wanted - barrier[j - 1]) / (barrier[j] - barrier[j - 1])
    laid = (place[j - 1] + share * (place[j] - place[j - 1])) ** 4
    laid[0], laid[-1] = 0.0, 1.0
    return laid.flip(0)


def first_metrics(target: BayesTarget, betas: Tensor, covariance: Tensor | None, generator: torch.Generator) -> Metric:
    """Metric of each rung but the last, from the prior's variances and the posterior's covariance if it is given.

    For normal densities the precision of a rung is (1 - β) times the prior's plus β times the posterior's.
    """
    prior = target.sample_prior(256, generator=generator).to(torch.float64).var(0).clamp_min(1e-300)
    if covariance is None:
        return Metric(torch.diag(prior.sqrt()).expand(len(betas) - 1, -1, -1).clone())
    dense = covariance.to(torch.float64) if covariance.ndim == 2 else torch.diag(covariance.to(torch.float64))
    share = betas[:-1, None, None]
    precision = (1 - share) * torch.diag(1 / prior) + share * torch.linalg.inv(dense)
    return Metric(torch.linalg.cholesky(torch.linalg.inv(precision)))


@dataclass(frozen=True)
class Climb:
    """A warm-up in progress: the transition, the state of its rungs, and what the window has learnt so far."""

    transition: TemperingTransition
    state: State
    step: DualAveraging
    moments: Moments
    rejection: Tensor
    count: int = 0
    gradients: int = 0


def begin(transition: TemperingTransition, state: State, acceptance: float, gradients: int = 0) -> Climb:
    """Begin a window."""
    blocks = state.position.reshape(transition.rungs, -1, state.position.shape[1])[:-1]
    return Climb(
        transition,
        state,
        DualAveraging.begin(transition.step_size, acceptance),
        Moments.begin(blocks, dense=True),
        torch.zeros(transition.rungs - 1, dtype=torch.float64),
        0,
        gradients,
    )


def climb(at: Climb, generator: torch.Generator) -> Climb:
    """One transition of a warm-up."""
    trial = replace(at.transition, step_size=at.step.log_step.exp())
    state, info, rejection = trial.advance(at.state, generator)
    rungs = trial.rungs
    blocks = state.position.reshape(rungs, -1, state.position.shape[1])[:-1]
    return replace(
        at,
        state=state,
        step=at.step.update(harmonic_mean(info.acceptance.reshape(rungs - 1, -1))),
        moments=at.moments.update(blocks),
        rejection=at.rejection + rejection,
        count=at.count + 1,
        gradients=at.gradients + info.gradients * (rungs - 1) + rungs,
    )


def relay(at: Climb, frame: Metric) -> Climb:
    """Re-estimate temperatures and metrics for the next window; each new rung starts from the nearest old one."""
    old = at.transition
    metric = at.moments.metric(frame)
    factors = metric.factor if metric.factor.ndim == 3 else metric.factor[None]
    betas = even_ladder(old.betas, at.rejection / at.count)
    gap = (betas[:, None] ** 0.25 - old.betas[None] ** 0.25).abs()
    moving = gap[:-1, :-1].argmin(1)
    source = torch.cat([moving, torch.tensor([old.rungs - 1])])
    position = at.state.position.reshape(old.rungs, -1, at.state.position.shape[1])[source].flatten(0, 1)
    step = at.step.log_mean.exp()[moving]
    new = replace(old, betas=betas, metric=Metric(factors[moving]), step_size=step)
    return begin(new, new.init_rungs(position), at.step.target, at.gradients)


@dataclass(frozen=True)
class Tempering(Sampler):
    """Parallel tempering (Geyer 1991), for posteriors with separated modes.

    The recorded acceptance is that of the trajectories at β = 1, the energy is minus the log density.

    Parameters
    ----------
    acceptance : float
        Harmonic mean of the trajectories' acceptance to aim at, at every temperature, in (0, 1); the default is that of
        `Hmc`.
    """

    name: ClassVar[str] = "tempering"
    needs_prior: ClassVar[bool] = True
    uses_transport: ClassVar[bool] = False
    acceptance: float = 0.651

    def __post_init__(self) -> None:
        if not 0 < self.acceptance < 1:
            raise ValueError(f"tempering: acceptance {self.acceptance:g} must lie between 0 and 1")

    def run(self, target: Target, request: Request) -> Chains:
        """Tune the temperatures, then keep the draws at β = 1."""
        began, bayes = time.perf_counter(), cast(BayesTarget, target)
        position, _ = request.start(target)
        at = self._warm_up(bayes, position, request)
        transition = replace(at.transition, step_size=at.step.log_mean.exp())
        kept = collect(transition, at.state, request, request.chains)
        rejection = at.rejection / max(at.count, 1)
        tuning = {"step_size": float(transition.step_size[0]), "rungs": float(transition.rungs)}
        tuning |= {"barrier": float(rejection.sum()), "swap_rate_mean": 1 - float(rejection.mean())}
        tuning |= {"swap_rate_min": 1 - float(rejection.max())}
        tuning |= {f"beta_{i}": float(b) for i, b in enumerate(transition.betas)}
        step = transition.step_size[0].expand(request.chains).clone()
        total = (at.gradients + kept.gradients) * request.chains
        return self.chains(target, request, kept, step, total, began, tuning)

    def _warm_up(self, bayes: BayesTarget, position: Tensor, request: Request) -> Climb:
        betas = first_ladder()
        metric = first_metrics(bayes, betas, request.covariance, request.generator)
        step = torch.full((len(betas) - 1,), metric.dim**-0.25, dtype=torch.float64)
        transition = TemperingTransition(bayes, betas, metric, step)
        at = begin(transition, transition.init(position), self.acceptance)
        ends = {round(request.warmup * share) for share in ENDS} if request.warmup >= 20 else set()
        for i in range(1, request.warmup + 1):
            if request.late:
                break
            at = climb(at, request.generator)
            if i in ends:
                at = relay(at, first_metrics(bayes, at.transition.betas, request.covariance, request.generator))
        return at
