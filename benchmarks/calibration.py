"""Is the kernel posterior calibrated? On data of the model itself, and on real content.

    python benchmarks/calibration.py sbc --model spectral --n 200 --out sbc.jsonl
    python benchmarks/calibration.py sbc --model overlapping --n 200 --out sbc.jsonl
    python benchmarks/calibration.py sbc --model fixed-image --n 300 --out sbc.jsonl
    python benchmarks/calibration.py photos --data DIR --usrnet DIR/weights/usrnet_tiny.pth --out photos.jsonl
    python benchmarks/calibration.py photos --data DIR --normal --content power-law --out normal.jsonl
    python benchmarks/calibration.py bends --data DIR --out bends.jsonl
    python benchmarks/calibration.py report sbc.jsonl photos.jsonl --figures docs/images

sbc: whole random fields of HR size, blurred, subsampled, with noise (`likelihood.fields`); kernel, content and noise
are drawn from the prior. `spectral`: one window; `overlapping`: nine half-overlapping windows of one field, the content
shared; both with the exact Whittle likelihood (Gaussian fields: degrees infinity, dispersion one). `default`: one
window, but the heavy-tailed, dispersed likelihood that photographs get. `fixed-image`: target (b).
photos: Set5 and six photos of scikit-image, random true kernels of the protocol, target (a) as `blindsr run` samples
it; with --usrnet also what mode and mean are worth through one restorer (oracle gap). --normal: draws of the normal
approximation instead of chains, a second a photo; --content power-law: no bends, no slopes that differ by direction.
bends: what each photo adds to a kernel's second moments, in the units of the bend (π²/s² HR pixels²), under a model
without shared bends.
Every line of --out is one simulation or one photo; a run that is started again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from set5c import array
from solvers import images
from torch import Tensor

from blindsr import Degradation
from blindsr.diagnostics.calibration import Simulations, effective_size, rank, thin
from blindsr.diagnostics.calibration_plots import ecdf_differences, rank_histograms
from blindsr.diagnostics.coverage import coverage
from blindsr.diagnostics.metrics import kernel_psnr, psnr
from blindsr.likelihood.content import PHOTOGRAPH, POWER_LAW
from blindsr.likelihood.fields import degraded_field
from blindsr.likelihood.spectral import SpectralSettings
from blindsr.operators.kernels import covariance
from blindsr.posteriors.fixed_image import FixedImageTarget
from blindsr.posteriors.laplace_map import nested_laplace
from blindsr.posteriors.spectral import SpectralTarget
from blindsr.posteriors.spectral_laplace import SpectralPosterior
from blindsr.priors.normal import GaussianShape
from blindsr.random import generator
from blindsr.restorers.usrnet import UsrNetRestorer
from blindsr.samplers.table import sample

MOMENTS = ("xx", "yy", "xy", "width_1", "width_2")
"""Second moments (HR pixels²), axes column and row; widths along the principal axes (HR pixels), narrow first."""
RANKED = 99
LR_SIDE = 48


def moments(kernels: Tensor) -> Tensor:
    """`MOMENTS` of kernels (n, 1, K, K): (n, 5)."""
    c = covariance(kernels.double())
    return torch.cat([c[:, [0, 1, 0], [0, 1, 1]], torch.linalg.eigvalsh(c).clamp_min(0).sqrt()], 1)


def settings_of(model: str) -> SpectralSettings:
    """What the likelihood of a model of `sbc` assumes."""
    if model == "default":
        return SpectralSettings(window=LR_SIDE)
    exact = SpectralSettings(window=LR_SIDE, degrees=math.inf, dispersion=1.0)
    if model == "spectral":
        return exact
    together = {n: replace(t, shared=math.hypot(t.shared, t.local), local=0.0) for n, t in PHOTOGRAPH.items()}
    return replace(exact, window=LR_SIDE // 2, content=together)


def spectral_case(model: str, seed: int, scale: int) -> tuple[SpectralTarget, Tensor]:
    """A target on a field simulated from the prior, and the true position."""
    g, d = generator(seed), Degradation(scale)
    blank = SpectralTarget(torch.rand(1, 1, LR_SIDE, LR_SIDE, generator=g), d, settings=settings_of(model))
    truth = blank.sample_prior(1, generator=g)
    theta, variance = blank.likelihood.coefficients(blank.split(truth)[2])
    y = degraded_field(
        theta[0, 0],
        blank.likelihood.terms,
        blank.kernel(truth),
        float(variance[0].sqrt()),
        (LR_SIDE, LR_SIDE),
        d,
        generator=g,
    )
    return SpectralTarget(y, d, settings=settings_of(model)), truth[0]


def image_case(seed: int, scale: int) -> tuple[FixedImageTarget, Tensor]:
    """Target (b) on an image of a power law, and the true position."""
    g, d = generator(seed), Degradation(scale)
    theta = torch.tensor([PHOTOGRAPH[n].mean for n in PHOTOGRAPH]).double()
    x = degraded_field(theta, tuple(PHOTOGRAPH), torch.ones(1, 1, 1, 1), 0.0, (96, 96), Degradation(2), generator=g)
    prior = GaussianShape(d.kernel_size, d.scale)
    blank = FixedImageTarget(x, torch.zeros(1, 1, 96 // scale, 96 // scale, dtype=x.dtype), d, prior)
    truth = blank.sample_prior(1, generator=g)
    y = blank.simulate(truth, generator=g)
    return FixedImageTarget(x, y.reshape(1, 1, 96 // scale, 96 // scale), d, prior), truth[0]


def simulate(model: str, seed: int, scale: int) -> dict:
    """One simulation: kernel parameters, moments, noise and log-likelihood, and their ranks among thinned draws."""
    start = time.perf_counter()
    target, truth = image_case(seed, scale) if model == "fixed-image" else spectral_case(model, seed, scale)
    if isinstance(target, SpectralTarget):
        options = {"chains": 8, "draws": 60, "warmup": 70}
        chains = sample(target, "hmc", **options, generator=generator(seed + 1), transport=nested_laplace(target))
    else:
        center, covariance_ = target.laplace()
        white = torch.randn(4, len(center), generator=generator(seed + 1), dtype=torch.float64)
        initial = center + 2 * white @ torch.linalg.cholesky(covariance_).T
        options = {"chains": 4, "draws": 150, "warmup": 150, "covariance": covariance_, "initial": initial}
        chains = sample(target, "hmc", **options, generator=generator(seed + 1))
    names = [*target.names[:3], target.names[3]]
    places = list(range(4))

    def columns(z: Tensor) -> Tensor:
        exact = [target.log_likelihood(z)[:, None]] if model == "fixed-image" else []  # the others' is a composite
        return torch.cat([z[:, places], moments(target.kernel(z)), *exact], 1)

    with torch.no_grad():
        values = columns(chains.draws.flatten(0, 1))
        true = columns(truth[None])[0]
    grouped = values.view(*chains.draws.shape[:2], -1)
    size = min(effective_size(grouped[..., j]) for j in range(grouped.shape[-1]))
    return {
        "names": [*names, *MOMENTS, *(["log_likelihood"] if model == "fixed-image" else [])],
        "truth": true.tolist(),
        "ranks": (thin(grouped, RANKED) < true).sum(0).tolist(),
        "size": size,
        "seconds": time.perf_counter() - start,
    }


def normal_photo(test: object, scale: int, content: str) -> dict:
    """One photo: quantiles of the truth among draws of the normal approximation."""
    d = Degradation(scale)
    settings = SpectralSettings(content=POWER_LAW) if content == "power-law" else SpectralSettings()
    found = SpectralPosterior.fit(test.y, d, settings=settings)
    m, true = moments(found.sample(1000, generator=generator(0))), moments(test.kernel)[0]
    return {"below": (m < true).double().mean(0).tolist(), "content": content, "truth": true.tolist()}


def bends(test: object, scale: int) -> dict:
    """What a photo adds to the second moments of its kernel: isotropic, cos 2φ, sin 2φ, in units of the bend."""
    d = Degradation(scale)
    without = {n: replace(t, mean=0.0, shared=0.0) if n.startswith("bend") else t for n, t in PHOTOGRAPH.items()}
    found = SpectralPosterior.fit(test.y, d, settings=SpectralSettings(content=without))
    c = (covariance(found.mode_kernel.double()) - covariance(test.kernel.double()))[0] * (math.pi / scale) ** 2
    return {"bend": [float(c[0, 0] + c[1, 1]) / 2, float(c[0, 0] - c[1, 1]) / 2, float(c[0, 1])]}


def photo(test: object, scale: int, oracle: UsrNetRestorer | None) -> dict:
    """One photo: quantiles of the truth among the draws, and what mode and mean are worth."""
    d, start = Degradation(scale), time.perf_counter()
    target = SpectralTarget(test.y, d)
    transport, center = nested_laplace(target), target.laplace()[0]
    chains = sample(target, "hmc", chains=8, draws=50, warmup=60, generator=generator(0), transport=transport)
    seconds = time.perf_counter() - start
    z = chains.draws.flatten(0, 1)
    with torch.no_grad():
        kernels = target.kernel(z)
        mean_z = z.mean(0, keepdim=True)
        found = {
            "mode": target.kernel(center[None]),
            "mean_z": target.kernel(mean_z),
            "mean_kernel": kernels.mean(0, keepdim=True),
        }
    m, true = moments(kernels), moments(test.kernel)[0]
    grouped = m.view(*chains.draws.shape[:2], -1)
    record = {
        "below": (m < true).double().mean(0).tolist(),
        "mean": m.mean(0).tolist(),
        "sd": m.std(0).tolist(),
        "mode": moments(found["mode"])[0].tolist(),
        "truth": true.tolist(),
        "size": min(effective_size(grouped[..., j]) for j in range(5)),
        "seconds": seconds,
    }
    for key, k in found.items():
        record[f"kernel_psnr_{key}"] = kernel_psnr(k[0, 0].double().numpy(), test.kernel[0, 0].double().numpy())
    if oracle is not None:
        best = psnr(array(oracle(test.y, test.kernel, d, 0.0)), array(test.x), scale**2)
        for key, k in found.items():
            record[f"gap_{key}"] = best - psnr(array(oracle(test.y, k.float(), d, 0.0)), array(test.x), scale**2)
    return record


def append(path: Path, place: dict, record: dict) -> None:
    """Add a line."""
    with path.open("a") as file:
        file.write(json.dumps(place | record | {"date": time.strftime("%Y-%m-%d")}) + "\n")


def known(path: Path) -> set[str]:
    """Keys of the lines that are there."""
    return {json.loads(line)["key"] for line in path.read_text().splitlines()} if path.exists() else set()


def run_sbc(args: argparse.Namespace) -> None:
    """Simulate what is not yet there."""
    done = known(args.out)
    for i in range(args.n):
        key = f"sbc {args.model} x{args.scales[0]} {i}"
        if key not in done:
            append(args.out, {"key": key, "model": args.model}, simulate(args.model, 1000 + 2 * i, args.scales[0]))


def run_photos(args: argparse.Namespace) -> None:
    """Sample the photos that are not yet there."""
    done = known(args.out)
    oracle = UsrNetRestorer(args.usrnet) if args.usrnet else None
    for seed in args.seeds:
        for scale in args.scales:
            for group in ("set5", "skimage"):
                common = SimpleNamespace(data=args.data, set=group, kernels="protocol", noise_level=args.noise_level)
                for name, test in images(common, scale, seed):
                    key = f"photo {name} x{scale} seed {seed} noise {args.noise_level}"
                    if key in done:
                        continue
                    if args.part == "bends":
                        record = bends(test, scale)
                    elif args.normal:
                        record = normal_photo(test, scale, args.content)
                    else:
                        record = photo(test, scale, oracle)
                    append(args.out, {"key": key, "image": name, "scale": scale, "seed": seed}, record)
                    print(key, [round(v, 2) for v in record.get("below", record.get("bend"))], flush=True)


def report(args: argparse.Namespace) -> None:
    """Print the tests and tables; draw the figures."""
    records = [json.loads(line) for path in args.files for line in path.read_text().splitlines()]
    for model in sorted({r["model"] for r in records if "model" in r}):
        rows = [r for r in records if r.get("model") == model]
        ranks = torch.tensor([r["ranks"] for r in rows], dtype=torch.float64)
        order = torch.arange(RANKED, dtype=torch.float64)[None, :, None].expand(len(rows), -1, ranks.shape[1])
        result = rank(Simulations.of(ranks - 0.5, order, rows[0]["names"]), generator=generator(0))  # only order counts
        small = sum(r["size"] < RANKED for r in rows)
        print(f"\n{model}: {len(rows)} simulations; ESS below {RANKED} in {small}; uniform: {result.uniform(0.01)}")
        for test in result.tests():
            print("  ", test)
        if args.figures:
            rank_histograms(result).savefig(args.figures / f"sbc_{model}.png", dpi=130)
            ecdf_differences(result).savefig(args.figures / f"sbc_ecdf_{model}.png", dpi=130)
    added = [r for r in records if "bend" in r]
    for scale in sorted({r["scale"] for r in added}):
        names = sorted({r["image"] for r in added})
        means = [[r["bend"] for r in added if (r["image"], r["scale"]) == (n, scale)] for n in names]
        mid = torch.stack([torch.tensor(m).median(0).values for m in means])
        cells = [f"{a:.2f} ± {b:.2f}" for a, b in zip(mid.mean(0).tolist(), mid.std(0).tolist(), strict=True)]
        print(f"bend x{scale}, mean ± sd over {len(names)} photos (median of the kernels of each): {', '.join(cells)}")
    photos = [r for r in records if "below" in r]
    if not photos:
        return
    inside = torch.tensor([[0.05 <= b <= 0.95 for b in r["below"]] for r in photos]).double()
    print(f"\nphotos: {len(photos)} kernels; share of 90 % intervals that hold the truth")
    print("| | kernels | " + " | ".join(MOMENTS) + " | all |\n|---|" + "---|" * 7)
    groups = [("all", slice(None))]
    for scale in sorted({r["scale"] for r in photos}):
        groups.append((f"x{scale}", [i for i, r in enumerate(photos) if r["scale"] == scale]))
    for name in sorted({r["image"] for r in photos}):
        groups.append((name, [i for i, r in enumerate(photos) if r["image"] == name]))
    for name, rows in groups:
        part = inside[rows]
        cells = [f"{v:.2f}" for v in (*part.mean(0).tolist(), float(part.mean()))]
        print(f"| {name} | {len(part)} | " + " | ".join(cells) + " |")
    lows = torch.tensor([[1.0 - b for b in r["below"]] for r in photos]).double()  # one interval for all: [0.05, 0.95]
    bounds = (torch.full_like(lows, 0.05), torch.full_like(lows, 0.95))
    clustered = coverage(lows, bounds, 0.9, names=MOMENTS, groups=[r["image"] for r in photos], generator=generator(0))
    print("90 % interval of the rates, images drawn with replacement:")
    for j, name in enumerate(MOMENTS):
        print(f"   {name}: {float(clustered.low[j]):.2f} to {float(clustered.high[j]):.2f}")
    for key in ("mode", "mean_z", "mean_kernel") if "kernel_psnr_mode" in photos[0] else ():
        for scale in sorted({r["scale"] for r in photos}):
            rows = [r for r in photos if r["scale"] == scale]
            text = f"{key} x{scale}: kernel PSNR {sum(r[f'kernel_psnr_{key}'] for r in rows) / len(rows):.2f} dB"
            gaps = [r[f"gap_{key}"] for r in rows if f"gap_{key}" in r]
            print(text + (f", oracle gap {sum(gaps) / len(gaps):.3f} dB ({len(gaps)} kernels)" if gaps else ""))


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("sbc")
    one.add_argument("--model", choices=["spectral", "overlapping", "default", "fixed-image"], required=True)
    one.add_argument("--n", type=int, default=200)
    two = parts.add_parser("photos")
    two.add_argument("--data", type=Path, required=True)
    two.add_argument("--usrnet", type=Path)
    two.add_argument("--normal", action="store_true")
    two.add_argument("--content", choices=["photograph", "power-law"], default="photograph")
    four = parts.add_parser("bends")
    four.add_argument("--data", type=Path, required=True)
    four.set_defaults(usrnet=None)
    for part in (two, four):
        part.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
        part.add_argument("--noise-level", type=float, default=0.0)
    for part in (one, two, four):
        part.add_argument("--scales", nargs="+", type=int, default=[2] if part is one else [2, 4])
        part.add_argument("--out", type=Path, required=True)
        part.add_argument("--threads", type=int, default=1)
    three = parts.add_parser("report")
    three.add_argument("files", nargs="+", type=Path)
    three.add_argument("--figures", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(getattr(args, "threads", 1))
    {"sbc": run_sbc, "photos": run_photos, "bends": run_photos, "report": report}[args.part](args)


if __name__ == "__main__":
    main()
