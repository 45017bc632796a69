"""What a sampler needs of a target: log densities, gradients, names and starting points.

A target is a log density log π(z), up to a constant, over z in R^dim, with respect to Lebesgue measure: every change of
variables contributes its Jacobian. Batches of positions are rows: z (n, dim) -> (n,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from blindsr.priors.base import KernelDensity

WIDER = 2.0
"""Standard deviation of the starting points of chains, in units of the density's."""


@runtime_checkable
class Target(Protocol):
    """A log density that can be evaluated at many positions at once."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each coordinate of z; their number is the dimension of z."""
        ...

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of positions (n, dim) up to a constant: (n,). Differentiable; -inf where the density is zero."""
        ...

    def initial(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Starting points of n chains (n, dim), float64, spread more widely than the density."""
        ...


@runtime_checkable
class BayesTarget(Target, Protocol):
    """A posterior with separate prior and likelihood, as tempering and sequential Monte Carlo need it."""

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
    """A target with coordinates that determine a blur kernel."""

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of positions (n, dim)."""
        ...


class NoGradientError(ValueError):
    """The log density of a target is not differentiable by autograd."""


ValueAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]


def value_and_gradient(target: Any) -> ValueAndGradient:
    """Return the function z (n, dim) -> (log density (n,), its gradient (n, dim)), both detached.

    A target may bring a faster one of its own, as the method `log_prob_and_gradient`; otherwise autograd is used. Where
    the log density or its gradient is not finite, the density counts as zero (-inf) and the gradient is zero.

    The function raises `NoGradientError` if the log density has no gradient.
    """
    own: ValueAndGradient | None = getattr(target, "log_prob_and_gradient", None)

    def by_autograd(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            value = target.log_prob(at)
            if not value.requires_grad:
                raise NoGradientError(f"{type(target).__name__}.log_prob has no gradient in z")
            (gradient,) = torch.autograd.grad(value.sum(), at)
        return value.detach(), gradient

    def cleaned(z: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = (own or by_autograd)(z)
        good = torch.isfinite(value) & torch.isfinite(gradient).all(1)
        return value.masked_fill(~good, -torch.inf), gradient.masked_fill(~good[:, None], 0.0)

    return cleaned


def coordinate_names(prior: KernelDensity) -> tuple[str, ...]:
    """Names of the coordinates z of a kernel prior: its own if it names each of them, else z_0, z_1, ..."""
    parameters: Any = getattr(prior, "parameters", None)
    names: tuple[str, ...] = tuple(getattr(prior, "names", ()))
    if parameters is not None and hasattr(parameters, "free"):
        names = tuple(names[j] for j in parameters.free)
    return names if len(names) == prior.dim else tuple(f"z_{j}" for j in range(prior.dim))


def check_prior(prior: KernelDensity) -> None:
    """Raise ValueError unless a prior is a density over kernel parameters."""
    if not isinstance(prior, KernelDensity):
        raise ValueError(
            f"{type(prior).__name__} is no kernel prior with a density: sample, sample_z, log_prob, kernel and dim are "
            "needed (of a Laplace posterior, take its .family)"
        )
