"""What every exact sampler shares: noise, starting states, and the acceptance rule of Metropolis and Hastings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blindsr.posteriors.base import Target, ValueAndGradient
from blindsr.samplers.base import State

Value = Callable[[Tensor], Tensor]


def value_only(target: Target) -> Value:
    """Return the function z (n, dim) -> log density (n,), without gradient; not a number counts as zero density."""

    def density(z: Tensor) -> Tensor:
        with torch.no_grad():
            value = target.log_prob(z)
        return value.masked_fill(~torch.isfinite(value), -torch.inf)

    return density


def normal_like(z: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers in the shape of z."""
    return torch.randn(z.shape, generator=generator, dtype=z.dtype, device=generator.device).to(z.device)


def check_start(position: Tensor, log_prob: Tensor) -> None:
    """Raise ValueError, naming the chain, if a log density (chains,) or a position is not finite."""
    bad = ~(torch.isfinite(log_prob) & torch.isfinite(position).all(1))
    if bool(bad.any()):
        chain = int(bad.nonzero()[0])
        raise ValueError(f"chain {chain} starts where the log density is not finite; give it another start")


def start(density: ValueAndGradient, position: Tensor) -> State:
    """State with gradient of chains at position (chains, dim); ValueError if a start has density zero."""
    position = position.detach().to(torch.float64)
    log_prob, gradient = density(position)
    check_start(position, log_prob)
    return State(position, log_prob, gradient)


def accept(log_ratio: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Metropolis-Hastings: accept with probability min(1, exp(log_ratio)); not a number counts as -inf.

    Returns booleans (chains,), and the acceptance probabilities (chains,).
    """
    acceptance = torch.nan_to_num(log_ratio, nan=-torch.inf, posinf=0.0).clamp_max(0.0).exp()
    uniform = torch.rand(log_ratio.shape, generator=generator, dtype=log_ratio.dtype, device=generator.device)
    return uniform.to(log_ratio.device) < acceptance, acceptance


def choose(accepted: Tensor, new: State, old: State) -> State:
    """Take the new state of chains that accepted (chains,), the old one of the others."""
    rows = accepted[:, None]
    gradient = None
    if new.gradient is not None and old.gradient is not None:
        gradient = torch.where(rows, new.gradient, old.gradient)
    return State(
        torch.where(rows, new.position, old.position), torch.where(accepted, new.log_prob, old.log_prob), gradient
    )
