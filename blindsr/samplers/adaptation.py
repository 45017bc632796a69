"""What warm-up learns: step sizes, the covariance of the target, the length of trajectories.

All rules are pure updates of small records, over one or several blocks of chains (in tempering one for each
temperature).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blindsr.samplers.base import State
from blindsr.samplers.hmc import Hmc, Trajectory
from blindsr.samplers.metric import Metric


@dataclass(frozen=True)
class DualAveraging:
    """Step sizes by dual averaging (Nesterov 2009; Hoffman and Gelman 2014, Algorithm 5).

    Attributes
    ----------
    log_step, log_mean : Tensor
        Logarithm of the step size to use next, and of the averaged one to keep; one value for each block.
    centre, error : Tensor
        Where the steps are pulled to, and the running error of the acceptance.
    target : float
        Acceptance wanted.
    count : int
        Updates so far.
    """

    log_step: Tensor
    log_mean: Tensor
    centre: Tensor
    error: Tensor
    target: float
    count: int = 0

    @classmethod
    def begin(cls, step: Tensor, target: float) -> DualAveraging:
        """Begin at a step size, one for each block."""
        log_step = step.log()
        return cls(log_step, log_step, log_step + math.log(2), torch.zeros_like(step), target)

    def update(self, acceptance: Tensor) -> DualAveraging:
        """Learn from the mean acceptance of each block."""
        count = self.count + 1
        share = 1 / (count + 10)
        error = (1 - share) * self.error + share * (self.target - acceptance)
        log_step = self.centre - math.sqrt(count) / 0.05 * error
        weight = count**-0.75
        log_mean = weight * log_step + (1 - weight) * self.log_mean
        return replace(self, log_step=log_step, log_mean=log_mean, error=error, count=count)


def harmonic_mean(acceptance: Tensor) -> Tensor:
    """Harmonic mean over the last axis, so that no chain is left behind (Hoffman, Radul and Sountsov 2021).

    Values are raised to 0.02 first, or one chain of many with a bad proposal would decide alone.
    """
    return 1 / acceptance.clamp_min(0.02).reciprocal().mean(-1)


@dataclass(frozen=True)
class Moments:
    """Running first and second moments of blocks of chains, with the autocorrelation of squares at lag one.

    Attributes
    ----------
    origin : Tensor
        (blocks, 1, dim) point the moments are taken about.
    last : Tensor or None
        (blocks, chains, dim) positions at the last update, less the origin.
    count : int
        Draws of each block.
    first, square, fourth, lagged : Tensor
        Sums of the positions, their squares and fourth powers, and of squares times the last ones: (blocks, dim).
    product : Tensor or None
        (blocks, dim, dim) sum of outer products, for a dense metric.
    """

    origin: Tensor
    last: Tensor | None
    count: int
    first: Tensor
    square: Tensor
    fourth: Tensor
    lagged: Tensor
    product: Tensor | None

    @classmethod
    def begin(cls, position: Tensor, *, dense: bool) -> Moments:
        """Begin, with nothing counted, about the mean of positions (blocks, chains, dim)."""
        origin = position.mean(1, keepdim=True)
        zero = torch.zeros_like(origin[:, 0])
        product = zero.new_zeros(*zero.shape, zero.shape[-1]) if dense else None
        return cls(origin, None, 0, zero, zero, zero, zero, product)

    def update(self, position: Tensor) -> Moments:
        """Count positions (blocks, chains, dim)."""
        x = position - self.origin
        lagged = self.lagged if self.last is None else self.lagged + (x * self.last).square().sum(1)
        product = None if self.product is None else self.product + x.mT @ x
        count = self.count + x.shape[1]
        square = x.square()
        first, squares = self.first + x.sum(1), self.square + square.sum(1)
        return Moments(self.origin, x, count, first, squares, self.fourth + square.square().sum(1), lagged, product)

    @property
    def mean(self) -> Tensor:
        """Mean of each block (blocks, 1, dim)."""
        return self.origin + (self.first / self.count)[:, None]

    def effective_draws(self) -> Tensor:
        """Independent draws of each block (blocks,), for squares: n (1 - ρ)/(1 + ρ), ρ their mean lag-one correlation.

        A covariance is made of products; where a trajectory of half a period takes w to -w, they repeat.
        """
        mean = self.square / self.count
        spread = (self.fourth / self.count - mean.square()).clamp_min(1e-300)
        pairs = max(self.count - (0 if self.last is None else self.last.shape[1]), 1)
        rho = ((self.lagged / pairs - mean.square()) / spread).mean(1).clamp(0.0, 0.999)
        return (self.count * (1 - rho) / (1 + rho)).clamp_min(1.0)

    def metric(self, frame: Metric, *, weight: float = 5.0) -> Metric:
        """Metric from these moments, shrunk in the coordinates that `frame` whitens.

        Variances are shrunk towards the frame's (as if it held `weight` independent draws, in the logarithm),
        correlations towards none with the weight of Schäfer and Strimmer 2005, λ = Σ Var(r_ij) / Σ r_ij², at the
        effective draws, or with that of the frame where it is more.
        """
        n = self.effective_draws()
        mean = self.first / self.count
        trust = (n / (n + weight))[:, None]
        if self.product is None:
            ratio = (self.square / self.count - mean.square()) / frame.factor.square()
            return Metric((frame.factor * _shrunk_scale(ratio, trust))[0])
        covariance = self.product / self.count - mean[:, :, None] * mean[:, None, :]
        factor = frame.factor if frame.factor.ndim > 1 else torch.diag(frame.factor)
        half = torch.linalg.solve_triangular(factor, covariance, upper=False)
        whitened = torch.linalg.solve_triangular(factor, half.mT, upper=False)
        variance = torch.diagonal(whitened, dim1=1, dim2=2).clamp_min(1e-300)
        r = whitened * (variance[:, :, None] * variance[:, None, :]).rsqrt()
        eye = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device)
        off = r * (1 - eye)
        noise = ((1 - off.square()).square() * (1 - eye)).sum((1, 2)) / n
        shrinkage = (noise / off.square().sum((1, 2)).clamp_min(1e-12)).clamp(1e-4, 1.0)[:, None, None]
        shrinkage = torch.maximum(shrinkage, 1 - trust[:, :, None])
        shrunk, info = torch.linalg.cholesky_ex((1 - shrinkage) * off + eye)
        shrunk = torch.where((info > 0)[:, None, None], eye, shrunk)
        blocks = factor @ (_shrunk_scale(variance, trust)[:, :, None] * shrunk)
        return Metric(blocks[0] if len(blocks) == 1 else blocks)


def _shrunk_scale(variance: Tensor, trust: Tensor) -> Tensor:
    """Standard deviations in the frame's units, their logarithm shrunk towards zero; 1 where nothing has moved."""
    moved = torch.where(variance > 1e-24, variance, 1.0)
    return (0.5 * trust * moved.log()).exp()


@dataclass(frozen=True)
class TrajectoryLength:
    """Mean trajectory length by the ChEES criterion (Hoffman, Radul and Sountsov 2021).

    Climbs log C - ½ log t, C = E[(‖w' - m‖² - ‖w - m‖²)²]/4 the expected squared jump of the squared distance from the
    mean m in whitened coordinates and t the length, by Adam on log t; the average over the climb is what is kept. (The
    paper climbs C alone. A transition costs t; half its price keeps whitened normals near a quarter of their period,
    where both the draws and their squares are almost independent.)

    Attributes
    ----------
    log_length, log_mean : float
        Logarithm of the length to use next, and of the average.
    first, second, level : float
        Adam's moments of the gradient; running mean of C.
    count : int
        Updates so far.
    """

    log_length: float = math.log(math.pi / 2)
    log_mean: float = math.log(math.pi / 2)
    first: float = 0.0
    second: float = 0.0
    level: float = 0.0
    count: int = 0

    def update(
        self, sampler: Hmc, state: State, run: Trajectory, acceptance: Tensor, centre: Tensor
    ) -> TrajectoryLength:
        """Learn from the trajectories that began at `state`; centre (1, dim) is the mean of the chains."""
        before = sampler.metric.whiten(state.position - centre)
        after = sampler.metric.whiten(run.end.position - centre)
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
        top = math.log(sampler.max_steps * float(sampler.step_size.mean()))
        log_length = min(max(self.log_length + move, math.log(float(sampler.step_size.mean()))), top)
        weight = max(count**-0.75, 0.01)
        log_mean = weight * log_length + (1 - weight) * self.log_mean
        return TrajectoryLength(log_length, log_mean, first, second, level, count)
