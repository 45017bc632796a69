"""Turn the records of set5c.py into a Markdown table: means over images, spread over seeds.

python benchmarks/table.py results.jsonl [more.jsonl ...]
python benchmarks/table.py --each results.jsonl        # a row for each image
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

SETTING = ("set", "scale", "noise_level", "method", "preset", "noise_model")
SCORES = ("psnr", "ssim", "kernel_psnr", "seconds")


def spread(records: list[dict], key: str) -> tuple[float, float | None]:
    """Mean over images and seeds, and the standard deviation over seeds of the mean over images."""
    seeds = sorted({r["seed"] for r in records})
    means = [statistics.fmean(r[key] for r in records if r["seed"] == s) for s in seeds]
    return statistics.fmean(means), statistics.stdev(means) if len(means) > 1 else None


def cell(value: float, sd: float | None, digits: int) -> str:
    """Mean, with the spread where there is one."""
    return f"{value:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd is not None else "")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--each", action="store_true", help="a row for each image instead of the mean")
    args = parser.parse_args()
    records = [json.loads(line) for path in args.files for line in path.read_text().splitlines()]
    keys = SETTING + (("image",) if args.each else ())
    groups: dict[tuple, list[dict]] = {}
    for r in records:
        groups.setdefault(tuple(r[k] for k in keys), []).append(r)
    names = [k.replace("_", " ") for k in keys]
    print("| " + " | ".join([*names, "runs", "image PSNR", "SSIM", "kernel PSNR", "seconds"]) + " |")
    print("|" + "---|" * (len(keys) + 5))
    for setting, rows in sorted(groups.items(), key=lambda item: tuple(map(str, item[0]))):
        cells = [cell(*spread(rows, k), 4 if k == "ssim" else 0 if k == "seconds" else 2) for k in SCORES]
        print("| " + " | ".join([*map(str, setting), str(len(rows)), *cells]) + " |")


if __name__ == "__main__":
    main()
