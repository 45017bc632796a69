"""The contract of a restorer."""

from __future__ import annotations

from typing import Any

import torch

from blindsr.errors import UserError
from blindsr.operators.degradation import Degradation
from blindsr.testing.base import ContractError, global_state_kept, need, need_tensor


def check_restorer(restorer: Any) -> None:
    """Check a restorer: what it returns, that it uses what it says it uses, and that it repeats itself.

    `restorer(y, kernel, degradation, noise_std)` must return finite images (1, C, s h, s w) in 0..1 at scales 2 and 3,
    for grey and colour (one that says so by a `UserError` may refuse a scale or a number of channels), twice the same,
    and leave y, the kernel and torch's global random state alone. If its `needs_kernel` is True, another kernel must
    change the image; if its `needs_noise` is False, another noise level must not.
    `blindsr.restorers.CallableRestorer` makes a restorer of a function.
    """
    for name in ("needs_kernel", "needs_noise", "parameters", "with_seed"):
        need(hasattr(restorer, name), f"a restorer needs {name}; subclass blindsr.restorers.Restorer")
    need(callable(restorer), "a restorer must be callable: restorer(y, kernel, degradation, noise_std)")
    served = sum(
        _restores(restorer, Degradation(scale, 2 * scale + 3), channels) for scale in (2, 3) for channels in (1, 3)
    )
    need(served, "the restorer refuses every scale and number of channels that it was tried with")


def _restores(restorer: Any, degradation: Degradation, channels: int) -> bool:
    """Check one scale and number of channels; return False where the restorer refuses them."""
    source, size = torch.Generator().manual_seed(3), degradation.kernel_size
    y = torch.rand(1, channels, 18, 15, generator=source)
    kernels = torch.rand(2, 1, size, size, generator=source).pow(4)
    kernels = kernels / kernels.sum((1, 2, 3), keepdim=True)
    kernel, other = kernels.split(1)
    keep = y.clone(), kernel.clone()
    what = "restorer(y, kernel, degradation, noise_std)"
    try:
        with global_state_kept(
            "the restorer draws from torch's global random state; use a generator of its own (`with_seed`)"
        ):
            x = restorer(y, kernel, degradation, 0.02)
    except ContractError:
        raise
    except UserError:
        return False
    except Exception as error:
        raise ContractError(f"{what} fails: {type(error).__name__}: {error}") from error
    need_tensor(x, what, (1, channels, degradation.scale * 18, degradation.scale * 15), "(1, C, s h, s w)")
    need(torch.isfinite(x).all(), f"{what} holds values that are not finite")
    need(float(x.min()) >= 0 and float(x.max()) <= 1, f"{what} holds values outside 0..1")
    need(torch.equal(y, keep[0]) and torch.equal(kernel, keep[1]), f"{what} changes y or the kernel")
    need(torch.equal(x, restorer(y, kernel, degradation, 0.02)), "the restorer gives another image for the same input")
    if restorer.needs_kernel:
        same = torch.equal(x, restorer(y, other, degradation, 0.02))
        need(not same, "needs_kernel is True, but another kernel gives the same image")
    if not restorer.needs_noise:
        same = torch.equal(x, restorer(y, kernel, degradation, 0.1))
        need(same, "needs_noise is False, but the restorer uses the noise level")
    return True
