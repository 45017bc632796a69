"""The table of samplers, and the one call that runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from blindsr.posteriors.base import NoGradientError, Target
from blindsr.posteriors.network import NetworkTarget
from blindsr.posteriors.transport import Transport, Transported
from blindsr.samplers.chains import Chains
from blindsr.samplers.hmc import Hmc
from blindsr.samplers.mala import Mala
from blindsr.samplers.network_langevin import NetworkLangevin
from blindsr.samplers.pyro_nuts import PyroNuts
from blindsr.samplers.request import Request
from blindsr.samplers.rwm import RandomWalk
from blindsr.samplers.sampler import Sampler
from blindsr.samplers.sgld import PreconditionedSgld, Sgld
from blindsr.samplers.smc import Smc
from blindsr.samplers.tempering import Tempering
from blindsr.threads import one_thread

SAMPLERS: dict[str, Sampler] = {
    s.name: s
    for s in (
        RandomWalk(),
        Mala(),
        Hmc(),
        Tempering(),
        Smc(),
        PyroNuts(),
        Sgld(),
        PreconditionedSgld(),
        NetworkLangevin(),
    )
}
"""Samplers with their default settings, by name. A new sampler is one file and one line here."""

HMC = Hmc()


def sample(
    target: Target,
    sampler: Sampler | str = HMC,
    *,
    chains: int = 4,
    draws: int = 1000,
    warmup: int = 500,
    thin: int = 1,
    generator: torch.Generator,
    covariance: Tensor | None = None,
    initial: Tensor | None = None,
    transport: Transport | None = None,
    deadline: Callable[[], bool] | None = None,
) -> Chains:
    """Draw from a target.

    Parameters
    ----------
    target : Target
        A log density; for samplers that need it a `BayesTarget`.
    sampler : Sampler or str
        A sampler, such as `Hmc()`, or its name in `SAMPLERS`.
    chains : int
        Number of chains, which move together as the rows of one tensor; for `Smc`, of independent populations.
    draws : int
        Draws kept of each chain; for `Smc`, particles of each population.
    warmup : int
        Transitions that tune the sampler and are discarded, 0 or more; `Smc` has none.
    thin : int
        Transitions per kept draw.
    generator : torch.Generator
        Source of all randomness.
    covariance : Tensor or None
        A first estimate of the target's covariance, (dim, dim) or (dim,), such as a Laplace approximation.
    initial : Tensor or None
        Starting points (chains, dim); None: `target.initial`. Not used by `Smc`, which starts from the prior.
    transport : Transport or None
        A map from nearly N(0, I) to the target. The chains then run in the coordinates w of the map, with starting
        points and a covariance of its own; the draws returned, and their log densities, are the target's. Ignored by
        samplers that do not use one (`Sampler.uses_transport`).
    deadline : callable or None
        Returns True when time is up: the draws so far are returned, perhaps none.

    Returns
    -------
    Chains
        Draws in float64, with the statistics recorded along the way.

    Raises
    ------
    ValueError
        If the name is unknown, a number is out of range, a shape does not fit, the density is zero at a start, the
        target lacks what the sampler needs (a gradient, a separate prior and likelihood), or starting points are given
        together with a transport map.
    TypeError
        If `sampler` is neither a `Sampler` nor a name.
    """
    sampler = _sampler(sampler)
    _check_target(sampler, target)
    request = Request(chains, draws, warmup, thin, generator, covariance, initial, deadline)
    try:
        with one_thread():  # many small operations
            if transport is None or not sampler.uses_transport:
                return sampler.run(target, request)
            return _transported(target, sampler, request, transport)
    except NoGradientError as error:
        raise ValueError(
            f"sampler {sampler.name!r}: {error}; choose a sampler that needs none: "
            f"{_names(lambda s: not s.needs_gradient)}"
        ) from error


def _sampler(sampler: Sampler | str) -> Sampler:
    if isinstance(sampler, Sampler):
        return sampler
    if not isinstance(sampler, str):
        given = f"the class {sampler.__name__}" if isinstance(sampler, type) else f"a {type(sampler).__name__}"
        raise TypeError(f"sampler: {given} is no sampler; give an object such as Hmc(), or a name")
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler {sampler!r}: unknown; choose from {', '.join(SAMPLERS)}")
    return SAMPLERS[sampler]


def _check_target(sampler: Sampler, target: Target) -> None:
    """Check that the target has what the sampler needs."""
    lacking = [name for name in ("log_prior", "log_likelihood", "sample_prior") if not hasattr(target, name)]
    if sampler.needs_prior and lacking:
        raise ValueError(
            f"sampler {sampler.name!r}: {type(target).__name__} has no {', '.join(lacking)}; choose a sampler that "
            f"needs the posterior density alone: {_names(lambda s: s.valid and not s.needs_prior)}"
        )
    if sampler.needs_network and not isinstance(target, NetworkTarget):
        raise ValueError(
            f"sampler {sampler.name!r}: it moves the weights of a kernel network, which {type(target).__name__} has "
            "not; choose the target 'network' (NetworkTarget)"
        )


def _names(choice: Callable[[Sampler], bool]) -> str:
    return ", ".join(name for name, sampler in SAMPLERS.items() if choice(sampler))


def _transported(target: Target, sampler: Sampler, request: Request, transport: Transport) -> Chains:
    """Run chains over w, and map their draws to the target's coordinates."""
    if request.initial is not None:
        raise ValueError("initial: the transport map determines the starting points; leave it out")
    over = Transported(target, transport)
    one = torch.ones(transport.dim, dtype=torch.float64)
    chains = sampler.run(over, replace(request, covariance=one, center=torch.zeros_like(one)))
    draws, log_det = over.positions(chains.draws)
    return replace(chains, draws=draws, log_prob=chains.log_prob - log_det)
