"""The contract of a sampler, on targets whose moments are known."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from blindsr.diagnostics import arviz_io
from blindsr.generators.kernel import KernelNetwork
from blindsr.likelihood.quadratic import LrErrorForm
from blindsr.operators.degradation import Degradation
from blindsr.posteriors.base import Target
from blindsr.posteriors.network import FlatNetwork, NetworkTarget
from blindsr.priors.normal import GaussianShape
from blindsr.random import seeded
from blindsr.samplers.chains import Chains
from blindsr.samplers.sampler import Sampler
from blindsr.samplers.table import sample
from blindsr.testing.base import call, global_state_kept, need

CHECKED_DRAWS, LEAST_ESS = 1000, 100
"""Draws of each chain in the statistical check of a sampler, and the effective sample size that they must have."""


class _Normal:
    """N(mean, covariance) in two dimensions as a prior N(0, 9 I) and a likelihood: what samplers are checked on."""

    names = ("z_0", "z_1")

    def __init__(self) -> None:
        self.covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
        self.mean = torch.tensor([0.5, -1.0], dtype=torch.float64)
        self._precision = torch.linalg.inv(self.covariance)

    def log_prob(self, z: Tensor) -> Tensor:
        gap = z - self.mean
        energy: Tensor = 0.5 * ((gap @ self._precision) * gap).sum(1)
        return -energy

    def log_prior(self, z: Tensor) -> Tensor:
        return -z.square().sum(1) / 18 - math.log(18 * math.pi)

    def log_likelihood(self, z: Tensor) -> Tensor:
        return self.log_prob(z) - self.log_prior(z)

    def sample_prior(self, n: int, *, generator: torch.Generator) -> Tensor:
        return 3 * torch.randn(n, 2, generator=generator, dtype=torch.float64)

    def initial(self, n: int, *, generator: torch.Generator) -> Tensor:
        return self.sample_prior(n, generator=generator)


def _network() -> NetworkTarget:
    """Posterior of a small kernel network, given a random picture."""
    degradation, g = Degradation(2, 5), torch.Generator().manual_seed(0)
    x, y = (torch.rand(1, 1, n, n, generator=g, dtype=torch.float64) for n in (16, 8))
    with seeded(0):
        network = FlatNetwork.of(KernelNetwork(5, (4,), 2, 1.0))
    form = LrErrorForm.build(degradation, x, y)
    return NetworkTarget(network, form, 1e-2, (1.0, 1.0), GaussianShape(5, 2))


def check_sampler(sampler: Any) -> None:
    """Check that a sampler keeps its contract, on a normal target in two dimensions (or on a small kernel network).

    `sampler.run(target, request)` must return `Chains` of the requested shapes with the log densities of the draws, the
    same for the same generator state, and must leave torch's global random state alone. If the sampler is `valid`, the
    means and variances of its draws must agree with the target's within 5 standard errors, computed from the effective
    sample size, which must be at least 100.
    """
    need(not isinstance(sampler, type), "a sampler is an object: give MySampler(), not the class")
    need(
        isinstance(sampler, Sampler),
        f"{type(sampler).__name__} is no sampler: derive it from blindsr.samplers.Sampler or MarkovSampler",
    )
    normal = _Normal()
    target: Target = _network() if sampler.needs_network else normal

    def draw(draws: int = 8, seed: int = 3) -> Any:
        asked = {"chains": 4, "draws": draws, "warmup": draws, "generator": torch.Generator().manual_seed(seed)}
        return call("run(target, request)", sample, target, sampler, **asked)

    with global_state_kept("run() changes torch's global random state; use request.generator"):
        first, second = draw(), draw()
    _check_chains(first, target)
    need(torch.equal(first.draws, second.draws), "run() gives other draws for the same generator state")
    need(not torch.equal(first.draws, draw(seed=4).draws), "run() gives the same draws for another generator state")
    if sampler.valid and not sampler.needs_network:
        _check_moments(draw(CHECKED_DRAWS).draws, normal)


def _check_chains(chains: Any, target: Target) -> None:
    need(isinstance(chains, Chains), f"run() returns {type(chains).__name__}, not Chains")
    need(tuple(chains.names) == target.names, "run() returns chains whose names are not those of the target")
    shape, needed = tuple(chains.draws.shape), (4, 8, len(target.names))
    need(shape == needed, f"draws have shape {shape}; (chains, draws, dim) = {needed} is needed")
    need(chains.draws.dtype == torch.float64 and torch.isfinite(chains.draws).all(), "draws must be finite float64")
    for name in ("log_prob", "acceptance", "energy", "divergent"):
        shape = tuple(getattr(chains, name).shape)
        need(shape == (4, 8), f"{name} has shape {shape}; (chains, draws) = (4, 8) is needed")
    if isinstance(target, _Normal):
        gap = (chains.log_prob - target.log_prob(chains.draws.flatten(0, 1)).view(4, 8)).abs().max()
        need(gap < 1e-6, f"log_prob is not the log density at the draws; they differ by up to {float(gap):.3g}")


def _check_moments(draws: Tensor, target: _Normal) -> None:
    for j, name in enumerate(target.names):
        gap = draws[..., j] - target.mean[j]
        for what, series, truth in (("mean", gap, 0.0), ("variance", gap.square(), float(target.covariance[j, j]))):
            ess = arviz_io.ess_bulk(series.numpy())
            need(
                ess >= LEAST_ESS,
                f"4 chains of {CHECKED_DRAWS} draws have an effective sample size of {ess:.0f} for the {what} of "
                f"{name}; at least {LEAST_ESS} is needed (a sampler whose draws are no sample declares valid = False)",
            )
            error = float(series.std()) / ess**0.5
            off = abs(float(series.mean()) - truth) / error
            need(
                off < 5,
                f"the {what} of {name} is off by {off:.1f} standard errors; a sampler whose stationary distribution is "
                "not the target declares valid = False",
            )
