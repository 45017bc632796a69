"""Check a sampler of your own against its own prior and simulator: simulation-based calibration, TARP, coverage.

The model: an edge in an image, blurred by a Gaussian of unknown width at an unknown place, with noise. The sampler: a
random-walk Metropolis chain in a few lines. With --careless it counts the noise at half its level, a mistake that no
single result would show.

python examples/calibration.py --simulations 200 --output calibration
python examples/calibration.py --simulations 200 --careless
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from blindsr.diagnostics.calibration import sbc
from blindsr.diagnostics.calibration_plots import coverage_curves, ecdf_differences, rank_histograms
from blindsr.diagnostics.coverage import expected_coverage, tarp
from blindsr.random import generator

PIXELS = torch.arange(-7.5, 8)
NOISE = 0.05


def edge(theta: Tensor) -> Tensor:
    """Profiles (m, 16) of edges of log width and place theta (m, 2)."""
    return torch.special.ndtr((PIXELS - theta[:, 1:]) / theta[:, :1].exp())


def draw_prior(g: torch.Generator) -> Tensor:
    """Log width ~ N(0.5, 0.4²), place ~ N(0, 1)."""
    return torch.tensor([0.5, 0.0]) + torch.tensor([0.4, 1.0]) * torch.randn(2, generator=g)


def simulate(theta: Tensor, g: torch.Generator) -> Tensor:
    """A noisy profile (16,)."""
    return edge(theta[None])[0] + NOISE * torch.randn(len(PIXELS), generator=g)


def log_likelihood(theta: Tensor, y: Tensor, noise: float = NOISE) -> Tensor:
    """Log density of y at each of theta (m, 2), up to a constant: (m,)."""
    return -0.5 * ((y - edge(theta)) / noise).square().sum(1)


def chains(y: Tensor, g: torch.Generator, noise: float) -> Tensor:
    """Random-walk Metropolis, 8 chains at once: draws (8, 300, 2), the first half of each chain left out."""

    def log_posterior(theta: Tensor) -> Tensor:
        prior = ((theta - torch.tensor([0.5, 0.0])) / torch.tensor([0.4, 1.0])).square().sum(1)
        return log_likelihood(theta, y, noise) - 0.5 * prior

    at = torch.stack([draw_prior(g) for _ in range(8)])
    value, kept = log_posterior(at), []
    for _ in range(600):
        step = at + torch.tensor([0.15, 0.2]) * torch.randn(8, 2, generator=g)
        new = log_posterior(step)
        taken = torch.rand(8, generator=g).log() < new - value
        at, value = torch.where(taken[:, None], step, at), torch.where(taken, new, value)
        kept.append(at)
    return torch.stack(kept[300:], 1)


def main() -> None:
    """Run the simulations, print the tests, draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--careless", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder for the figures")
    args = parser.parse_args()
    noise = NOISE / 2 if args.careless else NOISE
    found = sbc(
        draw_prior,
        simulate,
        lambda y, g: chains(y, g, noise),
        args.simulations,
        generator=generator(args.seed),
        names=("log_width", "place"),
        summaries=lambda theta, y: {"log_likelihood": log_likelihood(theta.float(), y)},
    )
    joint = tarp(found.simulations, generator=generator(args.seed + 1))
    for test in (*found.tests(), *joint.tests()):
        print(f"{test.name:25s} p-value: chi-square {test.chi_square:.3f}, ECDF {test.ecdf:.3f}")
    covered = expected_coverage(found.simulations, [0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
    for level, rates in zip(covered.levels.tolist(), covered.rates.tolist(), strict=True):
        print(f"{100 * level:3.0f} % intervals hold the truth in", ", ".join(f"{100 * r:.0f} %" for r in rates))
    print(f"{found.dependent} of {len(found.ranks)} simulations had too few independent draws")
    print("calibrated" if found.uniform() and joint.uniform() else "NOT calibrated")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        for name, figure in (
            ("ranks", rank_histograms(found)),
            ("ecdf", ecdf_differences(found)),
            ("tarp", ecdf_differences(joint)),
            ("coverage", coverage_curves(covered)),
        ):
            figure.savefig(args.output / f"{name}.png")


if __name__ == "__main__":
    main()
