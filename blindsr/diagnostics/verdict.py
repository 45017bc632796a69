"""Whether chains have converged, and what to do if not.

Limits: R-hat below 1.01, bulk and tail ESS of at least 100 for each chain (Vehtari et al., Bayesian Analysis 2021), no
divergences, E-BFMI of at least 0.3 (Betancourt 2016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blindsr.diagnostics import arviz_io
from blindsr.diagnostics.summary import Row

Array = NDArray[Any]

MAX_RHAT = 1.01
ESS_PER_CHAIN = 100
MIN_BFMI = 0.3
ENOUGH_CHAINS = 4
HAMILTONIAN = ("hmc", "pyro-nuts", "nuts")
"""Samplers whose energy has a kinetic part; only these have an E-BFMI."""
INDEPENDENT = ("smc",)
"""Samplers whose draws within a chain are particles and not successive states."""


@dataclass(frozen=True)
class Verdict:
    """Whether the draws can be trusted.

    Attributes
    ----------
    converged : bool
        Whether there is no reason to doubt it.
    reasons : tuple of str
        The reasons to doubt it, worst first, each with what to do.
    cautions : tuple of str
        What else one should know.
    rhat_max, ess_min : float
        Worst values over all parameters; NaN if there are none.
    rhat_of, ess_of : str
        The parameters that have them.
    """

    converged: bool
    reasons: tuple[str, ...]
    cautions: tuple[str, ...]
    rhat_max: float
    ess_min: float
    rhat_of: str
    ess_of: str


def _attribute(data: Any, name: str, default: Any) -> Any:
    posterior = arviz_io.group(data, "posterior")
    return default if posterior is None else posterior.attrs.get(name, default)


def energy_mixing(data: Any) -> Array | None:
    """Return the E-BFMI of each chain, or None for a sampler without kinetic energy."""
    stats = arviz_io.group(data, "sample_stats")
    sampler = str(_attribute(data, "sampler", "nuts"))
    if stats is None or "energy" not in stats or sampler not in HAMILTONIAN or stats.sizes["draw"] < 2:
        return None
    return arviz_io.bfmi(stats["energy"].transpose("chain", "draw").values)


def judge(data: Any, rows: list[Row]) -> Verdict:
    """Judge whether the chains have converged.

    Parameters
    ----------
    data : arviz.InferenceData or xarray.DataTree
        With the group `posterior`.
    rows : list of Row
        Its `summary.table`.

    Raises
    ------
    ValueError
        If there is no group `posterior`.
    """
    posterior = arviz_io.group(data, "posterior")
    if posterior is None:
        raise ValueError("no group posterior: there is nothing to judge")
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    moving = [r for r in rows if not r.fixed]
    worst = max((r for r in moving if math.isfinite(r.rhat)), key=lambda r: r.rhat, default=None)
    least = min((r for r in moving if math.isfinite(r.ess)), key=lambda r: r.ess, default=None)
    reasons = [
        *_few(chains, draws, moving),
        *_mixing(worst, least, moving, chains),
        *_trajectories(data),
    ]
    return Verdict(
        not reasons,
        tuple(reasons),
        tuple(_cautions(data, chains, draws, [r for r in rows if r.fixed])),
        worst.rhat if worst else math.nan,
        least.ess if least else math.nan,
        worst.name if worst else "",
        least.name if least else "",
    )


def _few(chains: int, draws: int, moving: list[Row]) -> list[str]:
    found = []
    if bad := [r.name for r in moving if not r.finite]:
        found.append(f"draws of {', '.join(bad[:3])} that are not finite: the density has no value there")
    if not moving:
        found.append("no parameter moves: the sampler is stuck, or there is nothing to sample")
    if draws < 4:
        found.append(f"{draws} draws of each chain: too few for R-hat; draw more (--draws)")
    if chains < 2:
        found.append(
            "one chain: without others to compare it with, a mode that it missed goes unseen; run "
            f"--chains {ENOUGH_CHAINS}"
        )
    return found


def _stuck(moving: list[Row]) -> str:
    """Advice for chains that disagree."""
    bad = sum(r.rhat >= MAX_RHAT for r in moving)
    many = f" ({bad} parameters in all)" if bad > 1 else ""
    return (
        f"{many}: look at traces.png; if chains sit at different levels, --sampler tempering or smc, else more --draws"
    )


def _mixing(worst: Row | None, least: Row | None, moving: list[Row], chains: int) -> list[str]:
    found = []
    if worst is not None and worst.rhat >= MAX_RHAT:
        found.append(
            f"R-hat {worst.rhat:.3f} of {worst.name} (limit {MAX_RHAT}): the chains do not agree{_stuck(moving)}"
        )
    need = ESS_PER_CHAIN * chains
    if least is not None and least.ess < need:
        which = "bulk" if least.ess_bulk <= least.ess_tail else "tail"
        few = sum(r.ess < need for r in moving)
        many = f" ({few} parameters in all)" if few > 1 else ""
        found.append(
            f"{which} ESS {least.ess:.0f} of {least.name} (limit {need}){many}: too few independent draws; "
            f"about {math.ceil(need / max(least.ess, 1.0))} times as many --draws"
        )
    return found


def _trajectories(data: Any) -> list[str]:
    found = []
    stats = arviz_io.group(data, "sample_stats")
    if stats is not None and "diverging" in stats and (count := int(stats["diverging"].sum())):
        share = 100 * count / stats["diverging"].size
        found.append(
            f"{count} divergent transitions ({share:.1f} %): part of the posterior may be missed; a longer --warmup "
            "shortens the step, or another --sampler"
        )
    mixing = energy_mixing(data)
    if mixing is not None and np.nanmin(mixing, initial=math.inf) < MIN_BFMI:
        chain = int(np.nanargmin(mixing))
        found.append(
            f"E-BFMI {mixing[chain]:.2f} of chain {chain} (limit {MIN_BFMI}): the energy moves too slowly, tails are "
            "under-explored; more --warmup, or another --sampler"
        )
    return found


def _cautions(data: Any, chains: int, draws: int, fixed: list[Row]) -> list[str]:
    found = []
    asked = int(_attribute(data, "draws_asked", draws))
    if not int(_attribute(data, "complete", 1)):
        found.append(f"incomplete: {draws} of {asked} draws of each chain, the run was stopped early")
    if 1 < chains < ENOUGH_CHAINS:
        found.append(
            f"{chains} chains: a mode that all of them missed goes unseen more easily; --chains {ENOUGH_CHAINS}"
        )
    if _attribute(data, "sampler", "") in INDEPENDENT:
        found.append(
            "smc: the draws of a chain are particles of one population, so R-hat compares populations, and ESS counts "
            "particles as independent, which resampling makes them less than"
        )
    if _attribute(data, "target", "") == "image":
        found.append(
            "the image is taken for the truth: its errors are not in these intervals, which are too narrow for what is "
            "known of the kernel"
        )
    if fixed:
        found.append(f"constant in every draw: {', '.join(r.name for r in fixed)}")
    return found


def words(verdict: Verdict, data: Any) -> list[str]:
    """Return the verdict as lines to print."""
    posterior = arviz_io.group(data, "posterior")
    assert posterior is not None
    size = f"{posterior.sizes['chain']} chains x {posterior.sizes['draw']} draws"
    if verdict.converged:
        head = (
            f"verdict: converged. {size}; worst R-hat {verdict.rhat_max:.4f} ({verdict.rhat_of}), "
            f"smallest ESS {verdict.ess_min:.0f} ({verdict.ess_of})"
        )
    else:
        head = f"verdict: NOT converged. {size}; do not use means and intervals yet"
    return [head, *(f"  - {reason}" for reason in verdict.reasons), *(f"  note: {c}" for c in verdict.cautions)]
