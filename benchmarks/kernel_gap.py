"""What an estimated kernel costs: PSNR with the true kernel minus PSNR with the estimate, and the seconds it took.

    python benchmarks/kernel_gap.py run --scale 4 --data DATA --out gap_x4.jsonl [--half choose] [--images N]
    python benchmarks/kernel_gap.py report gap_x4.jsonl gap_x2.jsonl

DATA holds dev/{bsd100,kodak,set14,urban100} and weights/usrnet_tiny.pth. One half of each folder: the even-numbered
files, or the odd-numbered ones (`--half choose`), on which the numbers of the method were chosen. Central 256x256
crops, one Gaussian kernel of the test protocol for each (its seed is the number of the picture in its half, from 0),
circular borders, 8 bits. Both kernels go through the same USRNet; PSNR of the luma, border s². Three estimates can be
measured: the parametric one, the same with `MOST` refinement rounds, and the parametric one in competition with a free
kernel. Every line of --out is one picture; a run that is started again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import records
import torch
from motion import FOLDERS, crop
from torch import Tensor

from blindsr import Degradation
from blindsr.diagnostics.metrics import psnr
from blindsr.estimators.base import Estimator
from blindsr.estimators.free_form import FreeFormEstimator
from blindsr.estimators.spectral import KernelEstimator
from blindsr.priors import GaussianKernelPrior
from blindsr.random import generator
from blindsr.restorers.bicubic import bicubic
from blindsr.restorers.usrnet import UsrNetRestorer

MOST = 6
ESTIMATORS: dict[str, Estimator] = {
    "parametric": KernelEstimator(),
    "rounds": KernelEstimator(rounds=MOST),
    "free": FreeFormEstimator(),
}
NOISE = 0.3 / 255
"""What rounding to 8 bits leaves (1/√12 of a grey level)."""


def pictures(data: Path, *, choose: bool) -> list[Path]:
    """The files of a half of each folder."""
    return [p for f in FOLDERS for p in sorted((data / "dev" / f).iterdir())[0 if choose else 1 :: 2]]


def spread(n: int) -> list[int]:
    """Return 0 to n - 1 in an order whose beginning is spread over the whole."""
    step = next(k for k in range(int(0.62 * n), n + 1) if np.gcd(k, n) == 1) if n > 2 else 1
    return [step * i % n for i in range(n)]


def measure(x: Tensor, seed: int, scale: int, usrnet: UsrNetRestorer, names: list[str]) -> dict[str, Any]:
    """PSNR with bicubic and the true kernel; gap, seconds, rounds and family by estimate."""
    d = Degradation(scale)
    h, w = (n // scale * scale for n in x.shape[-2:])
    x = x[..., :h, :w]
    kernel = GaussianKernelPrior.truth(scale, d.kernel_size).sample(1, generator=generator(seed))
    y = (d(x, kernel) * 255).round().clamp(0, 255) / 255

    def score(image: Tensor) -> float:
        return float(psnr(image.clamp(0, 1), x, scale**2))

    true = score(usrnet(y, kernel, d, NOISE))
    out: dict[str, Any] = {"bicubic": score(bicubic(y, scale, d.alignment)), "true": true}
    for name in names:
        start = time.process_time()
        run = ESTIMATORS[name].start(y, d, seed=0, device="cpu")
        for _ in run.iterate(ESTIMATORS[name].steps_for(d)):
            pass
        found = run.estimate()
        facts = found.description or {}
        out[name] = {"seconds": time.process_time() - start, "noise": 255 * float(found.noise_std or 0)}
        out[name] |= {"rounds": facts.get("rounds", 0), "family": facts["family"]}
        out[name]["gap"] = true - score(usrnet(y, found.kernel, d.for_kernel(found.kernel), NOISE))
    return out


def run(args: argparse.Namespace) -> None:
    """Measure what is not yet in the file."""
    torch.set_num_threads(1)
    usrnet = UsrNetRestorer(args.data / "weights" / "usrnet_tiny.pth")
    done = {r["image"] for r in records.read(args.out)}
    cases = pictures(args.data, choose=args.half == "choose")
    for i in spread(len(cases))[: args.images]:
        path = cases[i]
        name = f"{path.parent.name}/{path.stem}"
        if name in done:
            continue
        line = {"scale": args.scale, "image": name, "seed": i}
        line |= measure(crop(path), i, args.scale, usrnet, args.estimators)
        records.append(args.out, line)


def report(args: argparse.Namespace) -> None:
    """Print one table for each scale, and the pictures of the largest gaps."""
    rows = records.read(*args.files)
    for scale in sorted({r["scale"] for r in rows}):
        of = [r for r in rows if r["scale"] == scale]
        bicubic_psnr, true = (np.mean([r[name] for r in of]) for name in ("bicubic", "true"))
        print(f"\nx{scale}, {len(of)} pictures: bicubic {bicubic_psnr:.2f} dB, true kernel {true:.2f} dB\n")
        print("| kernel | mean gap, dB | median | worst | above 1 dB | rounds | seconds: mean, most |")
        print("|---|---|---|---|---|---|---|")
        for name in ESTIMATORS:
            having = [r for r in of if name in r]
            if not having:
                continue
            gap, seconds, rounds = (np.array([r[name][key] for r in having]) for key in ("gap", "seconds", "rounds"))
            print(
                f"| {name} | {gap.mean():.2f} | {np.median(gap):.2f} | {gap.max():.2f} | {int((gap > 1).sum())} | "
                f"{rounds.mean():.1f} | {seconds.mean():.1f}, {seconds.max():.1f} |"
            )
        first = next(name for name in ESTIMATORS if any(name in r for r in of))
        worst = sorted((r for r in of if first in r), key=lambda r: -r[first]["gap"])[:4]
        print(f"\nWorst ({first}): " + ", ".join(f"{r['image']} {r[first]['gap']:.2f}" for r in worst))


def options(parser: argparse.ArgumentParser) -> None:
    """Add what `run` takes besides scale, data and out."""
    parser.add_argument("--half", choices=("choose", "test"), default="test")
    parser.add_argument("--images", type=int, help="only so many, spread over the folders")
    parser.add_argument("--estimators", nargs="+", choices=tuple(ESTIMATORS), default=["parametric", "free"])


if __name__ == "__main__":
    records.main(__doc__.splitlines()[0], run, report, options)
