"""What a joint loop is made of: the problem that its parts are built for, and the factories that build them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from torch import Tensor, nn

from blindsr.estimators.spectral import KernelEstimate, KernelEstimator
from blindsr.operators.degradation import Degradation
from blindsr.priors.base import KernelEnergy, KernelPrior
from blindsr.samplers.mcka import MonteCarloKernelApproximation


@dataclass
class Problem:
    """What the parts of a loop are built for.

    Attributes
    ----------
    y : Tensor
        LR image (1, C, h, w), values 0..1.
    degradation : Degradation
        Forward operator.
    noise_std : float or None
        Noise level where it is known, units of 0..1.
    kernel_estimator : KernelEstimator
        Estimates the kernel from y alone, for the parts that start from such an estimate.
    guide : Tensor or None
        Image (1, C, s h, s w) that the image generator starts from, if any.
    """

    y: Tensor
    degradation: Degradation
    noise_std: float | None = None
    kernel_estimator: KernelEstimator = field(default_factory=KernelEstimator)
    guide: Tensor | None = None

    @cached_property
    def spectral(self) -> KernelEstimate:
        """The kernel's estimate from y alone, computed when a part first asks for it."""
        return self.kernel_estimator(self.y, self.degradation, self.noise_std)

    @property
    def estimated(self) -> KernelEstimate | None:
        """The estimate, if a part has asked for it."""
        return self.__dict__.get("spectral")


class KernelBlock(NamedTuple):
    """The kernel's side of a loop: its generator, and what goes with it.

    Attributes
    ----------
    module : nn.Module
        Makes k from its parameters.
    energy : KernelEnergy or None
        Φ of Eq. 3, kept in the objective.
    draws : KernelPrior or None
        What the Monte Carlo step draws from.
    assumed : bool
        Whether the kernel is assumed and never changes.
    """

    module: nn.Module
    energy: KernelEnergy | None = None
    draws: KernelPrior | None = None
    assumed: bool = False


PriorFactory = Callable[[Problem], KernelPrior]
"""What makes a kernel prior for a problem."""
ImageFactory = Callable[[Problem], nn.Module]
"""What makes the image generator for a problem."""
KernelFactory = Callable[[Problem, KernelPrior | None], KernelBlock]
"""What makes the kernel's side for a problem and its kernel prior."""
MonteCarloFactory = Callable[[KernelPrior, int], MonteCarloKernelApproximation]
"""What makes the Monte Carlo step for a kernel prior and a scale."""


def free_kernel(make: Callable[[Degradation], nn.Module]) -> KernelFactory:
    """Return the factory of a kernel generator whose prior, if any, is what the Monte Carlo step draws from."""
    return lambda problem, prior: KernelBlock(make(problem.degradation), draws=prior)


@dataclass(frozen=True)
class MonteCarloSettings:
    """Numbers of the Monte Carlo step, see `MonteCarloKernelApproximation`."""

    n_kernels: int = 5
    n_simulations: dict[int, int] = field(default_factory=dict)
    """Simulations in one outer iteration, by scale; a scale that is not named has one."""
    warmup_steps: int = 200

    def __call__(self, prior: KernelPrior, scale: int) -> MonteCarloKernelApproximation:
        """Return the step that draws from a prior."""
        return MonteCarloKernelApproximation(
            prior, self.n_kernels, self.n_simulations.get(scale, 1), warmup_steps=self.warmup_steps
        )
