"""A bench's summary as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blindsr.bench.store import SCORES
from blindsr.bench.summary import Line, Score

FORMATS = ("md", "csv", "latex")


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, the score that it shows, and the number of digits."""

    heading: str
    score: str
    digits: int


COLUMNS = (
    Column("PSNR", "psnr", 2),
    Column("SSIM", "ssim", 4),
    Column("kernel PSNR", "kernel_psnr", 1),
    Column("oracle gap", "oracle_gap", 2),
    Column("LR PSNR", "lr_psnr", 1),
    Column("blur", "blur", 3),
    Column("seconds", "seconds", 1),
    Column("MiB", "peak_memory_mib", 0),
    Column("parameters", "parameters", 0),
)
NO_SPREAD = ("seconds", "peak_memory_mib", "parameters")
MAIN = ("psnr", "lr_psnr")
"""Scores whose difference from the first row is shown: the first of these that the bench has."""


def number(value: float | None, digits: int) -> str:
    """Return a number as text, or a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def cell(score: Score | None, column: Column) -> str:
    """Return the mean as text, with the spread over seeds if it is known."""
    if score is None:
        return "–"
    if column.score == "parameters":
        return f"{score.mean:,.0f}".replace(",", " ")
    spread = f" ± {score.sd:.{column.digits}f}" if score.sd is not None and column.score not in NO_SPREAD else ""
    return number(score.mean, column.digits) + spread


def difference(score: Score | None, digits: int = 2) -> str:
    """Return the difference from the first row as text, with its interval."""
    if score is None or score.difference is None:
        return "–"
    interval = "" if score.low is None else f" [{score.low:+.{digits}f}, {score.high:+.{digits}f}]"
    return f"{score.difference:+.{digits}f}{interval}"


def main_score(lines: Sequence[Line]) -> str | None:
    """Return the score whose differences are shown."""
    return next((name for name in MAIN if any(name in line.scores for line in lines)), None)


def table(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells, without columns that no run has."""
    columns = [c for c in COLUMNS if any(c.score in line.scores for line in lines)]
    main = main_score(lines)
    heads = ["data", "scale", "degradation", "method", "runs", *(c.heading for c in columns)]
    heads += [f"{'PSNR' if main == 'psnr' else 'LR PSNR'} minus the first's, 95 %"] if main else []
    rows = []
    for line in lines:
        data, scale, degradation = line.group
        runs = str(line.done) if line.done == line.planned else f"{line.done} of {line.planned}"
        runs += f" ({line.failed} failed)" if line.failed else ""
        row = [data, f"x{scale}", degradation, line.label, runs]
        row += [cell(line.scores.get(c.score), c) for c in columns]
        rows.append(row + ([difference(line.scores.get(main))] if main else []))
    return heads, rows


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    text = [[c.replace("|", "\\|") for c in row] for row in (heads, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in text]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]]) + "\n"


_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"}
_SPECIAL |= {"±": r"$\pm$", "–": "--"}


def latex(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a LaTeX tabular with text to the left and numbers to the right; it needs no package."""
    kinds = "".join("l" if h in ("data", "degradation", "method") else "r" for h in heads)
    text = [" & ".join("".join(_SPECIAL.get(c, c) for c in v) for v in row) + r" \\" for row in (heads, *rows)]
    body = [r"\hline", text[0], r"\hline", *text[1:], r"\hline"]
    return "\n".join([f"\\begin{{tabular}}{{{kinds}}}", *body, r"\end{tabular}"]) + "\n"


def long_csv(lines: Sequence[Line]) -> str:
    """Return CSV with one line for each score of each row, at full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = ("data", "scale", "degradation", "method", "runs", "failed", "planned")
    writer.writerow([*heads, "score", "what", "n", "mean", "sd", "difference", "low", "high"])
    for line in lines:
        place = [*line.group, line.label, line.done, line.failed, line.planned]
        for name, s in line.scores.items():
            numbers = [s.mean, s.sd, s.difference, s.low, s.high]
            writer.writerow([*place, name, SCORES[name], s.n, *("" if v is None else repr(v) for v in numbers)])
    return out.getvalue()


NOTE = (
    "Means over pictures and seeds, ± the standard deviation over seeds of the mean over pictures. PSNR and SSIM on Y, "
    "border s². Kernel PSNR: peak 1. Oracle gap: PSNR of one restorer with the true kernel minus that with the "
    "estimated one. LR PSNR: the degraded estimate against the LR image. Blur: without a reference, 0 is sharp; noise "
    "counts as sharpness. Last column: mean difference from the first method over the same pictures and seeds, with a "
    "95 % bootstrap interval over pictures."
)


def document(title: str, lines: Sequence[Line], errors: Sequence[str], provenance: Sequence[str]) -> str:
    """Return summary.md."""
    parts = [f"# {title}", markdown(*table(lines)).rstrip(), NOTE, *provenance]
    if errors:
        parts.append("Failed:\n\n" + "\n".join(f"- {e}" for e in errors))
    return "\n\n".join(parts) + "\n"


RENDER: dict[str, Callable[[Sequence[Line]], str]] = {
    "md": lambda lines: markdown(*table(lines)),
    "csv": long_csv,
    "latex": lambda lines: latex(*table(lines)),
}
"""What writes a summary, by format."""
