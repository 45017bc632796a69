"""What a whole step costs against the bare forward and backward pass of its image network; peak memory.

    python benchmarks/step_cost.py --preset paper            # float32
    python benchmarks/step_cost.py --preset paper --bf16     # the same network in mixed precision

The two are timed in turns, so that a change of the machine's speed touches both alike.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from blindsr.degradation import Degradation
from blindsr.methods import METHODS, assemble
from blindsr.presets import PRESETS
from blindsr.solver import Solver


def timed(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper", choices=list(PRESETS))
    parser.add_argument("--bf16", action="store_true", help="mixed precision, whatever the preset says")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--size", type=int, default=256, help="HR side in pixels")
    parser.add_argument("--rounds", type=int, default=6, help="outer iterations timed (5 steps each)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    preset = PRESETS[args.preset]
    preset = replace(preset, skip=replace(preset.skip, bf16=args.bf16 or preset.skip.bf16))
    y = torch.rand(1, 3, args.size // args.scale, args.size // args.scale, generator=torch.Generator().manual_seed(0))
    solver = Solver(assemble(METHODS["mlmc"], Degradation(args.scale), preset))
    run = solver.init(y, seed=0)

    def bare() -> None:
        run.image.zero_grad(set_to_none=True)
        run.image().square().mean().backward()
        run.image.zero_grad(set_to_none=True)

    bare(), solver.step(run, y)
    bares, steps = [], []
    q = preset.inner_steps
    for _ in range(args.rounds):
        run.step = -(-run.step // q) * q  # whole outer iterations: each holds one Monte Carlo step
        steps.append(sum(timed(lambda: solver.step(run, y)) for _ in range(q)) / q)
        bares.append(sum(timed(bare) for _ in range(q)) / q)
    ratio = statistics.median(s / b for s, b in zip(steps, bares, strict=True))
    kind = "bf16" if preset.skip.bf16 else "fp32"
    print(
        f"{args.preset} {kind}, {args.size}x{args.size}, x{args.scale}, {args.threads} thread(s): "
        f"step {1e3 * statistics.median(steps):.0f} ms, bare {1e3 * statistics.median(bares):.0f} ms, "
        f"ratio {ratio:.3f} (median of {args.rounds}), "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()
