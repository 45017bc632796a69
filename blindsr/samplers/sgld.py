"""Langevin dynamics without an acceptance step: SGLD and preconditioned SGLD.

SGLD (Welling & Teh 2011), step size ε:

    z ← z + (ε/2) ĝ(z) + sqrt(ε) ξ,    ξ ~ N(0, I),

ĝ an unbiased estimate of ∇ log π; where it is the gradient itself this is the unadjusted Langevin algorithm. At a
fixed ε neither leaves π invariant. On N(m, s²) the stationary variance is s² (1 + ε v/4) / (1 - ε/(4 s²)) for ε < 4 s²,
v the variance of ĝ: too wide, by a share that goes to zero with ε.

Preconditioned SGLD (Li, Chen, Carlson & Carin 2016) gives each coordinate a step by its recent gradients:

    V ← α V + (1 - α) (ĝ/N)²,    D = 1 / (λ + sqrt(V)),    z ← z + (ε/2) (D ĝ + Γ) + sqrt(ε D) ξ,

Γ_j = ∂D_j/∂z_j. Here Γ is left out, as in that paper's experiments, and D is adapted for ever. So the bias does not go
to zero with ε: D is small where gradients are large, the chain is slow there, and the draws are too wide. With α = 0
the limit of small steps in one dimension has the density π/D, up to a factor; a slow α hides most of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from blindsr.posteriors.base import Target, value_and_gradient
from blindsr.samplers import metropolis
from blindsr.samplers.base import Info, State
from blindsr.samplers.biased import always_accepted

StochasticGradient = Callable[[Tensor, torch.Generator], Tensor]
"""(positions (n, dim), generator) -> unbiased estimates of ∇ log π (n, dim)."""


def _check_step(step_size: float) -> None:
    if not step_size > 0:
        raise ValueError(f"Langevin step size {step_size:g}: a number above 0 is needed")


@dataclass(frozen=True, eq=False)
class Sgld:
    """SGLD at a fixed step size (equations at the top of the module). Not exact.

    Parameters
    ----------
    target : Target
        What its draws resemble.
    step_size : float
        ε, squared units of z.
    stochastic : StochasticGradient, optional
        ĝ. Default: the target's gradient.

    Raises
    ------
    ValueError
        If the step size is not positive.
    """

    target: Target
    step_size: float
    stochastic: StochasticGradient | None = None

    exact: ClassVar[bool] = False
    """Whether the stationary distribution is the target."""

    def __post_init__(self) -> None:
        _check_step(self.step_size)

    def init(self, position: Tensor) -> State:
        """State of chains at position (chains, dim)."""
        return metropolis.start(value_and_gradient(self.target), position)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        """One move of every chain."""
        z, gradient = state.position, state.gradient
        if self.stochastic is not None:
            gradient = self.stochastic(z, generator)
        assert gradient is not None
        z = z + 0.5 * self.step_size * gradient + self.step_size**0.5 * metropolis.normal_like(z, generator)
        state = State(z, *value_and_gradient(self.target)(z))
        return state, always_accepted(state, 1 if self.stochastic is None else 2)


@dataclass(frozen=True)
class PreconditionedState(State):
    """A state with V (chains, dim), the running mean of squared gradients; None before the first step."""

    square: Tensor | None = None


@dataclass(frozen=True, eq=False)
class PreconditionedSgld:
    """Preconditioned SGLD without its Γ term (equations at the top of the module). Not exact.

    Parameters
    ----------
    target : Target
        What its draws resemble.
    step_size : float
        ε. The step of coordinate j is ε D_j.
    decay : float
        α, in [0, 1).
    damping : float
        λ, above 0.
    data_size : float
        N, what the gradient is divided by before it is squared: it sets the scale of D, and with it of ε.
    stochastic : StochasticGradient, optional
        ĝ. Default: the target's gradient.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    target: Target
    step_size: float
    decay: float = 0.99
    damping: float = 1e-5
    data_size: float = 1.0
    stochastic: StochasticGradient | None = None

    exact: ClassVar[bool] = False
    """Whether the stationary distribution is the target."""

    def __post_init__(self) -> None:
        _check_step(self.step_size)
        if not (0 <= self.decay < 1 and self.damping > 0 and self.data_size > 0):
            raise ValueError("preconditioned SGLD: need 0 <= decay < 1, damping > 0 and data_size > 0")

    def init(self, position: Tensor) -> PreconditionedState:
        """State of chains at position (chains, dim)."""
        at = metropolis.start(value_and_gradient(self.target), position)
        return PreconditionedState(at.position, at.log_prob, at.gradient)

    def step(self, state: State, generator: torch.Generator) -> tuple[PreconditionedState, Info]:
        """One move of every chain."""
        assert isinstance(state, PreconditionedState)
        z, gradient = state.position, state.gradient
        if self.stochastic is not None:
            gradient = self.stochastic(z, generator)
        assert gradient is not None
        new = (gradient / self.data_size).square()
        square = new if state.square is None else self.decay * state.square + (1 - self.decay) * new
        size = self.step_size / (self.damping + square.sqrt())
        z = z + 0.5 * size * gradient + size.sqrt() * metropolis.normal_like(z, generator)
        moved = PreconditionedState(z, *value_and_gradient(self.target)(z), square)
        return moved, always_accepted(moved, 1 if self.stochastic is None else 2)
