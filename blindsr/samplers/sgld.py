"""Langevin dynamics without an acceptance step: SGLD and preconditioned SGLD.

SGLD (Welling & Teh 2011) with step size ε, in coordinates whitened by a fixed matrix, z = L w (their preconditioner):

    z ← z + (ε/2) L Lᵀ ĝ(z) + sqrt(ε) L ξ,    ξ ~ N(0, I),

where ĝ is an unbiased estimate of ∇ log π; if it is the gradient itself, this is the unadjusted Langevin algorithm. At
a fixed ε the target is not invariant. On N(m, s²), with L = 1, the stationary variance is s² (1 + ε v/4) / (1 - ε/(4
s²)) for ε < 4 s², where v is the variance of ĝ: too large, by a share that vanishes with ε.

Preconditioned SGLD (Li, Chen, Carlson & Carin 2016) scales each coordinate by its recent gradients:

    V ← α V + (1 - α) (ĝ/N)²,    D = 1 / (λ + sqrt(V)),    z ← z + (ε/2) (D ĝ + Γ) + sqrt(ε D) ξ,

Γ_j = ∂D_j/∂z_j. Γ is omitted here, as in the experiments of that paper, and D keeps adapting. The bias therefore does
not vanish with ε: D is small where gradients are large, the chain is slow there, and the draws spread too widely. With
α = 0 the limit of small steps in one dimension has a density proportional to π/D; a slow α hides most of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from blindsr.posteriors.base import Target, ValueAndGradient, value_and_gradient
from blindsr.samplers import metropolis
from blindsr.samplers.base import Info, State, always_accepted
from blindsr.samplers.metric import Metric
from blindsr.samplers.request import Request
from blindsr.samplers.sampler import MarkovSampler

StochasticGradient = Callable[[Tensor, torch.Generator], Tensor]
"""(positions (n, dim), generator) -> unbiased estimates of ∇ log π (n, dim)."""

STEP = 4 / 21
"""Step at which the stationary variance of a whitened normal is 5 % too large: 1 / (1 - ε/4) = 1.05."""


@dataclass(frozen=True)
class Sgld(MarkovSampler):
    """SGLD at a fixed step size (equations at the top of the module). Its draws are not a sample of the target.

    Parameters
    ----------
    step_size : float
        ε, in squared units of the whitened coordinates: those of a standard normal if the covariance or the transport
        map given to `sample` describes the target well. With `covariance=torch.ones(dim)` these are the units of z.
    stochastic : StochasticGradient, optional
        ĝ. Default: the gradient of the target.

    Raises
    ------
    ValueError
        If the step size is not positive.
    """

    name: ClassVar[str] = "sgld"
    valid: ClassVar[bool] = False
    step_size: float = STEP
    stochastic: StochasticGradient | None = None

    def __post_init__(self) -> None:
        if not self.step_size > 0:
            raise ValueError(f"{self.name}: step size {self.step_size:g} must be above 0")

    def transition(self, target: Target, metric: Metric, request: Request) -> SgldTransition:
        """Langevin moves."""
        if self.stochastic is not None and request.center is not None:
            raise ValueError(
                f"{self.name}: a stochastic gradient refers to the target's own coordinates; "
                "leave out the transport map"
            )
        return self.on(value_and_gradient(target), metric)

    def on(self, density: ValueAndGradient, metric: Metric | None = None) -> SgldTransition:
        """Return the transition for a density z (n, dim) -> values (n,) and gradients (n, dim); L is 1 by default."""
        return SgldTransition(density, self, metric)


@dataclass(frozen=True)
class PreconditionedSgld(Sgld):
    """Preconditioned SGLD without its Γ term (equations at the top of the module). Its draws are not a sample.

    Parameters
    ----------
    step_size : float
        ε. The step of coordinate j is ε D_j, in whitened units. `stochastic` is as in `Sgld`.
    decay : float
        α, in [0, 1).
    damping : float
        λ, above 0.
    data_size : float
        N, which the gradient is divided by before it is squared: it sets the scale of D, and with it that of ε.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    name: ClassVar[str] = "psgld"
    decay: float = 0.99
    damping: float = 1e-5
    data_size: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.decay < 1 and self.damping > 0 and self.data_size > 0):
            raise ValueError("psgld: 0 <= decay < 1, damping > 0 and data_size > 0 are needed")

    def on(self, density: ValueAndGradient, metric: Metric | None = None) -> PreconditionedTransition:
        """Return the transition for a density z (n, dim) -> values (n,) and gradients (n, dim); L is 1 by default."""
        return PreconditionedTransition(density, self, metric)


@dataclass(frozen=True, eq=False)
class SgldTransition:
    """One move of SGLD."""

    density: ValueAndGradient  # z (n, dim) -> log density (n,) and gradient (n, dim)
    settings: Sgld  # Step size and stochastic gradient
    metric: Metric | None = None  # L; None: the identity

    @property
    def step_size(self) -> float:
        """ε."""
        return self.settings.step_size

    def init(self, position: Tensor) -> State:
        """State of chains at position (chains, dim)."""
        return metropolis.start(self.density, position)

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        """Move every chain once."""
        gradient = self._gradient(state, generator)
        noise = self.step_size**0.5 * metropolis.normal_like(gradient, generator)
        state = State(*self._moved(state.position, 0.5 * self.step_size * gradient, noise))
        return state, self._info(state)

    def _gradient(self, state: State, generator: torch.Generator) -> Tensor:
        """ĝ with respect to w (chains, dim)."""
        stochastic = self.settings.stochastic
        gradient = state.gradient if stochastic is None else stochastic(state.position, generator)
        assert gradient is not None
        return gradient if self.metric is None else self.metric.inward(gradient)

    def _moved(self, z: Tensor, drift: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """New positions, log densities and gradients, after a drift and noise in w."""
        if self.metric is not None:
            drift, noise = self.metric.outward(drift), self.metric.outward(noise)
        z = z + drift + noise
        return z, *self.density(z)

    def _info(self, state: State) -> Info:
        return always_accepted(state, 1 if self.settings.stochastic is None else 2)


@dataclass(frozen=True)
class PreconditionedState(State):
    """A state with V (chains, dim), the running mean of squared gradients; None before the first step."""

    square: Tensor | None = None


@dataclass(frozen=True, eq=False)
class PreconditionedTransition(SgldTransition):
    """One move of preconditioned SGLD."""

    settings: PreconditionedSgld

    def init(self, position: Tensor) -> PreconditionedState:
        """State of chains at position (chains, dim)."""
        at = super().init(position)
        return PreconditionedState(at.position, at.log_prob, at.gradient)

    def step(self, state: State, generator: torch.Generator) -> tuple[PreconditionedState, Info]:
        """Move every chain once."""
        assert isinstance(state, PreconditionedState)
        s, gradient = self.settings, self._gradient(state, generator)
        new = (gradient / s.data_size).square()
        square = new if state.square is None else s.decay * state.square + (1 - s.decay) * new
        size = s.step_size / (s.damping + square.sqrt())
        noise = size.sqrt() * metropolis.normal_like(gradient, generator)
        moved = PreconditionedState(*self._moved(state.position, 0.5 * size * gradient, noise), square)
        return moved, self._info(moved)
