"""Monte Carlo kernel approximation (MCKA, Eqs. 20-30): the kernel network learns from weighted random kernels.

One simulation draws k_1..k_L from a prior, measures e_l = mean (y - (x ⊗ k_l)↓s)² at the current image, weights them,
and gives L_MC = Σ ω_l ‖k_l - G_k‖² (mean over kernel pixels), on which φ_k takes one Adam step.
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
"""(errors (L,), noise variance, number of LR values) -> weights (L,)."""


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
        What kernels are drawn from.
    n_kernels : int
        L, kernels in one simulation.
    n_simulations : int
        Simulations, each with its Adam step, in one outer iteration.
    weights : WeightRule
        One of `WEIGHTS`, or any callable like them.
    proximity : float or None
        If given, weights are multiplied by exp(-‖k_l - G_k‖² / `proximity`) over its largest value among the L, so
        that kernels near the current one count more (Eq. 26 lets the distance enter); in units of squared kernel
        values, summed over pixels.
    warmup_steps : int
        Steps before the run that pull φ_k towards single random kernels.
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
        """Kernels of the warm-up (warmup_steps, 1, K, K): each pulls φ_k once, by the mean squared distance."""
        return self.prior.sample(self.warmup_steps, generator=generator)

    @torch.no_grad()
    def draw(
        self, degradation: Degradation, x: Tensor, y: Tensor, kernel: Tensor, variance: Tensor, gen: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """One simulation: kernels (L, 1, K, K) and their weights (L,)."""
        samples = self.prior.sample(self.n_kernels, generator=gen).to(kernel)
        weight = variance.mean() / variance if variance.ndim else None
        omega = self.weights(lr_errors(degradation, x, y, samples, weight), variance, y.numel())
        if self.proximity is not None:
            near = torch.exp(-(samples - kernel).square().sum((1, 2, 3)) / self.proximity)
            omega = omega * near / near.max().clamp_min(torch.finfo(near.dtype).tiny)
        return samples, omega

    @staticmethod
    def loss(kernel: Tensor, samples: Tensor, omega: Tensor) -> Tensor:
        """L_MC of Eq. 29: Σ ω_l · mean (k_l - G_k)²."""
        return (omega * (samples - kernel).square().mean((1, 2, 3))).sum()
