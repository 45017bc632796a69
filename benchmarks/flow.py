"""Whether a flow's kernels pass as the kernels it learned.

    python benchmarks/flow.py --out r.jsonl                          # every flow that comes with the package
    python benchmarks/flow.py --scales 4 --families gaussian --published-steps 3000

For each flow:
- two-sample tests on moments of 2,000 kernels a side, `--repeats` times with fresh kernels: Kolmogorov-Smirnov on each
  moment (centres to 1e-4 pixel), Holm's correction over the moments at 5 %; and one permutation test on the energy
  distance of all moments together. If both sides had one law, one repeat in twenty would be rejected. The true side is
  dequantised by the flow's noise, as in training; `plain` is against the kernels without that noise.
- log-likelihood of 2,000 held-out kernels, nats each, against a Gaussian mixture on the same dequantised logits (full
  covariances, EM on 20,000 kernels, the best of `--components` on other kernels);
- seconds for 1,000 draws, one thread.
`--published-steps N` also trains a flow with the layers of the FKP code (alternating pixels, batch norm) on the same
logits for N steps of the same batches. Lines are printed as a Markdown table, and appended to --out as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from flow_baselines import PublishedFlow, fit_mixture
from scipy import stats
from torch import Tensor, nn

from blindsr.operators.degradation import Degradation
from blindsr.operators.kernels import center_of_mass, covariance
from blindsr.priors.base import KernelPrior
from blindsr.priors.families import kernel_family
from blindsr.priors.flow import FlowPrior, flow_for
from blindsr.random import generator, seeded

MOMENTS = ("center column", "center row", "var column", "var row", "cov", "long axis", "short axis", "peak", "energy")


def moments(kernels: Tensor) -> Tensor:
    """Moments (n, 9) of kernels (n, 1, K, K): centre, covariance, its eigenvalues, largest value, sum of squares."""
    k = kernels.double()
    c = covariance(k)
    xx, yy, xy = c[:, 0, 0], c[:, 1, 1], c[:, 0, 1]
    half = ((xx - yy).square() / 4 + xy.square()).sqrt()
    mean = (xx + yy) / 2
    flat = k.flatten(1)
    rest = [xx, yy, xy, mean + half, mean - half, flat.amax(1), flat.square().sum(1)]
    center = center_of_mass(k).mul(1e4).round() / 1e4  # where it never varies, no test on rounding errors
    return torch.cat([center, torch.stack(rest, 1)], 1)


def kolmogorov(a: Tensor, b: Tensor) -> tuple[list[float], list[float]]:
    """KS distances and p-values of the columns of a and b."""
    found = [stats.ks_2samp(a[:, j].numpy(), b[:, j].numpy()) for j in range(a.shape[1])]
    return [float(f.statistic) for f in found], [float(f.pvalue) for f in found]


def energy_test(a: Tensor, b: Tensor, gen: torch.Generator, permutations: int = 199) -> float:
    """P-value, by permutations, of the energy distance between two samples; columns scaled by their ranges."""
    both = torch.cat([a, b])
    spread = both.quantile(torch.tensor([0.1, 0.9], dtype=both.dtype), dim=0)
    both = both / (spread[1] - spread[0])
    distance = torch.cdist(both, both)
    n = len(a)
    side = torch.ones(len(both), dtype=both.dtype)
    side[n:] = -1
    signs = torch.stack([side] + [side[torch.randperm(len(both), generator=gen)] for _ in range(permutations)], 1)
    value = -(signs * (distance @ signs)).sum(0)
    return float((value >= value[0]).double().mean())


def two_sample(flow: FlowPrior, prior: KernelPrior, repeats: int, gen: torch.Generator) -> dict[str, Any]:
    """Two-sample tests, 2,000 kernels a side."""
    n, rejected, energies, all_d, all_plain = 2000, 0, [], [], []
    for _ in range(repeats):
        true, drawn = prior.sample(n, generator=gen), moments(flow.sample(n, generator=gen))
        seen = moments(flow.logits.decode(flow.logits.encode(true.double(), generator=gen)))
        d, p = kolmogorov(seen, drawn)
        rejected += min(p) * len(p) < 0.05  # Holm rejects something if and only if Bonferroni does
        energies.append(energy_test(seen, drawn, gen))
        all_d.append(d)
        all_plain.append(kolmogorov(moments(true), drawn)[0])
    mean, plain = (torch.tensor(x).mean(0).tolist() for x in (all_d, all_plain))
    return {
        "repeats": repeats,
        "rejected": int(rejected),
        "rejected_energy": sum(p < 0.05 for p in energies),
        "ks": dict(zip(MOMENTS, mean, strict=True)),
        "ks_plain": dict(zip(MOMENTS, plain, strict=True)),
    }


def likelihood(flow: FlowPrior, prior: KernelPrior, components: list[int], gen: torch.Generator) -> dict[str, Any]:
    """Held-out log-likelihoods, nats a kernel."""

    def logits(n: int) -> Tensor:
        return flow.logits.encode(prior.sample(n, generator=gen).double(), generator=gen)

    train, choose, test = logits(20000), logits(2000), logits(2000)
    start = time.perf_counter()
    mixtures = {m: fit_mixture(train, m, flow.logits.noise, gen) for m in components}
    best = max(components, key=lambda m: float(mixtures[m].log_prob(choose).mean()))
    seconds = time.perf_counter() - start
    ours, theirs = flow.log_prob_logits(test), mixtures[best].log_prob(test)
    gain = ours - theirs
    return {
        "flow": float(ours.mean()),
        "mixture": float(theirs.mean()),
        "components": best,
        "gain": float(gain.mean()),
        "gain_error": float(gain.std() / len(gain) ** 0.5),
        "mixture_seconds": seconds,
    }


def draw_seconds(flow: FlowPrior, gen: torch.Generator) -> float:
    """Seconds for 1,000 draws, the best of five."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        flow.sample(1000, generator=gen)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def published(flow: FlowPrior, prior: KernelPrior, scale: int, steps: int, gen: torch.Generator) -> dict[str, Any]:
    """Train the published layers on the same logits; held-out log-likelihood and two-sample tests."""
    with seeded(0):
        net = PublishedFlow(flow.dim, scale)
    adam = torch.optim.Adam(net.parameters(), lr=2e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=steps + 1, pct_start=0.05)
    pool: list[Tensor] = []
    for _ in range(steps):
        pool = pool or list(prior.sample(20000, generator=gen).split(500))
        loss = -net.log_prob(flow.logits.encode(pool.pop(), generator=gen)).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 50.0)
        adam.step()
        rate.step()
    net.eval().requires_grad_(False)
    rejected, n = 0, 2000
    for _ in range(5):
        seen = flow.logits.decode(flow.logits.encode(prior.sample(n, generator=gen).double(), generator=gen))
        drawn = flow.logits.decode(net(torch.randn(n, flow.dim, generator=gen)))
        d, p = kolmogorov(moments(seen), moments(drawn))
        rejected += min(p) * len(p) < 0.05
    test = flow.logits.encode(prior.sample(n, generator=gen), generator=gen)
    return {
        "steps": steps,
        "log_prob": float(net.log_prob(test).mean()),
        "rejected_of_5": int(rejected),
        "ks": dict(zip(MOMENTS, d, strict=True)),
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=["gaussian", "motion"])
    parser.add_argument("--scales", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--file", type=Path, help="A flow's file instead; name one family and one scale.")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--components", nargs="+", type=int, default=[1, 5, 10, 20])
    parser.add_argument("--published-steps", type=int, default=0)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| flow | rejected (KS, Holm) | rejected (energy) | largest KS | flow, nats | mixture, nats | 1,000 draws, s |"
    )
    print("|---|---|---|---|---|---|---|")
    for family in args.families:
        for scale in args.scales:
            gen, d = generator(args.seed), Degradation(scale)
            prior, flow = kernel_family(family).truth(d), flow_for(d, args.file or family)
            tests, scores = two_sample(flow, prior, args.repeats, gen), likelihood(flow, prior, args.components, gen)
            record = {"family": family, "scale": scale, "seed": args.seed, "two_sample": tests, "likelihood": scores}
            record["draw_seconds"] = draw_seconds(flow, gen)
            if args.published_steps:
                record["published"] = published(flow, prior, scale, args.published_steps, gen)
            record |= {"recipe": flow.recipe, "date": time.strftime("%Y-%m-%d")}
            of = f"of {args.repeats}"
            print(
                f"| {family} x{scale} | {tests['rejected']} {of} | {tests['rejected_energy']} {of} "
                f"| {max(tests['ks'].values()):.3f} | {scores['flow']:.1f} | {scores['mixture']:.1f} "
                f"({scores['components']}) | {record['draw_seconds']:.3f} |",
                flush=True,
            )
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
