"""Uncertainty from an image network: an ensemble of restarts, or Langevin dynamics over the network's weights.

SGLD over the weights of a deep image prior: Cheng, Gadelha, Maji, Sheldon, "A Bayesian perspective on the deep image
prior", CVPR 2019; here preconditioned (`samplers.sgld`). Ensembles: Lakshminarayanan, Pritzel, Blundell, "Simple and
scalable predictive uncertainty estimation using deep ensembles", NeurIPS 2017. Neither is exact: Langevin dynamics has
no acceptance step and does not reach all of the posterior in a run of this length, and the members of an ensemble are
optima. Both are much slower than `image_posterior.restoration_uncertainty`: each step is a forward and a backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from blindsr.diagnostics.moments import RunningMoments
from blindsr.generators.skip import SkipNetwork, SkipSettings
from blindsr.operators.degradation import Degradation
from blindsr.posteriors.base import value_and_gradient
from blindsr.random import draw_seed, seeded
from blindsr.restorers.splitting import QUANTISATION_STD
from blindsr.samplers.sgld import PreconditionedSgld, Sgld
from blindsr.uncertainty.maps import UncertaintyMap, as_map, check_inputs

MakeImage = Callable[[Tensor, Degradation], nn.Module]
"""(y, degradation) -> a module that returns the image (1, C, H, W), of the size that the degradation needs."""

SMALL = SkipSettings(channels=32, non_local_from=None)
"""A skip network that is small enough for a CPU."""


def small_skip(y: Tensor, degradation: Degradation) -> SkipNetwork:
    """Return a skip network of size `SMALL`."""
    return SkipNetwork(y.shape[1], *degradation.hr_shape(*y.shape[-2:]), SMALL)


@dataclass(frozen=True, eq=False)
class WeightPosterior:
    """Target over the weights φ of an image network: log p(φ | y, k) = −‖y − (x(φ) ⊗ k)↓s‖²/2σ² − ‖φ‖²/2τ² + const."""

    network: nn.Module  # x(φ); each evaluation overwrites its parameters
    # y, kernel: (1, C, h, w) and (1, 1, K, K)
    y: Tensor
    kernel: Tensor
    degradation: Degradation  # Scale, kernel size, alignment, padding
    # noise_std, weight_std: σ and τ, above 0
    noise_std: float
    weight_std: float

    def __post_init__(self) -> None:
        if not (0 < self.noise_std < math.inf and 0 < self.weight_std < math.inf):
            raise ValueError("network uncertainty: noise_std and weight_std must be above 0")

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each weight."""
        n = sum(p.numel() for p in self.network.parameters())
        return tuple(f"weight_{j}" for j in range(n))

    def weights(self) -> Tensor:
        """The network's own weights (dim,), detached."""
        return torch.cat([p.detach().reshape(-1) for p in self.network.parameters()])

    def image(self, z: Tensor) -> Tensor:
        """Return the image (1, C, s h, s w) of one vector of weights (dim,)."""
        vector_to_parameters(z.to(self.y), self.network.parameters())
        return self.degradation.crop(self.network())

    def energy(self) -> Tensor:
        """Return the negative log likelihood at the network's own weights, up to a constant."""
        residual = self.degradation(self.network(), self.kernel) - self.y
        return residual.square().sum() / (2 * self.noise_std**2)

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return log densities (n,) of weights (n, dim), and their gradients (n, dim)."""
        values, gradients = [], []
        for row in z:
            vector_to_parameters(row.to(self.y), self.network.parameters())
            with torch.enable_grad():
                energy = self.energy()
                parts = torch.autograd.grad(energy, list(self.network.parameters()))
            flat = torch.cat([g.reshape(-1) for g in parts]).to(z)
            values.append(-energy.detach().to(z) - row.square().sum() / (2 * self.weight_std**2))
            gradients.append(-flat - row / self.weight_std**2)
        return torch.stack(values), torch.stack(gradients)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log densities (n,) of weights (n, dim), detached."""
        return self.log_prob_and_gradient(z)[0]

    def initial(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Return draws (n, dim) from the prior of the weights, float64."""
        dim = sum(p.numel() for p in self.network.parameters())
        return self.weight_std * torch.randn(n, dim, generator=generator, dtype=torch.float64)


def _trained(
    make: MakeImage,
    y: Tensor,
    kernel: Tensor,
    degradation: Degradation,
    noise: tuple[float, float],
    steps: int,
    lr: float,
    generator: torch.Generator,
) -> WeightPosterior:
    """Return the posterior around a new network after `steps` of Adam on its energy over the number of pixel values."""
    with seeded(draw_seed(generator)):
        network = make(y, degradation)
    target = WeightPosterior(network, y, kernel, degradation, *noise)
    adam = torch.optim.Adam(network.parameters(), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        adam.zero_grad(set_to_none=True)
        (target.energy() * (2 * noise[0] ** 2 / y.numel())).backward()
        adam.step()
    return target


def ensemble(
    y: Tensor,
    kernels: Tensor,
    degradation: Degradation,
    noise_std: float,
    *,
    generator: torch.Generator,
    make: MakeImage = small_skip,
    members: int = 4,
    steps: int = 300,
    lr: float = 5e-3,
    interrupt: Callable[[], bool] | None = None,
) -> UncertaintyMap:
    """Mean and standard deviation over networks, each with a seed, a kernel draw and noise of its own.

    Parameters
    ----------
    y, kernels, degradation, noise_std, generator, interrupt
        As for `maps.uncertainty_map`; the kernel draws are used in turn. Each member is fitted to y plus noise of the
        given level (randomised MAP).
    make : callable
        Makes the network.
    members, steps, lr : int, int, float
        Number of networks (at least 2), steps of Adam for each, and its learning rate.

    Raises
    ------
    ValueError
        If a shape or a value is bad.
    """
    check_inputs(y, kernels, degradation, noise_std)
    if members < 2 or steps < 1:
        raise ValueError(f"ensemble: {members} members of {steps} steps; at least 2 members of 1 step are needed")
    moments, noise = RunningMoments(), max(noise_std, QUANTISATION_STD)
    for i in range(members):
        seen = y + noise_std * torch.randn(y.shape, generator=generator).to(y)
        kernel = kernels[i % len(kernels)][None]
        target = _trained(make, seen, kernel, degradation, (noise, 1.0), steps, lr, generator)
        with torch.no_grad():
            moments.add(degradation.crop(target.network()))
        if interrupt is not None and interrupt() and moments.count >= 2:
            break
    return as_map(moments, y)


@dataclass(frozen=True)
class LangevinSettings:
    """How the weights are sampled.

    Parameters
    ----------
    warmup, lr : int, float
        Steps of Adam that find the initial weights, and their learning rate.
    burn, steps, thin : int
        Langevin steps that are discarded, steps after them, and steps for each image that is kept.
    step_size : float
        ε of `samplers.sgld`; with the preconditioner, a weight with a steady gradient moves by about ε/2 in each step.
    preconditioned : bool
        Whether SGLD is preconditioned, which a network needs; without, ε is in squared units of the weights.
    weight_std : float
        τ of the prior on the weights.
    """

    warmup: int = 300
    lr: float = 5e-3
    burn: int = 100
    steps: int = 400
    thin: int = 10
    step_size: float = 1e-3
    preconditioned: bool = True
    weight_std: float = 1.0

    def __post_init__(self) -> None:
        if min(self.warmup, self.burn) < 0 or self.thin < 1 or self.steps < 2 * self.thin:
            raise ValueError("Langevin uncertainty: choose warmup and burn >= 0, thin >= 1, steps >= 2 thin")


def langevin(
    y: Tensor,
    kernel: Tensor,
    degradation: Degradation,
    noise_std: float,
    *,
    generator: torch.Generator,
    make: MakeImage = small_skip,
    settings: LangevinSettings | None = None,
    interrupt: Callable[[], bool] | None = None,
) -> UncertaintyMap:
    """Mean and standard deviation of the image along Langevin dynamics over the network's weights.

    Parameters
    ----------
    y, degradation, noise_std, generator, interrupt
        As for `maps.uncertainty_map`; at least the noise of rounding to 8 bits is assumed.
    kernel : Tensor
        (1, 1, K, K).
    make : callable
        Makes the network.
    settings : LangevinSettings, optional
        Length and step size.

    Raises
    ------
    ValueError
        If a shape or a value is bad.
    """
    check_inputs(y, kernel.expand(2, -1, -1, -1), degradation, noise_std)
    s = settings or LangevinSettings()
    noise = max(noise_std, QUANTISATION_STD), s.weight_std
    target = _trained(make, y, kernel, degradation, noise, s.warmup, s.lr, generator)
    sampler = Sgld(s.step_size)
    if s.preconditioned:
        # No weight moves faster than under plain SGLD, so that one without influence on the data follows its prior.
        sampler = PreconditionedSgld(s.step_size, damping=1.0)
    transition = sampler.on(value_and_gradient(target))
    state, moments = transition.init(target.weights()[None]), RunningMoments()
    for step in range(1, s.burn + s.steps + 1):
        state = transition.step(state, generator)[0]
        if step > s.burn and (step - s.burn) % s.thin == 0:
            with torch.no_grad():
                moments.add(target.image(state.position[0]))
            if interrupt is not None and interrupt() and moments.count >= 2:
                break
    return as_map(moments, y)
