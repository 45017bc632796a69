"""Set5c: the central 192x192 crops of the Set5 images, degraded by the protocol with recorded seeds.

One line of JSON for each run is appended to --out, so an interrupted benchmark goes on where it stopped.

    python benchmarks/set5c.py --data DIR --methods mlmc --preset paper --scales 2 4 --seeds 0 --out results.jsonl
    python benchmarks/table.py results.jsonl
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from blindsr.degradation import Degradation
from blindsr.diagnostics.metrics import kernel_psnr, psnr, ssim
from blindsr.methods import METHODS, NOISES, assemble
from blindsr.presets import PRESETS
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.protocol import degrade
from blindsr.solver import Solver


def load(path: Path, crop: int | None) -> torch.Tensor:
    """Read an image as (1, 3, H, W) in 0..1, cut to its central `crop` pixels."""
    a = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    if crop:
        top, left = (a.shape[0] - crop) // 2, (a.shape[1] - crop) // 2
        a = a[top : top + crop, left : left + crop]
    return torch.from_numpy(a).permute(2, 0, 1).unsqueeze(0)


def array(x: torch.Tensor) -> np.ndarray:
    """Turn (1, C, H, W) into (H, W, C)."""
    return x[0].permute(1, 2, 0).double().numpy()


def one(args: argparse.Namespace, path: Path, index: int, method: str, scale: int, seed: int) -> dict[str, object]:
    """Run one method on one image; the seed draws the test kernel (with the image's index) and the run."""
    degradation = Degradation(scale)
    prior = GaussianKernelPrior.truth(scale)
    crop = None if args.full else 192
    test = degrade(load(path, crop), degradation, prior, noise_std=args.noise_level, seed=100 * seed + index)
    preset = PRESETS[args.preset]
    if args.steps:
        preset = replace(preset, steps=args.steps)
    row = METHODS[method]
    if args.noise:
        row = replace(row, noise=NOISES[args.noise])
    solver = Solver(assemble(row, degradation, preset), args.device)
    start = time.perf_counter()
    run = solver.init(test.y, seed)
    for _ in solver.iterate(run, test.y, preset.steps):
        pass
    x, k = solver.estimate(run)
    seconds = time.perf_counter() - start
    a, b = array(x), array(test.x)
    return {
        "set": "Set5" if args.full else "Set5c",
        "image": path.stem,
        "method": method,
        "preset": args.preset,
        "steps": preset.steps,
        "noise_model": row.noise.name if row.noise else preset.noise,
        "scale": scale,
        "noise_level": args.noise_level,
        "seed": seed,
        "psnr": psnr(a, b, scale**2),
        "ssim": ssim(a, b, scale**2),
        "kernel_psnr": kernel_psnr(k[0, 0].double().numpy(), test.kernel[0, 0].double().numpy()),
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
    }


def main() -> None:
    """Run what is not yet in the output file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds Set5/")
    parser.add_argument("--methods", nargs="+", default=["mlmc"], choices=list(METHODS))
    parser.add_argument("--preset", default="fast", choices=list(PRESETS))
    parser.add_argument("--steps", type=int, help="inner steps, instead of the preset's")
    parser.add_argument("--scales", nargs="+", type=int, default=[4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--images", nargs="+", help="only these, by name")
    parser.add_argument("--noise-level", type=float, default=0.0)
    parser.add_argument("--noise", choices=list(NOISES), help="noise model, instead of the preset's")
    parser.add_argument("--full", action="store_true", help="whole images (Set5) instead of the crops (Set5c)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keys = ("set", "image", "method", "preset", "steps", "scale", "noise_level", "seed", "noise_model")
    done = set()
    if args.out.exists():
        done = {tuple(r[k] for k in keys) for r in map(json.loads, args.out.read_text().splitlines())}
    paths = sorted((args.data / "Set5").glob("*.png"))
    for seed in args.seeds:
        for scale in args.scales:
            for method in args.methods:
                for index, path in enumerate(paths):
                    if args.images and path.stem not in args.images:
                        continue
                    steps = args.steps or PRESETS[args.preset].steps
                    row = METHODS[method]
                    noise = args.noise or (row.noise.name if row.noise else PRESETS[args.preset].noise)
                    name = "Set5" if args.full else "Set5c"
                    if (name, path.stem, method, args.preset, steps, scale, args.noise_level, seed, noise) in done:
                        continue
                    record = one(args, path, index, method, scale, seed)
                    with args.out.open("a") as file:
                        file.write(json.dumps(record) + "\n")
                    print(
                        f"{record['set']} {path.stem} x{scale} {method} {args.preset} seed {seed}: "
                        f"{record['psnr']:.2f} dB, SSIM {record['ssim']:.4f}, kernel {record['kernel_psnr']:.2f} dB, "
                        f"{record['seconds']:.0f} s",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
