"""Random-walk Metropolis (Metropolis et al. 1953); the covariance of the proposal follows that of the target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from blindsr.posteriors.base import Target
from blindsr.samplers import metropolis
from blindsr.samplers.base import Info, State
from blindsr.samplers.metric import Metric
from blindsr.samplers.request import Request
from blindsr.samplers.warmup import AdaptiveSampler, Tunable


@dataclass(frozen=True)
class RandomWalkTransition(Tunable):
    """Propose z + ε L ξ with ξ ~ N(0, I), and accept by the ratio of densities."""

    def init(self, position: Tensor) -> State:
        """State of chains at position (chains, dim)."""
        position = position.detach().to(torch.float64)
        log_prob = self.density(position)
        metropolis.check_start(position, log_prob)
        return State(position, log_prob)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        """One proposal for every chain."""
        noise = metropolis.normal_like(state.position, generator)
        position = state.position + self.step_size * self.metric.outward(noise)
        log_prob = self.density(position)
        accepted, acceptance = metropolis.accept(log_prob - state.log_prob, generator)
        state = metropolis.choose(accepted, State(position, log_prob), State(state.position, state.log_prob))
        return state, Info(acceptance, accepted, torch.zeros_like(accepted), -state.log_prob, 1)

    def mean_acceptance(self, acceptance: Tensor) -> Tensor:
        """Arithmetic mean over the chains."""
        return acceptance.mean()


@dataclass(frozen=True)
class RandomWalk(AdaptiveSampler):
    """Random-walk Metropolis, which needs no gradient.

    Parameters
    ----------
    acceptance : float
        Mean acceptance to aim at, in (0, 1). The default is the optimum for normals of many dimensions, at a step of
        2.38/√dim (Roberts, Gelman and Gilks, Annals of Applied Probability 1997).
    """

    name: ClassVar[str] = "rwm"
    needs_gradient: ClassVar[bool] = False
    acceptance: float = 0.234

    def transition(self, target: Target, metric: Metric, request: Request) -> RandomWalkTransition:
        """Normal proposals around the position."""
        step = torch.tensor(2.38 / math.sqrt(metric.dim), dtype=torch.float64)
        return RandomWalkTransition(metropolis.value_only(target), metric, step)
