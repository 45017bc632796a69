"""Train a flow on the kernels of any kernel prior, by maximum likelihood of their dequantised logits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blindsr.operators.kernels import center_of_mass
from blindsr.priors.base import KernelPrior
from blindsr.priors.flow import FlowPrior
from blindsr.priors.flow_net import FlowShape, KernelFlow, Logits
from blindsr.random import draw_seed, seeded

MARGIN = 1.02
"""c over the largest value among the first kernels."""
CENTER_TOLERANCE = 1e-3
"""Pixels within which centres of mass count as one and the same."""
WARMUP = 0.05
"""Share of the steps over which the learning rate rises."""


@dataclass(frozen=True)
class FlowRecipe:
    """How a flow is trained.

    Parameters
    ----------
    steps : int
        Steps of Adam.
    batch : int
        Kernels in one step.
    lr : float
        Largest learning rate; it rises over the first steps and falls to nearly zero (one cycle).
    pool : int
        Kernels drawn at once. Peak and whitening come from the first pool.
    uses : int
        Times that each kernel is used, with fresh noise; more than once where kernels are costly to draw.
    clip : float
        Largest norm of a gradient.
    held_out : int
        Kernels, not trained on, of the reported log-likelihood.
    floor, noise : float
        φ and τ of `Logits`.
    one_center : bool
        Whether all kernels have one centre of mass, the same on both axes; the flow's kernels then have it too.
    levels, couplings, bins, hidden
        See `FlowShape`.

    Raises
    ------
    ValueError
        If a number is too small.
    """

    steps: int = 3000
    batch: int = 500
    lr: float = 2e-3
    pool: int = 20000
    uses: int = 1
    clip: float = 50.0
    held_out: int = 2000
    floor: float = 1e-3
    noise: float = 0.05
    one_center: bool = False
    levels: tuple[int, ...] = (4, 16, 64)
    couplings: int = 5
    bins: int = 8
    hidden: int = 64

    def __post_init__(self) -> None:
        least = min(self.steps, self.batch, self.held_out, self.uses)
        if least < 1 or self.pool < self.batch or not (self.lr > 0 < self.clip):
            raise ValueError(
                "flow: need steps, batch, held_out and uses of at least 1, pool >= batch, lr and clip above 0"
            )

    def shape(self, kernel_size: int) -> FlowShape:
        """Size of the flow; a small kernel has fewer levels."""
        levels = tuple(n for n in self.levels if n < kernel_size**2)
        return FlowShape(kernel_size, levels, self.couplings, self.bins, self.hidden)


_TRAJECTORIES = FlowRecipe(steps=5000, uses=10, noise=0.15, one_center=True, couplings=8, bins=12, hidden=128)
RECIPES: dict[str, FlowRecipe] = {"gaussian": FlowRecipe(), "motion": _TRAJECTORIES, "shake": _TRAJECTORIES}
"""Recipes by family, those of the flows that come with the package; any other prior takes that of gaussian."""


def recipe_for(family: str, steps: int | None = None) -> FlowRecipe:
    """Return the recipe for a family of kernels, with another number of steps if one is given."""
    recipe = RECIPES.get(family, RECIPES["gaussian"])
    return recipe if steps is None else replace(recipe, steps=steps)


class Progress(NamedTuple):
    """What is reported after a training step."""

    step: int
    log_prob: float
    """Mean over the batch, nats."""
    seconds: float
    """Since the start."""


def train_flow(
    prior: KernelPrior,
    scale: int,
    recipe: FlowRecipe | None = None,
    *,
    generator: torch.Generator,
    report: Callable[[Progress], None] = lambda _: None,
) -> FlowPrior:
    """Train a flow.

    Parameters
    ----------
    prior : KernelPrior
        The prior that the kernels are drawn from.
    scale : int
        s, for the record.
    recipe : FlowRecipe, optional
        Settings of the training; default: those for Gaussian kernels.
    generator : torch.Generator
        Source of all randomness.
    report : callable
        Called after every step.

    Returns
    -------
    FlowPrior
        Its recipe holds the settings and the mean log-likelihood of held-out kernels, nats.

    Raises
    ------
    ValueError
        If the prior's kernels are all the same, if they have several centres where the recipe says one, or if training
        diverges.
    """
    how, start = recipe or FlowRecipe(), time.perf_counter()
    pool = prior.sample(how.pool, generator=generator)
    if float(pool.std(0).max()) < 1e-8:
        raise ValueError("the prior draws one and the same kernel: there is nothing to learn")
    center = _common_center(pool) if how.one_center else None
    logits = Logits(min(float(pool.max()) * MARGIN, 1.0), how.floor, how.noise, center)
    with seeded(draw_seed(generator)):
        flow = KernelFlow(how.shape(prior.kernel_size))
    flow.whiten(logits.encode(pool.double()), how.noise)
    adam = torch.optim.Adam(flow.parameters(), lr=how.lr)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        adam, how.lr, total_steps=how.steps + 1, pct_start=WARMUP, div_factor=10, final_div_factor=1e3
    )
    batches = _batches(prior, pool, how, generator)
    for step in range(1, how.steps + 1):
        kernels = next(batches)
        log_prob = _step(flow, adam, logits.encode(kernels, generator=generator), how.clip)
        rate.step()
        report(Progress(step, log_prob, time.perf_counter() - start))
    with torch.no_grad():
        for p in flow.parameters():
            p.copy_(p.half())  # as the file will hold them
    made = FlowPrior(flow, logits, scale, {"settings": asdict(how)})
    held_out = prior.sample(how.held_out, generator=generator)
    made.recipe["log_prob_held_out"] = round(float(made.log_prob_kernels(held_out, generator=generator).mean()), 2)
    return made


def _batches(prior: KernelPrior, pool: Tensor, how: FlowRecipe, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield whole batches of the pool, as often as the recipe uses each kernel, then of fresh pools, without end."""
    while True:
        for _ in range(how.uses):
            yield from (kernels for kernels in pool.split(how.batch) if len(kernels) == how.batch)
        pool = prior.sample(how.pool, generator=generator)


def _common_center(kernels: Tensor) -> float:
    centers = center_of_mass(kernels.double())
    middle = float(centers.mean())
    if float((centers - middle).abs().max()) > CENTER_TOLERANCE:
        raise ValueError("the prior's kernels have different centres of mass: a recipe without one_center is needed")
    return round(middle, 3)


def _step(flow: KernelFlow, adam: torch.optim.Optimizer, v: Tensor, clip: float) -> float:
    loss = -flow.log_prob(v).mean()
    if not torch.isfinite(loss):
        raise ValueError("training diverges; try another --seed")
    adam.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(flow.parameters(), clip)
    adam.step()
    return -float(loss.detach())
