"""The only module that uses ArviZ: groups of arrays to its data structure and back, netCDF files, chain statistics.

Written for ArviZ 0.20 to 0.23, whose data structure is `arviz.InferenceData`, and for 1.x, where it is
`xarray.DataTree`. Groups go in as xarray datasets, so that nothing depends on the signature of `from_dict`, which
differs between the two.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray

Array = NDArray[Any]

TAILS = (0.05, 0.95)
"""Quantiles whose effective sample sizes make the tail ESS."""


@dataclass(frozen=True)
class Group:
    """Named arrays with named axes.

    Parameters
    ----------
    values : mapping
        For each variable the names of its axes and the array.
    coords : dict
        Labels along the axes.
    attrs : dict
        Strings and numbers that describe the group.
    """

    values: Mapping[str, tuple[tuple[str, ...], Array]]
    coords: dict[str, Array] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)


def _arviz() -> Any:
    with warnings.catch_warnings():  # 0.23 announces 1.x whenever it is imported
        warnings.filterwarnings("ignore", message="\\s*ArviZ is undergoing a major refactor", category=FutureWarning)
        import arviz
    return arviz


def uses_trees(arviz: Any) -> bool:
    """Whether this ArviZ keeps its groups in an `xarray.DataTree` (1.x), not in an `InferenceData`."""
    return int(str(arviz.__version__).split(".")[0]) >= 1


def _dataset(group: Group) -> xarray.Dataset:
    import xarray

    used = {axis for axes, _ in group.values.values() for axis in axes}
    coords = {name: labels for name, labels in group.coords.items() if name in used}
    return xarray.Dataset(dict(group.values), coords, group.attrs)


def build(groups: Mapping[str, Group], arviz: Any = None) -> Any:
    """Build ArviZ's data structure from groups.

    Parameters
    ----------
    groups : mapping of str to Group
        Groups by name, of ArviZ's schema (posterior, sample_stats, ...) or others.
    arviz : module, optional
        The library; the installed one if not given.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        What the version of ArviZ uses; `data["posterior"]["x"]` works with both.
    """
    library = arviz or _arviz()
    datasets = {name: _dataset(group) for name, group in groups.items()}
    if uses_trees(library):
        import xarray

        return xarray.DataTree.from_dict({f"/{name}": dataset for name, dataset in datasets.items()})
    return library.InferenceData(**datasets)


def save(data: Any, path: Path) -> None:
    """Write the data structure to a netCDF file (compressed; HDF5 inside)."""
    if not hasattr(data, "children"):
        data.to_netcdf(str(path), engine="h5netcdf")
        return
    encoding = {
        f"/{name}": {variable: {"zlib": True} for variable, v in node.data_vars.items() if v.dtype.kind in "biuf"}
        for name, node in data.children.items()
    }
    data.to_netcdf(path, engine="h5netcdf", encoding=encoding)


def load(path: Path, arviz: Any = None) -> Any:
    """Read a netCDF file of ArviZ completely into memory; ValueError if the file is not one of ArviZ."""
    library = arviz or _arviz()
    try:
        data = library.from_netcdf(str(path), engine="h5netcdf")
        if uses_trees(library):
            data.load()
            data.close()
            return data
        for name in data.groups():
            data[name].load()
            data[name].close()
        return data
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"not a netCDF file of ArviZ ({' '.join(str(error).split())[:120]})") from error


def group(data: Any, name: str) -> xarray.Dataset | None:
    """Return a group as a dataset, or None if there is none of that name."""
    if hasattr(data, "children"):
        return data[name].to_dataset() if name in data.children else None
    return data[name] if name in data.groups() else None


def group_names(data: Any) -> tuple[str, ...]:
    """Return the names of the groups."""
    return tuple(data.children) if hasattr(data, "children") else tuple(data.groups())


def _statistic(name: str, draws: Array, **settings: Any) -> float:
    if draws.shape[1] < 4 or not np.isfinite(draws).all():
        return float("nan")
    with np.errstate(all="ignore"):
        return float(getattr(_arviz(), name)(np.asarray(draws, dtype=np.float64), **settings))


def rhat(draws: Array) -> float:
    """Return the rank-normalised split R-hat of draws (chains, draws); NaN for fewer than two chains or four draws.

    Vehtari, Gelman, Simpson, Carpenter, Bürkner, "Rank-normalization, folding, and localization: an improved R-hat for
    assessing convergence of MCMC", Bayesian Analysis 2021.
    """
    return _statistic("rhat", draws) if draws.shape[0] > 1 else float("nan")


def ess_bulk(draws: Array) -> float:
    """Return the bulk effective sample size of draws (chains, draws), rank-normalised (Vehtari et al. 2021)."""
    return _statistic("ess", draws, method="bulk")


def ess_tail(draws: Array) -> float:
    """Return the smaller of the effective sample sizes of the 5 % and 95 % quantiles of draws (chains, draws)."""
    return _statistic("ess", draws, method="tail", prob=TAILS)


def ess_mean(draws: Array) -> float:
    """Return the effective sample size for the mean of draws (chains, draws); that of a constant is their number."""
    return _statistic("ess", draws, method="mean")


def mcse_mean(draws: Array) -> float:
    """Return the Monte Carlo standard error of the mean of draws (chains, draws)."""
    return _statistic("mcse", draws, method="mean")


def bfmi(energy: Array) -> Array:
    """Return the E-BFMI (chains,) from energies (chains, draws): mean squared change over variance.

    Betancourt, "Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo", 2016.
    """
    if energy.shape[1] < 2:
        return np.full(len(energy), np.nan)
    spread, step = energy.var(1, ddof=1), np.square(np.diff(energy, axis=1)).mean(1)
    ratio: Array = np.divide(step, spread, out=np.full(len(energy), np.nan), where=spread > 0)
    return ratio
