"""Seconds for the LR errors of n kernels: strided convolution against the quadratic form, on one core.

    python benchmarks/lr_error.py

One colour image, K = min(4 s + 3, 21), float32. The form's time is that of its evaluation; its build comes once, and
stands above each table. Both ways are timed in turns, and the best of the rounds counts, so that a change of the
machine's speed touches them alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from blindsr.likelihood.quadratic import LrErrorForm
from blindsr.operators.degradation import Degradation, Padding
from blindsr.priors import GaussianKernelPrior


def best(actions: list[Callable[[], object]], rounds: int) -> list[float]:
    """Least seconds of each action, over rounds in which each is called once."""
    least = [float("inf")] * len(actions)
    for _ in range(rounds):
        for i, action in enumerate(actions):
            start = time.perf_counter()
            action()
            least[i] = min(least[i], time.perf_counter() - start)
    return least


def compare(scale: int, size: int, counts: list[int], rounds: int) -> None:
    """Time and print one scale."""
    generator = torch.Generator().manual_seed(0)
    operator, other = Degradation(scale), Degradation(scale, padding=Padding.REFLECT)
    side = size // scale
    x = torch.rand(1, 3, side * scale, side * scale, generator=generator)
    y = torch.rand(1, 3, side, side, generator=generator)
    map_ = torch.rand(1, 1, side, side, generator=generator)
    form = LrErrorForm.build(operator, x, y)
    builds: dict[str, Callable[[], object]] = {
        "circular": lambda: LrErrorForm.build(operator, x, y),
        "reflect": lambda: LrErrorForm.build(other, x, y),
        "weight map": lambda: LrErrorForm.build(operator, x, y, map_),
    }
    seconds = dict(zip(builds, best(list(builds.values()), rounds), strict=True))
    print(f"x{scale}, {size}x{size}, K = {operator.kernel_size}")
    print("build: " + ", ".join(f"{name} {t:.4f} s" for name, t in seconds.items()))
    print("| n | convolution (s) | form (s) | form and build (s) |\n|---|---|---|---|")
    for n in counts:
        kernels = GaussianKernelPrior.truth(scale).sample(n, generator=generator)
        slow, fast = best([lambda k=kernels: operator.lr_error(x, y, k), lambda k=kernels: form(k)], rounds)
        print(f"| {n} | {slow:.5f} | {fast:.5f} | {fast + seconds['circular']:.5f} |")


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="HR side in pixels")
    parser.add_argument("--scales", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 50, 500, 5000])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        for scale in args.scales:
            compare(scale, args.size, args.counts, args.rounds)


if __name__ == "__main__":
    main()
