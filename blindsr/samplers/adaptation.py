"""What a warm-up learns: step sizes and the covariance of the target.

All rules are pure updates of small records, over one or several blocks of chains (in tempering one block for each
temperature).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blindsr.samplers.metric import Metric


@dataclass(frozen=True)
class DualAveraging:
    """Step sizes by dual averaging (Nesterov 2009; Hoffman and Gelman 2014, Algorithm 5)."""

    # log_step, log_mean: Logarithm of the step size to try next, and of the averaged one that is kept; one value for
    # each block
    log_step: Tensor
    log_mean: Tensor
    # centre, error: The value that log steps shrink towards, and the running error of the acceptance
    centre: Tensor
    error: Tensor
    target: float  # Acceptance rate to aim at
    count: int = 0  # Updates so far

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
    """Harmonic mean over the last axis, which protects the slowest chains (Hoffman, Radul and Sountsov 2021).

    Values are clamped at 0.02 from below first; otherwise a single bad proposal would dominate the mean.
    """
    return 1 / acceptance.clamp_min(0.02).reciprocal().mean(-1)


@dataclass(frozen=True)
class Moments:
    """Running first and second moments of blocks of chains, with the autocorrelation of squares at lag one."""

    origin: Tensor  # (blocks, 1, dim) point the moments are taken about
    last: Tensor | None  # (blocks, chains, dim) positions at the last update, less the origin
    count: int  # Draws of each block
    # first, square, fourth, lagged: Sums of the positions, their squares and fourth powers, and of squares times the
    # last ones: (blocks, dim)
    first: Tensor
    square: Tensor
    fourth: Tensor
    lagged: Tensor
    product: Tensor | None  # (blocks, dim, dim) sum of outer products, for a dense metric

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
