"""Targets as Pyro models: plain functions for Pyro's NUTS, HMC, SVI, importance sampling and Predictive.

A model has one site for each independent kernel parameter, in the parameter's own units ("variance_1" of a
`GaussianKernelPrior`, "log_variance" of a `GaussianShape`), or a single site "z" if the kernel prior does not
factorise; sites for the other coordinates of the target; the deterministic site "kernel"; and the likelihood. Its log
joint density in Pyro's unconstrained coordinates is the target's log density. All sites are float64. Pyro is imported
when a model is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from blindsr.posteriors.base import KernelTarget
from blindsr.posteriors.fixed_image import FixedImageTarget
from blindsr.posteriors.spectral import SpectralTarget
from blindsr.priors.base import KernelDensity
from blindsr.priors.normal import SmoothKernels
from blindsr.priors.parametric import ParametricKernels

Model = Callable[..., Tensor]


def fixed_image_model(target: FixedImageTarget, *, pixels: bool = False) -> Model:
    """Return a Pyro model of p(z, σ | y, x), a function `model(predict=False)` that returns the kernel (1, 1, K, K).

    Its sites are the kernel's, "log_noise" if the noise level is unknown, "kernel", and the likelihood.
    `model(predict=True)` observes nothing and draws "lr_image" (C, h, w): `Predictive(model, samples)(predict=True)`.

    Parameters
    ----------
    target : FixedImageTarget
        The posterior.
    pixels : bool
        By default the likelihood is a factor, computed by the exact quadratic form, whose cost does not grow with the
        image. With `pixels` it is a site "lr_image" of independent normals, observed at y: the same log density, at the
        cost of a convolution per evaluation.
    """

    def model(predict: bool = False) -> Tensor:
        import pyro
        import pyro.distributions as dist

        z = kernel_sites(target.prior)
        if target.noise_std is None:
            law = target.noise_prior
            log_noise = pyro.sample("log_noise", _normal(law.mean, law.std))
            z = _joined([z, log_noise[..., None]])
        flat, batch = z.reshape(-1, z.shape[-1]), z.shape[:-1]
        if predict or pixels:
            clean = target.blurred(flat)
            level = target.noise_level(flat)[:, None, None, None].expand_as(clean)
            shape = (*batch, *clean.shape[1:])
            law_of_y = dist.Normal(clean.reshape(shape), level.reshape(shape)).to_event(3)
            pyro.sample("lr_image", law_of_y, obs=None if predict else target.y[0])
        else:
            pyro.factor("log_likelihood", target.log_likelihood(flat).reshape(batch))
        return _record_kernel(target, z)

    return model


def spectral_model(target: SpectralTarget) -> Model:
    """Return a Pyro model of p(z, u | y), a function `model(predict=False)` that returns the kernel (1, 1, K, K).

    The image is integrated out. Its sites are the kernel's; a unit normal for the noise level and for each of the
    content's shared parameters, named as in the target; "content", the vector of the windows' own parameters; "kernel";
    and the tempered log-likelihood as a factor (once differentiable: enough for gradients, not for
    `AutoLaplaceApproximation`). `model(predict=True)` observes nothing and records one draw of the log periodograms,
    "log_periodogram" (windows, F).
    """

    def model(predict: bool = False) -> Tensor:
        import pyro
        import pyro.distributions as dist

        kernel_part = kernel_sites(target.prior)
        flat, batch = kernel_part.reshape(-1, kernel_part.shape[-1]), kernel_part.shape[:-1]
        nought = flat.new_zeros(len(flat), target.likelihood.n_nuisance)
        center = target.join(flat, nought)[:, target.n_kernel :].reshape(*batch, -1)
        n_common = 1 + len(target.likelihood.shared)
        names = target.names[target.n_kernel :][:n_common]
        one = center.new_ones(())
        columns = [pyro.sample(n, dist.Normal(center[..., j], one))[..., None] for j, n in enumerate(names)]
        if center.shape[-1] > n_common:
            columns.append(pyro.sample("content", dist.Normal(center[..., n_common:], one).to_event(1)))
        columns.insert(0, kernel_part)
        z = _joined(columns)
        flat, batch = z.reshape(-1, z.shape[-1]), z.shape[:-1]
        if predict:
            drawn = target.predict(flat, generator=_generator())["log_periodogram"]
            pyro.deterministic("log_periodogram", drawn.reshape(*batch, *drawn.shape[1:]))
        else:
            pyro.factor("log_likelihood", target.log_likelihood(flat).reshape(batch))
        return _record_kernel(target, z)

    return model


def kernel_sites(prior: KernelDensity) -> Tensor:
    """Sample a kernel prior in a Pyro model, by one site per parameter or a single site "z": (..., dim), float64."""
    import pyro

    if isinstance(prior, SmoothKernels):
        normals = zip(prior.names, prior.mean, prior.std, strict=True)
        return _joined([pyro.sample(name, _normal(mean, std))[..., None] for name, mean, std in normals])
    if isinstance(prior, ParametricKernels):
        laws = {j: _as_pyro(prior.parameters.parts[j]) for j in prior.parameters.free}
        if not laws:
            return torch.zeros(0, dtype=torch.float64)
        if None not in laws.values():
            inverse = {j: prior.parameters.transforms[j].inv for j in laws}
            return _joined([inverse[j](pyro.sample(prior.names[j], law))[..., None] for j, law in laws.items()])
    z: Tensor = pyro.sample("z", density_as_pyro(prior))
    return z


def density_as_pyro(prior: KernelDensity) -> Any:
    """Wrap a kernel prior as a Pyro distribution over z (dim,), float64."""
    from pyro.distributions import TorchDistribution

    class Density(TorchDistribution):  # type: ignore[misc, unused-ignore]
        arg_constraints: dict[str, Any] = {}
        support = constraints.independent(constraints.real, 1)

        def __init__(self, batch_shape: tuple[int, ...] = ()) -> None:
            super().__init__(torch.Size(batch_shape), torch.Size([prior.dim]), validate_args=False)

        def expand(self, batch_shape: Any, _instance: Any = None) -> Density:
            return Density(batch_shape)

        def sample(self, sample_shape: Any = ()) -> Tensor:
            shape = self._extended_shape(torch.Size(sample_shape))
            return prior.sample_z(shape[:-1].numel(), generator=_generator()).double().reshape(shape)

        def log_prob(self, value: Tensor) -> Tensor:
            return prior.log_prob(value.reshape(-1, prior.dim)).reshape(value.shape[:-1])

    return Density()


def _generator() -> torch.Generator:
    """Return a generator seeded from torch's global random state, which Pyro draws from."""
    return torch.Generator().manual_seed(int(torch.randint(2**31 - 1, ())))


def _normal(mean: float, std: float) -> Any:
    import pyro.distributions as dist

    return dist.Normal(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))


def _as_pyro(part: Distribution) -> Any:
    """Pyro's distribution of the same name and parameters, float64; None if there is none."""
    import pyro.distributions as dist

    if type(part).__module__.split(".")[0] != "torch" or not hasattr(dist, type(part).__name__):
        return None
    values = {name: torch.as_tensor(getattr(part, name)).double() for name in part.arg_constraints}
    return getattr(dist, type(part).__name__)(**values, validate_args=False)


def _joined(columns: list[Tensor]) -> Tensor:
    """Join (..., m) tensors along the last axis, batch axes broadcast."""
    batch = torch.broadcast_shapes(*(c.shape[:-1] for c in columns))
    return torch.cat([c.expand(*batch, c.shape[-1]) for c in columns], -1)


def _record_kernel(target: KernelTarget, z: Tensor) -> Tensor:
    """Record the deterministic site "kernel", (1, 1, K, K) or (batch, 1, K, K)."""
    import pyro

    kernels = target.kernel(z.reshape(-1, z.shape[-1]))
    recorded: Tensor = pyro.deterministic("kernel", kernels.reshape(*(z.shape[:-1] or (1,)), *kernels.shape[1:]))
    return recorded
