"""Langevin dynamics on the latent input of an image generator: the E-step of BSRDM.

    z ← z − (δ²/2) c ∇U(z) + δ c ξ,      U(z) = −log p(y | z) + ‖z‖²/2,  ξ ~ N(0, I),  c = min(1, limit / ‖∇U‖)

Without a limit (c = 1) this is the unadjusted Langevin algorithm, as in the paper; for small δ its law is close to the
posterior of z. The published code, and the defaults here, limit the gradient's length to 1, scale the noise by the same
c, and leave the noise out of the later steps. At an image's dimension c is so small that this is a short descent with a
trace of noise, and no sampler: with no data at all its variance in d dimensions is about d^(-1/3), not 1.

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
        Steps.
    delta : float
        δ.
    limit : float or None
        Largest length of the gradient; None for no limit.
    noisy : int or None
        Steps that have noise, the first ones; None for all.

    Raises
    ------
    ValueError
        If a number is not positive.
    """

    steps: int = 5
    delta: float = 1.0
    limit: float | None = 1.0
    noisy: int | None = 2

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.delta > 0 or (self.limit is not None and not self.limit > 0):
            raise ValueError("latent Langevin: need steps of at least 1, delta and limit above 0")

    def __call__(self, z: Tensor, misfit: Callable[[Tensor], Tensor], generator: torch.Generator) -> Tensor:
        """Move a latent z of any shape; the result has its shape and is detached.

        `misfit` gives −log p(y | z), a scalar that is differentiable in z; the generator is on the CPU.
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
