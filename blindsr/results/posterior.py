"""Sampling after an estimate: the options are checked, a target is built, chains are run and saved.

Chains of a sampler whose stationary distribution is the target are saved as posterior.nc. Those of a biased one (SGLD,
network-level Langevin dynamics) are a trace, and go to sampler_trace.nc.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blindsr.diagnostics import arviz_io, summary
from blindsr.diagnostics import verdict as verdicts
from blindsr.diagnostics.posterior import PosteriorResult, to_arviz
from blindsr.errors import UserError
from blindsr.io.files import atomic_path
from blindsr.methods.words import sampler_part
from blindsr.posteriors.transport import Transport
from blindsr.random import generator
from blindsr.results.sampling import Sampling
from blindsr.results.targets import TARGETS, Prepared, Scene, kernel_family
from blindsr.samplers.sampler import Sampler
from blindsr.samplers.table import sample

POSTERIOR = "posterior.nc"
BIASED = "sampler_trace.nc"
RESTARTS = "trace.nc"
DIAGNOSTICS = "diagnostics"


def forget(folder: Path) -> None:
    """Remove the chains, restarts and figures of an earlier result that is being replaced."""
    for name in (POSTERIOR, BIASED, RESTARTS):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / DIAGNOSTICS, ignore_errors=True)


def sample_posterior(
    folder: Path,
    sampling: Sampling,
    scene: Scene,
    factory: Any,
    seed: int,
    stopped: Callable[[], str | None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Sample the posterior, save the chains beside the run's other files, and return the entry for run.json.

    If `stopped` returns a reason to end early, the draws so far are saved and marked as incomplete. Raises UserError if
    the target cannot be built or sampled.
    """
    start = time.perf_counter()
    entry: dict[str, Any] = {
        "sampler": sampling.sampler,
        "target": sampling.target,
        "chains": sampling.chains,
        "draws_asked": sampling.draws,
    }
    why = stopped()
    if why is not None:
        return entry | _nothing(why)
    try:
        result = draw(sampling, scene, factory, seed, lambda: stopped() is not None, say)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
    if result.chains.draws.shape[1] == 0:
        return entry | _nothing(stopped() or "stopped")
    family = type(kernel_family(sampling.family is not None, factory, scene)).__name__
    return entry | save_posterior(folder, result, family, start)


def draw(
    sampling: Sampling,
    scene: Scene,
    factory: Any,
    seed: int,
    stopped: Callable[[], bool] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> PosteriorResult:
    """Sample the kernel's posterior: which one and how by `sampling`, its target built from the scene.

    `factory` makes the kernel prior, where `sampling` names one, and `seed` is that of all draws. Once `stopped`
    returns True, the draws so far are returned, perhaps none. Raises UserError if the target cannot be built or
    sampled.
    """
    part = sampler_part(sampling.sampler, check=False)
    sampler = part.value
    family = kernel_family(sampling.family is not None, factory, scene)
    of = "posterior" if sampler.valid else "posterior, approximately"
    say(f"sampling the kernel's {of} ({sampling.target}): {part.name}, {sampling.chains} chains")
    try:
        prepared = TARGETS[sampling.target](scene, family)
        chains = sample(
            prepared.target,
            sampler,
            chains=sampling.chains,
            draws=sampling.draws,
            warmup=sampling.warmup,
            thin=sampling.thin,
            generator=generator(seed),
            covariance=prepared.covariance,
            transport=_map_for(prepared, sampler, say),
            deadline=stopped,
        )
    except ValueError as error:
        raise UserError(f"--sampler {part.name}, --target {sampling.target}: {error}") from error
    return PosteriorResult(
        chains,
        prepared.target,
        prepared.kernel_coordinates,
        scene.degradation,
        scene.true_kernel,
        sampling.target,
        sampling.draws,
        seed=seed,
    )


def _map_for(prepared: Prepared, sampler: Sampler, say: Callable[[str], None]) -> Transport | None:
    """Return the transport map, for samplers that use one; without it they are slower but not biased."""
    if prepared.transport is None or not sampler.uses_transport:
        return None
    try:
        return prepared.transport()
    except ValueError as error:
        say(f"{error}; sampling without it")
        return None


def _nothing(why: str) -> dict[str, Any]:
    return {"draws": 0, "complete": False, "converged": False, "verdict": [f"no draws: {why} before the first"]}


def save_posterior(folder: Path, result: PosteriorResult, family: str, start: float) -> dict[str, Any]:
    """Save the chains, and return their entry for run.json; `start`: `time.perf_counter` when the work began."""
    data, chains = to_arviz(result), result.chains
    file = POSTERIOR if chains.valid else BIASED
    with atomic_path(folder / file) as temporary:
        arviz_io.save(data, temporary)
    entry: dict[str, Any] = {
        "family": family,
        "kernel_parameters": len(result.kernel_coordinates),
        "draws": chains.draws.shape[1],
        "warmup": chains.warmup,
        "thin": chains.thin,
        "complete": result.complete,
        "gradients": chains.gradients,
        "divergent": int(chains.divergent.sum()),
        "seconds_sampling": round(chains.seconds, 3),
        "tuning": dict(chains.tuning),
        "file": file,
    }
    if chains.valid:
        verdict = verdicts.judge(data, summary.table(data))
        entry |= {"converged": verdict.converged, "verdict": verdicts.words(verdict, data)}
        entry |= {name: getattr(verdict, name) for name in ("rhat_max", "rhat_of", "ess_min", "ess_of")}
    else:
        line = f"{chains.sampler} is biased: its draws are a trace, not a posterior"
        entry |= {"converged": False, "verdict": [line]}
    return entry | {"seconds": round(time.perf_counter() - start, 3)}


def sampled_words(entry: dict[str, Any]) -> str:
    """Summarise the sampling of a run in a few words."""
    if not entry["draws"]:
        return f"posterior: {entry['verdict'][0]}"
    if entry["file"] == BIASED:
        return f"{entry['verdict'][0]}, in {entry['seconds']:.0f} s ({BIASED}, `blindsr diagnose`)"
    state = "converged" if entry["converged"] else "NOT converged"
    if not entry["complete"]:
        state += f", incomplete ({entry['draws']} of {entry['draws_asked']} draws)"
    numbers = f", R-hat {entry['rhat_max']:.3f}, ESS {entry['ess_min']:.0f}" if "rhat_max" in entry else ""
    return f"posterior: {state}{numbers} in {entry['seconds']:.0f} s (`blindsr diagnose`)"
