"""Simulation-based calibration: whether a posterior is right; see `coverage` for TARP and predictive checks.

Prior, simulator and sampler are the user's own: plain callables on tensors. If θ* is drawn from the
prior, y from the model at θ* and θ_1..θ_L from the posterior given y, then for any function f(θ, y) the rank of
f(θ*, y) among f(θ_1, y)..f(θ_L, y) is uniform on 0..L.

References
----------
Talts, Betancourt, Simpson, Vehtari, Gelman, "Validating Bayesian inference algorithms with simulation-based
calibration", 2018. Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková, Gelman, Vehtari, "Simulation-based calibration
checking for Bayesian computation: the choice of test quantities shapes sensitivity", Bayesian Analysis 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blindsr.diagnostics.arviz_io import ess_mean
from blindsr.diagnostics.uniformity import EcdfTest, chi_square, histogram_bins, holm

LEAST_SIMULATIONS = 20
LEAST_DRAWS = 9

DrawPrior = Callable[[torch.Generator], Tensor]
"""Draw parameters (p,) from the prior."""
Simulate = Callable[[Tensor, torch.Generator], Tensor]
"""Draw data from the model at parameters (p,)."""
Infer = Callable[[Tensor, torch.Generator], Tensor]
"""Posterior draws (m, p), or those of several chains (chains, m, p), for data."""
Summaries = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Functions f(θ, y) of parameters (m, p) and data, each (m,), by name; the log-likelihood is a sensitive one."""


@dataclass(frozen=True)
class Simulations:
    """Parameters, and posterior draws given data that were simulated from each.

    Attributes
    ----------
    truths : Tensor
        (n, p), float64.
    draws : Tensor
        (n, L, p), float64, thinned.
    names : tuple of str
        Name of each of the p columns (parameters, then summaries).
    sizes : Tensor
        (n,) effective sample size of the original draws, the smallest over the columns. Below L, the draws of that
        simulation are not independent, and its rank is 0 or L too often.
    parameters : int
        How many columns, counted from the first, are parameters.
    """

    truths: Tensor
    draws: Tensor
    names: tuple[str, ...]
    sizes: Tensor
    parameters: int

    @classmethod
    def of(cls, truths: Tensor, draws: Tensor, names: Sequence[str]) -> Simulations:
        """Use truths and independent posterior draws that exist already.

        Parameters
        ----------
        truths : Tensor
            (n, p), n at least 20.
        draws : Tensor
            (n, L, p), L at least 9.
        names : sequence of str
            Name of each of the p columns.

        Raises
        ------
        ValueError
            If shapes do not fit, values are not finite, or there are too few.
        """
        if truths.ndim != 2 or draws.ndim != 3 or draws.shape[::2] != truths.shape or len(names) != truths.shape[1]:
            raise ValueError(
                f"calibration: truths {tuple(truths.shape)}, draws {tuple(draws.shape)} and {len(names)} names "
                "do not fit: (n, p), (n, L, p) and p are needed"
            )
        _check_counts(len(truths), draws.shape[1])
        for what, values in (("truths", truths), ("draws", draws)):
            bad = ~torch.isfinite(values).flatten(1).all(1)
            if bool(bad.any()):
                raise ValueError(f"calibration: the {what} of simulation {int(bad.nonzero()[0])} are not finite")
        sizes = torch.full((len(truths),), float(draws.shape[1]))
        return cls(truths.double(), draws.double(), tuple(names), sizes, truths.shape[1])


def _check_counts(n: int, draws: int) -> None:
    if n < LEAST_SIMULATIONS:
        raise ValueError(f"calibration: {n} simulations are too few to judge: at least {LEAST_SIMULATIONS} are needed")
    if draws < LEAST_DRAWS:
        raise ValueError(f"calibration: {draws} posterior draws are too few: at least {LEAST_DRAWS} are needed")


def effective_size(draws: Tensor) -> float:
    """Return the effective number of independent draws in chains (chains, m), for their mean (ArviZ).

    Chains that disagree have few. Constants, and chains of fewer than four draws, count as m independent draws each.
    """
    size = ess_mean(draws.numpy())
    return size if math.isfinite(size) else float(draws.numel())


def thin(draws: Tensor, n: int) -> Tensor:
    """Pick n draws at even distances from the concatenated chains (chains, m, p): (n, p)."""
    flat = draws.flatten(0, 1)
    return flat[((torch.arange(n, dtype=torch.float64) + 0.5) * (len(flat) / n)).long()]


def _with_summaries(theta: Tensor, data: Tensor, summaries: Summaries | None) -> tuple[Tensor, tuple[str, ...]]:
    """Return parameters (m, p) with the summaries as further columns, and the names of the summaries."""
    if summaries is None:
        return theta, ()
    extra = summaries(theta, data)
    for name, value in extra.items():
        if value.shape != theta.shape[:1]:
            raise ValueError(f"calibration: summary {name} has shape {tuple(value.shape)}: ({len(theta)},) is needed")
    return torch.cat([theta, *(v[:, None].to(theta) for v in extra.values())], 1), tuple(extra)


def _one(
    index: int, theta: Tensor, data: Tensor, found: Tensor, n_draws: int, summaries: Summaries | None
) -> tuple[Tensor, Tensor, float, tuple[str, ...]]:
    """Return truth (q,), thinned draws (L, q), effective size and names of the summaries of one simulation."""
    chains = found[None] if found.ndim == 2 else found
    if chains.ndim != 3 or chains.shape[2] != len(theta):
        raise ValueError(
            f"calibration: infer gave draws {tuple(found.shape)}: (m, {len(theta)}) or (chains, m, {len(theta)}) needed"
        )
    if chains.shape[0] * chains.shape[1] < n_draws:
        raise ValueError(
            f"calibration: infer gave {chains.shape[0] * chains.shape[1]} draws in simulation {index}: "
            f"at least {n_draws} are needed (the argument draws)"
        )
    truth, names = _with_summaries(theta[None], data, summaries)
    all_draws = _with_summaries(chains.flatten(0, 1).double(), data, summaries)[0].unflatten(0, chains.shape[:2])
    if not bool(torch.isfinite(truth).all()) or not bool(torch.isfinite(all_draws).all()):
        raise ValueError(f"calibration: the parameters, draws or summaries of simulation {index} are not finite")
    size = min(effective_size(all_draws[..., j]) for j in range(all_draws.shape[2]))
    return truth[0], thin(all_draws, n_draws), size, names


def simulate_posteriors(
    draw_prior: DrawPrior,
    simulate: Simulate,
    infer: Infer,
    n: int,
    *,
    generator: torch.Generator,
    names: Sequence[str] | None = None,
    draws: int = 99,
    summaries: Summaries | None = None,
    interrupt: Callable[[], bool] | None = None,
) -> Simulations:
    """Draw parameters from the prior, data from the model, draws from the posterior, n times.

    Parameters
    ----------
    draw_prior, simulate, infer : callable
        See `DrawPrior`, `Simulate`, `Infer`.
    n : int
        Simulations, at least 20; a useful result takes 200 or more.
    generator : torch.Generator
        Passed to the callables.
    names : sequence of str, optional
        Names of the parameters.
    draws : int
        L, the draws kept of each posterior, at even distances. `infer` should give at least this effective size.
    summaries : callable, optional
        Functions of parameters and data that are ranked as well, see `Summaries`.
    interrupt : callable, optional
        Asked after each simulation; once it returns True, the simulations so far are returned.

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, or there are too few draws or simulations.
    """
    _check_counts(n, draws)
    rows: list[tuple[Tensor, Tensor, float, tuple[str, ...]]] = []
    p = 0
    for index in range(n):
        theta = draw_prior(generator).detach().double()
        if theta.ndim != 1:
            raise ValueError(f"calibration: the prior's draw has shape {tuple(theta.shape)}: (p,) is needed")
        data, p = simulate(theta, generator), len(theta)
        rows.append(_one(index, theta, data, infer(data, generator).detach(), draws, summaries))
        if interrupt is not None and interrupt():
            break
    _check_counts(len(rows), draws)
    own = tuple(names) if names is not None else tuple(f"theta_{j}" for j in range(p))
    if len(own) != p:
        raise ValueError(f"calibration: {len(own)} names for {p} parameters")
    truths, kept, sizes, extra = zip(*rows, strict=True)
    return Simulations(torch.stack(truths), torch.stack(kept), own + extra[0], torch.tensor(sizes), p)


@dataclass(frozen=True)
class UniformityTest:
    """Tests of one column of ranks; the p-values of each test are Holm-adjusted over the columns."""

    name: str
    chi_square: float
    ecdf: float


@dataclass(frozen=True)
class RankResult:
    """Ranks, which are uniform if the posterior is right.

    Attributes
    ----------
    names : tuple of str
        Names of the q columns.
    ranks : Tensor
        (n, q), int64, values 0..L.
    draws : int
        L.
    simulations : Simulations
        What was ranked.
    """

    names: tuple[str, ...]
    ranks: Tensor
    draws: int
    simulations: Simulations

    def tests(self) -> tuple[UniformityTest, ...]:
        """Return the chi-square test on bins and the ECDF test of every column."""
        columns = self.ranks.T.numpy()
        ecdf = EcdfTest(len(self.ranks), self.draws)
        bins = histogram_bins(len(self.ranks), self.draws)
        square = holm(np.array([chi_square(c, self.draws, bins) for c in columns]))
        whole = holm(np.array([ecdf.p_value(c) for c in columns]))
        return tuple(UniformityTest(*row) for row in zip(self.names, square.tolist(), whole.tolist(), strict=True))

    def uniform(self, level: float = 0.01) -> bool:
        """Return whether no test of any column rejects at this level, which each of the two tests has by itself."""
        return all(min(t.chi_square, t.ecdf) > level for t in self.tests())

    @property
    def dependent(self) -> int:
        """Number of simulations whose draws had an effective size below L / 2, so that their ranks tend to 0 and L.

        (An effective size that is estimated from L independent draws is itself uncertain by about ten per cent.)
        """
        return int((self.simulations.sizes < 0.5 * self.draws).sum())


def rank(simulations: Simulations, *, generator: torch.Generator) -> RankResult:
    """Rank every truth among its draws; ties are broken at random."""
    truth = simulations.truths[:, None]
    below = (simulations.draws < truth).sum(1)
    equal = (simulations.draws == truth).sum(1)
    share = torch.rand(below.shape, generator=generator, dtype=torch.float64)
    ranks = below + (share * (equal + 1)).long().clamp_max(equal)
    return RankResult(simulations.names, ranks, simulations.draws.shape[1], simulations)


def sbc(
    draw_prior: DrawPrior,
    simulate: Simulate,
    infer: Infer,
    n: int,
    *,
    generator: torch.Generator,
    **options: Any,
) -> RankResult:
    """Simulation-based calibration: simulate posteriors, then rank the truths among the draws.

    Parameters
    ----------
    draw_prior, simulate, infer : callable
        See `DrawPrior`, `Simulate`, `Infer`.
    n : int
        Simulations, at least 20; a useful result takes 200 or more.
    generator : torch.Generator
        Source of all randomness; passed to the callables, and used to break ties.
    **options
        Further arguments of `simulate_posteriors`: names, draws, summaries, interrupt.

    Raises
    ------
    ValueError
        As `simulate_posteriors`.
    """
    found = simulate_posteriors(draw_prior, simulate, infer, n, generator=generator, **options)
    return rank(found, generator=generator)
