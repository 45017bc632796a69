"""The metric of a sampler: whitened coordinates w with z = L w, where L Lᵀ approximates the covariance of z."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A linear map from whitened coordinates to positions.

    Parameters
    ----------
    factor : Tensor
        L, float64: standard deviations (dim,), the lower Cholesky factor of a covariance (dim, dim), or one such factor
        for each block of successive rows (blocks, dim, dim).
    """

    factor: Tensor

    @property
    def dim(self) -> int:
        """Dimension of a position."""
        return self.factor.shape[-1]

    def outward(self, w: Tensor) -> Tensor:
        """L w for rows (n, dim)."""
        if self.factor.ndim == 1:
            return w * self.factor
        if self.factor.ndim == 2:
            return w @ self.factor.mT
        return torch.flatten(w.reshape(len(self.factor), -1, self.dim) @ self.factor.mT, 0, 1)

    def inward(self, gradient: Tensor) -> Tensor:
        """Lᵀ g for rows (n, dim): a gradient with respect to z becomes one with respect to w."""
        if self.factor.ndim == 1:
            return gradient * self.factor
        if self.factor.ndim == 2:
            return gradient @ self.factor
        return torch.flatten(gradient.reshape(len(self.factor), -1, self.dim) @ self.factor, 0, 1)

    def whiten(self, z: Tensor) -> Tensor:
        """L⁻¹ z for rows (n, dim)."""
        if self.factor.ndim == 1:
            return z / self.factor
        if self.factor.ndim == 2:
            solved: Tensor = torch.linalg.solve_triangular(self.factor, z.mT, upper=False)
            return solved.mT
        blocks = z.reshape(len(self.factor), -1, self.dim)
        return torch.flatten(torch.linalg.solve_triangular(self.factor, blocks.mT, upper=False).mT, 0, 1)


def metric_of(covariance: Tensor) -> Metric:
    """Return the metric of a covariance (dim, dim), or of variances (dim,).

    Raises
    ------
    ValueError
        If the covariance is not finite or not positive definite.
    """
    covariance = covariance.detach().to(torch.float64)
    if covariance.ndim == 1:
        if not bool(torch.isfinite(covariance).all() & (covariance > 0).all()):
            raise ValueError("covariance: every variance must be finite and above 0")
        return Metric(covariance.sqrt())
    if not bool(torch.isfinite(covariance).all()):
        raise ValueError("covariance: every entry must be finite")
    factor, info = torch.linalg.cholesky_ex(covariance)
    if int(info):
        raise ValueError("covariance: the matrix is not positive definite; add to its diagonal, or leave it out")
    return Metric(factor)
