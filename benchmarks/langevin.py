"""How network-level Langevin dynamics (Eq. 42) samples: along an MLMC run, and with the image held fixed.

One line of JSON for each case is appended to --out, so an interrupted study goes on where it stopped.

    python benchmarks/langevin.py --data DIR --out r.jsonl
    python benchmarks/langevin_report.py r.jsonl --figures docs/images

DIR holds Set5/butterfly.png and Set5_x4/butterfly.{png,mat}. Without --data a small synthetic picture stands in;
--quick makes everything tiny. Parts:

- run: MLMC, preset fast; loss, kernel PSNR and moments at each step; what an early and a late Monte Carlo step draw.
- posterior: moments of the exact posterior of Gaussian kernels, by quadrature, for a true and an estimated image, at
  the noise level that Eq. 40 gives and at the published fixed one; of the posterior given y alone by HMC.
- fixed: dynamics on a network of 12,201 weights, four chains from four far kernels; the image is the truth, or that of
  fast-map.
- sweep: L, P, weights, b/a and rates, from where the `fixed` run under the true image ended.
- linear: a network without a hidden layer (722 weights), against HMC on its posterior.
- published: the published network, rates, P and Q.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch
from set5c import load
from torch import Tensor

from blindsr import METHODS, PRESETS, Choice, Degradation, compose
from blindsr.estimators.problem import MonteCarloSettings
from blindsr.generators.kernel import KernelNetwork
from blindsr.io.kernels import read_kernel
from blindsr.likelihood.quadratic import LrErrorForm, lr_errors
from blindsr.operators.kernels import covariance
from blindsr.posteriors import FlatNetwork, NetworkTarget, SpectralTarget, value_and_gradient
from blindsr.priors.gaussian import GaussianKernelPrior, gaussian_kernel
from blindsr.random import generator, seeded
from blindsr.samplers import (
    MonteCarloKernelApproximation,
    NetworkLangevin,
    PreconditionedSgld,
    Sgld,
    Transition,
    sample,
)
from blindsr.samplers.mcka import WEIGHTS
from blindsr.samplers.network_langevin import Form, MonteCarloLoss, NetworkLangevinTransition
from blindsr.simulate import TestImage, degrade

FIXED_VARIANCE = 5e-4
"""σ² that the published code works with (its 2σ² is 1e-3)."""
STATISTICS = ("xx", "yy", "xy", "psnr", "error")
"""Second moments of a kernel (HR pixels²), kernel PSNR (dB), root mean square LR error (grey levels)."""


@dataclass(frozen=True)
class Case:
    """A dynamics on fixed images; what it is decided by."""

    part: str
    image: str
    sampler: str
    network: str = "small"
    form: str = "gradient"
    rate: float = 100.0
    ratio: float = 1.0
    kernels: int = 5
    window: int = 1
    interval: int = 1
    weights: str = "published"
    steps: int = 10_000
    start: str = "far"
    variance: str = "eq40"


NETWORKS = {"small": ((32,), 8, 1.0), "linear": ((), 1, 1.0), "published": ((1000,), 200, 0.1)}
"""Hidden widths, inputs, and the range of z_k."""
PRIOR_STD = {"small": (3.0, 3.0), "linear": (3.0,), "published": (3.0, 3.0)}

_LANGEVIN = Case("fixed", "true", "langevin", rate=300.0, steps=40_000)


def fixed_cases() -> list[Case]:
    """Each dynamics under both images."""
    cases = []
    for image in ("true", "map"):
        base = replace(_LANGEVIN, image=image)
        cases += [base, replace(base, sampler="descent", ratio=0.0)]
        cases += [replace(base, form="adam", rate=1e-3, steps=10_000)]
        cases += [replace(base, form="adam", rate=1e-3, steps=10_000, sampler="descent", ratio=0.0)]
        for variance, sgld, preconditioned in (("eq40", 1e-6, 1e-7), ("published", 1e-4, 1e-6)):
            if image == "map":
                sgld *= 0.4  # 1e-6 runs away: σ² is smaller there
            if image == "true" or variance == "eq40":
                cases.append(replace(base, sampler="sgld", rate=sgld, variance=variance, steps=5000))
            if image == "true":
                cases.append(replace(base, sampler="psgld", rate=preconditioned, variance=variance, steps=5000))
    return cases


def sweep_cases() -> list[Case]:
    """One setting changed at a time; the gradient of P steps is a sum, so a falls as P grows."""
    base = replace(_LANGEVIN, part="sweep", start="settled", steps=10_000)
    changes: list[dict[str, object]] = [{}, {"rate": 100.0}, {"rate": 30.0}]
    changes += [{"rate": 100.0, "window": 3}, {"rate": 30.0, "window": 10}, {"kernels": 1}, {"kernels": 25}]
    changes += [{"weights": "inverse"}, {"weights": "likelihood"}, {"weights": "likelihood", "variance": "published"}]
    changes += [{"ratio": 0.1}, {"ratio": 10.0}, {"ratio": 100.0}]
    adam = replace(base, form="adam", rate=1e-3, start="far", steps=8000)
    fast: list[dict[str, object]] = [{"rate": 3e-3}, {"rate": 3e-4}, {"kernels": 1}, {"kernels": 25}, {"window": 3}]
    fast += [{"window": 10}, {"interval": 5}, {"weights": "inverse"}, {"weights": "likelihood"}, {"ratio": 0.1}]
    return [replace(base, **c) for c in changes] + [replace(adam, **c) for c in [*fast, {"ratio": 10.0}]]


def linear_cases() -> list[Case]:
    """The network whose posterior HMC can sample, at the published noise level."""
    base = replace(_LANGEVIN, part="linear", network="linear", variance="published", steps=15_000)
    long = replace(base, rate=1000.0, steps=40_000)
    return [
        long,
        replace(long, sampler="descent", ratio=0.0),
        replace(base, sampler="sgld", rate=1e-4),
        replace(base, sampler="psgld", rate=1e-6),
        replace(base, sampler="hmc", rate=0.0, steps=300),
    ]


def published_cases() -> list[Case]:
    """The published code's settings at a fixed image."""
    base = replace(_LANGEVIN, part="published", network="published", form="adam", rate=1e-4, window=3, interval=5)
    return [replace(base, image=image, steps=1000) for image in ("true", "map")]


class Study:
    """The data, and what is made of them once."""

    def __init__(self, data: Path | None, quick: bool, estimate: Path | None = None) -> None:
        self.quick, self.scale, self.file = quick, 4 if data else 2, estimate
        self.degradation = Degradation(self.scale)
        self.prior = GaussianKernelPrior.sampling(self.scale)
        self.test = self._read(data) if data else self._synthetic()
        self.settled: dict[str, Tensor] = {}

    @staticmethod
    def _read(data: Path) -> TestImage:
        path = data / "Set5_x4" / "butterfly.png"
        y, x = load(path, None), load(data / "Set5" / path.name, None)
        h, w = (4 * n for n in y.shape[-2:])
        return TestImage(y, x[..., :h, :w], read_kernel(path.with_suffix(".mat")).kernel)

    def _synthetic(self) -> TestImage:
        g = generator(5)
        x = torch.rand(1, 3, 12, 12, generator=g).repeat_interleave(4, 2).repeat_interleave(4, 3)
        size, center = self.degradation.kernel_size, torch.full((1, 2), self.degradation.center)
        k = gaussian_kernel(size, torch.tensor([3.0]), torch.tensor([5.5]), torch.tensor([0.5]), center)
        return degrade(x, self.degradation, k)

    @cache  # noqa: B019
    def form(self, image: str) -> LrErrorForm:
        """The LR error under the true image, or under an estimate made without it."""
        x = self.test.x if image == "true" else self._estimate()
        return LrErrorForm.build(self.degradation, x, self.test.y)

    def _estimate(self) -> Tensor:
        if self.file and self.file.exists():
            return torch.load(self.file, weights_only=True)
        x = compose(Choice("fast-map"), self.degradation).solve(self.test.y, self.degradation).image
        if self.file:
            torch.save(x, self.file)
        return x

    def statistics(self, kernels: Tensor, form: LrErrorForm) -> Tensor:
        """`STATISTICS` of kernels (n, 1, K, K): (n, 5)."""
        c = covariance(kernels)
        psnr = -10 * torch.log10((kernels - self.test.kernel).square().mean((1, 2, 3)))
        error = 255 * form(kernels).clamp_min(0).sqrt()
        return torch.stack([c[:, 0, 0], c[:, 1, 1], c[:, 0, 1], psnr, error], 1)

    def gaussian(self, theta: Tensor) -> Tensor:
        """Kernels of (λ₁, λ₂, angle)."""
        center = theta.new_full((len(theta), 2), self.degradation.center)
        return gaussian_kernel(self.degradation.kernel_size, theta[:, 0], theta[:, 1], theta[:, 2], center)

    @cache  # noqa: B019
    def mode(self, image: str) -> tuple[Tensor, Tensor, float]:
        """The best (λ₁, λ₂, angle) under an image, the Hessian of e there, and e, which is σ² by Eq. 40."""
        form = self.form(image)
        draws = self.prior.sample_theta(2000, generator=generator(0))[:, :3].double()
        theta = draws[form(self.gaussian(draws)).argmin()].clone()

        def error(t: Tensor) -> Tensor:
            return form(self.gaussian(t[None]))[0]

        hessian = torch.func.hessian(error)
        for _ in range(30):
            step = torch.linalg.solve(hessian(theta), torch.func.grad(error)(theta))
            theta = theta - step * min(1.0, 0.3 / float(step.abs().max()))
        return theta, hessian(theta), float(error(theta))

    def variance(self, image: str, rule: str) -> float:
        """σ² at an image."""
        return self.mode(image)[2] if rule == "eq40" else FIXED_VARIANCE

    def posterior(self, image: str, rule: str) -> tuple[Tensor, Tensor]:
        """Posterior of Gaussian kernels on a grid around the mode: statistics (n, 5) and weights (n,)."""
        (mode, hessian, _), form, variance = self.mode(image), self.form(image), self.variance(image, rule)
        scale, axes = torch.linalg.eigh(torch.linalg.inv(hessian) * 2 * variance / form.n)
        points = torch.linspace(-5, 5, 9 if self.quick else 25, dtype=torch.float64)
        grid = torch.cartesian_prod(points, points, points)
        theta = mode + (grid * scale.sqrt()) @ axes.T
        kernels = self.gaussian(theta)
        var = self.prior.parameters.parts[0]
        inside = ((theta[:, :2] >= var.low) & (theta[:, :2] <= var.high)).all(1)
        logit = (-0.5 * form.n / variance * form(kernels)).masked_fill(~inside, -torch.inf)
        return self.statistics(kernels, form), torch.softmax(logit, 0)

    def target(self, case: Case) -> NetworkTarget:
        """The network's posterior of a case."""
        hidden, inputs, std = NETWORKS[case.network]
        if self.quick and case.network == "published":
            hidden, inputs = (20,), 10
        with seeded(0):
            module = KernelNetwork(self.degradation.kernel_size, hidden, inputs, std)
        variance = self.variance(case.image, case.variance)
        return NetworkTarget(FlatNetwork.of(module), self.form(case.image), variance, PRIOR_STD[case.network])

    def starts(self, case: Case, target: NetworkTarget) -> Tensor:
        """Four chains: other weights each, warmed up towards four kernels at the corners of the prior."""
        if case.start == "settled":
            if case.network not in self.settled:
                self.trace(_LANGEVIN)
            return self.settled[case.network]
        hidden, inputs = target.network.widths[1:-1], target.network.widths[0]
        rows = []
        for seed in range(4):
            with seeded(seed):
                rows.append(FlatNetwork.flatten(KernelNetwork(self.degradation.kernel_size, hidden, inputs)))
        var = self.prior.parameters.parts[0]
        low, high = float(var.low), float(var.high)
        corners = torch.tensor([[low, low, 0], [high, high, 0], [high, low, 0], [low, high, 0]], dtype=torch.float64)
        aims = self.gaussian(corners)

        def towards(position: Tensor, _: torch.Generator) -> tuple[Tensor, Tensor]:
            k, back = target.network.pullback(position)
            return (k - aims).square().sum((1, 2, 3)), back(2 * (k - aims))

        def nothing(position: Tensor) -> tuple[Tensor, Tensor]:
            return position.new_zeros(len(position)), torch.zeros_like(position)

        rate = 1e-4 if case.network == "published" else 1e-2
        warm = NetworkLangevinTransition(nothing, towards, NetworkLangevin(rate, rate))
        state = warm.init(torch.cat(rows))
        for _ in range(20 if self.quick else 300):
            state, _ = warm.step(state, generator(0))
        return state.position

    def transition(self, case: Case, target: NetworkTarget) -> Transition:
        """The dynamics of a case."""
        if case.sampler == "sgld":
            return Sgld(case.rate).on(value_and_gradient(target))
        if case.sampler == "psgld":
            return PreconditionedSgld(case.rate, data_size=target.form.n).on(value_and_gradient(target))
        mcka = MonteCarloKernelApproximation(self.prior, case.kernels, weights=WEIGHTS[case.weights])
        pull = MonteCarloLoss(target, mcka) if case.ratio else None
        rates = case.rate, case.ratio * case.rate
        settings = NetworkLangevin(*rates, case.window, case.interval, Form(case.form))
        return NetworkLangevinTransition(target.error_and_gradient, pull, settings)

    def trace(self, case: Case) -> Tensor:
        """Statistics (chains, draws, 5) of a case, every tenth step (of hmc every draw after as many of warm-up)."""
        target, g = self.target(case), generator(1)
        if case.sampler == "hmc":
            start = self.starts(replace(case, sampler="langevin"), target)
            n = 15 if self.quick else case.steps
            covariance_ = gauss_newton(target, self.gaussian(self.mode(case.image)[0][None]))
            chains = sample(
                target, "hmc", chains=4, draws=n, warmup=n, generator=g, covariance=covariance_, initial=start
            )
            rows = chains.draws.flatten(0, 1)
            return self.statistics(target.kernel(rows), target.form).view(4, -1, len(STATISTICS))
        sampler, kept = self.transition(case, target), []
        state = sampler.init(self.starts(case, target))
        for i in range(40 if self.quick else case.steps):
            state, _ = sampler.step(state, g)
            if i % 10 == 9:
                kept.append(self.statistics(target.kernel(state.position), target.form))
        if case == _LANGEVIN:
            self.settled[case.network] = state.position
        return torch.stack(kept, 1)


def gauss_newton(target: NetworkTarget, kernel: Tensor) -> Tensor:
    """Inverse of prior precision plus likelihood curvature of a network without hidden layers, at a kernel."""
    logits = kernel.clamp_min(1e-12).log().flatten()
    phi = torch.cat([torch.zeros_like(logits), logits - logits.mean()])[None]
    k = kernel.shape[-1]
    _, back = target.network.pullback(phi.expand(k * k, -1).contiguous())
    jacobian = back(torch.eye(k * k, dtype=torch.float64).view(-1, 1, k, k))
    curvature = jacobian.T @ target.form.A @ jacobian / target.noise_variance
    inverse = torch.linalg.inv(curvature + torch.diag(target.scales.square().reciprocal()))
    return (inverse + inverse.T) / 2


def between_within(draws: Tensor) -> Tensor:
    """Split R-hat of (chains, draws, m), a ratio of spreads: here a sign of chains that have not met, and no more."""
    half = max(2, draws.shape[1] // 2)
    parts = torch.cat([draws[:, :half], draws[:, -half:]])
    within = parts.var(1).mean(0)
    return ((half - 1) / half + parts.mean(1).var(0) / within.clamp_min(1e-300)).sqrt()


def sliced_wasserstein(a: Tensor, b: Tensor, n: int = 64) -> float:
    """Mean 1-Wasserstein distance of two samples (n, 3) along random directions, in their units."""
    directions = torch.nn.functional.normalize(torch.randn(3, n, generator=generator(0), dtype=torch.float64), dim=0)
    levels = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    quantiles = [torch.quantile(v @ directions, levels, dim=0) for v in (a, b)]
    return float((quantiles[0] - quantiles[1]).abs().mean())


def resample(values: Tensor, weights: Tensor, n: int = 4000) -> Tensor:
    """Draws from weighted rows."""
    return values[torch.multinomial(weights, n, replacement=True, generator=generator(0))]


def rounded(values: Tensor) -> list:
    """Numbers for a record."""
    return torch.round(values.double(), decimals=5).tolist()


def fixed_record(study: Study, case: Case) -> dict[str, object]:
    """Run a case; the second half of its trace against the posteriors of Gaussian kernels."""
    began = time.perf_counter()
    trace = study.trace(case)
    seconds = time.perf_counter() - began
    late = trace if case.sampler == "hmc" else trace[:, trace.shape[1] // 2 :]
    third, fourth = late.chunk(2, 1) if late.shape[1] > 1 else (late, late)
    pooled = late.flatten(0, 1)
    record: dict[str, object] = {
        "sigma2": study.variance(case.image, case.variance),
        "mean": rounded(pooled.mean(0)),
        "std": rounded(pooled.std(0)),
        "within_std": rounded(late.std(1).mean(0)),
        "chain_means": rounded(late.mean(1)),
        "between_within": rounded(between_within(late)),
        "drift": rounded(fourth.mean((0, 1)) - third.mean((0, 1))),
        "seconds": round(seconds, 1),
        "ms_per_step": round(1e3 * seconds / case.steps, 3),
        "trace": rounded(trace[:, :: max(1, trace.shape[1] // 60)]),
    }
    for rule in ("eq40", "published"):
        draws = resample(*study.posterior(case.image, rule))
        record[f"wasserstein_{rule}"] = sliced_wasserstein(pooled[:, :3], draws[:, :3])
    return record


def posterior_records(study: Study) -> list[dict[str, object]]:
    """Exact posteriors of Gaussian kernels given an image; HMC given y alone."""
    records = []
    for image in ("true", "map"):
        for rule in ("eq40", "published"):
            values, weights = study.posterior(image, rule)
            mean = weights @ values
            std = (weights @ (values - mean).square()).sqrt()
            edge = float(weights[weights > 0].min())
            record = {"part": "posterior", "image": image, "variance": rule, "sigma2": study.variance(image, rule)}
            records.append({**record, "mean": rounded(mean), "std": rounded(std), "least_weight": edge})
    target, n = SpectralTarget(study.test.y, study.degradation), 20 if study.quick else 1000
    chains = sample(target, "hmc", chains=8, draws=n, warmup=n // 2, generator=generator(0))
    values = study.statistics(target.kernel(chains.draws.flatten(0, 1)).double(), study.form("true"))
    ratio = between_within(values.view(8, -1, len(STATISTICS)))
    record = {"part": "posterior", "image": "none", "variance": "sampled", "between_within": rounded(ratio)}
    return [*records, {**record, "mean": rounded(values.mean(0)), "std": rounded(values.std(0))}]


def truth_record(study: Study) -> dict[str, object]:
    """Statistics of the true kernel."""
    form = study.form("true")
    k = study.test.kernel.double()
    return {"part": "truth", "kernel": rounded(study.statistics(k, form)[0, :3]), "error": 255 * float(form(k)) ** 0.5}


def simulation(study: Study, x: Tensor, kernel: Tensor, variance: Tensor, seed: int) -> dict[str, object]:
    """What the Monte Carlo step draws at an image: kernels in groups of five, their errors, weights, PSNR."""
    groups, each = (20 if study.quick else 600), 5
    kernels = study.prior.sample(groups * each, generator=generator(100 + seed))
    errors = lr_errors(study.degradation, x, study.test.y, kernels)
    psnr = -10 * torch.log10((kernels - study.test.kernel).square().mean((1, 2, 3)))
    shown = slice(0, 300)
    record: dict[str, object] = {
        "errors": [float(f"{v:.4g}") for v in errors[shown]],
        "psnr": [round(float(v), 2) for v in psnr[shown]],
        "kernels": rounded(kernels[:each, 0]),
        "kernel": rounded(kernel[0, 0]),
        "variance": float(variance.mean()),
        "prior_psnr": round(float(psnr.mean()), 3),
    }
    grouped = errors.view(groups, each)
    for name, rule in WEIGHTS.items():
        omega = torch.stack([rule(e, variance, study.test.y.numel()) for e in grouped]).clamp_min(0)
        share = omega / omega.sum(1, keepdim=True)
        record[name] = {
            "weights": rounded(share.flatten()[shown]),
            "psnr": float((share * psnr.view(groups, each)).sum(1).mean()),
            "effective": float((1 / share.square().sum(1)).mean()),
        }
    mean = (share[:, :, None] * kernels.view(groups, each, -1)).sum(1)
    record["psnr_of_mean"] = float((-10 * torch.log10((mean - study.test.kernel.flatten()).square().mean(1))).mean())
    return record


def run_record(study: Study, seed: int) -> dict[str, object]:
    """One MLMC run; simulations early and late."""
    preset = PRESETS["fast"]
    if study.quick:
        preset = replace(
            preset, steps=20, monte_carlo=MonteCarloSettings(warmup_steps=5), skip=replace(preset.skip, channels=8)
        )
    estimation = METHODS["mlmc"].loop(preset).start(study.test.y, study.degradation, seed=seed, device="cpu")
    run = estimation.run
    early, late = 2 * preset.inner_steps, preset.steps - preset.inner_steps
    rows, drawn = [], {}
    began = time.perf_counter()
    while run.step < preset.steps:
        if run.step in (early, late) and run.x is not None and run.k is not None:
            drawn["early" if run.step == early else "late"] = simulation(study, run.x, run.k, run.variance, seed)
        m = estimation.advance()
        with torch.no_grad():
            values = study.statistics(run.kernel().double(), study.form("true"))[0]
        rows.append([m.loss, m.mse, m.monte_carlo if math.isfinite(m.monte_carlo) else None, *rounded(values[:4])])
    return {"seed": seed, "seconds": time.perf_counter() - began, "steps": rows, **drawn}


def main() -> None:
    """Run what is not yet in the output file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parts = ["run", "posterior", "fixed", "sweep", "linear", "published"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--only", help="of the cases of fixed, sweep, linear: those whose record contains this text")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--estimate", type=Path, help="file that keeps the image of fast-map between calls")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(args.data, args.quick, args.estimate)
    keys = [json.loads(line)["key"] for line in args.out.read_text().splitlines()] if args.out.exists() else []

    def note(key: str, make) -> None:
        if key not in keys:
            record = {"key": key, **make(), "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__}
            with args.out.open("a") as f:
                f.write(json.dumps(record) + "\n")
            print(key, record.get("mean", ""), record.get("seconds", ""), flush=True)

    note("truth", lambda: truth_record(study))
    if "posterior" in args.parts and not any(k.startswith("posterior") for k in keys):
        for r in posterior_records(study):
            note(f"posterior {r['image']} {r['variance']}", lambda r=r: r)
    if "run" in args.parts:
        for seed in range(1 if args.quick else 3):
            note(f"run {seed}", lambda seed=seed: {"part": "run", **run_record(study, seed)})
    tables = {"fixed": fixed_cases, "sweep": sweep_cases, "linear": linear_cases, "published": published_cases}
    for part in (p for p in tables if p in args.parts):
        for case in tables[part]():
            key = json.dumps(asdict(case))
            if args.only is None or args.only in key:
                note(key, lambda case=case: {**asdict(case), **fixed_record(study, case)})


if __name__ == "__main__":
    main()
