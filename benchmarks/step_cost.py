"""What a whole step costs against the bare forward and backward pass of its image network, float32 and bfloat16.

    python benchmarks/step_cost.py --preset paper

All four are timed in turns in one process, so that a change of the machine's speed touches them alike. Peak memory is
that of the process after the float32 steps, and after all.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from blindsr.methods.presets import PRESETS, Preset
from blindsr.methods.table import METHODS
from blindsr.operators.degradation import Degradation


def timed(action: Callable[[], object], times: int) -> float:
    """Mean seconds of a call."""
    start = time.perf_counter()
    for _ in range(times):
        action()
    return (time.perf_counter() - start) / times


def peak_mib() -> float:
    """Largest memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def actions(preset: Preset, scale: int, y: torch.Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the whole step and the bare pass of one run; steps are taken by whole outer iterations."""
    estimation = METHODS["mlmc"].loop(preset).start(y, Degradation(scale), seed=0, device="cpu")
    run = estimation.run

    def bare() -> None:
        run.image.zero_grad(set_to_none=True)
        run.image().square().mean().backward()
        run.image.zero_grad(set_to_none=True)

    return estimation.advance, bare


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper", choices=list(PRESETS))
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--size", type=int, default=256, help="HR side in pixels")
    parser.add_argument("--rounds", type=int, default=6, help="outer iterations timed, after one to warm up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    preset = PRESETS[args.preset]
    side = args.size // args.scale
    y = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    kinds = {
        kind: actions(replace(preset, skip=replace(preset.skip, bf16=kind == "bf16")), args.scale, y)
        for kind in ("fp32", "bf16")
    }
    q = preset.inner_steps
    for kind, (step, bare) in kinds.items():
        timed(step, q), timed(bare, 1)
        print(f"peak memory after {kind}: {peak_mib():.0f} MiB")
    rounds = [{k: (timed(step, q), timed(bare, q)) for k, (step, bare) in kinds.items()} for _ in range(args.rounds)]
    print(f"{args.preset}, {args.size}x{args.size}, x{args.scale}, {args.threads} thread(s), median of {args.rounds}:")
    for kind in kinds:
        step, bare, ratio = (
            statistics.median(f(r[kind]) for r in rounds)
            for f in (lambda t: 1e3 * t[0], lambda t: 1e3 * t[1], lambda t: t[0] / t[1])
        )
        print(f"{kind}: step {step:.0f} ms, bare pass {bare:.0f} ms, ratio {ratio:.3f}")
    half = statistics.median(r["bf16"][0] / r["fp32"][0] for r in rounds)
    print(f"bf16 step / fp32 step: {half:.3f}")


if __name__ == "__main__":
    main()
