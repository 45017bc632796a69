"""Projected alternating minimisation (PAM, Eqs. 4 and 5): gradient steps on x and k in turn, each put back on its set.

References
----------
Perrone, Favaro, "Total Variation Blind Deconvolution: The Devil Is in the Details", CVPR 2014, Algorithm 1;
Perrone, Favaro, "A Clearer Picture of Total Variation Blind Deconvolution", TPAMI 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from blindsr.generators.base import retract_
from blindsr.optimizers.base import Energy, Optimizer, Pass, Run, parameters


@dataclass(frozen=True)
class ProjectedGradient(Optimizer):
    """One gradient step on x, then one on k at the new x; λ, the weight of the image prior, falls geometrically.

    A step moves the parameter of steepest slope by a fixed share of the block's largest value, as published:
    p ← p − a · (max |p| / max |g|) · g. Then `retract_` puts the block back on its set. The energy's own weight is
    λ_min; at step i the prior weighs λ_min · max(`first` · `decay`^i, 1).

    Parameters
    ----------
    image_step, kernel_step : float
        The shares a. Published: 5e-3 and 1e-3, the latter for 10,000 steps; the default is for 1,500.
    first : float
        λ of the first step over λ_min, at least 1. Published: 5,000.
    decay : float
        Factor on λ at each step, in (0, 1]. Published: 0.999.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    image_step: float = 5e-3
    kernel_step: float = 5e-3
    first: float = 500.0
    decay: float = 0.995

    def __post_init__(self) -> None:
        if not min(self.image_step, self.kernel_step) > 0 or not self.first >= 1 or not 0 < self.decay <= 1:
            raise ValueError("projected gradient: need steps above 0, first of at least 1 and decay in (0, 1]")

    def step(self, run: Run, energy: Energy) -> Pass:
        """One step on x, one on k."""
        x, k = run.image(), run.kernel().detach().clone()
        data, residual = energy.data(x, k, run.variance, run.step)
        prior = energy.prior(x, run.variance) * max(self.first * self.decay**run.step, 1.0)
        (data + prior).backward()
        seen = x.detach().clone()
        descend_(run.image, self.image_step)
        new = run.kernel()
        loss = energy.data(run.image().detach(), new, run.variance, run.step)[0] + energy.weighted_kernel(
            new, run.variance
        )
        if loss.requires_grad:
            loss.backward()
            descend_(run.kernel, self.kernel_step)
        return Pass(seen, k, residual, data.detach(), prior.detach())


@torch.no_grad()
def descend_(module: nn.Module, share: float) -> None:
    """Step a module's parameters along the gradients that stand in them, clear these, retract."""
    moving = [(p, p.grad) for p in parameters(module) if p.grad is not None]
    steepest = max((float(g.abs().max()) for _, g in moving), default=0.0)
    if steepest > 0:
        size = share * max(float(p.abs().max()) for p, _ in moving) / steepest
        for p, g in moving:
            p.sub_(size * g)
    for p, _ in moving:
        p.grad = None
    retract_(module)
