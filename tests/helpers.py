"""Small pictures and a short way to call the command line."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from blindsr.cli.root import app


@dataclass
class Clock:
    """A clock, in seconds, that stands still until it is moved; `tick` is added at each look at it."""

    now: float = 0.0
    tick: float = 0.0

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


FAST = ("--scale", "2", "--method", "mlmc", "--preset", "fast")
LIGHT = ("--method", "double-dip")
"""For `run`, where the method does not matter: one that starts without a warm-up."""


def call(*words: object) -> Any:
    """Run `blindsr ...` in this process; an exception that would be a traceback fails the test."""
    result = CliRunner().invoke(app, [str(w) for w in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError("traceback for the user") from result.exception
    return result


def run(image: Path, output: Path, *words: object, steps: int = 3) -> Any:
    """Run a short `blindsr run` on a picture."""
    return call("run", image, *FAST, "--iterations", steps, "--output", output, *words)


def run_script(*arguments: object) -> str:
    """Run a Python script of the repository in a process of its own; return what it prints."""
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return done.stdout


def error_line(result: Any, code: int = 2) -> str:
    """Check that a call failed with one clear line, nothing on standard output, and return the line."""
    assert result.exit_code == code, (result.exit_code, result.stderr)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("blindsr: ") and len(lines[0]) > len("blindsr: ") + 10
    assert "Traceback" not in result.output
    assert result.stdout == ""
    return str(lines[0])


def noise(*shape: int, seed: int = 0, dtype: Any = np.uint8) -> NDArray[Any]:
    """Random whole numbers over the whole range of a type."""
    return np.random.default_rng(seed).integers(0, int(np.iinfo(dtype).max) + 1, shape).astype(dtype)


def smooth(h: int, w: int, channels: int = 3) -> NDArray[np.uint8]:
    """A soft colour picture, different in every corner (for lossy formats and for orientation)."""
    y, x = np.mgrid[0:h, 0:w]
    planes = [40 + 150 * x / w, 20 + 180 * y / h, 128 + 60 * np.sin(x / 5) * np.cos(y / 7)]
    return np.round(np.stack(planes[:channels], -1)).astype(np.uint8)


def save_png(path: Path, h: int = 16, w: int = 18, seed: int = 0) -> Path:
    """Write a small random RGB PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(h, w, 3, seed=seed)).save(path)
    return path


def gaussian_kernel(size: int = 11, width: float = 1.5, center: float | None = None) -> NDArray[np.float64]:
    """A round Gaussian kernel that sums to one."""
    c = (size - 1) / 2 if center is None else center
    axis = np.exp(-0.5 * ((np.arange(size) - c) / width) ** 2)
    k = np.outer(axis, axis)
    return k / k.sum()
