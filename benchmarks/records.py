"""What the benchmarks that keep one JSON line for each picture share: the file, and the commands `run` and `report`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read(*paths: Path) -> list[dict[str, Any]]:
    """Return the lines of files; none for a file that is not there."""
    return [json.loads(line) for path in paths if path.exists() for line in path.read_text().splitlines()]


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line to a file."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def main(
    title: str,
    run: Callable[[argparse.Namespace], None],
    report: Callable[[argparse.Namespace], None],
    options: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Read the command line `run --scale S --data DATA --out FILE ...` or `report FILE...`, and do it."""
    parser = argparse.ArgumentParser(description=title)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.add_argument("--scale", type=int, choices=(2, 3, 4), required=True)
    one.add_argument("--data", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True)
    options(one)
    one.set_defaults(call=run)
    all_ = commands.add_parser("report")
    all_.add_argument("files", type=Path, nargs="+")
    all_.set_defaults(call=report)
    args = parser.parse_args()
    args.call(args)
