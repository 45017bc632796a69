"""One run of a bench as plain values: everything that decides its result, and the key that follows from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from blindsr.bench.degrading import Degrading
from blindsr.bench.row import Row
from blindsr.commands.settings import RunSettings
from blindsr.errors import UserError
from blindsr.io.files import file_hash
from blindsr.methods.words import restorer_part
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.restorers.base import Restorer
from blindsr.results.device import choose_device


@dataclass(frozen=True)
class Task:
    """One run. All values are plain, so that it can go to another process or machine as JSON."""

    key: str
    """Hash of all that decides the result: two runs of the same key are the same run."""
    data: str
    image: str
    label: str
    """Names in tables; only `image` is part of the key."""
    path: str
    image_sha256: str
    """The picture, and the hash of its file."""
    crop: int | None
    """Side of the central crop."""
    truth: bool
    """Whether the picture is an HR image to be degraded."""
    scale: int
    degrading: dict[str, Any] | None
    """Fields of a `Degrading`; None for a photo."""
    kernel_seed: int
    row: dict[str, Any]
    """Fields of a `Row`."""
    seed: int
    oracle: dict[str, Any]
    """`restorer` and `weights` of the restorer that the oracle gap is measured with."""
    device: str
    threads: int
    settings: dict[str, Any]
    """All that decides the result of the run itself, by `plain_settings`."""

    def with_key(self) -> Task:
        """Return the task with its key."""
        d = self.how_degraded
        decisive = {
            "image": self.image,
            "image_sha256": self.image_sha256,
            "crop": self.crop,
            "degrading": self.degrading
            and {
                name: v
                for name, v in self.degrading.items()
                if name not in ("name", "kernel") and (name, v) != ("kernel_size", 0)  # not in the keys of older runs
            },
            "kernel": d and d.content(file_hash),
            "kernel_seed": self.kernel_seed if d else None,
            "oracle": [self.oracle["restorer"], self.oracle["weights"] and file_hash(self.oracle["weights"])],
            "threads": self.threads,
            "settings": self.settings,
        }
        text = json.dumps(decisive, sort_keys=True)
        return replace(self, key=hashlib.sha256(text.encode()).hexdigest()[:32])

    def plain(self) -> dict[str, Any]:
        """Return the task as plain values, from which `Task(**plain)` makes it again."""
        return asdict(self)

    @property
    def how_degraded(self) -> Degrading | None:
        """How the LR image is made; None for a photo."""
        return None if self.degrading is None else Degrading.made(self.degrading)

    @property
    def operator(self) -> Degradation:
        """The forward operator."""
        return operator(self.scale, self.how_degraded)

    @property
    def group(self) -> tuple[str, int, str]:
        """Data set, scale and degradation: runs that share them are compared with each other."""
        return self.data, self.scale, self.degrading["name"] if self.degrading else "photo"

    @property
    def description(self) -> str:
        """The run in a few words."""
        return f"{self.data} {self.image} x{self.scale} {self.group[2]} seed {self.seed} {self.label}"

    def run_settings(self) -> RunSettings:
        """Return the settings of `blindsr run` for this task; raises as `settings_of`."""
        return settings_of(Row(**self.row), self.scale, self.how_degraded, self.seed, self.device)


def operator(scale: int, degrading: Degrading | None) -> Degradation:
    """Return the forward operator: the protocol's, or for photos the usual grid with nothing beyond the border."""
    return degrading.operator(scale) if degrading else Degradation(scale, 0, Alignment.CENTERED, Padding.VALID)


def oracle_restorer(restorer: str, weights: str | None) -> Restorer | None:
    """Return the restorer that the oracle gap is measured with, the same for every row; None for "none".

    Raises UserError if there is none of that name, or its file cannot be used.
    """
    found: Restorer | None = restorer_part(restorer, Path(weights) if weights else None).value
    return found


def settings_of(row: Row, scale: int, degrading: Degrading | None, seed: int, device: str) -> RunSettings:
    """Return the settings of `blindsr run` for a row.

    Raises UserError if a part or file cannot be used; the message names the row.
    """
    choose_device(device)
    try:
        return row.settings(operator(scale, degrading), seed, device)
    except UserError as error:
        raise UserError(f"row {row.label}: {error}") from error


def plain_settings(settings: RunSettings) -> dict[str, Any]:
    """Return all that decides a run's result, as plain values."""
    more = {"steps": settings.steps, "time_limit": settings.time_limit, "device": str(choose_device(settings.device))}
    return settings.record() | more
