"""Sampling after an estimate: the options are checked, a target is built, chains are run and saved.

Chains of a sampler whose stationary distribution is the target are saved as posterior.nc. Those of a biased one (SGLD,
network-level Langevin dynamics) are a trace, and go to sampler_trace.nc.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from blindsr.commands.interrupt import Interrupt
from blindsr.commands.settings import Sampling
from blindsr.diagnostics import arviz_io, summary
from blindsr.diagnostics import verdict as verdicts
from blindsr.diagnostics.posterior import PosteriorResult, to_arviz
from blindsr.errors import UserError
from blindsr.estimators.spectral import interior
from blindsr.generators.kernel import KernelNetwork
from blindsr.io.files import atomic_path
from blindsr.likelihood.quadratic import LrErrorForm
from blindsr.methods.base import Method
from blindsr.methods.words import sampler_part
from blindsr.operators.degradation import Degradation
from blindsr.posteriors.base import Target, coordinate_names
from blindsr.posteriors.fixed_image import FixedImageTarget
from blindsr.posteriors.laplace_map import SHAPE_UP_TO, nested_laplace
from blindsr.posteriors.network import FlatNetwork, NetworkTarget
from blindsr.posteriors.spectral import SpectralTarget
from blindsr.posteriors.spectral_laplace import SpectralPosterior
from blindsr.posteriors.transport import Transport
from blindsr.priors.base import KernelDensity
from blindsr.priors.normal import GaussianShape
from blindsr.random import generator, seeded
from blindsr.samplers.sampler import Sampler
from blindsr.samplers.table import SAMPLERS, sample

POSTERIOR = "posterior.nc"
BIASED = "sampler_trace.nc"
RESTARTS = "trace.nc"
DIAGNOSTICS = "diagnostics"

MIN_DRAWS = 100
"""With fewer draws of a chain the effective sample size cannot reach its limit (`diagnostics.verdict`)."""

HIDDEN, INPUTS, INPUT_STD, LAYER_STD = (32,), 8, 1.0, (3.0, 3.0)
"""Kernel network of the target "network", and its prior's standard deviations: the "small" one of docs/langevin.md."""


@dataclass(frozen=True)
class Scene:
    """The data and results of a run that a target is built from.

    Attributes
    ----------
    y, image, kernel : Tensor
        LR image (1, C, h, w), SR image (1, C, s h, s w) and estimated kernel (1, 1, K, K), on the CPU.
    degradation : Degradation
        The operator.
    found : SpectralPosterior or None
        The Laplace approximation of p(k | y), if the method makes one.
    true_kernel : Tensor or None
        (1, 1, K, K), if it is known.
    """

    y: Tensor
    image: Tensor
    kernel: Tensor
    degradation: Degradation
    found: SpectralPosterior | None
    true_kernel: Tensor | None


@dataclass(frozen=True)
class Prepared:
    """A target, the names of its kernel coordinates, and what helps to sample it: a covariance, a transport map."""

    target: Target
    kernel_coordinates: tuple[str, ...] = ()
    covariance: Tensor | None = None
    transport: Callable[[], Transport] | None = None


def _spectral(scene: Scene, family: KernelDensity) -> Prepared:
    target = SpectralTarget(scene.y, scene.degradation, family)
    few = target.n_kernel <= SHAPE_UP_TO  # with many parameters, each point of the map takes as long as the mode
    transport = (lambda: nested_laplace(target)) if few else None
    return Prepared(target, coordinate_names(family), target.laplace()[1], transport)


def _image(scene: Scene, family: KernelDensity) -> Prepared:
    degradation, x, y = interior(scene.image, scene.y, scene.degradation)
    target = FixedImageTarget(x, y, degradation, family)
    return Prepared(target, coordinate_names(family), target.laplace()[1])


def _network(scene: Scene, family: KernelDensity) -> Prepared:
    degradation, x, y = interior(scene.image, scene.y, scene.degradation)
    form = LrErrorForm.build(degradation, x.double(), y.double())
    variance = float(form(scene.kernel.double())[0])  # the mean squared residual, as in Eq. 40 of the MLMC paper
    with seeded(0):
        network = FlatNetwork.of(KernelNetwork(degradation.kernel_size, HIDDEN, INPUTS, INPUT_STD))
    return Prepared(NetworkTarget(network, form, variance, LAYER_STD, family))


TARGETS: dict[str, Callable[[Scene, KernelDensity], Prepared]] = {
    "spectral": _spectral,
    "image": _image,
    "network": _network,
}
"""Posteriors that a run can sample: of the kernel given y, with the image integrated out; of the kernel given y and the
SR image; of the weights of a kernel network given y and the SR image."""


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
    """Check the options of sampling (None: not given), and fill in the defaults.

    Parameters
    ----------
    sampler : str or None
        A name in `SAMPLERS`, or a user's own as `my_file.py:MySampler`, which is checked.
    chains, draws, warmup, thin : int or None
        As in `samplers.sample`.
    target : str or None
        A name in `TARGETS`.
    prior : str or None
        The kernel prior that was named on the command line.
    method : Method
        The method of the run, with its kernel prior.
    degradation : Degradation
        The operator.

    Raises
    ------
    UserError
        If a name is unknown, a number is too small, an option is given without a sampler, the user's sampler does not
        keep its contract, or the prior has no density.
    """
    options = {"chains": chains, "draws": draws, "warmup": warmup, "thin": thin, "target": target}
    if sampler is None:
        if given := [f"--{name} {value}" for name, value in options.items() if value is not None]:
            raise UserError(f"{', '.join(given)}: needs --sampler; choose one of {', '.join(SAMPLERS)}")
        return None
    sampler_part(sampler)
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
    try:
        if factory is not None:
            factory.density(degradation)
    except UserError as error:
        instead = "leave out --prior" if prior is not None else "choose another --method"
        raise UserError(f"--sampler {sampler}: {error}; {instead}, or name such a --prior") from error


def kernel_family(
    sampling: Sampling, factory: Any, degradation: Degradation, found: SpectralPosterior | None
) -> KernelDensity:
    """Return the kernel prior of a target: the one named, else that of the estimate, else Gaussians."""
    if sampling.family is not None and factory is not None:
        named: KernelDensity | None = factory.density(degradation)
        if named is not None:
            return named
    if found is not None:
        return found.family
    return GaussianShape(degradation.kernel_size, degradation.scale)


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
    interrupt: Interrupt,
    deadline: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Sample the posterior, save the chains beside the run's other files, and return the entry for run.json.

    If the run is interrupted or reaches the deadline (`time.perf_counter`), the draws so far are saved and marked as
    incomplete.

    Raises
    ------
    UserError
        If the target cannot be built or sampled.
    """
    start = time.perf_counter()
    entry: dict[str, Any] = {
        "sampler": sampling.sampler,
        "target": sampling.target,
        "chains": sampling.chains,
        "draws_asked": sampling.draws,
    }

    def stopped() -> bool:
        return interrupt.raised or time.perf_counter() > deadline

    if stopped():
        return entry | _nothing(interrupt)
    sampler = sampler_part(sampling.sampler, check=False).value
    family = kernel_family(sampling, factory, scene.degradation, scene.found)
    of = "posterior" if sampler.valid else "posterior, approximately"
    say(f"sampling the kernel's {of} ({sampling.target}): {sampling.sampler}, {sampling.chains} chains")
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
        raise UserError(f"{folder}: --sampler {sampling.sampler}, --target {sampling.target}: {error}") from error
    if chains.draws.shape[1] == 0:
        return entry | _nothing(interrupt)
    result = PosteriorResult(
        chains,
        prepared.target,
        prepared.kernel_coordinates,
        scene.degradation,
        scene.true_kernel,
        sampling.target,
        sampling.draws,
        seed=seed,
    )
    return entry | save_posterior(folder, result, type(family).__name__, start)


def _map_for(prepared: Prepared, sampler: Sampler, say: Callable[[str], None]) -> Transport | None:
    """Return the transport map, for samplers that use one; without it they are slower but not biased."""
    if prepared.transport is None or not sampler.uses_transport:
        return None
    try:
        return prepared.transport()
    except ValueError as error:
        say(f"{error}; sampling without it")
        return None


def _nothing(interrupt: Interrupt) -> dict[str, Any]:
    why = "interrupted" if interrupt.raised else "the time limit was reached"
    return {"draws": 0, "complete": False, "converged": False, "verdict": [f"no draws: {why} before the first"]}


def save_posterior(folder: Path, result: PosteriorResult, family: str, start: float) -> dict[str, Any]:
    """Save the chains, and return their entry for run.json; `start`: `time.perf_counter` when the work began."""
    data, chains = to_arviz(result), result.chains
    file = POSTERIOR if chains.valid else BIASED
    with atomic_path(folder / file) as temporary:
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
        "file": file,
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
        entry |= {
            "converged": False,
            "verdict": [f"{chains.sampler} is biased: its draws are a trace, not a posterior"],
        }
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
