"""Choose the weight λ of each image prior in MAP restoration: mean PSNR of the luma under the true kernel.

Files 1, 3, 5, ... by name of each folder of DATA/dev, their central squares, degraded by a random Gaussian kernel of
the protocol and rounded to 8 bits:

    python benchmarks/map_weights.py DATA --scales 2 4
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from blindsr.io.images import read_image
from blindsr.operators.degradation import Degradation
from blindsr.operators.luma import luma
from blindsr.priors import GaussianKernelPrior, HyperLaplacian, PatchGroups, Tikhonov, TotalVariation
from blindsr.restorers.bicubic import bicubic
from blindsr.restorers.map import MapRestorer
from blindsr.simulate import degrade

PRIORS = {
    "tv": (TotalVariation(), (1.25, 2.5, 5.0, 10.0, 20.0)),
    "hyper-laplacian": (HyperLaplacian(), (0.15, 0.3, 0.6, 1.25, 2.5, 5.0)),
    "tikhonov": (Tikhonov(), (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)),
    "patch-groups": (PatchGroups(), (0.1, 0.2, 0.4, 0.8)),
}


def pictures(data: Path, side: int, most: int) -> list[torch.Tensor]:
    """Central squares (1, 1, side, side) of every other file of each folder, at most `most` a folder."""
    out = []
    for folder in sorted((data / "dev").iterdir()):
        for path in sorted(folder.iterdir())[::2][:most]:
            x = luma(read_image(path).pixels)
            top, left = ((n - side) // 2 for n in x.shape[-2:])
            out.append(x[..., top : top + side, left : left + side])
    return out


def psnr(a: torch.Tensor, b: torch.Tensor, border: int) -> float:
    """PSNR in dB without the border."""
    return float(-10 * (a - b)[..., border:-border, border:-border].square().mean().log10())


def main() -> None:
    """Print a table for each scale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--most", type=int, default=3)
    parser.add_argument("--priors", nargs="+", default=list(PRIORS), choices=list(PRIORS))
    given = parser.parse_args()
    truths = pictures(given.data, given.side, given.most)
    for scale in given.scales:
        op = Degradation(scale)
        kernels = GaussianKernelPrior.truth(scale).sample(len(truths), generator=torch.Generator().manual_seed(0))
        pairs = [(x, k[None], degrade(x, op, k[None]).y) for x, k in zip(truths, kernels, strict=True)]
        low = np.mean([psnr(bicubic(y, scale), x, scale) for x, _, y in pairs])
        print(f"scale {scale}, {len(pairs)} pictures, bicubic {low:.2f} dB", flush=True)
        for name in given.priors:
            prior, weights = PRIORS[name]
            for weight in weights:
                restorer = MapRestorer(prior, weight)
                found = np.mean([psnr(restorer(y, k, op, 0.0), x, scale) for x, k, y in pairs])
                print(f"  {name} {weight:g}: {found:.3f} dB", flush=True)


if __name__ == "__main__":
    main()
