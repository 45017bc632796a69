"""Trajectories of Hamiltonian Monte Carlo, and how their mean length is adapted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blindsr.samplers.base import State
from blindsr.samplers.metric import Metric


@dataclass(frozen=True)
class Trajectory:
    """A simulated Hamiltonian trajectory of every chain."""

    end: State  # Where it ends
    momentum: Tensor  # (chains, dim) whitened momentum at the end
    energy: tuple[Tensor, Tensor]  # (chains,) energies at its start and its end; +inf at the end if it was abandoned
    step_size: Tensor  # Leapfrog step, a scalar or (chains, 1)
    steps: int  # Number of leapfrog steps

    @property
    def duration(self) -> Tensor:
        """Simulated time, a scalar or (chains, 1)."""
        return self.steps * self.step_size


@dataclass(frozen=True)
class TrajectoryLength:
    """Mean trajectory length by the ChEES criterion (Hoffman, Radul and Sountsov 2021).

    Adam on log t maximises log C - ½ log t, where t is the length and C = E[(‖w' - m‖² - ‖w - m‖²)²]/4 is the expected
    squared change of the squared distance from the mean m in whitened coordinates; the average over the iterations is
    kept. (The paper maximises C alone. Since a transition costs t, half of that cost is charged here: it keeps
    whitened normals near a quarter of their period, where the draws and their squares are both almost independent.)
    """

    # log_length, log_mean: Logarithm of the length to try next, and of the average
    log_length: float = math.log(math.pi / 2)
    log_mean: float = math.log(math.pi / 2)
    # first, second, level: Adam's moments of the gradient; running mean of C
    first: float = 0.0
    second: float = 0.0
    level: float = 0.0
    count: int = 0  # Updates so far

    @classmethod
    def begin(cls, length: float = math.pi / 2) -> TrajectoryLength:
        """Begin at a length; the default is a quarter of a whitened normal's period."""
        return cls(math.log(length), math.log(length))

    def update(
        self, state: State, run: Trajectory, acceptance: Tensor, *, metric: Metric, centre: Tensor, max_steps: int
    ) -> TrajectoryLength:
        """Learn from one trajectory of every chain, from `state` to the end of `run`, with its acceptance (chains,).

        The metric whitens the coordinates, and `centre` (1, dim) is the mean of the chains; `max_steps`, the most steps
        of a trajectory, and the step size bound the length.
        """
        before = metric.whiten(state.position - centre)
        after = metric.whiten(run.end.position - centre)
        gap = after.square().sum(1) - before.square().sum(1)
        slope = acceptance * gap * (after * run.momentum).sum(1)
        good = torch.isfinite(slope) & (acceptance > 1e-4)
        if not bool(good.any()):
            return self
        count = self.count + 1
        jump = float((acceptance * gap.square())[good].mean()) / 4
        level = self.level + max(1 / count, 0.1) * (jump - self.level)
        gradient = float(slope[good].mean() * run.duration.mean()) / max(level, 1e-12) - 0.5
        first, second = 0.9 * self.first + 0.1 * gradient, 0.95 * self.second + 0.05 * gradient**2
        move = 0.05 * (first / (1 - 0.9**count)) / (math.sqrt(second / (1 - 0.95**count)) + 1e-12)
        step = float(run.step_size.mean())
        log_length = min(max(self.log_length + move, math.log(step)), math.log(max_steps * step))
        weight = max(count**-0.75, 0.01)
        log_mean = weight * log_length + (1 - weight) * self.log_mean
        return TrajectoryLength(log_length, log_mean, first, second, level, count)
