"""Chains: what a sampler run leaves."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Chains:
    """Draws of several chains after warm-up, and what was noted beside them.

    Attributes
    ----------
    draws : Tensor
        (chains, draws, dim), float64, thinned.
    names : tuple of str
        Name of each coordinate.
    log_prob, acceptance, energy : Tensor
        (chains, draws).
    divergent : Tensor
        (chains, draws), bool.
    step_size : Tensor
        (chains,), after warm-up.
    sampler : str
        Name in `SAMPLERS`.
    valid : bool
        Whether the draws come from a sampler whose stationary distribution is the target. Never True for iterates of an
        optimizer or for biased samplers.
    weights : Tensor or None
        (chains, draws) normalised importance weights, where the draws are weighted; None: all equal.
    warmup, thin : int
        Transitions left out at the start of each chain; transitions for each kept draw.
    gradients : int
        Evaluations of the density or its gradient in all chains, warm-up included.
    seconds : float
        Wall time, warm-up included.
    tuning : dict
        Plain numbers of what the warm-up found (trajectory length, temperatures, ...).
    """

    draws: Tensor
    names: tuple[str, ...]
    log_prob: Tensor
    acceptance: Tensor
    energy: Tensor
    divergent: Tensor
    step_size: Tensor
    sampler: str
    valid: bool = True
    weights: Tensor | None = None
    warmup: int = 0
    thin: int = 1
    gradients: int = 0
    seconds: float = 0.0
    tuning: dict[str, float] = field(default_factory=dict)
