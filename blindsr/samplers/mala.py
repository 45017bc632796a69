"""Metropolis-adjusted Langevin (Besag 1994; Roberts and Tweedie 1996), in whitened coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from blindsr.posteriors.base import Target, value_and_gradient
from blindsr.samplers import metropolis
from blindsr.samplers.base import Info, State
from blindsr.samplers.metric import Metric
from blindsr.samplers.request import Request
from blindsr.samplers.warmup import AdaptiveSampler, Tunable, first_step

REACH = 3.0
"""How far the norm of the drift may exceed √dim after the metric is learnt."""


@dataclass(frozen=True)
class MalaTransition(Tunable):
    """Propose z' = z + (ε²/2) L d(z) + ε L ξ, and accept by π(z') q(z | z') / (π(z) q(z' | z)).

    The drift d is Lᵀ ∇log π, truncated to a norm of √dim + `reach` (Roberts and Tweedie 1996). For a whitened normal
    its norm is √dim ± 0.7, so the truncation acts in the tails alone, where chains would get stuck without it.
    """

    reach: float = math.inf  # infinite: no truncation

    def drift(self, gradient: Tensor) -> Tensor:
        """Whitened gradient (chains, dim), truncated to the largest norm."""
        pull = self.metric.inward(gradient)
        norm = torch.linalg.vector_norm(pull, dim=1, keepdim=True)
        longest = math.sqrt(pull.shape[1]) + self.reach
        share: Tensor = (longest / norm.clamp_min(longest)).nan_to_num(1.0)
        return pull * share

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        """One proposal for every chain."""
        assert state.gradient is not None
        half = self.step_size / 2
        noise = metropolis.normal_like(state.position, generator)
        pull = self.drift(state.gradient)
        position = state.position + self.step_size * self.metric.outward(half * pull + noise)
        log_prob, gradient = self.density(position)
        back = noise + half * (pull + self.drift(gradient))
        log_ratio = log_prob - state.log_prob + 0.5 * (noise.square().sum(1) - back.square().sum(1))
        accepted, acceptance = metropolis.accept(log_ratio, generator)
        state = metropolis.choose(accepted, State(position, log_prob, gradient), state)
        return state, Info(acceptance, accepted, torch.zeros_like(accepted), -state.log_prob, 1)

    def after_last_window(self) -> MalaTransition:
        """Truncate the drift, now that the metric is known."""
        return replace(self, reach=REACH)


@dataclass(frozen=True)
class Mala(AdaptiveSampler):
    """The Metropolis-adjusted Langevin algorithm.

    Parameters
    ----------
    acceptance : float
        Harmonic mean of the acceptance over the chains to aim at, in (0, 1). The default corresponds to an arithmetic
        mean of about 0.574 in many dimensions, the optimum of Roberts and Rosenthal (JRSS B 1998).
    """

    name: ClassVar[str] = "mala"
    acceptance: float = 0.27

    def transition(self, target: Target, metric: Metric, request: Request) -> MalaTransition:
        """Langevin proposals; their drift is truncated once the metric is learnt."""
        return MalaTransition(value_and_gradient(target), metric, first_step(metric))
