"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011): many chains in lockstep, trajectories of random length."""

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
from blindsr.samplers.trajectory import Trajectory, TrajectoryLength
from blindsr.samplers.warmup import AdaptiveSampler, Tunable, first_step

DIVERGENT = 1000.0
"""Energy error above which a trajectory counts as divergent."""

JITTER = 0.25
"""Largest relative change of a trajectory's length. After a quarter of the period the draws of a whitened normal are
independent of the start, and so are their squares; much shorter or longer trajectories leave the squares, and with them
the tails, correlated."""

NEAR_NORMAL = 1.7
"""Length of trajectories about a given center, which is not adapted: a little beyond a quarter of the normal's period,
where successive draws are negatively correlated and their squares hardly correlated at all."""

CAREFUL = 0.1
"""Share of the transitions that halve the step size, about a given center and after the warm-up."""

RUNAWAY = 1e6
"""Momentum, in units of its standard deviation, above which a trajectory is abandoned."""


@dataclass(frozen=True)
class HmcTransition(Tunable):
    """Leapfrog in whitened coordinates w = L⁻¹ z with unit mass, that is, with the mass matrix (L Lᵀ)⁻¹ in z.

    If the target is close to a normal density N(c, L Lᵀ) with a given center c, the Hamiltonian is split instead: the
    motion under the normal, a rotation of w - L⁻¹c and the momentum, is exact, and the leapfrog kicks contain only the
    difference from it (Shahbaba, Lan, Johnson, Neal, Statistics and Computing 2014). The closer the target is to that
    normal, the longer the steps may be.

    The length of the trajectory is drawn for each transition, uniformly within `JITTER` of `length` and the same for
    all chains, so that no orbit is periodic. As it does not depend on the state, each transition leaves the target
    invariant.
    """

    length: float = math.pi / 2  # mean simulated time; π/2 is a quarter of the period of a whitened Gaussian
    max_steps: int = 256  # most leapfrog steps of one trajectory
    center: Tensor | None = None  # (dim,) c; None: plain leapfrog
    # Share of the transitions, chosen at random, that halve the step size: they free a chain from a region that is much
    # stiffer than the rest.
    careful: float = 0.0

    def draw_steps(self, generator: torch.Generator) -> int:
        """Draw the number of leapfrog steps of a transition, from 1 to `max_steps`."""
        stretch = 1 + JITTER * (2 * float(torch.rand((), generator=generator, dtype=torch.float64)) - 1)
        wanted = stretch * self.length / float(self.step_size.mean())
        return max(1, round(min(wanted, self.max_steps)))

    def simulate(self, state: State, momentum: Tensor, steps: int) -> Trajectory:
        """Follow Hamilton's equations by `steps` leapfrog steps from whitened momentum (chains, dim).

        A trajectory whose momentum diverges is abandoned: its chain returns to the start and the proposal is rejected,
        so the density is not evaluated at absurd positions. The reversed trajectory diverges as well, so detailed
        balance holds.
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
        return Trajectory(State(z, log_prob, gradient), p, (initial, final), self.step_size, steps)

    def _force(self, gradient: Tensor, w: Tensor | None) -> Tensor:
        """Whitened gradient, minus that of the normal density at w."""
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

    # --- tuning -------------------------------------------------------------------------------------------------------

    def for_search(self) -> HmcTransition:
        """Single leapfrog steps."""
        return replace(self, max_steps=1)

    def first_length(self) -> TrajectoryLength:
        """A quarter of a whitened normal's period; about a given center the fixed `NEAR_NORMAL`."""
        return TrajectoryLength.begin() if self.center is None else TrajectoryLength.begin(NEAR_NORMAL)

    def trial(self, step_size: Tensor, length: float) -> HmcTransition:
        """Take a step size and a length to try."""
        return replace(self, step_size=step_size, length=length, careful=0.0)

    def settled(self, step_size: Tensor, length: float) -> HmcTransition:
        """Take the averaged step size and length."""
        careful = 0.0 if self.center is None else CAREFUL
        return replace(self, step_size=step_size, length=length, careful=careful)

    def recentred(self, mean: Tensor) -> HmcTransition:
        """Move a given center to the mean of the chains."""
        return self if self.center is None else replace(self, center=mean)

    def learn(
        self, state: State, generator: torch.Generator, length: TrajectoryLength, mean: Tensor | None
    ) -> tuple[State, Info, TrajectoryLength]:
        """One trajectory of every chain, from which the length is adapted unless a center is given."""
        run = self.propose(state, generator)
        new, info = self.settle(state, run, generator)
        if mean is not None and self.center is None:
            length = length.update(
                state, run, info.acceptance, metric=self.metric, centre=mean, max_steps=self.max_steps
            )
        return new, info, length

    def tuning(self, gradients_per_step: float) -> dict[str, float]:
        """Step size, mean trajectory length, mean number of leapfrog steps."""
        length = {"trajectory_length": self.length, "steps_mean": gradients_per_step}
        return super().tuning(gradients_per_step) | length


@dataclass(frozen=True)
class Hmc(AdaptiveSampler):
    """Hamiltonian Monte Carlo: the default sampler.

    Parameters
    ----------
    acceptance : float
        Harmonic mean of the acceptance over the chains to aim at, in (0, 1). The default is that of Hoffman, Radul and
        Sountsov (AISTATS 2021); in many dimensions, where the energy error is normal, it corresponds to an arithmetic
        mean of about 0.77.
    max_steps : int
        Most leapfrog steps of one trajectory.
    """

    name: ClassVar[str] = "hmc"
    acceptance: float = 0.651
    max_steps: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps < 1:
            raise ValueError(f"hmc: max_steps {self.max_steps} must be at least 1")

    def transition(self, target: Target, metric: Metric, request: Request) -> HmcTransition:
        """Leapfrog trajectories, split about the center in the request if there is one."""
        density = value_and_gradient(target)
        return HmcTransition(density, metric, first_step(metric), max_steps=self.max_steps, center=request.center)
