"""The contract of an image prior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blindsr.testing.base import call, need, need_tensor


def check_image_prior(prior: Any, *, for_map: bool = False) -> None:
    """Check an image prior: its `energy`, which the joint loop needs, and its `prox`, which MAP restoration needs.

    `prior.energy(x)` must map images (B, C, H, W) to (B,) finite energies with a finite gradient. A `prox(x, step)`
    must return finite images of the shape and type of x, go to x as the step goes to 0, and leave x as it is. One
    without `prox` passes unless `for_map` is set; then it may lack `energy`.
    """
    has_prox, has_energy = hasattr(prior, "prox"), hasattr(prior, "energy")
    if for_map:
        need(has_prox, "an image prior needs a method prox(x, step) in MAP restoration; the joint loop needs energy(x)")
    else:
        need(
            has_energy, "an image prior needs a method energy(x) in the joint loop; MAP restoration needs prox(x, step)"
        )
    if has_energy:
        _check_energy(prior)
    if has_prox:
        _check_prox(prior)


def _check_energy(prior: Any) -> None:
    x = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(3)).requires_grad_()
    e = call("energy(x)", prior.energy, x)
    need(isinstance(e, Tensor) and tuple(e.shape) == (2,), "energy(x) must return one energy for each image, (B,)")
    need(torch.isfinite(e).all(), "energy(x) is not finite")
    if e.requires_grad:
        (g,) = torch.autograd.grad(e.sum(), x, allow_unused=True)
        need(g is not None and torch.isfinite(g).all(), "energy(x) has no finite gradient")
    else:
        need(torch.equal(e[0], e[1]), "energy(x) depends on x but has no gradient; keep to torch operations on x")


def _check_prox(prior: Any) -> None:
    x = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    before, step = x.clone(), 0.01
    v = call("prox(x, 0.01)", prior.prox, x, step)
    need_tensor(v, "prox(x, step)", tuple(x.shape), "that of x")
    need(v.dtype == x.dtype, f"prox(x, step) has type {v.dtype}; that of x, {x.dtype}, is needed")
    need(torch.isfinite(v).all(), "prox(x, step) holds values that are not finite")
    need(torch.equal(x, before), "prox(x, step) changes x; return another tensor")
    small = call("prox(x, 1e-12)", prior.prox, x, 1e-12)
    need((small - x).abs().max() < 1e-3, "prox(x, step) must go to x as step goes to 0")
