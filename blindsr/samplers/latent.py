"""Langevin dynamics on the latent input of an image generator: the E-step of BSRDM.

    z ← z − (δ²/2) c ∇U(z) + δ c ξ,      U(z) = −log p(y | z) + ‖z‖²/2,  ξ ~ N(0, I),  c = min(1, limit / ‖∇U‖)

Without a limit (c = 1) this is the unadjusted Langevin algorithm of the paper, whose stationary distribution approaches
the posterior of z as δ goes to zero. The published code, and the defaults here, clip the norm of the gradient at 1,
scale the noise by the same c, and add noise in the first steps only. In the dimension of an image c is so small that
this amounts to a short gradient descent with little noise rather than to sampling: without any data its variance in d
dimensions is about d^(-1/3) instead of 1.

Reference
---------
Yue, Zhao, Xie, Zhang, Meng, Wong, "Blind Image Super-Resolution with Elaborate Degradation Modeling on Noise and
Kernel", CVPR 2022, Sec. 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentLangevin:
    """A short run of Langevin steps.

    Parameters
    ----------
    steps : int
        Number of steps, at least 1.
    delta : float
        Step size δ, above 0.
    limit : float or None
        Largest norm of the gradient, above 0; None for no limit.
    noisy : int or None
        Number of steps, counted from the first, that add noise; None for all.

    Raises
    ------
    ValueError
        If `steps` is below 1, or `delta` or `limit` is not positive.
    """

    steps: int = 5
    delta: float = 1.0
    limit: float | None = 1.0
    noisy: int | None = 2

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.delta > 0 or (self.limit is not None and not self.limit > 0):
            raise ValueError("latent Langevin: need steps of at least 1, delta and limit above 0")

    def __call__(self, z: Tensor, misfit: Callable[[Tensor], Tensor], generator: torch.Generator) -> Tensor:
        """Return z, a tensor of any shape, after the steps; the result is detached.

        `misfit` maps z to the scalar −log p(y | z) and must be differentiable; the generator is on the CPU.
        """
        z = z.detach()
        for i in range(self.steps):
            here = z.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(misfit(here) + 0.5 * here.square().sum(), here)
            length = gradient.norm()
            c = 1.0 if self.limit is None else (self.limit / length.clamp_min(1e-12)).clamp_max(1.0)
            z = z - 0.5 * self.delta**2 * c * gradient
            if self.noisy is None or i < self.noisy:
                z = z + self.delta * c * torch.randn(z.shape, generator=generator).to(z)
        return z
