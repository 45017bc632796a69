"""The contract of a kernel prior, with and without a density."""

from __future__ import annotations

from typing import Any

import torch

from blindsr.operators.degradation import Degradation
from blindsr.testing.base import call, global_state_kept, need, need_tensor

MANY = 100
"""Kernels in the largest draw by which a kernel prior is checked: a fault that one kernel in 20 has is missed with
probability 0.95^100 < 0.006."""


def check_kernel_prior(prior: Any, degradation: Degradation) -> None:
    """Check that a kernel prior draws what the Monte Carlo step needs.

    `prior.sample(n, generator=...)` must return (n, 1, K, K) finite, non-negative kernels that sum to one, the same
    for the same generator state, and must leave torch's global random state alone. Draws of 7, 1 and `MANY` kernels
    are looked at. A prior with any of `sample_z`, `log_prob`, `kernel` must have them all, and is checked as a density
    too.
    """
    need(hasattr(prior, "sample"), "a kernel prior needs a method sample(n, *, generator)")
    k, n = degradation.kernel_size, 7

    def draw() -> Any:
        return call("sample(7, generator=...)", prior.sample, n, generator=torch.Generator().manual_seed(3))

    with global_state_kept("sample() draws from torch's global random state; use the generator it is given"):
        first, second = draw(), draw()
    need_kernels(first, n, k, "sample(n)")
    need(torch.equal(first, second), "sample() gives other kernels for the same generator state")
    generator = torch.Generator().manual_seed(4)
    for count in (1, MANY):
        more = call(f"sample({count}, generator=...)", prior.sample, count, generator=generator)
        need_kernels(more, count, k, f"sample({count})")
    if any(hasattr(prior, name) for name in ("sample_z", "log_prob", "kernel")):
        check_kernel_density(prior, degradation)


def need_kernels(kernels: Any, n: int, size: int, what: str) -> None:
    """Raise ContractError unless these are n kernels (n, 1, K, K): finite, non-negative, with sums of one."""
    need_tensor(kernels, what, (n, 1, size, size), "(n, 1, K, K)")
    need(kernels.is_floating_point() and torch.isfinite(kernels).all(), f"{what} holds values that are not finite")
    least = kernels.amin((1, 2, 3))
    negative = int((least < -1e-6).sum())
    need(
        negative == 0,
        f"{what} has negative kernel values (down to {float(least.min()):g}, in {negative} of {n} kernels); "
        "clamp them at 0 and divide each kernel by its sum",
    )
    off = float((kernels.sum((1, 2, 3)) - 1).abs().max())
    need(
        off < 1e-3,
        f"{what}: kernels must sum to one; they are off by up to {off:.3g}: divide each kernel by its sum",
    )


def check_kernel_density(prior: Any, degradation: Degradation) -> None:
    """Check `sample_z`, `log_prob` and `kernel` of a kernel prior with a density over an unconstrained z.

    None may be missing, shapes must fit, and `log_prob` and `kernel` must have a gradient in z.
    """
    for name in ("dim", "sample_z", "log_prob", "kernel"):
        need(hasattr(prior, name), f"a kernel prior with a density needs {name}")
    n = 7
    z = call("sample_z(7, generator=...)", prior.sample_z, n, generator=torch.Generator().manual_seed(3))
    need_tensor(z, "sample_z(n)", (n, prior.dim), "(n, dim)")
    z = z.detach().requires_grad_()
    log_p, kernels = call("log_prob(z)", prior.log_prob, z), call("kernel(z)", prior.kernel, z)
    need_tensor(kernels, "kernel(z)")
    need_tensor(log_p, "log_prob(z)", (n,), "(n,)")
    need(torch.isfinite(log_p).all(), "log_prob is not finite at the prior's own draws")
    need_kernels(kernels.detach(), n, degradation.kernel_size, "kernel(z)")
    if prior.dim:
        for what, value in (("log_prob(z)", log_p.sum()), ("kernel(z)", kernels.square().sum())):
            need(value.requires_grad, f"{what} has no gradient in z")
            (g,) = torch.autograd.grad(value, z, retain_graph=True, allow_unused=True)
            need(g is not None and torch.isfinite(g).all(), f"{what} has no finite gradient in z")
