"""The folder of a run: whose it is, and the checkpoint in it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from blindsr.commands.settings import AFTERWARDS
from blindsr.errors import UserError
from blindsr.estimators.base import Estimation, Metrics
from blindsr.io import checkpoint
from blindsr.io.files import OWN_PREFIX
from blindsr.results.files import finite

CHECKPOINT = "checkpoint.pt"
RECORD = "run.json"


def check_folder(
    folder: Path, record: dict[str, Any], *, steps: int, resume: bool, overwrite: bool
) -> dict[str, Any] | None:
    """Make sure that writing results to a folder would not lose anything that the user may want to keep.

    It may be new or empty, or hold an earlier run: the finished result of the same settings, a run to be resumed, or
    anything of blindsr's if `overwrite` is set. Temporary files that a killed run left behind are removed. `record`
    holds the settings of the run to come, which is to make `steps` steps, and the hash of its picture.

    With `resume`, returns the record of a run of the same settings that has already made these steps; else None. Raises
    UserError if the folder is a file, cannot be written, or holds what would be lost.
    """
    names = _prepared(folder)
    if names and not names & {RECORD, CHECKPOINT}:
        raise UserError(f"{folder}: holds other files; choose another --output, so that none is overwritten")
    old = _old_record(folder)
    if old is not None and old.get("image_sha256") != record["image_sha256"]:
        raise UserError(f"{folder}: holds the result for another picture ({old.get('image')}); choose another --output")
    same = old is not None and all(old.get(name) == value for name, value in finite(record).items())
    if resume and same and old is not None and old.get("complete", True):
        if old.get("steps", 0) >= steps or str(old.get("stopped")).startswith("settled"):
            return old
    lost = [] if old is None or overwrite else [n for n in AFTERWARDS if old.get(n) not in (None, record.get(n))]
    if resume and lost:
        raise UserError(
            f"{folder}: holds chains or restarts of other settings; choose another --output, or --overwrite"
        )
    if overwrite or not names or (resume and (CHECKPOINT in names or same)):
        return None
    if old is None or old.get("stopped") == "interrupted":
        raise UserError(f"{folder}: holds an unfinished run; --resume goes on with it, --overwrite starts anew")
    if not same:
        raise UserError(f"{folder}: holds a result of other settings; choose another --output, or --overwrite")
    return None


def _prepared(folder: Path) -> set[str]:
    """Make the folder, try to write, clear a killed run's temporary files; return the names of what is in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{OWN_PREFIX}probe").touch()
        for leftover in folder.glob(f"{OWN_PREFIX}*"):
            leftover.unlink(missing_ok=True)
        return {p.name for p in folder.iterdir()}
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); choose another --output") from error


def _old_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


class Keeper:
    """Writes checkpoints, at least `every` seconds apart, and by `at_end` one when a run has finished.

    `settings` is what a resume must find unchanged, as plain values.
    """

    def __init__(self, path: Path, settings: dict[str, Any], every: float, *, at_end: bool = True) -> None:
        self.path, self.settings, self.every, self.at_end = path, dict(settings), every, at_end
        self.start = self.last = time.perf_counter()
        self.seconds_before = 0.0
        """Seconds that a resumed run took before."""

    def save(self, run: Estimation, trace: list[Metrics]) -> None:
        """Write one now."""
        rows = torch.tensor([list(m) for m in trace], dtype=torch.float64).reshape(-1, len(Metrics._fields))
        seconds = self.seconds_before + time.perf_counter() - self.start
        checkpoint.save(self.path, self.settings, {"run": run.state_dict(), "trace": rows, "seconds": seconds})
        self.last = time.perf_counter()

    def save_if_due(self, run: Estimation, trace: list[Metrics]) -> None:
        """Write one if the last is old enough."""
        if time.perf_counter() - self.last >= self.every:
            self.save(run, trace)
