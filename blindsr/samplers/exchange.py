"""The transition of parallel tempering (Geyer 1991): HMC at every temperature, then swaps of neighbours.

Each chain has a replica ("rung") at every inverse temperature β from 1 (posterior) down to 0 (prior). All rungs but the
last move by HMC; the last is drawn independently from the prior, so that a mode found there can reach the posterior.
Even and odd pairs swap alternately (Syed, Bouchard-Côté, Deligiannidis and Doucet, JRSS B 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blindsr.posteriors.base import BayesTarget, value_and_gradient
from blindsr.samplers import metropolis
from blindsr.samplers.base import Info, State
from blindsr.samplers.hmc import HmcTransition
from blindsr.samplers.metric import Metric
from blindsr.samplers.tempered import Tempered


@dataclass(frozen=True)
class TemperingTransition:
    """Replica exchange between tempered posteriors.

    The rows of a state are ordered by rung, (rungs x chains, dim), beginning with the posterior's chains.
    """

    target: BayesTarget  # Prior and likelihood
    betas: Tensor  # (rungs,) decreasing from 1 to 0
    metric: Metric  # One factor for each rung but the last: (rungs - 1, dim, dim)
    step_size: Tensor  # (rungs - 1,) leapfrog step of each rung but the last
    length: float = 1.5
    """Mean trajectory length of the posterior's rung in its whitened units; the other rungs make as many steps."""
    max_steps: int = 32  # Most leapfrog steps of a trajectory

    @property
    def rungs(self) -> int:
        """Number of temperatures."""
        return len(self.betas)

    def init(self, position: Tensor) -> State:
        """State with every rung at the same position (chains, dim)."""
        return self.init_rungs(position.repeat(self.rungs, 1))

    def init_rungs(self, position: Tensor) -> State:
        """State of positions (rungs x chains, dim), ordered by rung."""
        position = position.detach().to(torch.float64)
        chains = len(position) // self.rungs
        log_prob, gradient = value_and_gradient(Tempered(self.target, self._of_rows(chains)))(position)
        metropolis.check_start(position[:-chains], log_prob[:-chains])
        return State(position, log_prob, gradient)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        """Move every rung, then swap neighbours; the info is that of the posterior's chains (chains,)."""
        state, info, _ = self.advance(state, generator)
        chains = len(state.position) // self.rungs
        cold = Info(
            info.acceptance[:chains],
            info.accepted[:chains],
            info.divergent[:chains],
            -state.log_prob[:chains],
            info.gradients * (self.rungs - 1) + self.rungs,
        )
        return state, cold

    def advance(self, state: State, generator: torch.Generator) -> tuple[State, Info, Tensor]:
        """Return the new state, info on the moving rungs ((rungs - 1) x chains), and rejection rates (rungs - 1,)."""
        chains = len(state.position) // self.rungs
        assert state.gradient is not None
        warm = State(state.position[:-chains], state.log_prob[:-chains], state.gradient[:-chains])
        moved, info = self._inner(chains).step(warm, generator)
        fresh = self.target.sample_prior(chains, generator=generator).to(moved.position)
        position = torch.cat([moved.position, fresh])
        with torch.enable_grad():
            at = position.requires_grad_()
            prior, likelihood = self.target.log_prior(at), self.target.log_likelihood(at)
            known = torch.isfinite(likelihood)
            order, rejection = self.exchange(likelihood.detach().masked_fill(~known, -torch.inf), generator)
            beta = torch.empty_like(likelihood)
            beta[order] = self._of_rows(chains)
            value = prior + torch.where(beta > 0, beta * likelihood, torch.zeros_like(likelihood))
            (gradient,) = torch.autograd.grad(value.sum(), at)
        gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        return State(position.detach()[order], value.detach()[order], gradient[order]), info, rejection

    def exchange(self, likelihood: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Swap neighbouring rungs, the even pairs, then the odd ones, by min(1, exp((β_i - β_j)(ℓ_j - ℓ_i))).

        From log likelihoods ℓ (rungs x chains,), it returns the row that each row takes its position from, and the mean
        probability (rungs - 1,) that a pair did not swap.
        """
        chains = len(likelihood) // self.rungs
        order = torch.arange(len(likelihood)).reshape(self.rungs, chains)
        value = likelihood.reshape(self.rungs, chains).clone()
        rejection = torch.zeros(self.rungs - 1, dtype=likelihood.dtype)
        for parity in (0, 1):
            i = torch.arange(parity, self.rungs - 1, 2)
            if not len(i):
                continue
            ratio = (self.betas[i] - self.betas[i + 1])[:, None] * (value[i + 1] - value[i])
            accepted, acceptance = metropolis.accept(ratio, generator)
            rejection[i] = 1 - acceptance.mean(1)
            for rows in (order, value):
                upper, lower = rows[i], rows[i + 1]
                rows[i], rows[i + 1] = torch.where(accepted, lower, upper), torch.where(accepted, upper, lower)
        return order.flatten(), rejection

    def _of_rows(self, chains: int) -> Tensor:
        return self.betas.repeat_interleave(chains)

    def _inner(self, chains: int) -> HmcTransition:
        """HMC on all rungs but the prior's; the common number of steps follows the posterior's rung."""
        density = value_and_gradient(Tempered(self.target, self._of_rows(chains)[:-chains]))
        step = self.step_size.repeat_interleave(chains)[:, None]
        length = self.length * float(self.step_size.mean() / self.step_size[0])
        return HmcTransition(density, self.metric, step, length, self.max_steps)
