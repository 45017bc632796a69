"""Chart of image PSNR against seconds, Set5 butterfly x4 (256x256), with the published implementation's curve.

    python benchmarks/curve.py --published DATA/published/butterfly_x4.json --out docs/images/psnr_seconds.png \
        "fast-map=SECONDS:PSNR" "spectral-dip=SECONDS:PSNR" ...

The points come from `blindsr run ... --json` (seconds and metrics.psnr_border_s2), the curve from the file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="+", help="name=seconds:psnr")
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    curve = json.loads(args.published.read_text())
    figure = Figure(figsize=(7.5, 4.6), layout="constrained", dpi=140)
    axes = figure.subplots()
    axes.semilogx([r["t"] for r in curve], [r["psnr"] for r in curve], "-", color="0.45", lw=1.5)
    axes.annotate(
        "published MLMC code", (curve[-1]["t"], curve[-1]["psnr"]), (-8, 8), textcoords="offset points", ha="right"
    )
    for point in args.points:
        name, _, value = point.partition("=")
        seconds, _, psnr = value.partition(":")
        ours = name in ("fast-map", "spectral-dip")
        axes.plot(float(seconds), float(psnr), "o", ms=8, color="#d1495b" if ours else "#1b6ca8")
        axes.annotate(
            name, (float(seconds), float(psnr)), (0, 9 if ours else -16), textcoords="offset points", ha="center"
        )
    axes.set_xlabel("seconds (log scale)")
    axes.set_ylabel("image PSNR (dB, Y channel, border s²)")
    axes.set_title("Set5 butterfly x4, 256x256 result, kernel unknown", fontsize=11)
    axes.set_ylim(12, 29)
    axes.grid(alpha=0.3, which="both")
    figure.savefig(args.out)


if __name__ == "__main__":
    main()
