"""Pyro's no-U-turn sampler (Hoffman and Gelman 2014) on the targets of this package, one chain after another."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from blindsr.posteriors.base import Target, ValueAndGradient, value_and_gradient
from blindsr.random import draw_seed, seeded
from blindsr.samplers import metropolis
from blindsr.samplers.chains import Chains
from blindsr.samplers.metric import Metric
from blindsr.samplers.request import Kept, Request
from blindsr.samplers.sampler import Sampler
from blindsr.samplers.warmup import DENSE_UP_TO

DRAWS_A_DIMENSION = 10
"""Warm-up draws per dimension that a dense mass matrix needs: learnt from fewer, it all but stops NUTS."""


class _LogDensity(torch.autograd.Function):
    """A log density whose gradient is already known, as an autograd function."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, density: ValueAndGradient) -> Tensor:
        value, gradient = density(z)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return outer[0][:, None] * gradient, None


@dataclass
class Potential:
    """The potential energy that Pyro asks for, {"w": (dim,)} -> scalar, in coordinates whitened by a first metric."""

    density: ValueAndGradient  # The target's
    metric: Metric  # z = L w
    calls: int = field(default=0)  # Evaluations so far

    def __call__(self, parameters: dict[str, Tensor]) -> Tensor:
        """Minus the log density."""
        self.calls += 1
        value: Tensor = _LogDensity.apply(self.metric.outward(parameters["w"][None]), self.density)
        return -value[0]


class _Chain(NamedTuple):
    """One chain: positions (draws, dim), and a value for each draw."""

    position: Tensor
    log_prob: Tensor
    acceptance: Tensor
    divergent: Tensor
    step_size: float


def _one_chain(potential: Potential, position: Tensor, request: Request) -> _Chain | None:
    """Run NUTS from position (dim,); None if time runs out before its end."""
    from pyro.infer import NUTS

    dim = len(position)
    dense = dim <= DENSE_UP_TO and request.warmup >= DRAWS_A_DIMENSION * dim
    kernel: Any = NUTS(potential_fn=potential, full_mass=dense)
    parameters = {"w": potential.metric.whiten(position[None])[0]}
    kernel.initial_params = parameters
    kernel.setup(request.warmup)
    positions, log_probs, acceptances, before = [], [], [], 0.0
    for i in range(request.warmup + request.draws * request.thin):
        if request.late:
            return None
        parameters = kernel.sample(parameters)
        if i < request.warmup:
            continue
        n, mean = i - request.warmup + 1, kernel._mean_accept_prob
        acceptances.append(mean * n - before * (n - 1))
        before = mean
        if n % request.thin == 0:
            positions.append(parameters["w"].detach().clone())
            log_probs.append(-float(kernel._potential_energy_last))
    divergent = torch.zeros(request.draws * request.thin, dtype=torch.bool)
    divergent[[i for i in kernel._divergences if i >= 0]] = True
    return _Chain(
        potential.metric.outward(torch.stack(positions)),
        torch.tensor(log_probs, dtype=torch.float64),
        torch.tensor(acceptances, dtype=torch.float64).clamp(0, 1).reshape(-1, request.thin).mean(1),
        divergent.reshape(-1, request.thin).any(1),
        float(kernel.step_size),
    )


@dataclass(frozen=True)
class PyroNuts(Sampler):
    """Pyro's NUTS, a reference sampler; the mass matrix is dense if the warm-up is long enough to learn one.

    A given covariance whitens the coordinates in which NUTS works. The energy is minus the log density. Chains that are
    unfinished at the deadline are left out.
    """

    name: ClassVar[str] = "pyro-nuts"

    def run(self, target: Target, request: Request) -> Chains:
        """Run one chain after another."""
        began = time.perf_counter()
        position, metric = request.start(target)
        potential = Potential(value_and_gradient(target), metric)
        metropolis.start(potential.density, position)
        done: list[_Chain] = []
        for start in position:
            with seeded(draw_seed(request.generator)):
                chain = _one_chain(potential, start, request)
            if chain is None:
                break
            done.append(chain)
        if not done:
            return self.no_chains(target, request, potential.calls, began)
        kept = Kept.stacked([c[:4] for c in done], potential.calls)
        step = torch.tensor([c.step_size for c in done], dtype=torch.float64)
        tuning = {"step_size": float(step.mean())}
        return self.chains(target, request, kept, step, potential.calls, began, tuning)
