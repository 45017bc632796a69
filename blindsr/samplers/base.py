"""What every kernel-space sampler is: two pure functions, chains along the first axis.

`init(position) -> state`, `step(state, generator) -> (state, info)`; the target and the tuning belong to the sampler,
so a state is data alone. Positions are (chains, dim), float64; one call moves every chain by one transition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class State:
    """Where the chains are.

    Attributes
    ----------
    position : Tensor
        (chains, dim).
    log_prob : Tensor
        (chains,) log density there.
    gradient : Tensor or None
        (chains, dim) its gradient, where the sampler uses one.
    """

    position: Tensor
    log_prob: Tensor
    gradient: Tensor | None = None


@dataclass(frozen=True)
class Info:
    """What a transition tells, a value for each chain.

    Attributes
    ----------
    acceptance : Tensor
        (chains,) probability with which the proposal was to be accepted.
    accepted : Tensor
        (chains,) bool.
    divergent : Tensor
        (chains,) bool: the simulated energy broke down (always False for samplers without a trajectory).
    energy : Tensor
        (chains,) energy of the new state, for Hamiltonian samplers with its kinetic part; else -log_prob.
    gradients : int
        Evaluations of the density or its gradient, for each chain.
    """

    acceptance: Tensor
    accepted: Tensor
    divergent: Tensor
    energy: Tensor
    gradients: int


@runtime_checkable
class Sampler(Protocol):
    """A Markov kernel, or for biased samplers something that resembles one."""

    def init(self, position: Tensor) -> State:
        """State of chains that start at position (chains, dim).

        Raises
        ------
        ValueError
            If a start has density zero.
        """
        ...

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        """One transition of every chain."""
        ...
