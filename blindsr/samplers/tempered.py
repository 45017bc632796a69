"""Posteriors with a tempered likelihood, log π_β = log prior + β log likelihood, from prior (0) to posterior (1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blindsr.posteriors.base import BayesTarget, Target


@dataclass(frozen=True)
class Tempered:
    """The log density of a tempered posterior.

    Parameters
    ----------
    target : BayesTarget
        Prior and likelihood.
    beta : Tensor
        Inverse temperature in (0, 1], a scalar or one for each row (n,).
    """

    target: BayesTarget
    beta: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """Log prior plus β times the log likelihood of z (n, dim): (n,)."""
        return self.target.log_prior(z) + self.beta * self.target.log_likelihood(z)


def bayes_target(target: Target, sampler: str) -> BayesTarget:
    """Return the target as one with prior and likelihood.

    Raises
    ------
    ValueError
        If it lacks what tempering needs.
    """
    lacking = [name for name in ("log_prior", "log_likelihood", "sample_prior") if not hasattr(target, name)]
    if lacking:
        raise ValueError(
            f"sampler {sampler!r}: {type(target).__name__} has no {', '.join(lacking)}; choose a sampler that needs "
            "the posterior density alone, such as 'hmc'"
        )
    as_bayes: Any = target
    bayes: BayesTarget = as_bayes
    return bayes


def log_likelihood(target: BayesTarget, z: Tensor) -> Tensor:
    """Log likelihood of z (n, dim) without gradient; not a number counts as zero likelihood: (n,)."""
    with torch.no_grad():
        value = target.log_likelihood(z)
    return value.masked_fill(~torch.isfinite(value), -torch.inf)
