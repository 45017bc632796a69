"""Posteriors with a tempered likelihood: log π_β = log prior + β log likelihood, the prior at β = 0."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blindsr.posteriors.base import BayesTarget


@dataclass(frozen=True)
class Tempered:
    """The log density of a tempered posterior."""

    target: BayesTarget  # Prior and likelihood
    beta: Tensor  # Inverse temperature in [0, 1], a scalar or one for each row (n,)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log prior plus β times the log likelihood of z (n, dim): (n,)."""
        return self.target.log_prior(z) + self.beta * self.target.log_likelihood(z)


def log_likelihood(target: BayesTarget, z: Tensor) -> Tensor:
    """Log likelihood of z (n, dim) without gradient; NaN counts as zero likelihood: (n,)."""
    with torch.no_grad():
        value = target.log_likelihood(z)
    return value.masked_fill(~torch.isfinite(value), -torch.inf)
