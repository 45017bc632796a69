"""Metropolis-adjusted Langevin (Besag 1994; Roberts and Tweedie 1996), in whitened coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blindsr.posteriors.base import ValueAndGradient
from blindsr.samplers import metropolis
from blindsr.samplers.base import Info, State
from blindsr.samplers.metric import Metric


@dataclass(frozen=True)
class Mala:
    """Propose z' = z + (ε²/2) L d(z) + ε L ξ, and accept by π(z') q(z | z') / (π(z) q(z' | z)).

    The drift d is Lᵀ ∇log π, cut to a norm of √dim + `reach` (the truncated drift of Roberts and Tweedie 1996). In a
    whitened Gaussian its norm is √dim ± 0.7, so the cut acts in tails alone, where chains would get stuck without it.

    Parameters
    ----------
    density : ValueAndGradient
        z (n, dim) -> log density (n,) and gradient (n, dim).
    metric : Metric
        L: diagonal or dense.
    step_size : Tensor
        ε > 0, a scalar or (chains, 1); best where the acceptance is about 0.574 (Roberts and Rosenthal 1998).
    reach : float
        How much longer than √dim the drift may be; infinite for the plain algorithm, about 3 once L is learnt.
    """

    density: ValueAndGradient
    metric: Metric
    step_size: Tensor
    reach: float = math.inf

    def init(self, position: Tensor) -> State:
        """State of chains at position (chains, dim).

        Raises
        ------
        ValueError
            If a start has density zero.
        """
        return metropolis.start(self.density, position)

    def drift(self, gradient: Tensor) -> Tensor:
        """Whitened gradient (chains, dim), cut to its greatest norm."""
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
