"""Runs of rwm, mala and hmc: starts, warm-up, kept draws."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from blindsr.posteriors.base import Target, value_and_gradient
from blindsr.samplers.chains import Chains
from blindsr.samplers.hmc import Hmc
from blindsr.samplers.mala import Mala
from blindsr.samplers.metric import Metric
from blindsr.samplers.metropolis import value_only
from blindsr.samplers.request import Kept, Request, collect
from blindsr.samplers.rwm import RandomWalk
from blindsr.samplers.warmup import Tunable, warm_up


def run_random_walk(target: Target, request: Request) -> Chains:
    """Random-walk Metropolis, tuned to accept about 0.234."""
    began = time.perf_counter()
    position, metric = request.start(target)
    step = torch.tensor(2.38 / math.sqrt(metric.dim), dtype=torch.float64)
    return _run("rwm", RandomWalk(value_only(target), metric, step), position, target, request, began)


def run_mala(target: Target, request: Request) -> Chains:
    """Metropolis-adjusted Langevin, tuned to a harmonic mean acceptance of 0.27, a mean of about 0.574."""
    began = time.perf_counter()
    position, metric = request.start(target)
    return _run("mala", Mala(value_and_gradient(target), metric, first_step(metric)), position, target, request, began)


def run_hmc(target: Target, request: Request) -> Chains:
    """Hamiltonian Monte Carlo, tuned to a harmonic mean acceptance of 0.651."""
    began = time.perf_counter()
    position, metric = request.start(target)
    sampler = Hmc(value_and_gradient(target), metric, first_step(metric), center=request.center)
    return _run("hmc", sampler, position, target, request, began)


def first_step(metric: Metric) -> Tensor:
    """dim^(-1/4), where the search for a step size begins."""
    return torch.tensor(metric.dim**-0.25, dtype=torch.float64)


def _run(name: str, sampler: Tunable, position: Tensor, target: Target, request: Request, began: float) -> Chains:
    """Warm a sampler up, keep its draws, write down what it cost."""
    warm = warm_up(
        sampler,
        sampler.init(position),
        steps=request.warmup,
        generator=request.generator,
        given=request.covariance is not None,
        deadline=request.deadline,
    )
    kept = collect(warm.sampler, warm.state, request)
    tuning = {"step_size": float(warm.sampler.step_size)}
    if isinstance(warm.sampler, Hmc):
        tuning["trajectory_length"] = warm.sampler.length
        tuning["steps_mean"] = kept.gradients / max(kept.draws.shape[1] * request.thin, 1)
    step = warm.sampler.step_size.expand(request.chains).clone()
    return as_chains(
        name, target, request, kept, step, (warm.gradients + kept.gradients) * request.chains, began, tuning
    )


def as_chains(
    name: str,
    target: Target,
    request: Request,
    kept: Kept,
    step_size: Tensor,
    gradients: int,
    began: float,
    tuning: dict[str, float],
) -> Chains:
    """Chains of kept draws; `began` is the value of `time.perf_counter` at the start."""
    return Chains(
        draws=kept.draws,
        names=tuple(target.names),
        log_prob=kept.log_prob,
        acceptance=kept.acceptance,
        energy=kept.energy,
        divergent=kept.divergent,
        step_size=step_size,
        sampler=name,
        warmup=request.warmup,
        thin=request.thin,
        gradients=gradients,
        seconds=time.perf_counter() - began,
        tuning=tuning,
    )


def no_chains(name: str, target: Target, request: Request, gradients: int, began: float) -> Chains:
    """Chains without a draw, for a run that time cut short."""
    empty = torch.zeros(request.chains, 0, dtype=torch.float64)
    kept = Kept(empty.new_zeros(request.chains, 0, len(target.names)), empty, empty, empty, empty.bool(), 0)
    step = torch.full((request.chains,), torch.nan, dtype=torch.float64)
    return as_chains(name, target, request, kept, step, gradients, began, {})
