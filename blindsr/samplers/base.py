"""The Markov transition: what moves chains by one step.

A transition is two pure functions, `init(position) -> state` and `step(state, generator) -> (state, info)`. The target
and the tuning belong to the transition, so a state is data alone. Positions are (chains, dim), float64, and one call
moves every chain once. (The word "kernel" is left to blur kernels.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class State:
    """The current state of the chains.

    Attributes
    ----------
    position : Tensor
        (chains, dim).
    log_prob : Tensor
        (chains,) log density there.
    gradient : Tensor or None
        (chains, dim) its gradient, where the transition uses one.
    """

    position: Tensor
    log_prob: Tensor
    gradient: Tensor | None = None


@dataclass(frozen=True)
class Info:
    """What is recorded of one step, one value for each chain.

    Attributes
    ----------
    acceptance : Tensor
        (chains,) acceptance probability of the proposal.
    accepted : Tensor
        (chains,) bool.
    divergent : Tensor
        (chains,) bool: the simulated energy broke down (always False for samplers without a trajectory).
    energy : Tensor
        (chains,) energy of the new state: with its kinetic part for Hamiltonian samplers, else -log_prob.
    gradients : int
        Evaluations of the density or its gradient, for each chain.
    """

    acceptance: Tensor
    accepted: Tensor
    divergent: Tensor
    energy: Tensor
    gradients: int


def always_accepted(state: State, gradients: int) -> Info:
    """Info of a step without an acceptance test: accepted, and divergent where the density is zero."""
    lost = ~torch.isfinite(state.log_prob)
    return Info(torch.ones_like(state.log_prob), torch.ones_like(lost), lost, -state.log_prob, gradients)


@runtime_checkable
class Transition(Protocol):
    """A Markov transition kernel."""

    def init(self, position: Tensor) -> State:
        """State of chains that start at position (chains, dim); ValueError if the density is zero at a start."""
        ...

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        """Move every chain once."""
        ...
