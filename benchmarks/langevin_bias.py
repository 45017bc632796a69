"""Bias of SGLD, preconditioned SGLD and network-level Langevin on known targets, as a function of the step size.

    python benchmarks/langevin_bias.py --out r.jsonl

Four targets with known moments: a correlated Gaussian, a skewed density (the logarithm of a Gamma(3) number), two modes
0.5 N(±1.5, 0.7²), and a mild funnel v ~ N(0, 1), w ~ N(0, exp(v)). 400 chains start from exact draws, so what is seen
is bias and not a slow start. The random loss of network Langevin pulls towards draws of N(m, s²), m and s those of the
target.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from blindsr.posteriors import value_and_gradient
from blindsr.random import generator
from blindsr.samplers import NetworkLangevin, PreconditionedSgld, Sgld, Transition
from blindsr.samplers.network_langevin import Form, NetworkLangevinTransition

CHAINS = 400


def negative_log_density(target: Known) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return the loss -log π of a target, and its gradient."""
    evaluate = value_and_gradient(target)
    return lambda position: tuple(-v for v in evaluate(position))


@dataclass(frozen=True, eq=False)
class RandomPull:
    """A random loss for targets without kernels: ‖m - z‖², m ~ N(center, diag(std²))."""

    center: Tensor
    std: Tensor

    def __call__(self, position: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Losses (n,) and gradients 2 (z - m) (n, dim)."""
        gap = position - self.center - self.std * torch.randn(position.shape, generator=generator, dtype=position.dtype)
        return gap.square().sum(1), 2 * gap


@dataclass(frozen=True)
class Known:
    """A target that can be drawn from."""

    names: tuple[str, ...]
    density: Callable[[Tensor], Tensor]
    draw: Callable[[int, torch.Generator], Tensor]

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density (n,)."""
        return self.density(z)

    def initial(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Exact draws."""
        return self.draw(n, generator)


def normal(n: int, dim: int, g: torch.Generator) -> Tensor:
    """Standard normal rows."""
    return torch.randn(n, dim, generator=g, dtype=torch.float64)


def gaussian() -> Known:
    """Two coordinates of unit variance, correlation 0.9."""
    factor = torch.linalg.cholesky(torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64))
    precision = torch.cholesky_inverse(factor)
    return Known(("a", "b"), lambda z: -0.5 * ((z @ precision) * z).sum(1), lambda n, g: normal(n, 2, g) @ factor.T)


def skewed() -> Known:
    """Logarithm of a Gamma(3) number: 3 z - exp z."""

    def draw(n: int, g: torch.Generator) -> Tensor:
        uniform = torch.rand(n, 3, generator=g, dtype=torch.float64)
        return (-uniform.log()).sum(1, keepdim=True).log()

    return Known(("z",), lambda z: (3 * z - z.exp())[:, 0], draw)


def bimodal() -> Known:
    """Two normal modes."""

    def density(z: Tensor) -> Tensor:
        return torch.logsumexp(-0.5 * ((z - torch.tensor([-1.5, 1.5], dtype=torch.float64)) / 0.7) ** 2, 1)

    def draw(n: int, g: torch.Generator) -> Tensor:
        side = 3.0 * (torch.rand(n, 1, generator=g, dtype=torch.float64) < 0.5) - 1.5
        return side + 0.7 * normal(n, 1, g)

    return Known(("z",), density, draw)


def funnel() -> Known:
    """Width exp(v/2) of w: v ~ N(0, 1), w ~ N(0, exp(v))."""

    def density(z: Tensor) -> Tensor:
        v, w = z.unbind(1)
        return -0.5 * v**2 - 0.5 * w**2 * (-v).exp() - 0.5 * v

    def draw(n: int, g: torch.Generator) -> Tensor:
        z = normal(n, 2, g)
        return torch.stack([z[:, 0], z[:, 1] * (z[:, 0] / 2).exp()], 1)

    return Known(("v", "w"), density, draw)


TARGETS = {"correlated Gaussian": gaussian, "skewed": skewed, "bimodal": bimodal, "funnel": funnel}


def transition(name: str, target: Known, step: float, reference: Tensor) -> Transition:
    """The transition of a sampler with a step size."""
    if name == "sgld":
        return Sgld(step).on(value_and_gradient(target))
    if name == "psgld":
        return PreconditionedSgld(step, damping=0.1).on(value_and_gradient(target))
    pull = RandomPull(reference.mean(0), reference.std(0))
    settings = NetworkLangevin(step, step, form=Form.GRADIENT)
    return NetworkLangevinTransition(negative_log_density(target), pull, settings)


def record(kind: str, name: str, step: float, steps: int) -> dict[str, object]:
    """Moments of one sampler on one target, over those of exact draws."""
    target = TARGETS[kind]()
    g = generator(0)
    reference = target.draw(400_000, g)
    state, kept = None, []
    made = transition(name, target, step, reference)
    state = made.init(target.draw(CHAINS, g))
    for i in range(steps):
        state, info = made.step(state, g)
        if info.divergent.any() or float(state.position.abs().max()) > 1e6:
            return {"target": kind, "sampler": name, "step": step, "lost_after": i + 1}
        if i >= steps // 2:
            kept.append(state.position)
    draws = torch.stack(kept)
    by_chain = draws.mean(0)
    shift = (by_chain.mean(0) - reference.mean(0)) / reference.std(0)
    error = by_chain.std(0) / math.sqrt(CHAINS) / reference.std(0)
    ratio = draws.flatten(0, 1).std(0) / reference.std(0)
    return {
        "target": kind,
        "sampler": name,
        "step": step,
        "shift": [round(float(v), 3) for v in shift],
        "shift_error": [round(float(v), 3) for v in error],
        "sd_ratio": [round(float(v), 3) for v in ratio],
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| target | sampler | step | shift of means / sd (± Monte Carlo error) | sd / true sd |\n|---|---|---|---|---|"
    )
    for kind in TARGETS:
        for name in ("sgld", "psgld", "langevin"):
            for step in (0.2, 0.05, 0.0125):
                r = record(kind, name, step, args.steps)
                if args.out:
                    with args.out.open("a") as f:
                        f.write(json.dumps(r) + "\n")
                if "lost_after" in r:
                    print(f"| {kind} | {name} | {step:g} | runs away after {r['lost_after']} steps | |", flush=True)
                    continue
                shifts = ", ".join(f"{m:+.2f} ± {e:.2f}" for m, e in zip(r["shift"], r["shift_error"], strict=True))
                ratios = ", ".join(f"{v:.2f}" for v in r["sd_ratio"])
                print(f"| {kind} | {name} | {step:g} | {shifts} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
