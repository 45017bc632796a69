"""The table of samplers, and the one call that uses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from blindsr.posteriors.base import Target
from blindsr.posteriors.transport import Transport, Transported
from blindsr.samplers.chains import Chains
from blindsr.samplers.ladder import run_tempering
from blindsr.samplers.pyro_nuts import run_pyro_nuts
from blindsr.samplers.request import Request
from blindsr.samplers.run import run_hmc, run_mala, run_random_walk
from blindsr.samplers.smc import run_smc
from blindsr.threads import one_thread

Runner = Callable[[Target, Request], Chains]
"""A sampler's whole run."""

SAMPLERS: dict[str, Runner] = {
    "rwm": run_random_walk,
    "mala": run_mala,
    "hmc": run_hmc,
    "tempering": run_tempering,
    "smc": run_smc,
    "pyro-nuts": run_pyro_nuts,
}

PRIOR_APART = ("tempering", "smc")
"""Samplers that need prior and likelihood apart."""


def sample(
    target: Target,
    sampler: str = "hmc",
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
    """Draw from a target with one of `SAMPLERS`.

    Parameters
    ----------
    target : Target
        A log density; for `tempering` and `smc` a `BayesTarget`.
    sampler : str
        A name in `SAMPLERS`.
    chains : int
        Chains, moved together as rows of one tensor; for `smc` independent populations.
    draws : int
        Draws kept of each chain; for `smc` particles of each population.
    warmup : int
        Transitions that tune the sampler, not kept; `smc` tunes itself and has none.
    thin : int
        Transitions for each kept draw.
    generator : torch.Generator
        Source of all randomness.
    covariance : Tensor or None
        A first estimate of the target's covariance, (dim, dim) or (dim,), such as a Laplace approximation.
    initial : Tensor or None
        (chains, dim) starts; None: `target.initial`. Not used by `smc`, which starts from the prior.
    transport : Transport or None
        A map from nearly N(0, I) to the target: the chains run over w, and bring their own starts and covariance; the
        draws, and the log density that comes with them, are the target's. Not used by `tempering` and `smc`, which need
        the prior.
    deadline : callable or None
        Returns True when time is up: the draws kept so far come back, perhaps none.

    Returns
    -------
    Chains
        Draws in float64, with what was recorded beside them.

    Raises
    ------
    ValueError
        If the name is unknown, a number is below 1, a shape does not fit, a chain starts where the density is zero, or
        the target has no prior and likelihood of its own where the sampler needs them, or starts are given beside a
        transport.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler {sampler!r}: unknown; choose from {', '.join(SAMPLERS)}")
    request = Request(chains, draws, warmup, thin, generator, covariance, initial, deadline)
    with one_thread():  # many small operations
        if transport is None or sampler in PRIOR_APART:
            return SAMPLERS[sampler](target, request)
        return _transported(target, SAMPLERS[sampler], request, transport)


def _transported(target: Target, runner: Runner, request: Request, transport: Transport) -> Chains:
    """Run chains over w; bring their draws to the target's coordinates."""
    if request.initial is not None:
        raise ValueError("initial: with a transport, chains start where the transport says; leave it out")
    over = Transported(target, transport)
    one = torch.ones(transport.dim, dtype=torch.float64)
    chains = runner(over, replace(request, covariance=one, center=torch.zeros_like(one)))
    draws, log_det = over.positions(chains.draws)
    return replace(chains, draws=draws, log_prob=chains.log_prob - log_det)
