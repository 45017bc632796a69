"""What a warm-up learns: step sizes and the covariance of the target.

Every rule updates a small immutable record for one or several blocks of chains; parallel tempering has one block for
each temperature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blindsr.samplers.metric import Metric


@dataclass(frozen=True)
class DualAveraging:
    """Step sizes by dual averaging (Nesterov 2009; Hoffman and Gelman 2014, Algorithm 5, with its constants).

    Attributes
    ----------
    log_step, log_mean : Tensor
        (blocks,) logarithms of the step size to try next, and of the averaged one that is kept in the end.
    centre, error : Tensor
        (blocks,) the value that log steps are shrunk towards, and the running mean of `target` minus the acceptance.
    target : float
        Acceptance rate to aim at, in (0, 1).
    count : int
        Number of updates so far.
    """

    log_step: Tensor
    log_mean: Tensor
    centre: Tensor
    error: Tensor
    target: float
    count: int = 0

    @classmethod
    def begin(cls, step: Tensor, target: float) -> DualAveraging:
        """Start from one step size for each block, (blocks,)."""
        log_step = step.log()
        return cls(log_step, log_step, log_step + math.log(2), torch.zeros_like(step), target)

    def update(self, acceptance: Tensor) -> DualAveraging:
        """Update from the mean acceptance (blocks,) of the last transition."""
        count = self.count + 1
        share = 1 / (count + 10)
        error = (1 - share) * self.error + share * (self.target - acceptance)
        log_step = self.centre - math.sqrt(count) / 0.05 * error
        weight = count**-0.75
        log_mean = weight * log_step + (1 - weight) * self.log_mean
        return replace(self, log_step=log_step, log_mean=log_mean, error=error, count=count)


def harmonic_mean(acceptance: Tensor) -> Tensor:
    """Harmonic mean over the last axis, which protects the slowest chains (Hoffman, Radul and Sountsov 2021).

    Values below 0.02 are first raised to it; otherwise a single bad proposal would dominate the mean.
    """
    return 1 / acceptance.clamp_min(0.02).reciprocal().mean(-1)


@dataclass(frozen=True)
class Moments:
    """Running moments of blocks of chains, and the lag-one autocorrelation of their squares.

    Attributes
    ----------
    origin : Tensor
        (blocks, 1, dim), the point about which the moments are taken.
    last : Tensor or None
        (blocks, chains, dim), the positions at the last update minus the origin.
    count : int
        Number of draws in each block.
    first, square, fourth, lagged : Tensor
        (blocks, dim), sums of the positions, of their squares and fourth powers, and of each square times the one
        before it.
    product : Tensor or None
        (blocks, dim, dim), sum of outer products, for a dense metric.
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
        """Start without draws; the origin is the mean of the positions (blocks, chains, dim)."""
        origin = position.mean(1, keepdim=True)
        zero = torch.zeros_like(origin[:, 0])
        product = zero.new_zeros(*zero.shape, zero.shape[-1]) if dense else None
        return cls(origin, None, 0, zero, zero, zero, zero, product)

    def update(self, position: Tensor) -> Moments:
        """Add the positions (blocks, chains, dim)."""
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
        """Effective sample size of the squares in each block (blocks,): n (1 - ρ)/(1 + ρ).

        ρ is the mean lag-one autocorrelation of the squares. Squares count because a covariance is a mean of products:
        a trajectory of half a period takes w to -w, which changes the draw but not its products.
        """
        mean = self.square / self.count
        spread = (self.fourth / self.count - mean.square()).clamp_min(1e-300)
        pairs = max(self.count - (0 if self.last is None else self.last.shape[1]), 1)
        rho = ((self.lagged / pairs - mean.square()) / spread).mean(1).clamp(0.0, 0.999)
        return (self.count * (1 - rho) / (1 + rho)).clamp_min(1.0)

    def metric(self, frame: Metric, *, weight: float = 5.0) -> Metric:
        """Estimate a metric from these moments, with shrinkage in the coordinates that `frame` whitens.

        Logarithms of variances are shrunk towards those of the frame, which counts as `weight` independent draws.
        Correlations are shrunk towards zero with the intensity λ = Σ Var(r_ij) / Σ r_ij² of Schäfer and Strimmer 2005,
        taken at the effective sample size, or with the weight of the frame if that is larger.
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
    """Standard deviations in the frame's units with their logarithms shrunk towards zero; 1 where no chain moved."""
    moved = torch.where(variance > 1e-24, variance, 1.0)
    return (0.5 * trust * moved.log()).exp()
