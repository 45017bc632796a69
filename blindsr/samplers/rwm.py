"""Random-walk Metropolis (Metropolis et al. 1953), with a proposal shaped like the target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blindsr.samplers import metropolis
from blindsr.samplers.base import Info, State
from blindsr.samplers.metric import Metric


@dataclass(frozen=True)
class RandomWalk:
    """Propose z + ε L ξ with ξ ~ N(0, I), and accept by the ratio of densities.

    Parameters
    ----------
    density : Value
        z (n, dim) -> log density (n,).
    metric : Metric
        L: diagonal or dense.
    step_size : Tensor
        ε > 0, a scalar or (chains, 1); 2.38/√dim is the best for a Gaussian in many dimensions (Roberts, Gelman and
        Gilks 1997), with acceptance 0.234.
    """

    density: metropolis.Value
    metric: Metric
    step_size: Tensor

    def init(self, position: Tensor) -> State:
        """State of chains at position (chains, dim).

        Raises
        ------
        ValueError
            If a start has density zero.
        """
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
