"""Gaussian and line priors as Pyro models. Pyro is imported when the model is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from blindsr.priors.parametric import Delta, ParametricKernels


def _as_pyro(part: Distribution) -> Any:
    """Rebuild a torch distribution as Pyro's of the same name and parameters."""
    import pyro.distributions as dist

    values = {name: getattr(part, name) for name in part.arg_constraints}
    return getattr(dist, type(part).__name__)(**values)


def pyro_model(prior: ParametricKernels) -> Callable[[], Tensor]:
    """Return a Pyro model of a parametric kernel prior: `GaussianKernelPrior`, `LineKernelPrior` or your own.

    The model samples a site for each free parameter of θ, named as in `prior.names`, records the kernel as the
    deterministic site "kernel" (1, 1, K, K) and returns it. Condition it, add a likelihood, or pass it to any of Pyro's
    inference algorithms.
    """

    def model() -> Tensor:
        import pyro
        import torch

        parts = zip(prior.names, prior.parameters.parts, strict=True)
        theta = [
            torch.tensor(p.value) if isinstance(p, Delta) else torch.as_tensor(pyro.sample(name, _as_pyro(p)))
            for name, p in parts
        ]
        kernel: Tensor = pyro.deterministic("kernel", prior.kernel_of(torch.stack(theta)[None]))
        return kernel

    return model
