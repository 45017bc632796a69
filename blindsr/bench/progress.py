"""How far a bench is, and how long it will take: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from blindsr.bench.task import Task
from blindsr.commands.progress import clock, live_bar


@dataclass
class Remaining:
    """Time left, from the time that runs of the same row and scale have taken."""

    tasks: Sequence[Task]
    at_once: int = 1
    """How many runs are made at the same time."""
    took: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.left = Counter((task.label, task.scale) for task in self.tasks)

    def done(self, task: Task, seconds: float) -> None:
        """Record a run that has ended."""
        self.took[task.label, task.scale].append(seconds)
        self.left[task.label, task.scale] -= 1

    def seconds(self) -> float:
        """Return the time left; runs of a kind that has not been made yet are expected to take the mean of the others.

        Infinite before the first run has ended.
        """
        if not self.took:
            return math.inf
        means = {kind: fmean(values) for kind, values in self.took.items()}
        usual = fmean(means.values())
        return sum(n * means.get(kind, usual) for kind, n in self.left.items()) / max(self.at_once, 1)


def describe(outcome: dict[str, Any]) -> str:
    """Return the result of a run in a few words."""
    if outcome["status"] == "failed":
        return f"failed: {outcome['error']}"
    units = (("psnr", "{:.2f} dB"), ("kernel_psnr", "kernel {:.1f} dB"), ("oracle_gap", "gap {:.2f} dB"))
    parts = [form.format(outcome[name]) for name, form in units if outcome.get(name) is not None]
    if not parts and outcome.get("lr_psnr") is not None:
        parts = [f"LR {outcome['lr_psnr']:.2f} dB", f"blur {outcome['blur']:.3f}"]
    return ", ".join([*parts, f"{outcome['seconds']:.1f} s"])


class Lines:
    """A line on standard error for each run that has ended, above a live bar on a terminal; a context manager."""

    def __init__(self, tasks: Sequence[Task], at_once: int = 1) -> None:
        self.remaining, self.total, self.ended = Remaining(tasks, at_once), len(tasks), 0
        self.bar = live_bar("left {task.fields[left]}", elapsed=True) if sys.stderr.isatty() else None
        self.task = self.bar and self.bar.add_task("bench", total=self.total, left="?")
        self.display: AbstractContextManager[Any] = self.bar or nullcontext()

    def __enter__(self) -> Lines:
        self.display.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.display.__exit__(*error)

    def update(self, task: Task, outcome: dict[str, Any], seconds: float) -> None:
        """Show a run that has ended after this many seconds, and the time left."""
        self.ended += 1
        self.remaining.done(task, seconds)
        left = clock(self.remaining.seconds())
        line = f"{self.ended}/{self.total}  {task.description}: {describe(outcome)}"
        if self.bar is None:
            print(f"{line}  left {left}", file=sys.stderr, flush=True)
        else:
            self.bar.console.print(line, markup=False, highlight=False)
            self.bar.update(self.task, completed=self.ended, left=left)
