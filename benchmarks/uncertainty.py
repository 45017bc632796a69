"""Does the uncertainty map rank the errors? Spearman correlations on Set5, against cheap maps, with calibration.

    python benchmarks/uncertainty.py --data DIR --out benchmarks/results/uncertainty.jsonl
    python benchmarks/uncertainty.py --data DIR --set skimage --fit --out fit.jsonl

Error: absolute difference of the luma (0..1) between the result of the kernel estimator with the MAP restorer and the
truth, without a border of s² pixels. Maps: restoration_uncertainty (16 draws); the same kernel draws pushed through
the gradient-prior restorer (16); magnitude of the result's gradient; its standard deviation in 7x7 windows.
--fit prints the factor c that is likeliest for the images of the set, each weighing the same (errors normal). One line
of JSON for each image is appended to --out, so an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from solvers import images
from torch import Tensor
from torch.nn import functional as F

from blindsr import Degradation
from blindsr.estimators.spectral import KernelEstimator
from blindsr.operators.luma import luma, luma_gain
from blindsr.priors.image import TotalVariation
from blindsr.random import generator
from blindsr.restorers.map import MapRestorer
from blindsr.restorers.splitting import QUANTISATION_STD
from blindsr.simulate import TestImage
from blindsr.uncertainty.image_posterior import (
    FACTOR,
    MODEL_ERROR,
    gather,
    restoration_uncertainty,
)
from blindsr.uncertainty.maps import draw_sparsification, draw_uncertainty, sparsification, uncertainty_map

DRAWS = 16
LEFT_OUT = ("motorcycle_left",)
"""Photos that the fit does not use."""


def gradient_magnitude(image: Tensor) -> Tensor:
    """Central differences of (1, 1, H, W)."""
    rows, columns = torch.gradient(image[0, 0])
    return torch.hypot(rows, columns)


def local_std(image: Tensor) -> Tensor:
    """Standard deviation in 7x7 windows of (1, 1, H, W)."""
    padded = F.pad(image.double(), (3, 3, 3, 3), mode="reflect")
    mean, square = F.avg_pool2d(padded, 7, 1), F.avg_pool2d(padded.square(), 7, 1)
    return (square - mean.square()).clamp_min(0).sqrt()[0, 0]


def one(test: TestImage, d: Degradation, figures: Path | None) -> dict:
    """Restore an image, map its uncertainty, score the maps."""
    start = time.perf_counter()
    found = KernelEstimator()(test.y, d)
    draws = found.spectral.sample(DRAWS, generator=generator(0)).float()
    image = MapRestorer(model_error=MODEL_ERROR)(test.y, found.kernel, d, found.noise_std)
    restored = time.perf_counter()
    ours = restoration_uncertainty(
        test.y, draws, d, found.noise_std, n=DRAWS, generator=generator(1), image=image, kernel=found.kernel
    )
    done = time.perf_counter()
    y, x, truth = luma(test.y), luma(image), luma(test.x)
    grey = found.noise_std * luma_gain(test.y.shape[1])
    plain = MapRestorer(TotalVariation(), model_error=MODEL_ERROR)
    kernels = uncertainty_map(y, draws, plain, d, grey, generator=generator(2))
    b = d.scale**2
    inner = (slice(b, -b), slice(b, -b))
    error, std = (x - truth)[0, 0][inner].abs().double(), ours.std[0, 0][inner].double()
    maps = {
        "map": std,
        "kernel_draws": kernels.std[0, 0][inner],
        "gradient": gradient_magnitude(x)[inner],
        "local_std": local_std(x)[inner],
    }
    curves = {name: sparsification(v, error) for name, v in maps.items()}
    record: dict = {f"spearman_{name}": c.spearman for name, c in curves.items()}
    record |= {f"ause_{name}": c.ause for name, c in curves.items()} | {"ause_random": curves["map"].ause_random}
    record |= {f"within_{k}_std": float((error <= k * std).double().mean()) for k in (1, 2)}
    record |= {"rms_error": float(error.square().mean().sqrt()), "rms_std": float(std.square().mean().sqrt())}
    record |= {"seconds": done - restored, "seconds_result": restored - start}
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)
        named = dict(
            zip(("uncertainty map", "kernel draws alone", "gradient", "local std"), curves.values(), strict=True)
        )
        draw_sparsification(named).savefig(figures / "sparsification.png")
        draw_uncertainty(ours, test.x).savefig(figures / "uncertainty.png")
    return record


def ratio(test: TestImage, d: Degradation) -> float:
    """Mean of (error / std)² at c = 1, without the border; rounding to 8 bits is added to the error in squares."""
    found = KernelEstimator()(test.y, d)
    draws = found.spectral.sample(DRAWS, generator=generator(0)).float()
    image = luma(MapRestorer(model_error=MODEL_ERROR)(test.y, found.kernel, d, found.noise_std))
    grey = found.noise_std * luma_gain(test.y.shape[1])
    signs = gather(luma(test.y), image, found.kernel, draws, d, grey, n=DRAWS, generator=generator(1))
    b = d.scale**2
    inner = (..., slice(b, -b), slice(b, -b))
    square = (image - luma(test.x))[0, 0][inner].double().square() + QUANTISATION_STD**2
    return float((square / signs.std(1.0)[inner].square()).mean())


def main() -> None:
    """Run what is not yet in the output file; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", default="published", choices=["published", "skimage"])
    parser.add_argument("--kernels", default="protocol", choices=["protocol", "wide", "shake", "line"])
    parser.add_argument("--scales", nargs="+", type=int, default=[4, 2])
    parser.add_argument("--noise-level", type=float, default=0.0)
    parser.add_argument("--images", nargs="+", help="only these, by name")
    parser.add_argument("--fit", action="store_true", help="fit the factor instead of measuring")
    parser.add_argument("--figures", type=Path, help="folder for a figure of each image")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {line["key"]: line for line in lines}
    ratios, records = [], []
    for scale in args.scales:
        d = Degradation(scale)
        for name, test in images(args, scale, 0):
            if (args.images and name not in args.images) or (args.fit and name in LEFT_OUT):
                continue
            if args.fit:
                ratios.append(ratio(test, d))
                continue
            key = f"{args.set} {name} x{scale} {args.kernels} {args.noise_level:g} c {FACTOR}"
            if key not in done:
                figures = args.figures / f"{name}_x{scale}" if args.figures else None
                record = {"set": args.set, "image": name, "scale": scale, "kernels": args.kernels, "key": key}
                record |= {"noise_level": args.noise_level} | one(test, d, figures)
                record |= {"threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d")}
                record["machine"] = f"{platform.machine()}, torch {torch.__version__}"
                with args.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                done[key] = record
            records.append(done[key])
    if args.fit:
        print(f"c = {(sum(ratios) / len(ratios)) ** 0.5:.3f}")
        return
    show(records)


def show(records: list[dict]) -> None:
    """Print the table."""
    heads = "image|scale|map|kernel draws|gradient|local std|AUSE map|AUSE gradient|AUSE random|< 1 std|< 2 std"
    print("|" + heads + "|rms std / rms error|seconds|")
    print("|---" * 13 + "|")
    for r in records:
        ranks = " | ".join(f"{r[f'spearman_{k}']:.3f}" for k in ("map", "kernel_draws", "gradient", "local_std"))
        areas = " | ".join(f"{r[f'ause_{k}']:.3f}" for k in ("map", "gradient", "random"))
        held = " | ".join(f"{r[f'within_{k}_std']:.2f}" for k in (1, 2))
        ratio = r["rms_std"] / r["rms_error"]
        print(f"| {r['image']} | {r['scale']} | {ranks} | {areas} | {held} | {ratio:.2f} | {r['seconds']:.1f} |")


if __name__ == "__main__":
    main()
