"""What a coarse level before the fine one, as in Perrone & Favaro's pyramid, is worth to `pam` at x4.

The LR image is halved by area; `pam` runs on it with a kernel of 11 pixels; what it finds, enlarged, is where it starts
on the LR image itself. Prints a Markdown row for each image: PSNR on Y (border s²) and kernel PSNR, one level and two.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor
from torch.nn import functional as F

from blindsr.diagnostics.metrics import kernel_psnr, psnr
from blindsr.estimators.base import Estimate
from blindsr.estimators.problem import free_kernel
from blindsr.generators.kernel import ScaledKernel
from blindsr.generators.pixels import Pixels
from blindsr.io.images import read_image
from blindsr.io.kernels import read_kernel
from blindsr.methods.presets import PRESETS
from blindsr.methods.table import METHODS
from blindsr.operators.degradation import Degradation
from blindsr.results.files import as_array

SCALE, COARSE = 4, 11


def solve(y: Tensor, degradation: Degradation, steps: int, start: Estimate | None = None) -> Estimate:
    """Run `pam`, from an image and a kernel if they are given."""
    loop = METHODS["pam"].loop(PRESETS["balanced"])
    if start is not None:
        loop = replace(
            loop,
            image=lambda problem: Pixels(start.image),
            kernel=free_kernel(lambda d: ScaledKernel.at(start.kernel)),
        )
    run = loop.start(y, degradation, seed=0, device="cpu")
    for _ in run.iterate(steps):
        pass
    return run.estimate()


def sampled(planes: Tensor, rows: np.ndarray, columns: np.ndarray, order: int, mode: str) -> Tensor:
    """Read the planes of an image at positions along both axes."""
    where = np.meshgrid(rows, columns, indexing="ij")
    read = [map_coordinates(plane, where, order=order, mode=mode) for plane in planes[0].double().numpy()]
    return torch.from_numpy(np.stack(read))[None].float()


def coarse_start(y: Tensor, size: int, steps: int) -> Estimate:
    """Solve the coarse level and enlarge what it finds.

    Two LR pixels, averaged, look at HR positions 4 (2 u + 1/2) - 3/2, on the halved HR grid at 4 u: there the kernel
    lies on its middle pixel, 5, which on the fine level is the nominal (K - s)/2.
    """
    low = F.avg_pool2d(y, 2)
    h, w = low.shape[-2:]
    image = sampled(low, np.arange(4 * h) / 4, np.arange(4 * w) / 4, 3, "nearest").clamp(0, 1)
    flat = torch.full((1, 1, COARSE, COARSE), 1 / COARSE**2)
    found = solve(low, Degradation(SCALE, COARSE), steps, Estimate(image, flat))
    axis = (np.arange(size) - (size - SCALE) / 2) / 2 + COARSE // 2
    kernel = sampled(found.kernel, axis, axis, 1, "constant").clamp_min(0)
    image = F.interpolate(found.image, scale_factor=2.0, mode="bicubic").clamp(0, 1)
    return Estimate(image, kernel / kernel.sum())


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with Set5 and Set5_x4")
    parser.add_argument("--images", nargs="+", default=["butterfly", "bird", "woman"])
    parser.add_argument("--steps", type=int, default=METHODS["pam"].own["steps"])
    args = parser.parse_args()
    print("| image | one level | two levels |\n|---|---|---|", flush=True)
    for name in args.images:
        y = read_image(args.data / "Set5_x4" / f"{name}.png").pixels
        h, w = (n // 2 * 2 for n in y.shape[-2:])
        y, truth = y[..., :h, :w], read_image(args.data / "Set5" / f"{name}.png").pixels[..., : 4 * h, : 4 * w]
        kernel = read_kernel(args.data / "Set5_x4" / f"{name}.mat").kernel
        degradation, cells = Degradation(SCALE, kernel.shape[-1]), []
        for start in (None, coarse_start(y, kernel.shape[-1], args.steps)):
            found = solve(y, degradation, args.steps, start)
            image = psnr(as_array(found.image.clamp(0, 1)), as_array(truth), SCALE**2)
            cells.append(f"{image:.2f}, {kernel_psnr(found.kernel[0, 0].numpy(), kernel[0, 0].numpy()):.2f}")
        print(f"| {name} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
