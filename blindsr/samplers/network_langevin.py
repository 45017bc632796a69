"""Network-level Langevin dynamics (Eq. 42 of the MLMC paper): the gradient of a random loss replaces the white noise.

    φ ← φ - a ∇L_RE(φ) - b ∇L_MC(φ),    L_MC = Σ_l ω_l mean (k_l - G(φ))²,

where k_1..k_L are drawn independently at each step and weighted by their LR error. Over a meta-window the gradient of
L_RE is summed for P steps before it is used, and L_MC takes a step only every Q steps.

This is stochastic gradient descent on a L_RE + b E[L_MC] at a constant rate. Its stationary distribution is not the
posterior: the noise does not depend on σ², it has a non-zero mean (a pull towards the weighted mean of the draws), and
for small rates its covariance is proportional to the rate, whereas that of Langevin dynamics does not depend on it. If
L_RE is quadratic with Hessian H and minimum m, and L_MC = mean_l ‖k_l - φ‖² with k_l ~ N(c, S), the step is an
autoregression. With M = I - aH - 2bI, it has

    mean (aH + 2bI)⁻¹ (aHm + 2bc),    covariance C = M C Mᵀ + 4b² S/L.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import torch
from torch import Tensor

from blindsr.posteriors.base import Target
from blindsr.posteriors.network import NetworkTarget
from blindsr.samplers import metropolis
from blindsr.samplers.base import Info, State, always_accepted
from blindsr.samplers.mcka import MonteCarloKernelApproximation
from blindsr.samplers.metric import Metric
from blindsr.samplers.request import Request
from blindsr.samplers.sampler import MarkovSampler

Loss = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Positions (n, dim) -> losses (n,) and their gradients (n, dim), detached."""

RandomLoss = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""(positions (n, dim), generator) -> random losses (n,) and their gradients (n, dim), independent for each chain."""


@dataclass(frozen=True, eq=False)
class MonteCarloLoss:
    """L_MC of a kernel network: random kernels, weighted by their LR error (Eqs. 24-29 of the MLMC paper)."""

    target: NetworkTarget  # Gives G, e and the σ² that the `likelihood` weights need
    mcka: MonteCarloKernelApproximation  # How kernels are drawn and weighted

    def __post_init__(self) -> None:
        drawn, made = self.mcka.prior.kernel_size, self.target.network.kernel_size
        if drawn != made:
            raise ValueError(f"Monte Carlo loss: the prior's kernels have side {drawn}, the network's {made}")

    def draw(self, kernel: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """For each kernel (n, 1, K, K) its own draws (n, L, 1, K, K), float64, and their weights (n, L)."""
        form = self.target.form
        samples = self.mcka.prior.sample(len(kernel) * self.mcka.n_kernels, generator=generator).double()
        errors = form(samples).view(len(kernel), -1)
        variance = errors.new_tensor(self.target.noise_variance)
        samples = samples.view(len(kernel), -1, *samples.shape[1:])
        each = zip(samples, errors, kernel.split(1), strict=True)
        return samples, torch.stack([self.mcka.weigh(s, e, k, variance, form.n) for s, e, k in each])

    @torch.no_grad()
    def __call__(self, position: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """L_MC (n,) of parameters (n, dim), and its gradient (n, dim)."""
        kernel, back = self.target.network.pullback(position)
        samples, omega = self.draw(kernel, generator)
        gap = kernel.flatten(1)[:, None] - samples.flatten(2)
        value = (omega * gap.square().mean(2)).sum(1)
        return value, back(2 / gap.shape[2] * (omega[:, :, None] * gap).sum(1))


class Form(StrEnum):
    """How a gradient becomes a step.

    GRADIENT
        Eq. 42 of the MLMC paper, literally.
    ADAM
        As in the published code: each gradient, ∇L_RE and (b/a) ∇L_MC, is one step of a shared Adam of rate a
        (β = 0.9, 0.999). Both gradients are evaluated at the same φ.
    """

    GRADIENT = "gradient"
    ADAM = "adam"


@dataclass(frozen=True)
class WindowState(State):
    """A state with the memory of the dynamics; `log_prob` is -L_RE and `gradient` its gradient."""

    steps: int = 0  # Number of steps so far
    window: Tensor | None = None  # (chains, dim) the sum of ∇L_RE since it was last used
    moments: tuple[Tensor, ...] = ()  # Adam's two moments (chains, dim); empty before its first update
    updates: int = 0  # Number of Adam's updates so far


@dataclass(frozen=True)
class NetworkLangevin(MarkovSampler):
    """The dynamics at the top of the module, on a `NetworkTarget`. Its draws are not a sample of the posterior.

    Parameters
    ----------
    rate : float
        a, at least 0; under ADAM the rate of Adam, above 0. The default is the one studied in docs/langevin.md.
    random_rate : float
        b, at least 0; under ADAM b/a is the factor of ∇L_MC.
    window : int
        P: ∇L_RE is summed over P steps, and used at the last of them.
    interval : int
        Q: L_MC takes a step at the first of every Q steps.
    form : Form
        Adam or plain gradients.
    mcka : MonteCarloKernelApproximation or None
        How the random kernels are drawn and weighted; None: from the target's `kernel_prior`, with the published
        weights.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    name: ClassVar[str] = "network-langevin"
    valid: ClassVar[bool] = False
    needs_network: ClassVar[bool] = True
    uses_transport: ClassVar[bool] = False
    rate: float = 1e-3
    random_rate: float = 1e-3
    window: int = 1
    interval: int = 1
    form: Form = Form.ADAM
    mcka: MonteCarloKernelApproximation | None = None

    def __post_init__(self) -> None:
        if min(self.rate, self.random_rate) < 0 or min(self.window, self.interval) < 1:
            raise ValueError("network-langevin: rates of at least 0 are needed, window and interval of at least 1")
        if self.form is Form.ADAM and self.rate == 0:
            raise ValueError("network-langevin: the rate of Adam must be above 0")

    def transition(self, target: Target, metric: Metric, request: Request) -> NetworkLangevinTransition:
        """Steps over the weights of the target's network."""
        assert isinstance(target, NetworkTarget)  # `table.sample` has checked it
        mcka = self.mcka
        if mcka is None:
            if target.kernel_prior is None:
                raise ValueError("network-langevin: give a distribution of random kernels, mcka or target.kernel_prior")
            mcka = MonteCarloKernelApproximation(target.kernel_prior)
        return NetworkLangevinTransition(target.error_and_gradient, MonteCarloLoss(target, mcka), self)


@dataclass(frozen=True, eq=False)
class NetworkLangevinTransition:
    """One step of the dynamics at the top of the module."""

    loss: Loss  # L_RE: `NetworkTarget.error_and_gradient`, or another
    random_loss: RandomLoss | None
    """L_MC: `MonteCarloLoss` or your own. None omits it: gradient descent."""
    settings: NetworkLangevin  # Rates, P, Q and the form of the step

    @property
    def step_size(self) -> float:
        """The rate a."""
        return self.settings.rate

    def _density(self, position: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.loss(position)
        return -value, -gradient

    def init(self, position: Tensor) -> WindowState:
        """State of chains at position (chains, dim)."""
        at = metropolis.start(self._density, position)
        return WindowState(at.position, at.log_prob, at.gradient)

    def step(self, state: State, generator: torch.Generator) -> tuple[WindowState, Info]:
        """Move every chain once."""
        s = self.settings
        assert isinstance(state, WindowState) and state.gradient is not None
        z, moments, updates = state.position, state.moments, state.updates
        window = -state.gradient if state.window is None else state.window - state.gradient
        gradients: list[tuple[float, Tensor]] = []
        if self.random_loss is not None and state.steps % s.interval == 0:
            gradients.append((s.random_rate, self.random_loss(state.position, generator)[1]))
        kept: Tensor | None = window
        if (state.steps + 1) % s.window == 0:
            gradients.append((s.rate, window))
            kept = None
        for rate, g in gradients:
            if s.form is Form.ADAM:
                updates += 1
                z, moments = self._adam(z, rate / s.rate * g, moments, updates)
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
        return z - self.settings.rate / (1 - 0.9**updates) * first / size, (first, second)
