"""Monte Carlo kernel approximation (MCKA, Eqs. 20-30 of the MLMC paper): learning from weighted random kernels.

One simulation draws k_1..k_L from a prior, computes e_l = mean (y - (x ⊗ k_l)↓s)² at the current image, and weights the
kernels. The loss L_MC = Σ ω_l ‖k_l - G_k‖² (mean over kernel pixels) then gives one Adam step of the kernel network
φ_k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from blindsr.likelihood.quadratic import lr_errors
from blindsr.operators.degradation import Degradation
from blindsr.priors.base import KernelPrior

WeightRule = Callable[[Tensor, Tensor, int], Tensor]
"""(mean squared errors (L,), noise variance, number of LR values) -> weights (L,)."""


def published_weights(errors: Tensor, variance: Tensor, n: int) -> Tensor:
    """The authors' code: p = (e - min e)/(Σ(e - min e) + 1e-5), ω = -(1 - p)² log(p + 1e-3)."""
    gap = errors - errors.min()
    p = gap / (gap.sum() + 1e-5)
    return -((1 - p) ** 2) * torch.log(p + 1e-3)


def inverse_weights(errors: Tensor, variance: Tensor, n: int) -> Tensor:
    """ω ∝ 1/(e + 1e-5), summing to one."""
    w = 1 / (errors + 1e-5)
    return w / w.sum()


def likelihood_weights(errors: Tensor, variance: Tensor, n: int) -> Tensor:
    """ω ∝ exp(-n e / 2σ²), summing to one: the self-normalised importance weight of k given y and the current x."""
    return torch.softmax(-0.5 * n * errors / variance.mean().clamp_min(1e-12), dim=0)


WEIGHTS: dict[str, WeightRule] = {
    "published": published_weights,
    "inverse": inverse_weights,
    "likelihood": likelihood_weights,
}


@dataclass(frozen=True)
class MonteCarloKernelApproximation:
    """The Monte Carlo step of one outer iteration.

    Parameters
    ----------
    prior : KernelPrior
        The distribution of the random kernels.
    n_kernels : int
        L, the number of kernels in one simulation.
    n_simulations : int
        Simulations in one outer iteration, each with its own Adam step.
    weights : WeightRule
        One of `WEIGHTS`, or any function of that kind.
    proximity : float or None
        If given, the weights are multiplied by exp(-‖k_l - G_k‖² / `proximity`), divided by its maximum over the L
        kernels, so that kernels near the current one count more (Eq. 26 admits such a distance); in units of squared
        kernel values, summed over pixels.
    warmup_steps : int
        Steps before the run, each of which pulls φ_k towards a single random kernel.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    prior: KernelPrior
    n_kernels: int = 5
    n_simulations: int = 1
    weights: WeightRule = published_weights
    proximity: float | None = None
    warmup_steps: int = 200

    def __post_init__(self) -> None:
        if min(self.n_kernels, self.n_simulations) < 1 or self.warmup_steps < 0:
            raise ValueError("Monte Carlo step: n_kernels and n_simulations must be at least 1, warmup_steps 0 or more")

    def warmup_kernels(self, generator: torch.Generator) -> Tensor:
        """Kernels of the warm-up (warmup_steps, 1, K, K); each gives one step on the mean squared distance."""
        return self.prior.sample(self.warmup_steps, generator=generator)

    @torch.no_grad()
    def draw(
        self, degradation: Degradation, x: Tensor, y: Tensor, kernel: Tensor, variance: Tensor, gen: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """One simulation: kernels (L, 1, K, K) and their weights (L,)."""
        samples = self.prior.sample(self.n_kernels, generator=gen).to(kernel)
        weight = variance.mean() / variance if variance.ndim else None
        errors = lr_errors(degradation, x, y, samples, weight)
        return samples, self.weigh(samples, errors, kernel, variance, y.numel())

    def weigh(self, samples: Tensor, errors: Tensor, kernel: Tensor, variance: Tensor, n: int) -> Tensor:
        """Weights (L,) of random kernels (L, 1, K, K) with mean squared LR errors (L,), given the current kernel.

        The noise variance is in squared units of y, of which there are n values.
        """
        omega = self.weights(errors, variance, n)
        if self.proximity is not None:
            near = torch.exp(-(samples - kernel).square().sum((1, 2, 3)) / self.proximity)
            omega = omega * near / near.max().clamp_min(torch.finfo(near.dtype).tiny)
        return omega

    @staticmethod
    def loss(kernel: Tensor, samples: Tensor, omega: Tensor) -> Tensor:
        """L_MC of Eq. 29 of the MLMC paper: Σ ω_l · mean (k_l - G_k)²."""
        return (omega * (samples - kernel).square().mean((1, 2, 3))).sum()
