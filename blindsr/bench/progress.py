"""How far a bench is, and how long it will take: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from types import TracebackType
from typing import Any, TextIO

from blindsr.bench.task import Task


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    if not math.isfinite(seconds):
        return "?"
    whole = int(seconds)
    tail = f"{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 3600}:{tail}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02d}"


@dataclass
class Remaining:
    """Time left, from the time that runs of the same row and scale have taken.

    Parameters
    ----------
    tasks : sequence of Task
        The runs to be made.
    at_once : int
        How many go on at the same time.
    """

    tasks: Sequence[Task]
    at_once: int = 1
    took: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    left: dict[tuple[str, int], int] = field(init=False)

    def __post_init__(self) -> None:
        self.left = defaultdict(int)
        for task in self.tasks:
            self.left[task.label, task.scale] += 1

    def done(self, task: Task, seconds: float) -> None:
        """Take note of a run that has ended."""
        self.took[task.label, task.scale].append(seconds)
        self.left[task.label, task.scale] -= 1

    def seconds(self) -> float:
        """Return the time left; a kind of run that was not made yet counts as the mean of the others."""
        if not self.took:
            return math.inf
        means = {kind: fmean(values) for kind, values in self.took.items()}
        usual = fmean(means.values())
        return sum(n * means.get(kind, usual) for kind, n in self.left.items()) / max(self.at_once, 1)


def result_words(outcome: dict[str, Any]) -> str:
    """The result of a run in a few words."""
    if outcome["status"] == "failed":
        return f"failed: {outcome['error']}"
    units = (("psnr", "{:.2f} dB"), ("kernel_psnr", "kernel {:.1f} dB"), ("oracle_gap", "gap {:.2f} dB"))
    parts = [form.format(outcome[name]) for name, form in units if outcome.get(name) is not None]
    if not parts and outcome.get("lr_psnr") is not None:
        parts = [f"LR {outcome['lr_psnr']:.2f} dB", f"blur {outcome['blur']:.3f}"]
    return ", ".join([*parts, f"{outcome['seconds']:.1f} s"])


class Lines:
    """A line for each run that has ended.

    Parameters
    ----------
    tasks : sequence of Task
        The runs to be made.
    at_once : int
        How many go on at the same time.
    stream : file
        Where lines go; default standard error.
    """

    def __init__(self, tasks: Sequence[Task], at_once: int = 1, stream: TextIO | None = None) -> None:
        self.remaining, self.total, self.ended = Remaining(tasks, at_once), len(tasks), 0
        self.stream = stream or sys.stderr
        self.began = time.monotonic()

    def __enter__(self) -> Lines:
        """Start."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End."""

    def update(self, task: Task, outcome: dict[str, Any], seconds: float) -> None:
        """Show a run that has ended after so many seconds."""
        self.ended += 1
        self.remaining.done(task, seconds)
        self.show(f"{self.ended}/{self.total}  {task.words}: {result_words(outcome)}")

    def show(self, line: str) -> None:
        """Print a line with the time left."""
        print(f"{line}  left {clock(self.remaining.seconds())}", file=self.stream, flush=True)


class Bar(Lines):
    """The lines scroll above a live bar (rich)."""

    def __init__(self, tasks: Sequence[Task], at_once: int = 1) -> None:
        super().__init__(tasks, at_once)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.bar = Progress(
            TextColumn("bench"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}", markup=False),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task("bench", total=self.total, left="?")

    def __enter__(self) -> Bar:
        """Start the display."""
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop the display."""
        self.bar.stop()

    def show(self, line: str) -> None:
        """Print a line above the bar, and move it."""
        self.bar.console.print(line, markup=False, highlight=False)
        self.bar.update(self.task, completed=self.ended, left=clock(self.remaining.seconds()))


def for_terminal(tasks: Sequence[Task], at_once: int) -> Lines:
    """Return a bar if standard error is a terminal, else plain lines."""
    return Bar(tasks, at_once) if sys.stderr.isatty() else Lines(tasks, at_once)
