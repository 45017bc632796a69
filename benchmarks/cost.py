"""What a large bench would cost, from the seconds in the file of results of a small one.

    python benchmarks/cost.py BENCH.sqlite --images 100 --size 984x797 --runs-per-image 9 \
        --dollars-per-core-hour 0.05 --price-date 2026-11-24

A run's time is taken as proportional to the pixels of its result, row by row and scale by scale: the mean over the
finished runs of seconds a million HR pixels. That is right for networks, and too much for methods whose kernel is
found on part of the picture. Core-hours are seconds times threads a run. Scoring a run and starting it are left out.
"""

from __future__ import annotations

import argparse
import datetime
import sqlite3
import statistics
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Rate:
    """What the runs of one row at one scale took."""

    label: str
    scale: int
    runs: int
    seconds_per_megapixel: float
    threads: float
    largest: float
    """Pixels of the largest result measured, millions."""


def rates(path: Path) -> list[Rate]:
    """Read the finished runs of a file of results."""
    if not path.is_file():
        raise SystemExit(f"{path}: no such file")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        rows = db.execute(
            "SELECT label, scale, seconds, hr_height * hr_width / 1e6, threads FROM runs WHERE status = 'done' "
            "ORDER BY rowid"
        ).fetchall()
    db.close()
    groups: dict[tuple[str, int], list[tuple[float, float, int]]] = {}
    for label, scale, seconds, pixels, threads in rows:
        groups.setdefault((label, scale), []).append((seconds, pixels, threads))
    if not groups:
        raise SystemExit(f"{path}: holds no finished run")
    return [
        Rate(
            label,
            scale,
            len(runs),
            sum(s for s, _, _ in runs) / sum(p for _, p, _ in runs),
            statistics.fmean(t for _, _, t in runs),
            max(p for _, p, _ in runs),
        )
        for (label, scale), runs in groups.items()
    ]


def size(text: str) -> tuple[int, int]:
    """Read WIDTHxHEIGHT."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text}: WIDTHxHEIGHT is needed")
    return int(width), int(height)


def main() -> None:
    """Print a table: a line for each row and scale, and the sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", type=Path)
    parser.add_argument("--images", type=int, default=100, help="pictures of the set to come (Urban100 has 100)")
    parser.add_argument("--size", type=size, default=(984, 797), help="their mean size in HR pixels, WIDTHxHEIGHT")
    parser.add_argument("--runs-per-image", type=int, default=1, help="degradations x seeds, for each row and scale")
    parser.add_argument("--dollars-per-core-hour", type=float, required=True)
    parser.add_argument("--price-date", type=datetime.date.fromisoformat, required=True, help="when that price held")
    args = parser.parse_args()
    megapixels = args.size[0] * args.size[1] / 1e6
    runs = args.images * args.runs_per_image
    print("| method | scale | measured runs | seconds a run | times larger | core-hours | dollars |")
    print("|---|---|---|---|---|---|---|")
    total = 0.0
    for rate in rates(args.database):
        seconds = rate.seconds_per_megapixel * megapixels
        hours = seconds * rate.threads * runs / 3600
        total += hours
        cells = [rate.label, f"x{rate.scale}", str(rate.runs), f"{seconds:.0f}", f"{megapixels / rate.largest:.0f}"]
        print(f"| {' | '.join(cells)} | {hours:.1f} | {hours * args.dollars_per_core_hour:.2f} |")
    print(f"| all | | | | | {total:.1f} | {total * args.dollars_per_core_hour:.2f} |")
    width, height = args.size
    print(f"\n{runs} runs for each method and scale, {width}x{height} pixels; {args.dollars_per_core_hour:g} dollars a")
    print(f"core-hour on {args.price_date}. Times larger: pixels of such a picture over the largest one measured.")


if __name__ == "__main__":
    main()
