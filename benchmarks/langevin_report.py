"""Tables (markdown, on standard output) and figures of the records that langevin.py writes.

python benchmarks/langevin_report.py r.jsonl --figures docs/images
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Record = dict[str, Any]
BLUE, RED, GREEN, GREY = "#1b6ca8", "#d1495b", "#3a7d44", "0.45"
NAMES = {"langevin": "network Langevin", "descent": "descent", "sgld": "SGLD", "psgld": "pSGLD", "hmc": "HMC (exact)"}
MOMENTS = ("xx", "yy", "xy")


def label(r: Record) -> str:
    """What a case is, in words."""
    words = NAMES[r["sampler"]] + (", Adam" if r["form"] == "adam" else "")
    if r["sampler"] in ("sgld", "psgld", "hmc"):
        return words + (", σ² = 5e-4" if r["variance"] == "published" else ", σ² of Eq. 40")
    words += f", a = {r['rate']:g}"
    if r["sampler"] == "langevin":
        words += f", b/a = {r['ratio']:g}, L = {r['kernels']}, P = {r['window']}, {r['weights']}"
        words += f", Q = {r['interval']}" if r["interval"] > 1 else ""
        if r["weights"] == "likelihood" and r["variance"] == "published":
            words += " at σ² = 5e-4"
    return words


def posteriors(records: list[Record]) -> dict[tuple[str, str], Record]:
    """Posterior records by image and noise rule."""
    return {(r["image"], r["variance"]): r for r in records if r.get("part") == "posterior"}


def tables(records: list[Record]) -> None:
    """Print."""
    exact = posteriors(records)
    print("| posterior | σ² | xx | yy | xy | kernel PSNR |\n|---|---|---|---|---|---|")
    for (image, rule), r in exact.items():
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(r["mean"][:4], r["std"][:4], strict=True)]
        print(f"| {image} | {r.get('sigma2', float('nan')):.2e} ({rule}) | {' | '.join(cells)} |")
    print(
        "\n| part | image | dynamics | xx | yy | xy | kernel PSNR | LR error | between/within xx, yy, xy | drift of xx "
        "| shift / sd of posterior | sd / sd of posterior | sliced W1 | ms a step |\n" + "|---" * 14 + "|"
    )
    for r in records:
        if "sampler" not in r:
            continue
        rule = r["variance"] if r["sampler"] in ("sgld", "psgld", "hmc") or r["network"] == "linear" else "eq40"
        p = exact[r["image"], rule]
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(r["mean"][:3], r["std"][:3], strict=True)]
        shift = max(abs(m - q) / s for m, q, s in zip(r["mean"][:3], p["mean"][:3], p["std"][:3], strict=True))
        ratio = [s / q for s, q in zip(r["std"][:3], p["std"][:3], strict=True)]
        print(
            f"| {r['part']} | {r['image']} | {label(r)} | {' | '.join(cells)} | {r['mean'][3]:.1f} ± {r['std'][3]:.1f} "
            f"| {r['mean'][4]:.3f} | {', '.join(f'{v:.2f}' for v in r['between_within'][:3])} | {r['drift'][0]:+.3f} "
            f"| {shift:.0f} | {min(ratio):.1f}-{max(ratio):.1f} | {r[f'wasserstein_{rule}']:.3f} | {r['ms_per_step']} |"
        )
    print(
        "\n| seed | step | prior PSNR | published | inverse | likelihood | effective kernels of 5 |\n"
        + "|---" * 7
        + "|"
    )
    for r in records:
        for when in ("early", "late"):
            if when in r:
                d = r[when]
                rules = ("published", "inverse", "likelihood")
                psnr = " | ".join(f"{d[n]['psnr']:.2f}" for n in rules)
                effective = ", ".join(f"{d[n]['effective']:.2f}" for n in rules)
                print(f"| {r['seed']} | {when} | {d['prior_psnr']:.2f} | {psnr} | {effective} |")
                print(
                    f"  sigma {255 * d['variance'] ** 0.5:.2f} grey levels; "
                    f"PSNR of the weighted mean {d['psnr_of_mean']:.2f}"
                )
    for r in records:
        if r.get("part") == "run":
            steps = np.array([s[3:] for s in r["steps"]])
            print(
                f"run {r['seed']}: {r['seconds']:.0f} s, PSNR at end {steps[-1, 3]:.2f}, best {steps[:, 3].max():.2f} "
                f"at {steps[:, 3].argmax() + 1}, last 50 sd xx {steps[-50:, 0].std():.3f}, end {steps[-1, :3].round(2)}"
            )


def run_figure(records: list[Record], path: Path) -> None:
    """Loss, kernel PSNR and moments along the runs."""
    runs = [r for r in records if r.get("part") == "run"]
    truth = next(r for r in records if r.get("part") == "truth")["kernel"]
    figure = Figure(figsize=(10, 6.6), layout="constrained", dpi=110)
    axes = figure.subplots(2, 2)
    for r, color in zip(runs, (BLUE, RED, GREEN), strict=False):
        loss, mse, monte, *rest = zip(*r["steps"], strict=True)
        t = np.arange(1, len(loss) + 1)
        axes[0, 0].semilogy(t, mse, color=color, lw=1, label=f"seed {r['seed']}")
        drawn = np.array([np.nan if m is None else m for m in monte])
        there = np.isfinite(drawn)
        axes[0, 1].semilogy(t[there], drawn[there], color=color, lw=1)
        axes[1, 0].plot(t, rest[3], color=color, lw=1)
        for values, style in zip(rest[:3], ("-", "--", ":"), strict=True):
            axes[1, 1].plot(t, values, style, color=color, lw=1)
    for value, style, name in zip(truth, ("-", "--", ":"), MOMENTS, strict=True):
        axes[1, 1].axhline(value, color="k", ls=style, lw=1.2)
        axes[1, 1].annotate(f"true {name}", (1, value), (2, 3), textcoords="offset points", fontsize=8)
    titles = (
        "mean squared LR error",
        "$L_{MC}$ of the Monte Carlo step",
        "kernel PSNR (dB)",
        "second moments (HR pixels²)",
    )
    for a, title in zip(axes.flat, titles, strict=True):
        a.set_xlabel("inner step")
        a.set_ylabel(title)
        a.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.suptitle("MLMC, preset fast, Set5 butterfly x4", fontsize=11)
    figure.savefig(path)


def draws_figure(records: list[Record], path: Path) -> None:
    """What the Monte Carlo step draws, early and late, in the first run."""
    run = next(r for r in records if r.get("part") == "run")
    truth_psnr = np.array([s[6] for s in run["steps"]])
    figure = Figure(figsize=(11, 6.4), layout="constrained", dpi=110)
    grid = figure.add_gridspec(2, 3, width_ratios=(1.25, 1.3, 1.1))
    for row, when in enumerate(("early", "late")):
        d = run[when]
        share = np.array(d["published"]["weights"])
        inner = grid[row, 0].subgridspec(2, 3)
        for i, kernel in enumerate([*d["kernels"], d["kernel"]]):
            a = figure.add_subplot(inner[i // 3, i % 3])
            a.imshow(np.array(kernel), cmap="magma")
            a.set_title("G(φ)" if i == 5 else f"ω = {share[i]:.2f}", fontsize=8)
            a.set_xticks([])
            a.set_yticks([])
        a = figure.add_subplot(grid[row, 1])
        error = 255 * np.sqrt(d["errors"])
        dots = a.scatter(error, d["psnr"], c=share, s=12, cmap="viridis", vmin=0, vmax=0.6)
        at = 10 if when == "early" else len(truth_psnr) - 5
        a.axhline(truth_psnr[at - 1], color=RED, lw=1)
        a.annotate("G(φ)", (error.max(), truth_psnr[at - 1]), (0, 3), textcoords="offset points", ha="right", color=RED)
        a.set_xlabel("LR error of a drawn kernel (grey levels, rms)")
        a.set_ylabel("its kernel PSNR (dB)")
        a.set_title(f"{when}: before inner step {at + 1}", fontsize=9)
        figure.colorbar(dots, ax=a, label="published weight, share of 5")
        a = figure.add_subplot(grid[row, 2])
        bins = np.linspace(min(d["psnr"]), max(d["psnr"]), 22)
        a.hist(d["psnr"], bins, density=True, color="0.8", label="as drawn")
        for name, color in (("published", BLUE), ("inverse", GREEN), ("likelihood", RED)):
            weights = d[name]["weights"]
            a.hist(d["psnr"], bins, density=True, weights=weights, histtype="step", color=color, label=name, lw=1.4)
        a.set_xlabel("kernel PSNR (dB)")
        a.set_ylabel("density")
        a.legend(fontsize=8)
    figure.savefig(path)


def _trace(axes: Axes, r: Record, index: int, color: str) -> None:
    values = np.array(r["trace"])[:, :, index]
    steps = np.linspace(0, r["steps"], values.shape[1])
    for chain in values:
        axes.plot(steps / 1000, chain, color=color, lw=0.8)


def chains_figure(records: list[Record], path: Path) -> None:
    """Traces of the dynamics under the true image, with the posterior of Gaussian kernels."""
    cases = [r for r in records if r.get("part") == "fixed" and r["image"] == "true"]
    wanted = [
        ("langevin", "gradient"),
        ("langevin", "adam"),
        ("descent", "gradient"),
        ("sgld", "gradient"),
        ("psgld", "gradient"),
    ]
    chosen = [next((r for r in cases if (r["sampler"], r["form"]) == w), None) for w in wanted]
    chosen = [r for r in chosen if r is not None]
    exact = posteriors(records)["true", "eq40"]
    figure = Figure(figsize=(13, 5.6), layout="constrained", dpi=110)
    axes = figure.subplots(2, len(chosen), sharey="row", squeeze=False)
    for column, r in enumerate(chosen):
        for row, index in enumerate((0, 3)):
            a = axes[row, column]
            _trace(a, r, index, BLUE if r["sampler"] == "langevin" else GREY)
            a.axhline(exact["mean"][index], color=RED, lw=1.2)
            a.grid(alpha=0.3)
        axes[0, column].set_title(NAMES[r["sampler"]] + (" (Adam)" if r["form"] == "adam" else ""), fontsize=10)
        axes[0, column].set_ylim(4.5, 8)
        axes[1, column].set_xlabel("step / 1000")
    axes[0, 0].set_ylabel("moment xx (HR pixels²)")
    axes[1, 0].set_ylabel("kernel PSNR (dB)")
    figure.suptitle("true image, four far starts; red: mean of the exact posterior of Gaussian kernels", fontsize=10)
    figure.savefig(path)


def spread_figure(records: list[Record], path: Path) -> None:
    """Mean and spread of each dynamics under the true image."""
    exact = posteriors(records)
    rows: list[tuple[str, Record, str]] = [
        ("posterior of Gaussian kernels, σ² of Eq. 40", exact["true", "eq40"], RED),
        ("posterior of Gaussian kernels, σ² = 5e-4", exact["true", "published"], RED),
        ("posterior given y alone", exact["none", "sampled"], RED),
    ]
    order = {"fixed": 0, "sweep": 1, "linear": 2}
    for r in sorted(records, key=lambda r: (order.get(r.get("part", ""), 3), r.get("form") == "adam")):
        lost = "sampler" in r and r["std"][0] > 1  # a chain has run away
        if r.get("part") in ("sweep", "linear", "fixed") and r["image"] == "true" and not lost:
            color = BLUE if r["sampler"] == "langevin" else GREEN if r["sampler"] == "hmc" else GREY
            prefix = "722 weights: " if r["part"] == "linear" else ""
            rows.append((prefix + label(r), r, color))
    figure = Figure(figsize=(12, 0.24 * len(rows) + 1.4), layout="constrained", dpi=110)
    axes = figure.subplots(1, 3, sharey=True)
    for a, index, name in zip(axes, (0, 1, 3), ("xx (HR pixels²)", "yy (HR pixels²)", "kernel PSNR (dB)"), strict=True):
        for i, (_, r, color) in enumerate(rows):
            a.errorbar(r["mean"][index], -i, xerr=r["std"][index], fmt="o", color=color, ms=4, capsize=2, lw=1.2)
        if index < 3:
            a.axvline(exact["true", "eq40"]["mean"][index], color=RED, lw=0.8)
        a.set_xlabel(name + ", mean ± sd")
        a.grid(alpha=0.3)
    axes[0].set_yticks([-i for i in range(len(rows))], [name for name, _, _ in rows], fontsize=8)
    axes[0].set_ylim(0.7 - len(rows), 0.7)
    figure.suptitle(
        "true image; red: exact posteriors (line: mean at σ² of Eq. 40), green: HMC on the network's posterior, "
        "blue: network Langevin, grey: others",
        fontsize=10,
    )
    figure.savefig(path)


def main() -> None:
    """Print the tables, draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("--figures", type=Path, help="folder for langevin_*.png")
    args = parser.parse_args()
    records = [json.loads(line) for line in args.records.read_text().splitlines()]
    tables(records)
    if args.figures:
        args.figures.mkdir(parents=True, exist_ok=True)
        for draw in (run_figure, draws_figure, chains_figure, spread_figure):
            draw(records, args.figures / f"langevin_{draw.__name__.removesuffix('_figure')}.png")


if __name__ == "__main__":
    main()
