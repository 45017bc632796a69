"""The request for a sampler run, and the loop that keeps its draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blindsr.posteriors.base import Target
from blindsr.samplers.base import Info, State, Transition
from blindsr.samplers.metric import Metric, metric_of


@dataclass(frozen=True)
class Request:
    """How many draws are wanted, and what is known of the target beforehand.

    Attributes
    ----------
    chains, draws, warmup, thin : int
        Number of chains; draws kept of each; transitions discarded before them; transitions per kept draw. All at
        least 1, but for the warm-up, which may be 0.
    generator : torch.Generator
        Source of all randomness.
    covariance : Tensor or None
        (dim, dim) or (dim,): a first estimate of the target's covariance.
    initial : Tensor or None
        Starting points (chains, dim); None: the target's own.
    deadline : callable or None
        Returns True when time is up.
    center : Tensor or None
        (dim,): the mean of a normal approximation whose covariance is `covariance`, where that is close to the target.
    """

    chains: int
    draws: int
    warmup: int
    thin: int
    generator: torch.Generator
    covariance: Tensor | None = None
    initial: Tensor | None = None
    deadline: Callable[[], bool] | None = None
    center: Tensor | None = None

    def __post_init__(self) -> None:
        for name, least in (("chains", 1), ("draws", 1), ("warmup", 0), ("thin", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least {least}")

    @property
    def late(self) -> bool:
        """Whether time is up."""
        return self.deadline is not None and self.deadline()

    def start(self, target: Target) -> tuple[Tensor, Metric]:
        """Starting points (chains, dim) and a first metric, from the covariance or the spread of target.initial."""
        dim = len(target.names)
        spread = None
        if self.initial is None or self.covariance is None:
            spread = target.initial(max(self.chains, 32), generator=self.generator).to(torch.float64)
        position = self.initial.to(torch.float64) if self.initial is not None else spread
        assert position is not None
        position = position if self.initial is not None else position[: self.chains]
        if position.shape != (self.chains, dim):
            raise ValueError(f"initial: shape {tuple(position.shape)}, but {(self.chains, dim)} is needed")
        if self.covariance is not None:
            if self.covariance.shape not in ((dim, dim), (dim,)):
                raise ValueError(f"covariance: shape {tuple(self.covariance.shape)}, but {(dim, dim)} is needed")
            return position, metric_of(self.covariance)
        assert spread is not None
        scale = spread.std(0)
        return position, Metric(torch.where(torch.isfinite(scale) & (scale > 0), scale, torch.ones_like(scale)))


@dataclass(frozen=True)
class Kept:
    """Draws of a run."""

    draws: Tensor  # (chains, draws, dim)
    # log_prob, acceptance, energy, divergent: (chains, draws). The acceptance is a mean over the transitions between
    # two kept draws; divergent tells whether any of them diverged.
    log_prob: Tensor
    acceptance: Tensor
    energy: Tensor
    divergent: Tensor
    gradients: int  # Evaluations for each chain

    @classmethod
    def stacked(cls, chains: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], gradients: int) -> Kept:
        """Stack chains, each with positions, log densities, acceptances and divergences; the energy is -log_prob."""
        position, log_prob, acceptance, divergent = (torch.stack(v) for v in zip(*chains, strict=True))
        return cls(position, log_prob, acceptance, -log_prob, divergent, gradients)


def collect(transition: Transition, state: State, request: Request, rows: int | None = None) -> Kept:
    """Keep every `thin`-th draw of the first `rows` chains, until all are there or time is up."""
    rows = len(state.position) if rows is None else rows
    shape = (rows, request.draws)
    draws = state.position.new_empty(*shape, state.position.shape[1])
    log_prob, acceptance, energy = (state.log_prob.new_empty(shape) for _ in range(3))
    divergent = torch.zeros(shape, dtype=torch.bool, device=state.position.device)
    kept, gradients = 0, 0
    while kept < request.draws and not request.late:
        notes: list[Info] = []
        for _ in range(request.thin):
            state, info = transition.step(state, request.generator)
            notes.append(info)
        draws[:, kept], log_prob[:, kept] = state.position[:rows], state.log_prob[:rows]
        energy[:, kept] = notes[-1].energy[:rows]
        acceptance[:, kept] = torch.stack([n.acceptance[:rows] for n in notes]).mean(0)
        divergent[:, kept] = torch.stack([n.divergent[:rows] for n in notes]).any(0)
        gradients += sum(n.gradients for n in notes)
        kept += 1
    return Kept(
        draws[:, :kept], log_prob[:, :kept], acceptance[:, :kept], energy[:, :kept], divergent[:, :kept], gradients
    )
