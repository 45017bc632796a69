"""The kernel's posterior after an estimate: options checked, a target made, chains run and saved as posterior.nc."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blindsr.diagnostics import arviz_io, summary
from blindsr.diagnostics import verdict as verdicts
from blindsr.diagnostics.posterior import PosteriorResult, to_arviz
from blindsr.errors import UserError
from blindsr.estimators.loop import PriorFactory, Problem
from blindsr.estimators.spectral import interior
from blindsr.io.files import atomic_path
from blindsr.methods.base import Method
from blindsr.methods.parts import spectral_draws
from blindsr.operators.degradation import Degradation
from blindsr.posteriors.base import BayesTarget, Target, coordinate_names
from blindsr.posteriors.fixed_image import FixedImageTarget
from blindsr.posteriors.nested_laplace import SHAPE_UP_TO, nested_laplace
from blindsr.posteriors.spectral import SpectralTarget
from blindsr.posteriors.spectral_laplace import SpectralPrior
from blindsr.posteriors.transport import Transport
from blindsr.priors.base import KernelDensity
from blindsr.priors.normal import GaussianShape
from blindsr.random import generator
from blindsr.samplers.table import PRIOR_APART, SAMPLERS, sample

POSTERIOR = "posterior.nc"
RESTARTS = "trace.nc"
DIAGNOSTICS = "diagnostics"

MIN_DRAWS = 100
"""Fewer draws of a chain cannot pass the limit on the effective sample size, whatever the sampler."""


@dataclass(frozen=True)
class Sampling:
    """Which posterior of the kernel is sampled after the estimate, and how.

    Attributes
    ----------
    sampler : str
        A name in `blindsr.samplers.table.SAMPLERS`.
    chains, draws, warmup, thin : int
        Chains; kept draws of each; transitions left out before; transitions for each kept draw.
    target : str
        "spectral": given y, the image integrated out; "image": given y and the final image.
    family : str or None
        Name of the kernel prior that was asked for; None: the estimate's family, else Gaussians.
    """

    sampler: str
    chains: int = 4
    draws: int = 500
    warmup: int = 200
    thin: int = 1
    target: str = "spectral"
    family: str | None = None


@dataclass(frozen=True)
class Scene:
    """What a target is made from.

    Attributes
    ----------
    y, image, kernel : Tensor
        LR image (1, C, h, w), the run's result (1, C, s h, s w) and kernel (1, 1, K, K), on the CPU.
    degradation : Degradation
        The operator.
    found : SpectralPosterior or None
        The Laplace approximation of p(k | y), where the method makes one.
    true_kernel : Tensor or None
        (1, 1, K, K), where it is known.
    """

    y: Tensor
    image: Tensor
    kernel: Tensor
    degradation: Degradation
    found: SpectralPrior | None
    true_kernel: Tensor | None


@dataclass(frozen=True)
class Prepared:
    """A target, and what a sampler may start from."""

    target: Target
    covariance: Tensor | None = None
    transport: Callable[[], Transport] | None = None


def _spectral(scene: Scene, family: KernelDensity) -> Prepared:
    target = SpectralTarget(scene.y, scene.degradation, family)
    few = target.n_kernel <= SHAPE_UP_TO  # of many parameters, each point of the map takes as long as the mode
    return Prepared(target, target.laplace()[1], (lambda: nested_laplace(target)) if few else None)


def _image(scene: Scene, family: KernelDensity) -> Prepared:
    degradation, x, y = interior(scene.image, scene.y, scene.degradation)
    target = FixedImageTarget(x, y, degradation, family)
    return Prepared(target, target.laplace()[1])


TARGETS: dict[str, Callable[[Scene, KernelDensity], Prepared]] = {"spectral": _spectral, "image": _image}
"""Posteriors that a run can sample: given y with the image integrated out; given y and the final image."""


def read_sampling(
    sampler: str | None,
    chains: int | None,
    draws: int | None,
    warmup: int | None,
    thin: int | None,
    target: str | None,
    *,
    prior: str | None,
    method: Method,
    degradation: Degradation,
) -> Sampling | None:
    """Check the options of sampling, None where one was not given, and fill in the defaults.

    Raises
    ------
    UserError
        If a name is unknown, a number too small, an option has no sampler to go with, or the prior no density.
    """
    options = {"chains": chains, "draws": draws, "warmup": warmup, "thin": thin, "target": target}
    if sampler is None:
        if given := [f"--{name} {value}" for name, value in options.items() if value is not None]:
            raise UserError(f"{', '.join(given)}: goes with --sampler; name one of {', '.join(SAMPLERS)}")
        return None
    if sampler not in SAMPLERS:
        raise UserError(f"--sampler {sampler}: unknown; choose {', '.join(SAMPLERS)}")
    if target is not None and target not in TARGETS:
        raise UserError(f"--target {target}: unknown; choose {', '.join(TARGETS)}")
    for name, least in (("chains", 1), ("draws", MIN_DRAWS), ("warmup", 1), ("thin", 1)):
        value = options[name]
        if isinstance(value, int) and value < least:
            raise UserError(f"--{name} {value}: at least {least} is needed")
    _check_density(sampler, method, prior, degradation)
    asked = {name: value for name, value in options.items() if value is not None}
    return Sampling(sampler, **asked, family=prior if prior not in ("none", "spectral") else None)  # type: ignore[arg-type]


def _check_density(sampler: str, method: Method, prior: str | None, degradation: Degradation) -> None:
    factory = method.estimator.prior
    nowhere = Problem(torch.zeros(1, 1, 8, 8), degradation)
    if factory is None or factory is spectral_draws or isinstance(factory(nowhere), KernelDensity):
        return
    mend = "leave out --prior" if prior is not None else "choose another --method"
    raise UserError(
        f"--sampler {sampler}: the kernel prior {method.labels['prior']} has no density; {mend}, or name a prior with "
        "sample_z, log_prob and kernel (mcmc, my_file.py:MyPrior)"
    )


def kernel_family(
    sampling: Sampling, factory: PriorFactory | None, degradation: Degradation, found: Any, y: Tensor
) -> KernelDensity:
    """The kernel prior of a target: the one that was asked for, else the estimate's family, else Gaussians."""
    if sampling.family is not None and factory is not None:
        prior = factory(Problem(y, degradation))
        assert isinstance(prior, KernelDensity)  # as `read_sampling` has seen
        return prior
    if found is not None:
        family: KernelDensity = found.family
        return family
    return GaussianShape(degradation.kernel_size, degradation.scale)


def forget(folder: Path) -> None:
    """Remove the chains, restarts and figures of an earlier result, which is being replaced."""
    for name in (POSTERIOR, RESTARTS):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / DIAGNOSTICS, ignore_errors=True)


def sample_posterior(
    folder: Path,
    sampling: Sampling,
    scene: Scene,
    factory: PriorFactory | None,
    seed: int,
    stopped: Callable[[], str | None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Sample the kernel's posterior and save it beside the run; return the entry for run.json.

    Ends early when `stopped` returns the reason for it: what was drawn until then is saved, and marked as incomplete.

    Raises
    ------
    UserError
        If the target cannot be made or sampled.
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
    family = type(kernel_family(sampling, factory, scene.degradation, scene.found, scene.y)).__name__
    return entry | save_posterior(folder, result, family, start)


def draw(
    sampling: Sampling,
    scene: Scene,
    factory: PriorFactory | None,
    seed: int,
    stopped: Callable[[], bool] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> PosteriorResult:
    """Sample the kernel's posterior.

    Parameters
    ----------
    sampling : Sampling
        Which posterior, and how.
    scene : Scene
        What its target is made from.
    factory : callable or None
        Makes the kernel prior, where `sampling` names one.
    seed : int
        Of all draws.
    stopped : callable, optional
        Returns True when time is up; the draws made until then come back, perhaps none.
    say : callable
        Takes one-line notes for the user.

    Raises
    ------
    UserError
        If the target cannot be made or sampled.
    """
    family = kernel_family(sampling, factory, scene.degradation, scene.found, scene.y)
    say(f"sampling the kernel's posterior ({sampling.target}): {sampling.sampler}, {sampling.chains} chains")
    try:
        prepared = TARGETS[sampling.target](scene, family)
        if sampling.sampler in PRIOR_APART and not isinstance(prepared.target, BayesTarget):
            raise ValueError(f"{sampling.sampler} needs prior and likelihood apart, which this target does not have")
        chains = sample(
            prepared.target,
            sampling.sampler,
            chains=sampling.chains,
            draws=sampling.draws,
            warmup=sampling.warmup,
            thin=sampling.thin,
            generator=generator(seed),
            covariance=prepared.covariance,
            transport=_map_for(prepared, sampling.sampler, say),
            deadline=stopped,
        )
    except ValueError as error:
        raise UserError(f"--sampler {sampling.sampler}, --target {sampling.target}: {error}") from error
    return PosteriorResult(
        chains,
        prepared.target,
        coordinate_names(family),
        scene.degradation,
        scene.true_kernel,
        sampling.target,
        sampling.draws,
        seed=seed,
    )


def _map_for(prepared: Prepared, sampler: str, say: Callable[[str], None]) -> Transport | None:
    """The transport map, for samplers that use one; without it they are slower, not wrong."""
    if prepared.transport is None or sampler in PRIOR_APART:
        return None
    try:
        return prepared.transport()
    except ValueError as error:
        say(f"{error}; sampling without it")
        return None


def _nothing(why: str) -> dict[str, Any]:
    return {"draws": 0, "complete": False, "converged": False, "verdict": [f"no draws: {why} before the first"]}


def save_posterior(folder: Path, result: PosteriorResult, family: str, start: float) -> dict[str, Any]:
    """Write posterior.nc; return what run.json says of it. `start`: `time.perf_counter` when the work began."""
    data, chains = to_arviz(result), result.chains
    with atomic_path(folder / POSTERIOR) as temporary:
        arviz_io.save(data, temporary)
    entry: dict[str, Any] = {
        "family": family,
        "draws": chains.draws.shape[1],
        "warmup": chains.warmup,
        "thin": chains.thin,
        "complete": result.complete,
        "gradients": chains.gradients,
        "divergent": int(chains.divergent.sum()),
        "seconds_sampling": round(chains.seconds, 3),
        "tuning": dict(chains.tuning),
        "file": POSTERIOR,
    }
    if chains.valid:
        verdict = verdicts.judge(data, summary.table(data))
        entry |= {
            "converged": verdict.converged,
            "verdict": verdicts.words(verdict, data),
            "rhat_max": verdict.rhat_max,
            "rhat_of": verdict.rhat_of,
            "ess_min": verdict.ess_min,
            "ess_of": verdict.ess_of,
        }
    else:
        entry |= {"converged": False, "verdict": [f"no verdict: {chains.sampler} does not sample the posterior"]}
    return entry | {"seconds": round(time.perf_counter() - start, 3)}


def sampled_words(entry: dict[str, Any]) -> str:
    """A few words on a posterior, for the line on a run."""
    if not entry["draws"]:
        return f"posterior: {entry['verdict'][0]}"
    state = "converged" if entry["converged"] else "NOT converged"
    if not entry["complete"]:
        state += f", incomplete ({entry['draws']} of {entry['draws_asked']} draws)"
    numbers = f", R-hat {entry['rhat_max']:.3f}, ESS {entry['ess_min']:.0f}" if "rhat_max" in entry else ""
    return f"posterior: {state}{numbers} in {entry['seconds']:.0f} s (`blindsr diagnose`)"
