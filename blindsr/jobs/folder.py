"""The folder of a run: whose it is, and the checkpoint in it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from blindsr import checkpoint
from blindsr.errors import UserError
from blindsr.io.files import OWN_PREFIX
from blindsr.optimizers.base import Run
from blindsr.solver import Metrics, Solver

CHECKPOINT = "checkpoint.pt"
RECORD = "run.json"


def check_folder(folder: Path, image_sha256: str) -> None:
    """Make sure that results may go to a folder: new, empty, or one that a run on the same picture made.

    Temporary files that a killed run left behind are removed.

    Raises
    ------
    UserError
        If it is a file, cannot be written, holds somebody else's files or the result of another picture.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{OWN_PREFIX}probe"
        probe.touch()
        for leftover in folder.glob(f"{OWN_PREFIX}*"):
            leftover.unlink(missing_ok=True)
        names = {p.name for p in folder.iterdir()}
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); choose another --output") from error
    if names and not names & {RECORD, CHECKPOINT}:
        raise UserError(f"{folder}: holds other files; choose another --output, so that none is overwritten")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(record, dict) and record.get("image_sha256", image_sha256) != image_sha256:
        raise UserError(
            f"{folder}: holds the result for another picture ({record.get('image')}); choose another --output"
        )


class Keeper:
    """Writes checkpoints, not too often.

    Parameters
    ----------
    path : Path
        The file.
    settings : dict
        What a resume must find unchanged, plain values.
    every : float
        Seconds between two checkpoints, at least.
    """

    def __init__(self, path: Path, settings: dict[str, Any], every: float) -> None:
        self.path, self.settings, self.every = path, dict(settings), every
        self.last = time.perf_counter()

    def save(self, solver: Solver, run: Run, trace: list[Metrics]) -> None:
        """Write one now."""
        rows = torch.tensor([list(m) for m in trace], dtype=torch.float64).reshape(-1, len(Metrics._fields))
        checkpoint.save(self.path, self.settings, {"run": solver.state_dict(run), "trace": rows})
        self.last = time.perf_counter()

    def save_if_due(self, solver: Solver, run: Run, trace: list[Metrics]) -> None:
        """Write one if the last is old enough."""
        if time.perf_counter() - self.last >= self.every:
            self.save(solver, run, trace)
