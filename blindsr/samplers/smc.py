"""Sequential Monte Carlo from prior to posterior (Del Moral, Doucet and Jasra 2006), with adaptive tempering.

The next inverse temperature is the one at which the effective sample size of the weights falls to a given share of the
particles. They are then resampled, and moved by HMC under the new density until they are almost independent of their
former positions.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from blindsr.posteriors.base import BayesTarget, Target, value_and_gradient
from blindsr.samplers.adaptation import Moments
from blindsr.samplers.base import State
from blindsr.samplers.chains import Chains
from blindsr.samplers.hmc import HmcTransition
from blindsr.samplers.metric import Metric
from blindsr.samplers.request import Kept, Request
from blindsr.samplers.sampler import Sampler
from blindsr.samplers.tempered import Tempered, log_likelihood

ESS_SHARE = 0.5
"""Effective sample size of the weights of a stage, as a share of the particles."""

FORGOTTEN = 0.1
"""Mean correlation with the positions at the start of a stage below which the moves stop."""

MOST_MOVES = 64
"""Most trajectories in a stage."""


def next_beta(likelihood: Tensor, beta: float) -> float:
    """Inverse temperature after `beta` at which the weights' effective sample size is `ESS_SHARE` of the particles.

    Log likelihoods (particles,) may be -inf, but ValueError is raised if all of them are; beta lies in [0, 1).
    """
    finite = likelihood[torch.isfinite(likelihood)]
    if not len(finite):
        raise ValueError("sampler 'smc': no draw from the prior has a likelihood above zero; draw more particles")

    def share(step: float) -> float:
        w = torch.softmax(step * finite, 0)
        return 1 / float(w.square().sum()) / len(finite)

    low, high = 0.0, 1 - beta
    if share(high) >= ESS_SHARE:
        return 1.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if share(middle) >= ESS_SHARE else (low, middle)
    return beta + high


def systematic(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Systematic resampling (Kitagawa 1996): indices (particles,), each particle as often as its weight asks for."""
    n = len(weights)
    offset = torch.rand((), generator=generator, dtype=torch.float64).to(weights.device)
    at = (torch.arange(n, dtype=torch.float64, device=weights.device) + offset) / n
    return torch.searchsorted(weights.cumsum(0), at).clamp_max(n - 1)


@dataclass(frozen=True)
class Population:
    """The particles of one repetition."""

    state: State  # (particles, dim) positions, with log density and gradient at the current temperature
    # acceptance, divergent: (particles,) mean acceptance of the last stage's moves, and whether any diverged
    acceptance: Tensor
    divergent: Tensor
    step_size: Tensor  # Leapfrog step, a scalar
    # beta, log_evidence: Inverse temperature reached, and the log evidence up to it
    beta: float = 0.0
    log_evidence: float = 0.0
    # stages, moves, gradients: Number of temperatures so far; trajectories and evaluations of each particle
    stages: int = 0
    moves: int = 0
    gradients: int = 0


def from_prior(target: BayesTarget, particles: int, generator: torch.Generator) -> Population:
    """Particles drawn from the prior."""
    position = target.sample_prior(particles, generator=generator).to(torch.float64)
    zero = position.new_zeros(particles)
    step = torch.tensor(position.shape[1] ** -0.25, dtype=torch.float64)
    return Population(State(position, zero), zero, zero.bool(), step)


def reweight(target: BayesTarget, at: Population, generator: torch.Generator) -> Population:
    """Go to the next temperature: reweight, update the evidence, resample."""
    likelihood = log_likelihood(target, at.state.position)
    beta = next_beta(likelihood, at.beta)
    log_weight = (beta - at.beta) * likelihood
    evidence = at.log_evidence + float(log_weight.logsumexp(0)) - math.log(len(log_weight))
    chosen = systematic(torch.softmax(log_weight, 0), generator)
    position = at.state.position[chosen]
    return replace(
        at,
        state=State(position, likelihood[chosen]),
        beta=beta,
        log_evidence=evidence,
        stages=at.stages + 1,
        gradients=at.gradients + 1,
    )


def move(target: BayesTarget, at: Population, request: Request) -> Population:
    """Move the particles at their temperature until they have nearly forgotten their starts.

    The moves stop when the correlation with the starts is below `FORGOTTEN`, after `MOST_MOVES`, or when the squared
    distance from the start no longer grows from m moves to 2m: between separated modes some correlation always remains.
    """
    origin = at.state.position
    spread = origin.std(0).clamp_min(1e-150)
    metric = Moments.begin(origin[None], dense=True).update(origin[None]).metric(Metric(spread))
    density = value_and_gradient(Tempered(target, torch.tensor(at.beta, dtype=torch.float64)))
    transition = HmcTransition(density, metric, at.step_size, max_steps=32)
    state, gradients = transition.init(origin), 1
    acceptance, divergent = torch.zeros_like(state.log_prob), torch.zeros_like(state.log_prob, dtype=torch.bool)
    jumps: dict[int, float] = {}
    moves = 0
    while moves < MOST_MOVES and not request.late:
        state, info = transition.step(state, request.generator)
        moves, gradients = moves + 1, gradients + info.gradients
        acceptance, divergent = acceptance + info.acceptance, divergent | info.divergent
        change = 2.0 * (float(info.acceptance.mean()) - 0.75)
        transition = replace(transition, step_size=transition.step_size * math.exp(change / math.sqrt(moves)))
        jump = ((state.position - origin) / spread).square().mean()
        jumps[moves] = float(jump)
        far = moves % 2 == 0 and jumps[moves] < (1 + FORGOTTEN) * jumps[moves // 2]
        if moves > 1 and (far or 1 - float(jump) / 2 < FORGOTTEN):
            break
    return replace(
        at,
        state=state,
        acceptance=acceptance / max(moves, 1),
        divergent=divergent,
        step_size=transition.step_size,
        moves=at.moves + moves,
        gradients=at.gradients + gradients,
    )


def populate(target: BayesTarget, request: Request) -> Population | None:
    """One repetition, its particles in random order; None if time ran out before the posterior was reached."""
    at = from_prior(target, request.draws, request.generator)
    while at.beta < 1:
        at = move(target, reweight(target, at, request.generator), request)
        if request.late:
            return None
    order = torch.randperm(request.draws, generator=request.generator).to(at.state.position.device)
    state = State(at.state.position[order], at.state.log_prob[order])
    return replace(at, state=state, acceptance=at.acceptance[order], divergent=at.divergent[order])


@dataclass(frozen=True)
class Smc(Sampler):
    """Independent repetitions of sequential Monte Carlo, each a "chain" of equally weighted particles.

    The particles of a repetition are in no order, and follow the posterior as their number grows. `Chains.tuning` holds
    the mean and the standard deviation over the repetitions of the log evidence, up to the constant that the log
    likelihood omits. There is no warm-up: the temperatures and step sizes adapt along the way.
    """

    name: ClassVar[str] = "smc"
    needs_prior: ClassVar[bool] = True
    uses_transport: ClassVar[bool] = False

    def run(self, target: Target, request: Request) -> Chains:
        """Carry populations from the prior to the posterior; those unfinished at the deadline are left out."""
        began, bayes = time.perf_counter(), cast(BayesTarget, target)
        request = replace(request, warmup=0, thin=1)
        done: list[Population] = []
        for _ in range(request.chains):
            population = populate(bayes, request)
            if population is None:
                break
            done.append(population)
        if not done:
            return self.no_chains(target, request, 0, began)
        rows = [(p.state.position, p.state.log_prob, p.acceptance, p.divergent) for p in done]
        kept = Kept.stacked(rows, sum(p.gradients for p in done))
        evidence = torch.tensor([p.log_evidence for p in done], dtype=torch.float64)
        tuning = {
            "log_evidence_mean": float(evidence.mean()),
            "log_evidence_sd": float(evidence.std()) if len(done) > 1 else math.nan,
            "stages_mean": sum(p.stages for p in done) / len(done),
            "moves_mean": sum(p.moves for p in done) / len(done),
        }
        step = torch.stack([p.step_size for p in done])
        return self.chains(target, request, kept, step, kept.gradients * request.draws, began, tuning)
