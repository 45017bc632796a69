"""Turn the records of solvers.py into a Markdown table: means over images, spread over seeds, worst image.

python benchmarks/solvers_table.py r.jsonl [more.jsonl ...]
python benchmarks/solvers_table.py --each r.jsonl     # a row for each image
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

SETTING = ("set", "scale", "kernels", "noise_level", "method")
SCORES = {"psnr": 2, "ssim": 4, "kernel_psnr": 1, "oracle_gap": 2, "seconds": 1}


def cell(records: list[dict], key: str, digits: int) -> str:
    """Mean over images and seeds; with several seeds, the standard deviation over them of the mean over images."""
    with_it = [r for r in records if key in r]
    if not with_it:
        return "–"
    seeds = sorted({r["seed"] for r in with_it})
    means = [statistics.fmean(r[key] for r in with_it if r["seed"] == s) for s in seeds]
    spread = f" ± {statistics.stdev(means):.{digits}f}" if len(means) > 1 else ""
    worst = f" (worst {max(r[key] for r in with_it):.{digits}f})" if key == "oracle_gap" and len(with_it) > 1 else ""
    return f"{statistics.fmean(means):.{digits}f}{spread}{worst}"


def below_bicubic(records: list[dict], bicubic: dict[tuple, float]) -> str:
    """Images (seed) on which a solver is below bicubic."""
    worse = [r for r in records if r["psnr"] < bicubic.get((r["image"], r["seed"]), float("-inf"))]
    if records[0]["method"] == "bicubic" or not bicubic:
        return ""
    return ", ".join(f"{r['image']} ({r['seed']})" for r in worse) or "none"


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
    print("| " + " | ".join([*keys, "runs", *SCORES, "below bicubic"]).replace("_", " ") + " |")
    print("|" + "---|" * (len(keys) + len(SCORES) + 2))
    for setting, rows in sorted(groups.items(), key=lambda item: tuple(map(str, item[0]))):
        same = [r for r in records if all(r[k] == v for k, v in zip(SETTING[:4], setting, strict=False))]
        bicubic = {(r["image"], r["seed"]): r["psnr"] for r in same if r["method"] == "bicubic"}
        cells = [cell(rows, key, digits) for key, digits in SCORES.items()]
        print("| " + " | ".join([*map(str, setting), str(len(rows)), *cells, below_bicubic(rows, bicubic)]) + " |")


if __name__ == "__main__":
    main()
