"""What samplers without an acceptance test share: what a step tells, and runs that never count as valid chains."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from blindsr.posteriors.base import Target
from blindsr.samplers.base import Info, Sampler, State
from blindsr.samplers.chains import Chains
from blindsr.samplers.request import Request, collect
from blindsr.samplers.run import as_chains


def always_accepted(state: State, gradients: int) -> Info:
    """What a step without an acceptance test tells: accepted, and divergent where the density is zero."""
    lost = ~torch.isfinite(state.log_prob)
    return Info(torch.ones_like(state.log_prob), torch.ones_like(lost), lost, -state.log_prob, gradients)


def run_biased(sampler: Sampler, target: Target, request: Request, name: str, step_size: float) -> Chains:
    """Run a sampler that is not exact: chains with `valid` False.

    Parameters
    ----------
    sampler : Sampler
        `Sgld`, `PreconditionedSgld`, `NetworkLangevin`.
    target : Target
        Names the coordinates, and gives the starts where the request has none.
    request : Request
        How much to draw. Its warm-up is run and left out; nothing is tuned in it.
    name : str
        What the chains are called.
    step_size : float
        What is noted as their step size.

    Raises
    ------
    ValueError
        If a shape does not fit the target, or a chain starts where the density is zero.
    """
    began = time.perf_counter()
    state, gradients = sampler.init(request.start(target)[0]), 0
    for _ in range(request.warmup):
        if request.late:
            break
        state, info = sampler.step(state, request.generator)
        gradients += info.gradients
    kept = collect(sampler, state, request)
    step = torch.full((request.chains,), step_size, dtype=torch.float64)
    total = (gradients + kept.gradients) * request.chains
    return replace(as_chains(name, target, request, kept, step, total, began, {}), valid=False)
