"""A posterior in numbers: for each parameter mean, spread, interval, effective sample sizes, R-hat, standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blindsr.diagnostics import arviz_io
from blindsr.diagnostics.moments import NAMES

Array = NDArray[Any]

INTERVAL = (0.05, 0.95)
"""Equal-tailed 90 % interval."""
FIXED = 1e-10
"""A quantity that varies less than this, relative to its size, is taken for a constant and has no R-hat."""


@dataclass(frozen=True)
class Row:
    """One parameter."""

    name: str
    """Its name as printed."""
    mean: float
    sd: float
    low: float
    high: float
    """Mean, standard deviation, 5 % and 95 % quantile (equal-tailed)."""
    ess_bulk: float
    ess_tail: float
    rhat: float
    mcse: float
    """Effective sample sizes, R-hat, Monte Carlo standard error of the mean; NaN for a constant."""
    nuisance: bool = False
    """Whether it does not belong to the kernel."""

    @property
    def fixed(self) -> bool:
        """Whether the draws do not vary."""
        return self.finite and not varies(self.sd, self.mean)

    @property
    def finite(self) -> bool:
        """Whether every draw is finite."""
        return math.isfinite(self.sd)

    @property
    def ess(self) -> float:
        """The smaller of both effective sample sizes."""
        return min(self.ess_bulk, self.ess_tail)


def varies(sd: float, mean: float) -> bool:
    """Return whether draws of this spread around this mean are more than a constant with rounding errors."""
    return sd > FIXED * (1 + abs(mean))


def _row(name: str, draws: Array, nuisance: bool) -> Row:
    """Row of draws (chains, draws)."""
    with np.errstate(invalid="ignore"):
        sd = float(draws.std())
    low, high = np.quantile(draws, INTERVAL)
    base = (name, float(draws.mean()), sd, float(low), float(high))
    if not varies(sd, base[1]):
        return Row(*base, math.nan, math.nan, math.nan, math.nan, nuisance)
    a = np.asarray(draws, dtype=np.float64)
    return Row(*base, arviz_io.ess_bulk(a), arviz_io.ess_tail(a), arviz_io.rhat(a), arviz_io.mcse_mean(a), nuisance)


def columns(data: Any, group: str = "posterior") -> dict[str, tuple[Array, bool]]:
    """Return every scalar of a group by name: its draws (chains, draws), and whether it is a nuisance parameter."""
    dataset = arviz_io.group(data, group)
    found: dict[str, tuple[Array, bool]] = {}
    if dataset is None:
        return found
    for name, variable in dataset.data_vars.items():
        if not {"chain", "draw"} <= set(variable.dims) or variable.dtype.kind not in "biuf":
            continue
        ordered = variable.transpose("chain", "draw", ...)
        values, word = ordered.values, str(name)
        rest = ordered.dims[2:]
        if not rest:
            found[word] = (values, False)
            continue
        labels = [np.asarray(ordered[d].values).astype(str) for d in rest]
        for index in np.ndindex(*values.shape[2:]):
            label = ", ".join(axis[i] for axis, i in zip(labels, index, strict=True))
            own = rest == ("parameter",)
            found[label if own else f"{word}[{label}]"] = (values[(..., *index)], word == "nuisance")
    return found


def table(data: Any) -> list[Row]:
    """Return a row for every parameter of the posterior, those of the kernel first."""
    rows = [_row(name, draws, nuisance) for name, (draws, nuisance) in columns(data).items()]
    return [r for r in rows if not r.nuisance] + [r for r in rows if r.nuisance]


HEAD = ("parameter", "mean", "sd", "5 %", "95 %", "ESS bulk", "ESS tail", "R-hat", "MCSE")


def _number(value: float, spread: float) -> str:
    """A number with as many digits as its spread justifies."""
    if not math.isfinite(value):
        return "-"
    digits = min(max(2 - math.floor(math.log10(spread)), 0), 8) if spread > 0 and math.isfinite(spread) else 3
    return f"{value:.{digits}f}"


def _cells(row: Row) -> tuple[str, ...]:
    values = [_number(v, row.sd) for v in (row.mean, row.sd, row.low, row.high)]
    sizes = ["-" if not math.isfinite(v) else f"{v:.0f}" for v in (row.ess_bulk, row.ess_tail)]
    rhat = "-" if not math.isfinite(row.rhat) else f"{row.rhat:.3f}"
    return (row.name, *values, *sizes, rhat, _number(row.mcse, row.mcse))


MANY = 8
"""Largest number of nuisance parameters, or of kernel coordinates, that are printed one by one; more are one line."""


def aligned(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """Return the lines of a table whose first row is its head; with `numbers`, only the first column is words."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = (c.rjust(w) if numbers and i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return "  ".join(cells).rstrip()

    return [line(rows[0]), "  ".join("-" * w for w in widths), *map(line, rows[1:])]


def as_text(rows: list[Row], *, everything: bool = False) -> list[str]:
    """Return the table as aligned lines.

    Unless `everything` is true, nuisance parameters become one line where they are many, and so do the coordinates of a
    kernel beside its moments.
    """
    has_moments = {*NAMES} <= {r.name for r in rows}
    groups = {
        "kernel coordinates": [r for r in rows if has_moments and not r.nuisance and r.name not in NAMES],
        "nuisance parameters": [r for r in rows if r.nuisance],
    }
    folded = {} if everything else {name: group for name, group in groups.items() if len(group) > MANY}
    hidden = {r.name for group in folded.values() for r in group}
    lines = aligned([HEAD, *(_cells(r) for r in rows if r.name not in hidden)], numbers=True)
    for name, group in folded.items():
        worst = max(group, key=lambda r: r.rhat if math.isfinite(r.rhat) else -1)
        least = min(group, key=lambda r: r.ess if math.isfinite(r.ess) else math.inf)
        lines.append(
            f"{len(group)} {name}: worst R-hat {worst.rhat:.3f} ({worst.name}), "
            f"smallest ESS {least.ess:.0f} ({least.name}); --all lists them"
        )
    return lines
