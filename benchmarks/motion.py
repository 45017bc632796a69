"""Motion blur of 13 to 27 pixels: kernel and image by parametric families, by a free kernel, and with the true kernel.

    python benchmarks/motion.py run --scale 2 --data DATA --out motion_x2.jsonl [--half choose]
    python benchmarks/motion.py report motion_x2.jsonl motion_x4.jsonl

DATA holds dev/{bsd100,kodak,set14,urban100}, kernels/kernels_12.mat and weights/usrnet_tiny.pth. 24 pictures, evenly
spread over the even-numbered files (`--half choose`: odd-numbered, on which the numbers of the method were chosen), and
one kernel for each: the four motion kernels of KAIR (measured by Levin et al. 2009), then 20 of `ExposedShakePrior`
(seed 7). Central 256x256 crops, circular borders, 8 bits. PSNR of the luma, border s². Every line of --out is one
picture; a run that is started again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import records
import torch
from scipy.io import loadmat
from torch import Tensor

from blindsr import Degradation, read_image
from blindsr.diagnostics.metrics import psnr
from blindsr.estimators.free_steps import centered
from blindsr.methods.table import METHODS
from blindsr.operators.kernels import framed
from blindsr.priors.motion import ExposedShakePrior
from blindsr.random import generator
from blindsr.restorers.base import Restorer
from blindsr.restorers.bicubic import bicubic
from blindsr.restorers.unfolded import UnfoldedRestorer
from blindsr.restorers.usrnet import UsrNetRestorer

FOLDERS = ("bsd100", "kodak", "set14", "urban100")
KERNEL_SIZE = {2: 31, 3: 33, 4: 35}
N = 24


def pictures(data: Path, *, choose: bool) -> list[Path]:
    """N files of a half of each folder, evenly spread."""
    files = [p for f in FOLDERS for p in sorted((data / "dev" / f).iterdir())[0 if choose else 1 :: 2]]
    return [files[int(i)] for i in np.linspace(0, len(files) - 1, N)]


def kernels(data: Path, scale: int) -> list[Tensor]:
    """N kernels (1, 1, K, K), centre of mass at (K - s)/2."""
    size = KERNEL_SIZE[scale]
    measured = loadmat(data / "kernels" / "kernels_12.mat")["kernels"][0][8:]
    own = [framed(torch.from_numpy(k.astype(float)), size) for k in measured]
    drawn = ExposedShakePrior.protocol(scale, size).sample(N - len(own), generator=generator(7))
    return [centered(k / k.sum(), (size - scale) / 2)[None, None] for k in (*own, *drawn[:, 0])]


def crop(path: Path) -> Tensor:
    """Central 256x256 pixels, or what there is, (1, 3, H, W)."""
    x = read_image(path).pixels
    h, w = (min(256, n) // 12 * 12 if n < 256 else 256 for n in x.shape[-2:])
    a, b = (x.shape[-2] - h) // 2, (x.shape[-1] - w) // 2
    x = x[..., a : a + h, b : b + w]
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def measure(x: Tensor, kernel: Tensor, scale: int, restorers: dict[str, Restorer]) -> dict[str, float]:
    """PSNR by each kernel and restorer, what free-map chose, its seconds for the kernel."""
    own = Degradation(scale, kernel.shape[-1])
    y = (own(x, kernel) * 255).round().clamp(0, 255) / 255
    scores = {"bicubic": float(psnr(bicubic(y, scale, own.alignment).clamp(0, 1), x, scale**2))}

    def add(name: str, k: Tensor, d: Degradation, noise: float) -> None:
        for restorer, of in restorers.items():
            scores[f"{name}_{restorer}"] = float(psnr(of(y, k, d, noise).clamp(0, 1), x, scale**2))

    add("true", kernel, own, 0.3 / 255)
    for name in ("fast-map", "free-map"):
        d, method = Degradation(scale), METHODS[name].method()
        start = time.perf_counter()
        run = method.estimator.start(y, d, seed=0, device="cpu")
        for _ in run.iterate(method.steps_for(d)):
            pass
        found = run.estimate()
        scores[f"{name}_seconds"] = time.perf_counter() - start
        scores[f"{name}_free"] = float((found.description or {}).get("family") == "free")
        scores[f"{name}_noise"] = 255 * float(found.noise_std or 0)
        add(name, found.kernel, d.for_kernel(found.kernel), float(found.noise_std or 0))
    return scores


def run(args: argparse.Namespace) -> None:
    """Measure what is not yet in the file."""
    torch.set_num_threads(1)
    restorers: dict[str, Restorer] = {
        "usrnet": UsrNetRestorer(args.data / "weights" / "usrnet_tiny.pth"),
        "unfolded": UnfoldedRestorer(),
    }
    done = len(records.read(args.out))
    cases = list(zip(pictures(args.data, choose=args.half == "choose"), kernels(args.data, args.scale), strict=True))
    order = [5 * i % N for i in range(N)]  # so that an unfinished file holds pictures of every kind
    for i in order[done:]:
        path, kernel = cases[i]
        scores = measure(crop(path), kernel, args.scale, restorers)
        line = {"scale": args.scale, "image": f"{path.parent.name}/{path.stem}", "kernel": i} | scores
        records.append(args.out, line)


def report(args: argparse.Namespace) -> None:
    """Print one table for each scale: means, quartiles, and how often a method is below bicubic."""
    rows = records.read(*args.files)
    for scale in sorted({r["scale"] for r in rows}):
        of = [r for r in rows if r["scale"] == scale]
        base = np.array([r["bicubic"] for r in of])
        seconds = {m: np.mean([r[f"{m}_seconds"] for r in of]) for m in ("fast-map", "free-map")}
        print(f"\nx{scale}, {len(of)} pictures, bicubic {base.mean():.2f} dB; kernel:", end=" ")
        print(", ".join(f"{m} {t:.1f} s" for m, t in seconds.items()))
        print("| kernel, restorer | mean dB | gain over bicubic: mean, quartiles, least | below bicubic by 0.05 dB |")
        print("|---|---|---|---|")
        for name in (f"{kernel}_{of}" for kernel in ("fast-map", "free-map", "true") for of in ("unfolded", "usrnet")):
            gain = np.array([r[name] for r in of]) - base
            low, mid, high = np.quantile(gain, (0.25, 0.5, 0.75))
            worse = int((gain < -0.05).sum())
            print(
                f"| {name.replace('_', ', ')} | {base.mean() + gain.mean():.2f} | {gain.mean():+.2f}, {low:+.2f} / "
                f"{mid:+.2f} / {high:+.2f}, {gain.min():+.2f} | {worse} |"
            )


def options(parser: argparse.ArgumentParser) -> None:
    """Add what `run` takes besides scale, data and out."""
    parser.add_argument("--half", choices=("choose", "test"), default="test")


if __name__ == "__main__":
    records.main(__doc__.splitlines()[0], run, report, options)
