"""What a sampler needs of a density: values, gradients, names, starts.

A target is a log density log π(z), up to a constant, over z in R^dim (Lebesgue measure, so every change of variables
has its Jacobian in it). Batches of positions are rows: z (n, dim) -> (n,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from blindsr.priors.base import KernelDensity

WIDER = 2.0
"""Standard deviations of the starts of chains, in units of the density's."""


@runtime_checkable
class Target(Protocol):
    """A log density that can be evaluated at many positions at once."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each coordinate of z; their number is the dimension."""
        ...

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of positions (n, dim) up to a constant: (n,). Differentiable; -inf where the density is zero."""
        ...

    def initial(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Starts for n chains (n, dim), float64, spread wider than the density."""
        ...


@runtime_checkable
class BayesTarget(Target, Protocol):
    """A posterior whose prior and likelihood can be told apart: what tempering and sequential Monte Carlo need."""

    def log_prior(self, z: Tensor) -> Tensor:
        """Normalised log prior of z (n, dim): (n,)."""
        ...

    def log_likelihood(self, z: Tensor) -> Tensor:
        """Log likelihood of z (n, dim), up to a constant: (n,)."""
        ...

    def sample_prior(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draws (n, dim) from the prior, float64."""
        ...


@runtime_checkable
class KernelTarget(Target, Protocol):
    """A target some coordinates of which make a blur kernel."""

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of positions (n, dim)."""
        ...


ValueAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]


def value_and_gradient(target: Any) -> ValueAndGradient:
    """Return the function z (n, dim) -> (log density (n,), its gradient (n, dim)), both detached.

    A target may bring its own, faster, as a method `log_prob_and_gradient`; else autograd makes it. A density that is
    not a number counts as zero (-inf), and gradients are zero there.
    """
    own: ValueAndGradient | None = getattr(target, "log_prob_and_gradient", None)

    def by_autograd(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            value = target.log_prob(at)
            (gradient,) = torch.autograd.grad(value.sum(), at)
        return value.detach(), gradient

    def cleaned(z: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = (own or by_autograd)(z)
        good = torch.isfinite(value) & torch.isfinite(gradient).all(1)
        return value.masked_fill(~good, -torch.inf), gradient.masked_fill(~good[:, None], 0.0)

    return cleaned


def coordinate_names(prior: KernelDensity) -> tuple[str, ...]:
    """Names of a kernel prior's z: its own where it has one for each, else z_0, z_1, ..."""
    parameters: Any = getattr(prior, "parameters", None)
    names: tuple[str, ...] = tuple(getattr(prior, "names", ()))
    if parameters is not None and hasattr(parameters, "free"):
        names = tuple(names[j] for j in parameters.free)
    return names if len(names) == prior.dim else tuple(f"z_{j}" for j in range(prior.dim))
