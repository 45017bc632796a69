"""All solvers on the same data: PSNR, kernel PSNR, seconds, and the oracle gap through one known restorer.

One line of JSON for each run is appended to --out, so an interrupted benchmark goes on where it stopped.

    python benchmarks/solvers.py --data DIR --set set5 --methods bicubic fast-map --scales 2 4 --out r.jsonl
    python benchmarks/solvers.py --data DIR --set published --usrnet DIR/weights/usrnet_tiny.pth --out r.jsonl
    python benchmarks/solvers_table.py r.jsonl

Sets: set5 (whole images of DIR/Set5), set5c (their central 192x192 crops), skimage (central 256x256 crops of six sample
photos of scikit-image), published (DIR/Set5_x2, DIR/Set5_x4: LR images and kernels as they stand there).
Kernels: protocol (Gaussians of the literature's test protocol), wide (variances of 2.5 s to 4 s), shake (camera shake),
line (straight motion). The kernel's seed is 100 seed + number of the image; LR images are rounded to 8 bits.
Oracle gap: PSNR of the restorer (noise level given) with the true kernel minus that with the estimated one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from set5c import array, load

from blindsr import Choice, Degradation, compose
from blindsr.diagnostics.metrics import kernel_psnr, psnr, ssim
from blindsr.io.kernels import read_kernel
from blindsr.priors import CameraShakePrior, GaussianKernelPrior, KernelPrior, LineKernelPrior
from blindsr.restorers.usrnet import UsrNetRestorer
from blindsr.simulate import TestImage, degrade

PHOTOS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def kernels(name: str, d: Degradation) -> KernelPrior:
    """What true kernels are drawn from."""
    match name:
        case "protocol":
            return GaussianKernelPrior.truth(d.scale, d.kernel_size)
        case "wide":
            return GaussianKernelPrior.uniform(d.kernel_size, 2.5 * d.scale, 4.0 * d.scale, d.center)
        case "shake":
            return CameraShakePrior.protocol(d.scale, d.kernel_size)
        case _:
            return LineKernelPrior.protocol(d.scale, d.kernel_size)


def images(args: argparse.Namespace, scale: int, seed: int) -> Iterator[tuple[str, TestImage]]:
    """The test images of a set, with their names."""
    d = Degradation(scale)
    if args.set == "published":
        for path in sorted((args.data / f"Set5_x{scale}").glob("*.png")):
            y, x = load(path, None), load(args.data / "Set5" / path.name, None)
            h, w = (scale * n for n in y.shape[-2:])
            yield path.stem, TestImage(y, x[..., :h, :w], read_kernel(path.with_suffix(".mat")).kernel)
        return
    if args.set == "skimage":
        import skimage.data

        paths = [Path(skimage.data.__file__).parent / name for name in PHOTOS]
    else:
        paths = sorted((args.data / "Set5").glob("*.png"))
    crop = {"set5": None, "set5c": 192, "skimage": 256}[args.set]
    for index, path in enumerate(paths):
        drawn = kernels(args.kernels, d)
        yield (
            path.stem,
            degrade(load(path, crop), d, drawn, noise_std=args.noise_level, seed=100 * seed + index),
        )


def solve(word: str, test: TestImage, d: Degradation, seed: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Run `method` or `method:preset`."""
    method, _, preset = word.partition(":")
    found = compose(Choice(method, preset=preset or "balanced"), d).solve(test.y, d, seed=seed)
    return found.image, found.kernel


def one(word: str, test: TestImage, scale: int, seed: int, oracle: UsrNetRestorer | None, noise: float) -> dict:
    """Run one solver on one image and score it."""
    d, border = Degradation(scale), scale**2
    start = time.perf_counter()
    x, k = solve(word, test, d, seed)
    record = {"seconds": time.perf_counter() - start, "psnr": psnr(array(x), array(test.x), border)}
    record["ssim"] = ssim(array(x), array(test.x), border)
    if k is not None:
        record["kernel_psnr"] = kernel_psnr(k[0, 0].double().numpy(), test.kernel[0, 0].double().numpy())
    if k is not None and oracle is not None:
        best, found = (psnr(array(oracle(test.y, v, d, noise)), array(test.x), border) for v in (test.kernel, k))
        record |= {"oracle": best, "oracle_gap": best - found}
    return record


def main() -> None:
    """Run what is not yet in the output file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", default="set5c", choices=["set5", "set5c", "skimage", "published"])
    parser.add_argument("--methods", nargs="+", default=["bicubic", "fast-map"], help="method or method:preset")
    parser.add_argument("--kernels", default="protocol", choices=["protocol", "wide", "shake", "line"])
    parser.add_argument("--scales", nargs="+", type=int, default=[4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--images", nargs="+", help="only these, by name")
    parser.add_argument("--noise-level", type=float, default=0.0)
    parser.add_argument("--usrnet", type=Path, help="weights: measure the oracle gap")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    done = {json.loads(line)["key"] for line in args.out.read_text().splitlines()} if args.out.exists() else set()
    oracle = UsrNetRestorer(args.usrnet) if args.usrnet else None
    for scale, seed in itertools.product(args.scales, args.seeds):
        for (name, test), word in itertools.product(images(args, scale, seed), args.methods):
            place = {"set": args.set, "image": name, "scale": scale, "kernels": args.kernels, "seed": seed}
            place |= {"noise_level": args.noise_level, "method": word}
            key = json.dumps(place, sort_keys=True)
            if key in done or (args.images and name not in args.images):
                continue
            record = place | one(word, test, scale, seed, oracle, args.noise_level)
            record |= {"threads": args.threads, "date": time.strftime("%Y-%m-%d"), "key": key}
            record["machine"] = f"{platform.machine()}, torch {torch.__version__}"
            record["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            with args.out.open("a") as file:
                file.write(json.dumps(record) + "\n")
            numbers = {
                k: round(float(v), 2)
                for k, v in record.items()
                if k in ("psnr", "kernel_psnr", "oracle_gap", "seconds")
            }
            print(f"{args.set} {name} x{scale} {args.kernels} seed {seed} {word}: {numbers}", flush=True)


if __name__ == "__main__":
    main()
