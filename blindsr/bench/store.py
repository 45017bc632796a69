"""The results of a bench: a SQLite database with one row for each run.

sqlite3 bench.sqlite "SELECT label, scale, AVG(psnr) FROM runs WHERE status = 'done' GROUP BY label, scale"
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from blindsr.bench.task import Task
from blindsr.errors import UserError

APPLICATION = 0x62736221
"""Marks the file as one of blindsr (SQLite's application_id)."""
VERSION = 1

SCORES = {
    "psnr": "image PSNR on Y, border s squared, dB",
    "ssim": "image SSIM on Y, border s squared",
    "psnr_border_s": "image PSNR on Y, border s, dB",
    "ssim_border_s": "image SSIM on Y, border s",
    "psnr_bicubic": "image PSNR of bicubic, border s squared, dB",
    "kernel_psnr": "kernel PSNR, peak 1, dB",
    "kernel_width": "root mean square width of the kernel, HR pixels",
    "oracle_psnr": "image PSNR of the oracle's restorer with the true kernel, dB",
    "oracle_gap": "how much lower that PSNR is with the estimated kernel, dB",
    "lr_psnr": "PSNR of the degraded estimate against the LR image, dB",
    "blur": "no-reference blur of the estimate, 0 sharp to 1",
    "seconds": "seconds of the run, without its scoring",
    "peak_memory_mib": "largest memory of the run's process, MiB",
    "parameters": "fitted numbers, and weights of networks",
    "steps": "inner steps made",
}
"""Columns with numbers, and what they mean."""
WORDS = ("error", "traceback", "stopped", "machine", "date", "versions")
SAME_IN_TASK = ("key", "data", "image", "label", "scale", "seed", "threads", "settings")
"""Columns that are fields of the task."""
PLACE = ("data", "image", "label", "scale", "degradation", "noise", "seed", "kernel_seed")
PARTS = ("method", "preset", "restorer")
SIZES = ("hr_height", "hr_width", "threads")
COLUMNS = ("key", "status", *PLACE, *PARTS, *SCORES, *SIZES, *WORDS, "settings", "task")

_TYPES = dict.fromkeys(("scale", "seed", "kernel_seed", "parameters", "steps", *SIZES), "INTEGER")
_TYPES |= dict.fromkeys([n for n in (*SCORES, "noise") if n not in _TYPES], "REAL")


class Store:
    """The database. Only the process that runs the bench writes it.

    Raises UserError if the file cannot be opened or belongs to something else.

    Parameters
    ----------
    path : Path
        The file; created if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._prepare()
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{path}: cannot be used as the database of results ({error}); choose another --out"
            ) from error

    def _prepare(self) -> None:
        db = self.connection
        (mark,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if tables and mark != APPLICATION:
            raise UserError(f"{self.path}: is a database, but not of blindsr bench; choose another --out")
        if tables and version != VERSION:
            raise UserError(f"{self.path}: has layout {version}, this version writes {VERSION}; choose another --out")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        columns = ", ".join(f"{name} {_TYPES.get(name, 'TEXT')}" for name in COLUMNS if name not in ("key", "status"))
        db.execute("BEGIN IMMEDIATE")
        db.execute(
            "CREATE TABLE IF NOT EXISTS runs (key TEXT PRIMARY KEY NOT NULL, "
            f"status TEXT NOT NULL CHECK (status IN ('done', 'failed')), {columns})"
        )
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def status(self) -> dict[str, str]:
        """Return "done" or "failed" by key."""
        return dict(self.connection.execute("SELECT key, status FROM runs"))

    def add(self, task: Task, outcome: dict[str, Any]) -> bool:
        """Write the outcome of a run, unless a finished one is there already; return whether it was written."""
        values = _columns(task, outcome)
        names = ", ".join(COLUMNS)
        updates = ", ".join(f"{n} = excluded.{n}" for n in COLUMNS if n != "key")
        done = self.connection.execute(
            f"INSERT INTO runs ({names}) VALUES ({', '.join('?' * len(COLUMNS))}) "
            f"ON CONFLICT (key) DO UPDATE SET {updates} WHERE runs.status = 'failed'",
            [values[name] for name in COLUMNS],
        )
        return done.rowcount > 0

    def records(self, keys: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Return the runs of these keys (default: all) as dicts of columns, `settings` and `versions` decoded."""
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(f"SELECT {', '.join(COLUMNS)} FROM runs ORDER BY rowid")
            rows = [dict(zip(COLUMNS, row, strict=True)) for row in cursor]
        wanted = None if keys is None else set(keys)
        rows = [row for row in rows if wanted is None or row["key"] in wanted]
        for row in rows:
            for name in ("settings", "versions", "task"):
                row[name] = json.loads(row[name]) if row[name] else None
        return rows


def _columns(task: Task, outcome: dict[str, Any]) -> dict[str, Any]:
    """Return the values of all columns for a run."""
    values: dict[str, Any] = dict.fromkeys(COLUMNS)
    values |= {n: v for n, v in outcome.items() if n in values}
    values |= {name: getattr(task, name) for name in SAME_IN_TASK}
    values |= {
        "degradation": task.group[2],
        "noise": task.degrading["noise"] if task.degrading else None,
        "seed": task.seed,
        "kernel_seed": task.kernel_seed if task.degrading else None,
        "method": task.row["method"],
        "preset": task.settings["preset"],
        "restorer": task.settings["restorer"],
        "task": task.plain(),
    }
    plain = {n: json.dumps(v, sort_keys=True) if isinstance(v, dict) else v for n, v in values.items()}
    return {n: None if isinstance(v, float) and math.isnan(v) else v for n, v in plain.items()}
