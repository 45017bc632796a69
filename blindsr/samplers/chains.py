"""Chains: the result of a sampler run."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Chains:
    """Draws of several chains after warm-up, and the statistics recorded with them.

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
        The sampler's name.
    valid : bool
        Whether the sampler's stationary distribution is the target. Never True for iterates of an optimizer or for
        biased samplers.
    weights : Tensor or None
        (chains, draws) normalised importance weights; None: all draws have the same weight.
    warmup, thin : int
        Transitions discarded at the start of each chain; transitions per kept draw.
    gradients : int
        Evaluations of the density or its gradient over all chains, warm-up included.
    seconds : float
        Wall time, warm-up included.
    tuning : dict
        What the warm-up found (trajectory length, temperatures, ...), as plain numbers.
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
