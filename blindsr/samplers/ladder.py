"""Warm-up and run of parallel tempering: temperatures with even swap rates, a metric and a step size for each."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blindsr.posteriors.base import BayesTarget, Target
from blindsr.samplers.adaptation import DualAveraging, Moments, harmonic_mean
from blindsr.samplers.base import State
from blindsr.samplers.chains import Chains
from blindsr.samplers.hmc import Hmc
from blindsr.samplers.metric import Metric
from blindsr.samplers.request import Request, collect
from blindsr.samplers.run import as_chains
from blindsr.samplers.tempered import bayes_target
from blindsr.samplers.tempering import Tempering
from blindsr.samplers.warmup import ACCEPTANCE

FIRST_RUNGS, FEWEST, MOST = 12, 4, 40
"""Temperatures at first, and the least and most that warm-up may choose."""

ENDS = (0.1, 0.25, 0.5)
"""Ends of the windows after which ladder and metrics are laid anew, as shares of the warm-up."""


def first_ladder(rungs: int = FIRST_RUNGS) -> Tensor:
    """Inverse temperatures 1 ... 10⁻³ in even ratios, then 0: (rungs,)."""
    return torch.cat([torch.logspace(0, -3, rungs - 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])


def even_ladder(betas: Tensor, rejection: Tensor) -> Tensor:
    """Lay inverse temperatures anew so that all neighbours swap as often (Syed et al. 2022, Algorithm 2).

    The sum of the rejection rates from β = 0 up is the communication barrier Λ(β); it is inverted by interpolation in
    β^¼. The number of rungs is 2Λ + 1, which is where the round trips are fastest.

    Parameters
    ----------
    betas, rejection : Tensor
        (rungs,) decreasing from 1 to 0, and (rungs - 1,) the mean rejection of each pair.

    Returns
    -------
    Tensor
        (new rungs,) decreasing from 1 to 0.
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
    """Metric of each rung but the last: the prior's spread, or where a posterior covariance is given, by precisions.

    For Gaussians the precision of a rung is (1 - β) times the prior's plus β times the posterior's.
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
    """A warm-up under way: the sampler, its rungs, what the window has taught so far."""

    sampler: Tempering
    state: State
    step: DualAveraging
    moments: Moments
    rejection: Tensor
    count: int = 0
    gradients: int = 0


def begin(sampler: Tempering, state: State, gradients: int) -> Climb:
    """Begin a window."""
    blocks = state.position.reshape(sampler.rungs, -1, state.position.shape[1])[:-1]
    return Climb(
        sampler,
        state,
        DualAveraging.begin(sampler.step_size, ACCEPTANCE[Hmc]),
        Moments.begin(blocks, dense=True),
        torch.zeros(sampler.rungs - 1, dtype=torch.float64),
        0,
        gradients,
    )


def climb(at: Climb, generator: torch.Generator) -> Climb:
    """One transition of a warm-up."""
    trial = replace(at.sampler, step_size=at.step.log_step.exp())
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
    """Lay ladder and metrics anew, and begin the next window; a new rung takes over from the old one nearest to it."""
    old = at.sampler
    metric = at.moments.metric(frame)
    factors = metric.factor if metric.factor.ndim == 3 else metric.factor[None]
    betas = even_ladder(old.betas, at.rejection / at.count)
    gap = (betas[:, None] ** 0.25 - old.betas[None] ** 0.25).abs()
    moving = gap[:-1, :-1].argmin(1)
    source = torch.cat([moving, torch.tensor([old.rungs - 1])])
    position = at.state.position.reshape(old.rungs, -1, at.state.position.shape[1])[source].flatten(0, 1)
    step = at.step.log_mean.exp()[moving]
    new = replace(old, betas=betas, metric=Metric(factors[moving]), step_size=step)
    return begin(new, new.init_rungs(position), at.gradients)


def run_tempering(target: Target, request: Request) -> Chains:
    """Parallel tempering: a warm-up that lays the ladder, then kept draws of the posterior's rung.

    The recorded acceptance is that of the trajectories, the energy is minus the log density.

    Raises
    ------
    ValueError
        If the target has no prior and likelihood of its own.
    """
    began, bayes = time.perf_counter(), bayes_target(target, "tempering")
    position, _ = request.start(target)
    betas = first_ladder()
    metric = first_metrics(bayes, betas, request.covariance, request.generator)
    step = torch.full((len(betas) - 1,), metric.dim**-0.25, dtype=torch.float64)
    sampler = Tempering(bayes, betas, metric, step)
    at = begin(sampler, sampler.init(position), 0)
    ends = {round(request.warmup * share) for share in ENDS} if request.warmup >= 20 else set()
    for i in range(1, request.warmup + 1):
        if request.late:
            break
        at = climb(at, request.generator)
        if i in ends:
            frame = first_metrics(bayes, at.sampler.betas, request.covariance, request.generator)
            at = relay(at, frame)
    sampler = replace(at.sampler, step_size=at.step.log_mean.exp())
    kept = collect(sampler, at.state, request, request.chains)
    rejection = at.rejection / max(at.count, 1)
    tuning = {"step_size": float(sampler.step_size[0]), "rungs": float(sampler.rungs)}
    tuning |= {"barrier": float(rejection.sum()), "swap_rate_mean": 1 - float(rejection.mean())}
    tuning |= {"swap_rate_min": 1 - float(rejection.max())}
    tuning |= {f"beta_{i}": float(b) for i, b in enumerate(sampler.betas)}
    evaluations = (at.gradients + kept.gradients) * request.chains
    cold = sampler.step_size[0].expand(request.chains).clone()
    return as_chains("tempering", target, request, kept, cold, evaluations, began, tuning)
