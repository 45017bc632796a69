"""Statistics of a bench: means over pictures, spread over seeds, and paired differences from the first row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

import numpy as np

from blindsr.bench.store import SCORES
from blindsr.bench.task import Task

CONFIDENCE = 0.95
RESAMPLES = 9999

Group = tuple[str, int, str]
"""Data set, scale, degradation."""


@dataclass(frozen=True)
class Score:
    """One score of one row in one group."""

    mean: float
    """Mean over seeds of the mean over pictures."""
    sd: float | None
    """Standard deviation over seeds of the mean over pictures; None with one seed."""
    n: int
    """Runs that have the score."""
    difference: float | None = None
    """Mean over pictures of (this row minus the first row), each picture's difference being the mean over the seeds
    that both have; None for the first row, or without a picture that both have."""
    low: float | None = None
    high: float | None = None
    """95 % bootstrap interval of the difference, over pictures; None with fewer than two pictures."""


@dataclass(frozen=True)
class Line:
    """One row of the bench in one group: its scores by name, and how many of its runs are done, failed and planned."""

    group: Group
    label: str
    scores: dict[str, Score]
    done: int
    failed: int
    planned: int
    pairs: dict[str, list[float]] = field(default_factory=dict)
    """Each score's differences from the first row, by picture."""


Values = dict[tuple[str, int], float]
"""Score by (picture, seed)."""


def _mean_and_sd(values: Values) -> tuple[float, float | None]:
    seeds = sorted({seed for _, seed in values})
    means = [fmean(v for (_, s), v in values.items() if s == seed) for seed in seeds]
    spread = stdev(means) if len(means) > 1 and all(map(math.isfinite, means)) else None
    return fmean(means), spread


def paired_differences(values: Values, first: Values) -> list[float]:
    """Return for each picture the mean over common seeds of (values - first), pictures sorted by name."""
    common = values.keys() & first.keys()
    pictures = sorted({picture for picture, _ in common})
    return [fmean(values[key] - first[key] for key in sorted(common) if key[0] == picture) for picture in pictures]


def bootstrap_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the mean of at least two paired differences (scipy, seed 0)."""
    from scipy.stats import bootstrap

    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2 or not np.isfinite(d).all():
        return None
    done = bootstrap((d,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile", rng=0)
    return float(done.confidence_interval.low), float(done.confidence_interval.high)


def _score(values: Values, first: Values | None) -> tuple[Score, list[float]]:
    mean, sd = _mean_and_sd(values)
    pairs = [] if first is None else paired_differences(values, first)
    if not pairs:
        return Score(mean, sd, len(values)), []
    interval = bootstrap_interval(pairs)
    low, high = interval if interval is not None else (None, None)
    return Score(mean, sd, len(values), fmean(pairs), low, high), pairs


def summarise(tasks: Sequence[Task], records: Sequence[dict[str, Any]]) -> list[Line]:
    """Return a line for each group and row, in the order of the bench.

    Parameters
    ----------
    tasks : sequence of Task
        The whole bench.
    records : sequence of dict
        Its records in the database, by `Store.records`.
    """
    by_key = {record["key"]: record for record in records}
    planned: dict[Group, dict[str, list[Task]]] = {}
    for task in tasks:
        planned.setdefault(task.group, {}).setdefault(task.label, []).append(task)
    lines = []
    for group, rows in planned.items():
        first: dict[str, Values] | None = None
        for label, members in rows.items():
            there = [(t, by_key[t.key]) for t in members if t.key in by_key]
            done = [(t, r) for t, r in there if r["status"] == "done"]
            values: dict[str, Values] = {}
            for task, record in done:
                for name in SCORES:
                    if record[name] is not None:
                        values.setdefault(name, {})[task.image, task.seed] = float(record[name])
            found = {name: _score(v, None if first is None else first.get(name)) for name, v in values.items()}
            scores = {name: score for name, (score, _) in found.items()}
            pairs = {name: pairs for name, (_, pairs) in found.items()}
            lines.append(Line(group, label, scores, len(done), len(there) - len(done), len(members), pairs))
            if first is None:
                first = values
    return lines
