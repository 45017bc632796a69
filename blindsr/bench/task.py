"""One run of a bench as plain values: what it is decided by, and the key that follows from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blindsr.bench.dataset import DataSet
from blindsr.bench.degrading import Degrading
from blindsr.bench.row import Row
from blindsr.commands.settings import RunSettings
from blindsr.device import choose_device
from blindsr.errors import UserError
from blindsr.methods.words import restorer_part
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.restorers.base import Restorer


@dataclass(frozen=True)
class Oracle:
    """The restorer by which the oracle gap is measured, the same for every row.

    Attributes
    ----------
    restorer : str
        A restorer of `blindsr run`; "none" leaves the gap out.
    weights : str or None
        State dict of `usrnet`.
    """

    restorer: str = "map"
    weights: str | None = None

    def made(self) -> Restorer | None:
        """Return the restorer.

        Raises
        ------
        UserError
            If there is none of that name or its file cannot be used.
        """
        restorer: Restorer | None = restorer_part(self.restorer, Path(self.weights) if self.weights else None).value
        return restorer


@dataclass(frozen=True)
class Task:
    """One run. Everything is plain, so that it can go to another process or machine as JSON.

    Attributes
    ----------
    key : str
        Hash of all that decides the result: two runs of the same key are the same run.
    data, image, label : str
        Names in tables; only `image` is part of the key.
    path : str
        The picture; `image_sha256` is its file's hash.
    crop : int or None
        Side of the central crop.
    truth : bool
        Whether the picture is an HR image to be degraded.
    degrading : dict or None
        A `Degrading`, or None for a photo.
    row : dict
        A `Row`.
    settings : dict
        `RunSettings.record`, steps and time limit.
    """

    key: str
    data: str
    image: str
    label: str
    path: str
    image_sha256: str
    crop: int | None
    truth: bool
    scale: int
    degrading: dict[str, Any] | None
    kernel_seed: int
    row: dict[str, Any]
    seed: int
    oracle: dict[str, Any]
    device: str
    threads: int
    settings: dict[str, Any]

    @classmethod
    def make(
        cls,
        data: DataSet,
        path: Path,
        row: Row,
        *,
        scale: int,
        degrading: Degrading | None,
        kernel_seed: int,
        seed: int,
        oracle: Oracle,
        device: str,
        threads: int,
        settings: dict[str, Any],
        image_sha256: str,
    ) -> Task:
        """Make the run of one row on one picture; `settings` is what `run_settings` says of it."""
        settings = settings | {"seed": seed}
        made = degrading.plain() if degrading else None
        decides = {
            "image": path.stem,
            "image_sha256": image_sha256,
            "crop": data.crop,
            "degrading": made and {n: v for n, v in made.items() if n not in ("name", "kernel")},
            "kernel": degrading and (_hash(degrading.kernel) if degrading.is_file else degrading.kernel),
            "kernel_seed": kernel_seed if degrading else None,
            "oracle": [oracle.restorer, oracle.weights and _hash(oracle.weights)],
            "threads": threads,
            "settings": settings,
        }
        text = json.dumps(decides, sort_keys=True)
        return cls(
            key=hashlib.sha256(text.encode()).hexdigest()[:32],
            data=data.name,
            image=path.stem,
            label=row.label,
            path=str(path.resolve()),
            image_sha256=image_sha256,
            crop=data.crop,
            truth=data.truth,
            scale=scale,
            degrading=made,
            kernel_seed=kernel_seed,
            row=row.plain(),
            seed=seed,
            oracle=asdict(oracle),
            device=device,
            threads=threads,
            settings=settings,
        )

    def plain(self) -> dict[str, Any]:
        """Return the task as plain values, from which `Task(**plain)` makes it again."""
        return asdict(self)

    @property
    def group(self) -> tuple[str, int, str]:
        """What is compared with each other: data set, scale, degradation."""
        return self.data, self.scale, self.degrading["name"] if self.degrading else "photo"

    @property
    def words(self) -> str:
        """The run in a few words."""
        return f"{self.data} {self.image} x{self.scale} {self.group[2]} seed {self.seed} {self.label}"


def operator(scale: int, degrading: Degrading | None) -> Degradation:
    """Return the forward operator: of the protocol, or for photos of the usual grid with nothing beyond the border."""
    return degrading.operator(scale) if degrading else Degradation(scale, 0, Alignment.CENTERED, Padding.VALID)


def settings_of(row: Row, scale: int, degrading: Degrading | None, seed: int, device: str) -> RunSettings:
    """Return what `blindsr run` would be told to do for a row.

    Raises
    ------
    UserError
        If a part or file cannot be used; the message names the row.
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


def run_settings(row: Row, scale: int, degrading: Degrading | None, device: str) -> dict[str, Any]:
    """Return the plain settings of a row with seed 0 (a bench asks once for all of a row's pictures and seeds)."""
    return plain_settings(settings_of(row, scale, degrading, 0, device))


def _hash(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
