"""What every sampler is: an object that holds settings alone, declares what it needs, and runs on any target.

A new sampler derives from `Sampler` and writes its whole run, or from `MarkovSampler` and hands over a transition
(`base.Transition`); `warmup.AdaptiveSampler` is for transitions whose step size and metric are tuned.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from blindsr.posteriors.base import Target
from blindsr.samplers.base import Transition
from blindsr.samplers.chains import Chains
from blindsr.samplers.metric import Metric
from blindsr.samplers.request import Kept, Request, collect


class Sampler(ABC):
    """A sampler's settings, and the run that they describe."""

    name: ClassVar[str]
    """Its name in `blindsr.samplers.SAMPLERS` and in records; the class's name if it gives none."""
    valid: ClassVar[bool] = True
    """Whether the stationary distribution is the target; else draws are saved as a trace, never as a posterior."""
    needs_gradient: ClassVar[bool] = True
    """Whether the log density must be differentiable."""
    needs_prior: ClassVar[bool] = False
    """Whether the target must offer its prior and its likelihood separately (`BayesTarget`)."""
    needs_network: ClassVar[bool] = False
    """Whether the target must be the posterior of a kernel network (`NetworkTarget`)."""
    uses_transport: ClassVar[bool] = True
    """Whether the chains may run in the coordinates of a transport map."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    @abstractmethod
    def run(self, target: Target, request: Request) -> Chains:
        """Draw what is requested; `blindsr.samplers.sample` is the call for users.

        The target is a `BayesTarget` if the sampler `needs_prior`. Fewer draws than requested, perhaps none, are
        returned if the deadline passed; ValueError is raised if the target cannot be sampled, or the request does not
        fit it.
        """

    def chains(
        self,
        target: Target,
        request: Request,
        kept: Kept,
        step_size: Tensor,
        gradients: int,
        began: float,
        tuning: dict[str, float] | None = None,
    ) -> Chains:
        """Chains of the kept draws, with the step size of each chain (chains,) and the evaluations in all chains.

        `began` is `time.perf_counter()` at the start of the run, and `tuning` what the warm-up found.
        """
        return Chains(
            draws=kept.draws,
            names=tuple(target.names),
            log_prob=kept.log_prob,
            acceptance=kept.acceptance,
            energy=kept.energy,
            divergent=kept.divergent,
            step_size=step_size,
            sampler=self.name,
            valid=self.valid,
            warmup=request.warmup,
            thin=request.thin,
            gradients=gradients,
            seconds=time.perf_counter() - began,
            tuning=tuning or {},
        )

    def no_chains(self, target: Target, request: Request, gradients: int, began: float) -> Chains:
        """Chains without a draw, for a run that the deadline ended."""
        empty = torch.zeros(request.chains, 0, dtype=torch.float64)
        kept = Kept(empty.new_zeros(request.chains, 0, len(target.names)), empty, empty, empty, empty.bool(), 0)
        step = torch.full((request.chains,), torch.nan, dtype=torch.float64)
        return self.chains(target, request, kept, step, gradients, began)


class MarkovSampler(Sampler):
    """A sampler that repeats one transition without tuning it; the warm-up is discarded."""

    @abstractmethod
    def transition(self, target: Target, metric: Metric, request: Request) -> Transition:
        """Build the transition for a target.

        The metric, a linear map from whitened coordinates, comes from the covariance in the request, else from the
        spread of the target's own starts.
        """

    def run(self, target: Target, request: Request) -> Chains:
        """Run the transition, and keep the draws after the warm-up."""
        began = time.perf_counter()
        position, metric = request.start(target)
        transition = self.transition(target, metric, request)
        state, gradients = transition.init(position), 0
        for _ in range(request.warmup):
            if request.late:
                break
            state, info = transition.step(state, request.generator)
            gradients += info.gradients
        kept = collect(transition, state, request)
        step_size = float(getattr(transition, "step_size", torch.nan))
        step = torch.full((request.chains,), step_size, dtype=torch.float64)
        return self.chains(target, request, kept, step, (gradients + kept.gradients) * request.chains, began)
