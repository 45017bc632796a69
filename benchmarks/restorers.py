"""Images by the unfolded network, by patch groups and by USRNet, with the kernel that was estimated and the true one.

    python benchmarks/restorers.py run --scale 4 --noise 0 --data DATA --out restorers.jsonl [--images N]
    python benchmarks/restorers.py report restorers.jsonl

Pictures, crops and Gaussian kernels are those of `benchmarks/kernel_gap.py` (its test half), with white noise of so
many grey levels before rounding to 8 bits. The noise level is the one that the kernel's estimate found; for the true
kernel, the true one. PSNR of the luma, border s². Every line of --out is one picture; a run that is started again goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import records
import torch
from kernel_gap import NOISE, pictures, spread
from motion import crop
from torch import Tensor

from blindsr import Degradation
from blindsr.diagnostics.metrics import psnr
from blindsr.estimators.spectral import KernelEstimator
from blindsr.priors import GaussianKernelPrior
from blindsr.random import generator
from blindsr.restorers.base import Restorer
from blindsr.restorers.bicubic import bicubic
from blindsr.restorers.map import MapRestorer
from blindsr.restorers.unfolded import UnfoldedRestorer
from blindsr.restorers.usrnet import UsrNetRestorer

NAMES = ("map", "unfolded", "usrnet")


def measure(x: Tensor, seed: int, scale: int, noise: float, restorers: dict[str, Restorer]) -> dict[str, float]:
    """PSNR and seconds of each restorer with both kernels."""
    d, source = Degradation(scale), generator(seed)
    kernel = GaussianKernelPrior.truth(scale, d.kernel_size).sample(1, generator=source)
    clean = d(x, kernel)
    y = ((clean + noise * torch.randn(clean.shape, generator=source)) * 255).round().clamp(0, 255) / 255
    found = KernelEstimator()(y, d)
    out = {"bicubic": float(psnr(bicubic(y, scale, d.alignment).clamp(0, 1), x, scale**2))}
    for name, restorer in restorers.items():
        for which, k, level in (("found", found.kernel, found.noise_std), ("true", kernel, math.hypot(noise, NOISE))):
            start = time.process_time()
            out[f"{name}_{which}"] = float(psnr(restorer(y, k, d, level).clamp(0, 1), x, scale**2))
            out[f"{name}_seconds"] = time.process_time() - start
    return out


def run(args: argparse.Namespace) -> None:
    """Measure what is not yet in the file."""
    torch.set_num_threads(1)
    weights = args.data / "weights" / "usrnet_tiny.pth"
    restorers = {"map": MapRestorer(), "unfolded": UnfoldedRestorer(), "usrnet": UsrNetRestorer(weights)}
    done = {(r["scale"], r["noise"], r["image"]) for r in records.read(args.out)}
    cases = pictures(args.data, choose=False)
    for i in spread(len(cases))[: args.images]:
        key = (args.scale, args.noise, f"{cases[i].parent.name}/{cases[i].stem}")
        if key in done:
            continue
        line = dict(zip(("scale", "noise", "image"), key, strict=True))
        line |= measure(crop(cases[i]), i, args.scale, args.noise / 255, restorers)
        records.append(args.out, line)


def report(args: argparse.Namespace) -> None:
    """Print a table: means over the pictures, and how often an image is below bicubic's."""
    rows = records.read(*args.files)
    print("| scale | noise | pictures | bicubic | kernel | " + " | ".join(NAMES) + " | below bicubic by 0.05 dB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for scale, noise in sorted({(r["scale"], r["noise"]) for r in rows}):
        of = [r for r in rows if (r["scale"], r["noise"]) == (scale, noise)]
        base = np.array([r["bicubic"] for r in of])
        for which in ("found", "true"):
            values = {name: np.array([r[f"{name}_{which}"] for r in of]) for name in NAMES}
            means = " | ".join(f"{v.mean():.2f}" for v in values.values())
            worse = ", ".join(str(int((v < base - 0.05).sum())) for v in values.values())
            print(f"| {scale} | {noise:g} | {len(of)} | {base.mean():.2f} | {which} | {means} | {worse} |")
    print("\nSeconds: " + ", ".join(f"{n} {np.mean([r[f'{n}_seconds'] for r in rows]):.1f}" for n in NAMES))


def options(parser: argparse.ArgumentParser) -> None:
    """Add what `run` takes besides scale, data and out."""
    parser.add_argument("--noise", type=float, default=0.0, help="grey levels")
    parser.add_argument("--images", type=int, help="only so many, spread over the folders")


if __name__ == "__main__":
    records.main(__doc__.splitlines()[0], run, report, options)
