"""Small pictures, parts and calls for the tests of the bench."""

from pathlib import Path
from typing import Any

import numpy as np
from helpers import call
from PIL import Image

from blindsr.bench.spec import Options, from_options
from blindsr.bench.store import Store
from blindsr.bench.task import Task

CHEAP = """
import torch

def restore(y, kernel, degradation, noise_std):
    return torch.nn.functional.interpolate(y, scale_factor=degradation.scale, mode="nearest")
"""


def pictures(folder: Path, names: tuple[str, ...] = ("a", "b"), side: int = 36) -> Path:
    """Write small soft pictures with an edge, each another."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, cols = np.mgrid[0:side, 0:side]
    for i, name in enumerate(names):
        waves = 90 + 50 * np.sin(rows / (3 + i)) * np.cos(cols / (4 + 0.5 * i))
        waves += 60 * (cols + rows > side + 3 * i)
        picture = np.stack([waves, waves[::-1], waves.T], -1).round().astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


QUICK = "double-dip:fast+bicubic"
"""With `--steps 1` a run of a tenth of a second that estimates a kernel."""


def tasks_of(folder: Path, **more: Any) -> list[Task]:
    """Plan a bench of options on a folder of pictures."""
    given = {"methods": ("fast-map+bicubic",), "scales": (2,), "oracle": "none"} | more
    return from_options(Options(data=(folder,), **given)).tasks()


def bench(folder: Path, out: Path, *words: object, methods: str = QUICK) -> Any:
    """Call `blindsr bench` on a folder of small pictures at scale 2, one step a run."""
    common = ("--data", folder, "--methods", methods, "--scales", 2, "--steps", 1, "--out", out)
    return call("bench", *common, *words)


def results(out: Path) -> list[dict[str, Any]]:
    """Read the file of results."""
    with Store(out / "bench.sqlite") as store:
        return store.records()
