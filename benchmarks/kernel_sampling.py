"""Kernels drawn per second by each random kernel prior, on one core.

python benchmarks/kernel_sampling.py
"""

from __future__ import annotations

import time

import torch

from blindsr.priors import CameraShakePrior, GaussianKernelPrior, LineKernelPrior


def main() -> None:
    """Time and print."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for prior, n in (
        (GaussianKernelPrior.truth(4), 10_000),
        (LineKernelPrior.protocol(4), 10_000),
        (CameraShakePrior.protocol(4), 1_000),
    ):
        prior.sample(10, generator=generator)
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            prior.sample(n, generator=generator)
            best = min(best, time.perf_counter() - start)
        print(f"{type(prior).__name__}: {n} kernels of 19x19 in {best:.2f} s, {n / best:,.0f} per second")


if __name__ == "__main__":
    main()
