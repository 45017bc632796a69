"""Set5c: the central 192x192 crops of the Set5 images, degraded by the protocol with recorded seeds.

One line of JSON for each run is appended to --out, so an interrupted benchmark goes on where it stopped.

    python benchmarks/set5c.py --data DIR --methods mlmc --preset paper --scales 2 4 --seeds 0 --out results.jsonl
    python benchmarks/table.py results.jsonl
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import resource
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from blindsr.diagnostics.metrics import kernel_psnr, psnr, ssim
from blindsr.methods.parts import NOISES
from blindsr.methods.presets import PRESETS, Preset
from blindsr.methods.table import METHODS
from blindsr.operators.degradation import Degradation
from blindsr.operators.kernels import width
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.restorers.bicubic import bicubic
from blindsr.simulate import degrade

LOOP_METHODS = [name for name, row in METHODS.items() if row.loop_columns]


def load(path: Path, crop: int | None) -> torch.Tensor:
    """Read an image as (1, 3, H, W) in 0..1, cut to its central `crop` pixels."""
    a = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    if crop:
        top, left = (a.shape[0] - crop) // 2, (a.shape[1] - crop) // 2
        a = a[top : top + crop, left : left + crop]
    return torch.from_numpy(a).permute(2, 0, 1).unsqueeze(0)


def array(x: torch.Tensor) -> np.ndarray:
    """Turn (1, C, H, W) into (H, W, C)."""
    return x[0].clamp(0, 1).permute(1, 2, 0).double().numpy()


@dataclass(frozen=True)
class Task:
    """One run: what it is decided by; `key` tells whether it has been done."""

    image: str
    method: str
    preset: str
    settings: Preset
    noise_model: str
    scale: int
    seed: int
    noise_level: float
    full: bool

    @property
    def key(self) -> str:
        """Everything that decides the result, as text."""
        return json.dumps(asdict(self), sort_keys=True)


def one(task: Task, path: Path, index: int, device: str) -> dict[str, object]:
    """Run one method on one image."""
    degradation = Degradation(task.scale)
    prior = GaussianKernelPrior.truth(task.scale)
    image = load(path, None if task.full else 192)
    kernel_seed = 100 * task.seed + index
    test = degrade(image, degradation, prior, noise_std=task.noise_level, seed=kernel_seed)
    row = replace(METHODS[task.method], noise=NOISES[task.noise_model])
    start = time.perf_counter()
    run = row.loop(task.settings).start(test.y, degradation, seed=task.seed, device=device)
    for _ in run.iterate(task.settings.steps):
        pass
    x, k = run.estimate().image, run.estimate().kernel
    seconds = time.perf_counter() - start
    a, b = array(x), array(test.x)
    low = array(bicubic(test.y, task.scale, degradation.alignment))
    border = task.scale**2
    return {
        "set": "Set5" if task.full else "Set5c",
        "image": task.image,
        "method": task.method,
        "preset": task.preset,
        "noise_model": task.noise_model,
        "simulations": task.settings.monte_carlo.n_simulations.get(task.scale, 1),
        "scale": task.scale,
        "noise_level": task.noise_level,
        "seed": task.seed,
        "kernel_seed": kernel_seed,
        "psnr": psnr(a, b, border),
        "ssim": ssim(a, b, border),
        "psnr_bicubic": psnr(low, b, border),
        "kernel_psnr": kernel_psnr(k[0, 0].double().numpy(), test.kernel[0, 0].double().numpy()),
        "kernel_width": float(width(k)),
        "true_kernel_width": float(width(test.kernel)),
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "key": task.key,
    }


def main() -> None:
    """Run what is not yet in the output file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds Set5/")
    parser.add_argument("--methods", nargs="+", default=["mlmc"], choices=LOOP_METHODS)
    parser.add_argument("--preset", default="fast", choices=list(PRESETS))
    parser.add_argument("--steps", type=int, help="inner steps, instead of the preset's")
    parser.add_argument("--simulations", type=int, help="Monte Carlo simulations per outer iteration, likewise")
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
    done = set()
    if args.out.exists():
        done = {json.loads(line)["key"] for line in args.out.read_text().splitlines()}
    preset = PRESETS[args.preset]
    preset = replace(preset, steps=args.steps or preset.steps)
    if args.simulations:
        simulations = dict.fromkeys(args.scales, args.simulations)
        preset = replace(preset, monte_carlo=replace(preset.monte_carlo, n_simulations=simulations))
    paths = list(enumerate(sorted((args.data / "Set5").glob("*.png"))))
    for seed, scale, method, (index, path) in itertools.product(args.seeds, args.scales, args.methods, paths):
        row = METHODS[method]
        noise = args.noise or (row.noise.name if row.noise else preset.noise)
        task = Task(path.stem, method, args.preset, preset, noise, scale, seed, args.noise_level, args.full)
        if (args.images and path.stem not in args.images) or task.key in done:
            continue
        record = one(task, path, index, args.device)
        with args.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(
            f"{record['set']} {path.stem} x{scale} {method} {args.preset} seed {seed}: {record['psnr']:.2f} dB "
            f"(bicubic {record['psnr_bicubic']:.2f}), SSIM {record['ssim']:.4f}, "
            f"kernel {record['kernel_psnr']:.2f} dB, {record['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
