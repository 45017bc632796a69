"""Network-level Langevin dynamics (Eq. 42): the gradient of a random loss in the place of Langevin's white noise.

    φ ← φ - a ∇L_RE(φ) - b ∇L_MC(φ),    L_MC = Σ_l ω_l mean (k_l - G(φ))²,

k_1..k_L drawn anew at each step and weighted by their LR error. Over a meta-window the gradient of L_RE is added up for
P steps before it is used, and L_MC may step only every Q steps.

This is stochastic gradient descent on a L_RE + b E[L_MC] at a constant rate. Where it settles, it is not at the
posterior: nothing ties the noise to σ², the noise has a mean (a pull towards the weighted mean of the draws), and for
small rates the covariance is proportional to the rate, where Langevin's does not depend on it. Where L_RE is quadratic
with Hessian H and minimum m, and L_MC = mean_l ‖k_l - φ‖² with k_l ~ N(c, S), the step is an autoregression, with
M = I - aH - 2bI:

    mean (aH + 2bI)⁻¹ (aHm + 2bc),    covariance C = M C Mᵀ + 4b² S/L.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import torch
from torch import Tensor

from blindsr.posteriors.base import Target, value_and_gradient
from blindsr.posteriors.network import NetworkTarget
from blindsr.priors.base import KernelPrior
from blindsr.samplers import metropolis
from blindsr.samplers.base import Info, State
from blindsr.samplers.biased import always_accepted
from blindsr.samplers.mcka import WeightRule, published_weights

Loss = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Positions (n, dim) -> losses (n,) and their gradients (n, dim), detached."""

RandomLoss = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""(positions (n, dim), generator) -> random losses (n,) and their gradients (n, dim), independent for each chain."""


def negative_log_density(target: Target) -> Loss:
    """The loss -log π of a target."""
    evaluate = value_and_gradient(target)

    def loss(position: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = evaluate(position)
        return -value, -gradient

    return loss


@dataclass(frozen=True, eq=False)
class RandomPull:
    """The random loss of a target that makes no kernels: mean_l ‖m_l - z‖², m_l ~ N(center, diag(std²)).

    Parameters
    ----------
    center, std : Tensor
        (dim,).
    n : int
        L, draws in one loss.

    Raises
    ------
    ValueError
        If n is below 1.
    """

    center: Tensor
    std: Tensor
    n: int = 1

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"random pull: n is {self.n}, at least 1 is needed")

    def __call__(self, position: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Losses (n,) and gradients 2 (z - mean_l m_l) (n, dim)."""
        shape = (self.n, *position.shape)
        draws = self.center + self.std * torch.randn(shape, generator=generator, dtype=position.dtype)
        gap = position - draws
        return gap.square().sum(2).mean(0), 2 * gap.mean(0)


@dataclass(frozen=True, eq=False)
class MonteCarloLoss:
    """L_MC of a kernel network: L kernels from a prior, weighted by their LR error (Eqs. 24-29).

    Parameters
    ----------
    target : NetworkTarget
        Gives G, e and the σ² that the `likelihood` weights want.
    prior : KernelPrior
        What kernels are drawn from.
    n_kernels : int
        L.
    weights : WeightRule
        One of `blindsr.samplers.mcka.WEIGHTS`, or any callable like them.
    proximity : float or None
        As in `MonteCarloKernelApproximation`.

    Raises
    ------
    ValueError
        If L is below 1, or the prior's kernels have another size than the network's.
    """

    target: NetworkTarget
    prior: KernelPrior
    n_kernels: int = 5
    weights: WeightRule = published_weights
    proximity: float | None = None

    def __post_init__(self) -> None:
        if self.n_kernels < 1:
            raise ValueError(f"Monte Carlo loss: n_kernels is {self.n_kernels}, at least 1 is needed")
        if self.prior.kernel_size != self.target.network.kernel_size:
            raise ValueError(
                f"Monte Carlo loss: the prior's kernels have side {self.prior.kernel_size}, "
                f"the network's {self.target.network.kernel_size}"
            )

    def draw(self, kernel: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """For each kernel (n, 1, K, K) its own draws (n, L, K²), float64, and their weights (n, L)."""
        n, draws = len(kernel), self.n_kernels
        samples = self.prior.sample(n * draws, generator=generator).double()
        errors = self.target.form(samples).view(n, draws)
        variance = errors.new_tensor(self.target.noise_variance)
        omega = torch.stack([self.weights(e, variance, self.target.form.n) for e in errors])
        samples = samples.view(n, draws, -1)
        if self.proximity is not None:
            near = torch.exp(-(samples - kernel.flatten(1)[:, None]).square().sum(2) / self.proximity)
            omega = omega * near / near.amax(1, keepdim=True).clamp_min(torch.finfo(near.dtype).tiny)
        return samples, omega

    @torch.no_grad()
    def __call__(self, position: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """L_MC (n,) of parameters (n, dim), and its gradient (n, dim)."""
        kernel, back = self.target.network.pullback(position)
        samples, omega = self.draw(kernel, generator)
        gap = kernel.flatten(1)[:, None] - samples
        value = (omega * gap.square().mean(2)).sum(1)
        return value, back(2 / gap.shape[2] * (omega[:, :, None] * gap).sum(1))


class Form(StrEnum):
    """How a gradient becomes a step.

    GRADIENT
        Eq. 42 as it stands.
    ADAM
        As the published code does: each gradient, ∇L_RE and (b/a) ∇L_MC, takes a step of one shared Adam of rate a
        (β = 0.9, 0.999). Both gradients are taken at the same φ.
    """

    GRADIENT = "gradient"
    ADAM = "adam"


@dataclass(frozen=True)
class WindowState(State):
    """A state with what is kept between steps; `log_prob` is -L_RE and `gradient` its gradient.

    Attributes
    ----------
    steps : int
        Steps made.
    window : Tensor or None
        (chains, dim) ∇L_RE added up since it was last used.
    moments : tuple of Tensor
        Adam's two moments (chains, dim); empty before its first update.
    updates : int
        Adam's updates.
    """

    steps: int = 0
    window: Tensor | None = None
    moments: tuple[Tensor, ...] = ()
    updates: int = 0


@dataclass(frozen=True, eq=False)
class NetworkLangevin:
    """The dynamics at the top of the module. Not exact.

    Parameters
    ----------
    loss : Loss
        L_RE: `NetworkTarget.error_and_gradient`, or any (`negative_log_density`).
    random_loss : RandomLoss or None
        L_MC: `MonteCarloLoss`, `RandomPull`, or your own. None leaves it out: gradient descent.
    rate : float
        a, at least 0 (above 0 under ADAM, where it is Adam's rate).
    random_rate : float
        b, at least 0; under ADAM b/a is the factor of ∇L_MC.
    window : int
        P: ∇L_RE is added up over P steps and used at the last of them.
    interval : int
        Q: L_MC steps at the first of every Q steps.
    form : Form
        Plain gradients or Adam.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    loss: Loss
    random_loss: RandomLoss | None
    rate: float
    random_rate: float
    window: int = 1
    interval: int = 1
    form: Form = Form.GRADIENT

    exact: ClassVar[bool] = False
    """Whether the stationary distribution is the target."""

    def __post_init__(self) -> None:
        if min(self.rate, self.random_rate) < 0 or min(self.window, self.interval) < 1:
            raise ValueError("network-level Langevin: need rates of at least 0, window and interval of at least 1")
        if self.form is Form.ADAM and self.rate == 0:
            raise ValueError("network-level Langevin: Adam's rate must be above 0")

    def _density(self, position: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.loss(position)
        return -value, -gradient

    def init(self, position: Tensor) -> WindowState:
        """State of chains at position (chains, dim)."""
        at = metropolis.start(self._density, position)
        return WindowState(at.position, at.log_prob, at.gradient)

    def step(self, state: State, generator: torch.Generator) -> tuple[WindowState, Info]:
        """One step of every chain."""
        assert isinstance(state, WindowState) and state.gradient is not None
        z, moments, updates = state.position, state.moments, state.updates
        window = -state.gradient if state.window is None else state.window - state.gradient
        gradients: list[tuple[float, Tensor]] = []
        if self.random_loss is not None and state.steps % self.interval == 0:
            gradients.append((self.random_rate, self.random_loss(state.position, generator)[1]))
        kept: Tensor | None = window
        if (state.steps + 1) % self.window == 0:
            gradients.append((self.rate, window))
            kept = None
        for rate, g in gradients:
            if self.form is Form.ADAM:
                updates += 1
                z, moments = self._adam(z, rate / self.rate * g, moments, updates)
            else:
                z = z - rate * g
        value, gradient = self._density(z)
        moved = WindowState(z, value, gradient, state.steps + 1, kept, moments, updates)
        return moved, always_accepted(moved, 2)

    def _adam(
        self, z: Tensor, g: Tensor, moments: tuple[Tensor, ...], updates: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Adam (Kingma & Ba 2015), torch's defaults."""
        zero = torch.zeros_like(z)
        first, second = moments or (zero, zero)
        first, second = first.lerp(g, 0.1), second.lerp(g.square(), 0.001)
        size = (second / (1 - 0.999**updates)).sqrt() + 1e-8
        return z - self.rate / (1 - 0.9**updates) * first / size, (first, second)
