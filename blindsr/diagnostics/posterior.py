"""Chains of a run as ArviZ groups: parameters, kernels, statistics of the sampler, prior, predictions, data.

Groups: `posterior` (every coordinate of z and the kernel's moments), `sample_stats`, `kernel` (thinned kernel draws;
mean and standard deviation over all draws), `prior`, `posterior_predictive`, `observed_data`, `log_likelihood`, and
`constant_data` (the true kernel, where it is known). Draws that are not a sample of the target form a group
`trace` instead of `posterior`, of which no statistics of convergence are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blindsr.diagnostics.arviz_io import Group, build
from blindsr.diagnostics.moments import KernelMoments, kernel_moments
from blindsr.operators.degradation import Degradation
from blindsr.posteriors.base import Target
from blindsr.samplers.chains import Chains
from blindsr.samplers.smc import systematic

Array = NDArray[Any]
Values = dict[str, tuple[tuple[str, ...], Array]]
"""Variables of a group: names of the axes, and the array."""

KERNEL_DRAWS = 200
"""Largest number of kernels that are kept, of all chains together."""
PREDICTIONS = 200
"""Largest number of posterior-predictive draws, of all chains together."""
VALUES = 2_500_000
"""Largest size of a variable of predictions or pointwise log likelihoods; their draws are thinned to fit."""


@dataclass(frozen=True)
class PosteriorResult:
    """The result of a sampler, with what is needed to interpret it.

    Parameters
    ----------
    chains : Chains
        The draws.
    target : Target
        The density. Its methods `kernel`, `sample_prior`, `predict`, `observed` and `pointwise_log_likelihood`, as far
        as it has them, fill the groups.
    kernel_coordinates : tuple of str
        Names of the coordinates that determine the kernel; the others are nuisance parameters.
    degradation : Degradation, optional
        Recorded beside the draws.
    truth : Tensor, optional
        True kernel (1, 1, K, K), where it is known.
    label : str
        Which density it is: "spectral", "image", ...
    draws_asked : int
        Requested draws of each chain; fewer draws mean an incomplete run. 0: as many as there are.
    prior_draws : int
        Number of draws from the prior; 0 for none.
    seed : int
        Seed of the prior and predictive draws, and of the resampling of weighted draws.
    """

    chains: Chains
    target: Target
    kernel_coordinates: tuple[str, ...] = ()
    degradation: Degradation | None = None
    truth: Tensor | None = None
    label: str = ""
    draws_asked: int = 0
    prior_draws: int = 1000
    seed: int = 0

    @property
    def complete(self) -> bool:
        """Whether all requested draws were made."""
        return self.chains.draws.shape[1] >= self.draws_asked


def to_arviz(result: PosteriorResult) -> Any:
    """Return chains as ArviZ's data structure (`InferenceData`, or `xarray.DataTree` with ArviZ 1.x).

    Parameters
    ----------
    result : PosteriorResult
        With at least one draw.

    Raises
    ------
    ValueError
        If there are no draws.
    """
    return build(groups(result))


@torch.no_grad()
def groups(result: PosteriorResult) -> dict[str, Group]:
    """Return the groups of `to_arviz`, before they are given to ArviZ."""
    if result.chains.draws.shape[1] == 0:
        raise ValueError("chains without a single draw: nothing to save")
    generator = torch.Generator().manual_seed(result.seed)
    z = _equal_weights(result.chains, generator)
    moments = _moments(result, z)
    found = {"posterior" if result.chains.valid else "trace": _posterior(result, z, moments)}
    found["sample_stats"] = _sample_stats(result.chains)
    if moments is not None:
        found["kernel"] = _kernels(result, z, moments)
    if hasattr(result.target, "sample_prior") and result.prior_draws > 0:
        found["prior"] = _prior(result, generator)
    if hasattr(result.target, "predict"):
        found["posterior_predictive"] = _predictive(result.target, z, generator)
    if hasattr(result.target, "observed"):
        data = result.target.observed().items()
        found["observed_data"] = Group({n: (_axes(n, v.ndim), v.double().cpu().numpy()) for n, v in data})
    if hasattr(result.target, "pointwise_log_likelihood"):
        found["log_likelihood"] = _log_likelihood(result.target, z)
    if result.truth is not None:
        kernel = result.truth[0, 0].double().cpu().numpy()
        axis = np.arange(kernel.shape[-1])
        found["constant_data"] = Group({"true_kernel": (("row", "column"), kernel)}, {"row": axis, "column": axis})
    return found


def _equal_weights(chains: Chains, generator: torch.Generator) -> Tensor:
    """Draws (chains, draws, dim) of equal weight; each chain of weighted draws is resampled systematically."""
    if chains.weights is None:
        return chains.draws
    each = zip(chains.draws, chains.weights.double(), strict=True)
    return torch.stack([draws[systematic(weights / weights.sum(), generator)] for draws, weights in each])


def _indexed(chains: int, draws: Array) -> dict[str, Array]:
    return {"chain": np.arange(chains), "draw": np.asarray(draws)}


def _moments(result: PosteriorResult, z: Tensor) -> KernelMoments | None:
    kernel = getattr(result.target, "kernel", None)
    return None if kernel is None else kernel_moments(kernel, z.reshape(-1, z.shape[-1]))


def _variables(result: PosteriorResult, z: Tensor, moments: KernelMoments | None) -> tuple[Values, dict[str, Array]]:
    """Variables and labels of draws z (chains, draws, dim): the kernel's moments, its coordinates and `nuisance`."""
    names, shape = tuple(result.target.names), z.shape[:2]
    own = [j for j, name in enumerate(names) if name in result.kernel_coordinates]
    rest = [j for j, name in enumerate(names) if name not in result.kernel_coordinates]
    values: Values = {}
    if moments is not None:
        values |= {name: (("chain", "draw"), column.reshape(shape)) for name, column in moments.columns.items()}
    values |= {names[j]: (("chain", "draw"), z[..., j].cpu().numpy()) for j in own}
    if rest:
        values["nuisance" if own else "z"] = (("chain", "draw", "parameter"), z[..., rest].cpu().numpy())
    return values, _indexed(shape[0], np.arange(shape[1])) | {
        "parameter": np.array([names[j] for j in rest], dtype=str)
    }


def _posterior(result: PosteriorResult, z: Tensor, moments: KernelMoments | None) -> Group:
    chains, d = result.chains, result.degradation
    attrs: dict[str, Any] = {
        "sampler": chains.sampler,
        "target": result.label,
        "valid": int(chains.valid),
        "complete": int(result.complete),
        "draws_asked": result.draws_asked or z.shape[1],
        "warmup": chains.warmup,
        "thin": chains.thin,
        "gradients": chains.gradients,
        "seconds": chains.seconds,
        "resampled": int(chains.weights is not None),
        "inference_library": "blindsr",
    }
    attrs |= {f"tuning_{name}": float(value) for name, value in chains.tuning.items()}
    if d is not None:
        attrs |= {
            "scale": d.scale,
            "kernel_size": d.kernel_size,
            "alignment": str(d.alignment),
            "padding": str(d.padding),
        }
    return Group(*_variables(result, z, moments), attrs)


def _sample_stats(chains: Chains) -> Group:
    m, n = chains.draws.shape[:2]
    step = chains.step_size[:, None].expand(m, n)
    stats = {
        "lp": chains.log_prob,
        "acceptance_rate": chains.acceptance,
        "step_size": step,
        "diverging": chains.divergent,
        "energy": chains.energy,
    }
    values: Values = {name: (("chain", "draw"), value.cpu().numpy().copy()) for name, value in stats.items()}
    return Group(values, _indexed(m, np.arange(n)))


def evenly_spaced(draws: int, at_most: int) -> Array:
    """Return indices of at most this many draws, evenly spaced, including the last."""
    count = max(min(draws, at_most), 1)
    kept: Array = (
        np.unique(np.linspace(0, draws - 1, count).round().astype(int)) if count > 1 else np.array([draws - 1])
    )
    return kept


def _kernels(result: PosteriorResult, z: Tensor, moments: KernelMoments) -> Group:
    chains, draws, dim = z.shape
    target: Any = result.target
    kept = evenly_spaced(draws, KERNEL_DRAWS // chains)
    shown = target.kernel(z[:, kept].reshape(-1, dim)).float().cpu().numpy()
    side = shown.shape[-1]
    values: Values = {
        "draws": (("chain", "draw", "row", "column"), shown.reshape(chains, len(kept), side, side)),
        "mean": (("row", "column"), moments.mean),
        "sd": (("row", "column"), moments.std),
    }
    return Group(values, _indexed(chains, kept) | {"row": np.arange(side), "column": np.arange(side)})


def _prior(result: PosteriorResult, generator: torch.Generator) -> Group:
    target: Any = result.target
    z = target.sample_prior(result.prior_draws, generator=generator)[None]
    return Group(*_variables(result, z, _moments(result, z)))


def _axes(name: str, ndim: int) -> tuple[str, ...]:
    """Names of the axes of a data array: those of an image, or of the periodograms of windows."""
    if name.startswith("lr_image") and ndim in (2, 3):
        return ("channel", "lr_row", "lr_column")[-ndim:]
    if name.startswith("lr_image") and ndim == 1:
        return ("lr_value",)
    if name == "log_periodogram" and ndim in (1, 2):
        return ("window", "frequency")[:ndim]
    return tuple(f"{name}_axis_{j}" for j in range(ndim))


def _by_draw(values: dict[str, Tensor], chains: int, kept: Array) -> Group:
    """Group of arrays (chains * kept, ...), by chain and draw, float32."""
    arrays = {
        name: (
            ("chain", "draw", *_axes(name, value.ndim - 1)),
            value.float().cpu().numpy().reshape(chains, len(kept), *value.shape[1:]),
        )
        for name, value in values.items()
    }
    return Group(arrays, _indexed(chains, kept))


def _at_most(z: Tensor, size: int, limit: int) -> Array:
    """Draws of each chain: at most `limit` of all chains, and at most `VALUES` numbers at `size` numbers a draw."""
    return evenly_spaced(z.shape[1], min(limit, max(VALUES // max(size, 1), 1)) // z.shape[0])


def _predictive(target: Any, z: Tensor, generator: torch.Generator) -> Group:
    one = target.predict(z[:1, -1], generator=generator)
    kept = _at_most(z, max(value.numel() for value in one.values()), PREDICTIONS)
    return _by_draw(target.predict(z[:, kept].reshape(-1, z.shape[2]), generator=generator), len(z), kept)


def _log_likelihood(target: Any, z: Tensor) -> Group:
    one = target.pointwise_log_likelihood(z[:1, -1])
    kept = _at_most(z, max(value.numel() for value in one.values()), z.shape[0] * z.shape[1])
    return _by_draw(target.pointwise_log_likelihood(z[:, kept].reshape(-1, z.shape[2])), len(z), kept)
