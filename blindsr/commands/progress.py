"""What a run shows while it is in progress: a live bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import Any, Self

from blindsr.estimators.base import Metrics


class Progress:
    """Shows one run, as a context manager; this one shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop."""

    def update(self, metrics: Metrics, seconds_left: float) -> None:
        """Show a step."""


def describe(metrics: Metrics) -> str:
    """Return a line on a step: data misfit and noise level in grey levels of 255, kernel width in HR pixels.

    An estimator without an image of its own has no misfit; its loss is shown instead.
    """
    misfit = 255 * metrics.mse**0.5
    if math.isnan(misfit):
        return f"loss {metrics.loss:6.3f}  kernel {metrics.kernel_width:.2f} px"
    return f"misfit {misfit:5.2f}  noise {255 * metrics.noise_std:5.2f}  kernel {metrics.kernel_width:.2f} px"


def clock(seconds: float) -> str:
    """Return seconds as minutes and seconds, with hours where there are any; "?" for an unknown time."""
    if not math.isfinite(seconds):
        return "?"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class Lines(Progress):
    """Plain lines on standard error, at most one every few seconds, for logs and pipes."""

    every = 5.0
    """Seconds between two lines, at least."""

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps, self.last = name, steps, float("-inf")

    def update(self, metrics: Metrics, seconds_left: float) -> None:
        """Print a line if it is time for one."""
        now = time.monotonic()
        if now - self.last >= self.every or metrics.step == self.steps:
            self.last = now
            line = f"{self.name}: step {metrics.step}/{self.steps}  {describe(metrics)}  left {clock(seconds_left)}"
            print(line, file=sys.stderr, flush=True)


def live_bar(note: str, *, width: int | None = None, elapsed: bool = False) -> Any:
    """Return a bar of rich on standard error: name, bar, count, and the field `note` of the task."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=width or 40),
        MofNCompleteColumn(),
        *([TimeElapsedColumn()] if elapsed else []),
        TextColumn(note, markup=False),
        console=Console(stderr=True),
    )


class Bar(Progress):
    """A live bar."""

    def __init__(self, name: str, steps: int) -> None:
        self.bar = live_bar("{task.fields[note]}", width=10)
        self.task = self.bar.add_task(name, total=steps, note="starting")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.bar.stop()

    def update(self, metrics: Metrics, seconds_left: float) -> None:
        """Move the bar."""
        note = f"{describe(metrics)}  left {clock(seconds_left)}"
        self.bar.update(self.task, completed=metrics.step, note=note)


def for_terminal(name: str, steps: int) -> Progress:
    """Return a bar if standard error is a terminal, else plain lines."""
    return Bar(name, steps) if sys.stderr.isatty() else Lines(name, steps)
