"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011): many chains in lockstep, trajectories of random length."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blindsr.posteriors.base import ValueAndGradient
from blindsr.samplers import metropolis
from blindsr.samplers.base import Info, State
from blindsr.samplers.metric import Metric

DIVERGENT = 1000.0
"""Energy error above which a trajectory counts as divergent."""

JITTER = 0.25
"""Largest change of a trajectory's length, as a share of it. After a quarter of the period a whitened normal is drawn
anew, its squares too; much shorter or longer trajectories leave the squares, and with them tails, correlated."""

NEAR_NORMAL = 1.7
"""Length of trajectories about a given center, not adapted: a little beyond a quarter of the normal's period, where the
draws are negatively correlated and their squares hardly at all."""

CAREFUL = 0.1
"""Share of careful transitions about a given center, after the warm-up."""

RUNAWAY = 1e6
"""Momentum, in units of its standard deviation, above which a trajectory is given up."""


@dataclass(frozen=True)
class Trajectory:
    """A simulated trajectory of every chain.

    Attributes
    ----------
    end : State
        Where it ends.
    momentum : Tensor
        (chains, dim) whitened momentum there.
    energy : tuple of Tensor
        (chains,) energies at its start and its end; +inf at the end of one that was given up.
    duration : Tensor
        Simulated time, a scalar or (chains, 1).
    steps : int
        Leapfrog steps.
    """

    end: State
    momentum: Tensor
    energy: tuple[Tensor, Tensor]
    duration: Tensor
    steps: int


@dataclass(frozen=True)
class Hmc:
    """Leapfrog in whitened coordinates w = L⁻¹ z with unit mass, that is with mass matrix (L Lᵀ)⁻¹ in z.

    Near a normal density N(c, L Lᵀ), given the center c, the motion is split instead: that of the normal is a rotation
    of w - L⁻¹c and the momentum, made exactly, and only what differs from it is left to the kicks (Shahbaba, Lan,
    Johnson, Neal, Statistics and Computing 2014). Longer steps do, the nearer the target is to the normal.

    The trajectory's length is drawn anew for each transition, uniform within `JITTER` of `length`, the same for all
    chains, so that no orbit is periodic. It is independent of where the chains are, so each transition
    leaves the target as it is.

    Parameters
    ----------
    density : ValueAndGradient
        z (n, dim) -> log density (n,) and gradient (n, dim).
    metric : Metric
        L: diagonal, dense, or one for each block of rows.
    step_size : Tensor
        ε > 0, a scalar or (chains, 1).
    length : float
        Mean simulated time; π/2 is a quarter of the period of a whitened Gaussian.
    max_steps : int
        Most leapfrog steps of one trajectory.
    center : Tensor or None
        (dim,) c; None: plain leapfrog.
    careful : float
        Share of the transitions, drawn at random, that are made with half the step: they free a chain from a
        place that is much stiffer than the rest.
    """

    density: ValueAndGradient
    metric: Metric
    step_size: Tensor
    length: float = math.pi / 2
    max_steps: int = 256
    center: Tensor | None = None
    careful: float = 0.0

    def init(self, position: Tensor) -> State:
        """State of chains at position (chains, dim).

        Raises
        ------
        ValueError
            If a start has density zero.
        """
        return metropolis.start(self.density, position)

    def draw_steps(self, generator: torch.Generator) -> int:
        """Draw the number of leapfrog steps of a transition, from 1 to `max_steps`."""
        stretch = 1 + JITTER * (2 * float(torch.rand((), generator=generator, dtype=torch.float64)) - 1)
        wanted = stretch * self.length / float(self.step_size.mean())
        return max(1, round(min(wanted, self.max_steps)))

    def simulate(self, state: State, momentum: Tensor, steps: int) -> Trajectory:
        """Follow Hamilton's equations by `steps` leapfrog steps from whitened momentum (chains, dim).

        A chain whose momentum runs away is put back to its start and never accepted, so the density is not asked for at
        absurd places. The same trajectory backwards runs away as well, so this leaves the chain exact.
        """
        assert state.gradient is not None
        z, log_prob, gradient = state.position, state.log_prob, state.gradient
        initial = 0.5 * momentum.square().sum(1) - log_prob
        lost = torch.zeros_like(log_prob, dtype=torch.bool)
        w = None if self.center is None else self.metric.whiten(z - self.center)
        p = momentum + 0.5 * self.step_size * self._force(gradient, w)
        for i in range(steps):
            lost = lost | ~(p.abs().amax(1) < RUNAWAY)
            if w is None or self.center is None:
                moved = z + self.step_size * self.metric.outward(p)
            else:
                cos, sin = self.step_size.cos(), self.step_size.sin()
                w, p = cos * w + sin * p, cos * p - sin * w
                moved = self.center + self.metric.outward(w)
            z = torch.where(lost[:, None], state.position, moved)
            log_prob, gradient = self.density(z)
            share = 0.5 if i == steps - 1 else 1.0
            p = p + share * self.step_size * self._force(gradient, w)
        final = (0.5 * p.square().sum(1) - log_prob).masked_fill(lost, torch.inf)
        final = torch.nan_to_num(final, nan=torch.inf, posinf=torch.inf)
        return Trajectory(State(z, log_prob, gradient), p, (initial, final), steps * self.step_size, steps)

    def _force(self, gradient: Tensor, w: Tensor | None) -> Tensor:
        """Whitened gradient, less that of the normal at w."""
        force = self.metric.inward(gradient)
        return force if w is None else force + w

    def settle(self, state: State, trajectory: Trajectory, generator: torch.Generator) -> tuple[State, Info]:
        """Accept or reject the end of a trajectory that began at `state`."""
        before, after = trajectory.energy
        accepted, acceptance = metropolis.accept(before - after, generator)
        energy = torch.where(accepted, after, before)
        info = Info(acceptance, accepted, after - before > DIVERGENT, energy, trajectory.steps)
        return metropolis.choose(accepted, trajectory.end, state), info

    def propose(self, state: State, generator: torch.Generator) -> Trajectory:
        """Draw a momentum for every chain and a length, and follow the trajectory."""
        momentum, now = metropolis.normal_like(state.position, generator), self
        if self.careful > 0 and float(torch.rand((), generator=generator)) < self.careful:
            now = replace(self, step_size=self.step_size / 2)
        return now.simulate(state, momentum, now.draw_steps(generator))

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        """One trajectory of every chain."""
        return self.settle(state, self.propose(state, generator), generator)
