"""Coverage of intervals, TARP, and posterior-predictive checks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blindsr.diagnostics.calibration import RankResult, Simulate, Simulations, rank
from blindsr.diagnostics.uniformity import binomial_band, clopper_pearson

LEVELS = (0.5, 0.8, 0.9, 0.95)
RESAMPLES = 4000


def _check_level(*levels: float) -> None:
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"level {level}: a number between 0 and 1 is needed")


def central_interval(draws: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Return the ends (n, p) of the central interval of draws (n, L, p), from the order statistics at (L + 1) q.

    With L independent draws such an interval covers the truth with probability `level` for any posterior (nearly so
    between two draws), unlike intervals from other definitions of sample quantiles.
    """
    _check_level(level)
    ordered, n_draws = draws.sort(1).values, draws.shape[1]

    def quantile(q: float) -> Tensor:
        place = min(max(q * (n_draws + 1) - 1, 0.0), n_draws - 1.0)
        below = int(place)
        out: Tensor = torch.lerp(ordered[:, below], ordered[:, min(below + 1, n_draws - 1)], place - below)
        return out

    return quantile((1 - level) / 2), quantile((1 + level) / 2)


@dataclass(frozen=True)
class Coverage:
    """Which truths are covered by intervals of one level.

    Attributes
    ----------
    level : float
        Nominal level, in (0, 1).
    names : tuple of str
        Names of the p columns.
    inside : Tensor
        (n, p), bool.
    groups : tuple or None
        n labels; cases of one group (such as one image) may fail together.
    low, high : Tensor
        (p,) ends of a confidence interval of the true coverage: by a bootstrap over groups, or exact without groups.
    confidence : float
        Level of that interval, in (0, 1).
    """

    level: float
    names: tuple[str, ...]
    inside: Tensor
    groups: tuple[Hashable, ...] | None
    low: Tensor
    high: Tensor
    confidence: float

    @property
    def rate(self) -> Tensor:
        """(p,) share of the cases whose interval covers the truth."""
        return self.inside.double().mean(0)

    def by_group(self) -> dict[Hashable, tuple[Tensor, int]]:
        """Return for each group the number of covered cases (p,) and the number of cases."""
        if self.groups is None:
            return {}
        members: dict[Hashable, list[int]] = {}
        for index, group in enumerate(self.groups):
            members.setdefault(group, []).append(index)
        return {g: (self.inside[m].sum(0), len(m)) for g, m in members.items()}


def coverage(
    truths: Tensor,
    draws: Tensor | tuple[Tensor, Tensor],
    level: float,
    *,
    names: Sequence[str] | None = None,
    groups: Sequence[Hashable] | None = None,
    generator: torch.Generator | None = None,
    confidence: float = 0.95,
) -> Coverage:
    """Count the truths that central intervals cover.

    Parameters
    ----------
    truths : Tensor
        (n, p).
    draws : Tensor or pair of Tensor
        Posterior draws (n, L, p), or the intervals' ends (n, p) each.
    level : float
        Nominal level of the intervals, in (0, 1).
    names : sequence of str, optional
        Of the p columns.
    groups : sequence, optional
        A label for each case. Then the confidence interval comes from resampling whole groups, which needs the
        generator.
    generator : torch.Generator, optional
        For the bootstrap.
    confidence : float
        Of the interval of the coverage.

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, a level is no probability, or there is only one group.
    """
    _check_level(level, confidence)
    ends = central_interval(draws, level) if isinstance(draws, Tensor) else draws
    if truths.ndim != 2 or any(e.shape != truths.shape for e in ends):
        raise ValueError(f"coverage: truths {tuple(truths.shape)} and intervals {tuple(ends[0].shape)} do not fit")
    if not all(bool(torch.isfinite(v).all()) for v in (truths, *ends)):
        raise ValueError("coverage: truths or intervals are not finite")
    n, p = truths.shape
    own = tuple(names) if names is not None else tuple(f"theta_{j}" for j in range(p))
    if len(own) != p or (groups is not None and len(groups) != n):
        raise ValueError(f"coverage: {p} names and {n} groups are needed")
    inside = (truths >= ends[0]) & (truths <= ends[1])
    if groups is None:
        low, high = (torch.from_numpy(v) for v in clopper_pearson(inside.sum(0).numpy(), n, confidence))
    else:
        low, high = _bootstrap(inside, groups, generator, confidence)
    return Coverage(level, own, inside, None if groups is None else tuple(groups), low, high, confidence)


def _bootstrap(
    inside: Tensor, groups: Sequence[Hashable], generator: torch.Generator | None, confidence: float
) -> tuple[Tensor, Tensor]:
    """Percentile interval of the share inside (p,), groups drawn with replacement."""
    if generator is None:
        raise ValueError("coverage: a bootstrap over groups needs a generator")
    place = {g: i for i, g in enumerate(dict.fromkeys(groups))}
    if len(place) < 2:
        raise ValueError("coverage: one group tells nothing about how groups differ; give at least two, or none")
    index = torch.tensor([place[g] for g in groups])
    hits = torch.zeros(len(place), inside.shape[1], dtype=torch.float64).index_add_(0, index, inside.double())
    sizes = torch.bincount(index, minlength=len(place)).double()
    drawn = torch.randint(0, len(place), (RESAMPLES, len(place)), generator=generator)
    rates = hits[drawn].sum(1) / sizes[drawn].sum(1)[:, None]
    tail = (1 - confidence) / 2
    return torch.quantile(rates, tail, dim=0), torch.quantile(rates, 1 - tail, dim=0)


@dataclass(frozen=True)
class ExpectedCoverage:
    """Coverage of the p columns at m levels, with the variation that chance allows.

    `rates` (m, p) are observed at the nominal `levels` (m,). Between `low` and `high` (m,) the observed share of a
    calibrated posterior lies with probability `confidence`, pointwise: quantiles of the binomial distribution.
    """

    names: tuple[str, ...]
    levels: Tensor
    rates: Tensor
    low: Tensor
    high: Tensor
    confidence: float


def expected_coverage(
    simulations: Simulations, levels: Sequence[float] = LEVELS, *, confidence: float = 0.95
) -> ExpectedCoverage:
    """Return the coverage over simulations of the central intervals of each parameter.

    Parameters
    ----------
    simulations : Simulations
        Truths and draws.
    levels : sequence of float
        Nominal levels (m,), in (0, 1).
    confidence : float
        Level of the binomial band, in (0, 1).

    Raises
    ------
    ValueError
        If a level is not between 0 and 1.
    """
    _check_level(*levels, confidence)
    n = len(simulations.truths)
    counted = [coverage(simulations.truths, simulations.draws, v, names=simulations.names) for v in levels]
    low, high = binomial_band(n, np.asarray(levels, dtype=np.float64), confidence)
    rates = torch.stack([c.rate for c in counted])
    wanted = torch.tensor(levels, dtype=torch.float64)
    return ExpectedCoverage(simulations.names, wanted, rates, torch.from_numpy(low), torch.from_numpy(high), confidence)


def tarp(simulations: Simulations, *, generator: torch.Generator, references: Tensor | None = None) -> RankResult:
    """Test accuracy with random points: rank the truth's distance to a reference among those of the draws.

    (TARP: Lemos, Coogan, Hezaveh, Perreault-Levasseur, "Sampling-based accuracy testing of posterior estimators for
    general inference", ICML 2023.) All parameters are tested together: the region of draws that are nearer to a
    reference than the truth is a credible region, whose level is uniform if the posterior is right. Distances are
    Euclidean in parameters that are standardised over the truths.

    Parameters
    ----------
    simulations : Simulations
        Truths and draws; summaries are left out.
    generator : torch.Generator
        For the references and ties.
    references : Tensor, optional
        (n, p), which may depend on the truth only through the data. Default: truths of other simulations, that is,
        draws from the prior.

    Returns
    -------
    RankResult
        Ranks (n, 1), uniform if the posterior is right.

    Raises
    ------
    ValueError
        If the references have another shape.
    """
    p, n = simulations.parameters, len(simulations.truths)
    truths, draws = simulations.truths[:, :p], simulations.draws[..., :p]
    if references is None:
        shift = torch.randint(1, n, (n,), generator=generator)
        references = truths[(torch.arange(n) + shift) % n]
    elif references.shape != truths.shape:
        raise ValueError(f"TARP: references have shape {tuple(references.shape)}: {tuple(truths.shape)} is needed")
    scale = truths.std(0).clamp_min(torch.finfo(torch.float64).tiny)
    center = references.to(truths) / scale
    near = (truths / scale - center).norm(dim=1, keepdim=True)
    far = (draws / scale - center[:, None]).norm(dim=2)[..., None]
    distances = Simulations(near, far, ("distance to a reference",), simulations.sizes, 1)
    return rank(distances, generator=generator)


Statistic = Callable[[Tensor], Tensor]
"""T(y): data to a scalar."""


@dataclass(frozen=True)
class PredictiveCheck:
    """Statistics of the data, `observed` (t,), and of m data sets from the posterior, `replicated` (m, t)."""

    names: tuple[str, ...]
    observed: Tensor
    replicated: Tensor

    @property
    def p_values(self) -> Tensor:
        """(t,) share of the replicated statistics above the observed one, ties counting half; 0 or 1: a wrong model.

        Under a right model these are not uniform but closer to 1/2, since the data were used for the fit.
        """
        above = (self.replicated > self.observed).double() + 0.5 * (self.replicated == self.observed).double()
        return above.mean(0)


def predictive_check(
    y: Tensor,
    draws: Tensor,
    simulate: Simulate,
    statistics: Mapping[str, Statistic],
    *,
    generator: torch.Generator,
) -> PredictiveCheck:
    """Make a posterior-predictive check (Gelman, Meng, Stern 1996).

    Parameters
    ----------
    y : Tensor
        The data.
    draws : Tensor
        (m, p) posterior draws given y; one data set is simulated for each.
    simulate : callable
        `simulate(theta, generator)`, data of the shape of y.
    statistics : mapping
        T(y) by name, each a scalar.
    generator : torch.Generator
        For the simulations.

    Raises
    ------
    ValueError
        If there is no statistic, it is not a finite scalar, or fewer than 9 draws are given.
    """
    if not statistics or draws.ndim != 2 or len(draws) < 9:
        raise ValueError("predictive check: at least one statistic and 9 draws (m, p) are needed")

    def values(data: Tensor) -> Tensor:
        found = [torch.as_tensor(t(data), dtype=torch.float64) for t in statistics.values()]
        for name, value in zip(statistics, found, strict=True):
            if value.ndim or not bool(torch.isfinite(value)):
                raise ValueError(f"predictive check: the statistic {name} is not a finite scalar")
        return torch.stack(found)

    replicated = torch.stack([values(simulate(theta, generator)) for theta in draws])
    return PredictiveCheck(tuple(statistics), values(y), replicated)
