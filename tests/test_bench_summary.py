"""Numbers of the summary against plain numpy, the interval against every resample there is."""

import csv
import io
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_helpers import pictures, tasks_of

from blindsr.bench.figure import draw_bench
from blindsr.bench.report import RENDER, difference, document, latex, markdown
from blindsr.bench.store import SCORES
from blindsr.bench.summary import bootstrap_interval, paired_differences, summarise
from blindsr.bench.task import Task

SEEDS = (0, 1, 2)
METHODS = ("fast-map", "fast-map+bicubic")


@pytest.fixture
def planned(tmp_path: Path) -> tuple[list[Task], list[dict[str, Any]], np.ndarray]:
    """Tasks of 3 pictures x 3 seeds x 2 methods, their records, and the PSNR as (method, picture, seed)."""
    tasks = tasks_of(pictures(tmp_path / "hr", ("a", "b", "c")), seeds=SEEDS, methods=METHODS)
    psnr = np.random.default_rng(4).normal([[[30.0]], [[31.0]]], 2.0, (2, 3, 3))
    records = []
    for task in tasks:
        value = psnr[METHODS.index(task.label), "abc".index(task.image), task.seed]
        empty: dict[str, Any] = dict.fromkeys(SCORES)
        records.append(empty | {"key": task.key, "status": "done", "error": None, "psnr": value, "seconds": 2.0})
    return tasks, records, psnr


def test_means_spread_and_differences(planned: Any) -> None:
    tasks, records, psnr = planned
    first, second = summarise(tasks, records)
    assert (first.label, second.label) == METHODS and first.group == ("hr", 2, "gaussian")
    for line, values in zip((first, second), psnr, strict=True):
        score = line.scores["psnr"]
        assert score.mean == pytest.approx(values.mean())
        assert score.sd == pytest.approx(values.mean(0).std(ddof=1))
        assert score.n == line.done == line.planned == 9 and line.failed == 0
    assert first.scores["psnr"].difference is None
    gaps = (psnr[1] - psnr[0]).mean(1)
    assert second.scores["psnr"].difference == pytest.approx(gaps.mean())
    assert second.pairs["psnr"] == pytest.approx(list(gaps))
    assert "ssim" not in first.scores


def test_interval_is_that_of_all_resamples() -> None:
    d = np.array([0.3, -1.0, 2.2])
    means = np.array([np.mean(pick) for pick in itertools.product(d, repeat=3)])  # all 27, equally likely
    found = bootstrap_interval(d)
    assert found == pytest.approx(np.quantile(means, [0.025, 0.975], method="inverted_cdf"))
    wide = np.random.default_rng(0).normal(1.0, 2.0, 40)
    low, high = bootstrap_interval(wide) or (0, 0)
    half = 1.96 * wide.std() / np.sqrt(40)  # the central limit, for as many
    assert (low, high) == pytest.approx((wide.mean() - half, wide.mean() + half), abs=0.08)
    assert bootstrap_interval([1.0]) is None and bootstrap_interval([1.0, float("inf")]) is None


def test_pairs_use_common_runs_only() -> None:
    first = {("a", 0): 1.0, ("a", 1): 2.0, ("b", 0): 5.0}
    mine = {("a", 0): 2.0, ("a", 1): 5.0, ("b", 1): 7.0, ("c", 0): 9.0}
    assert paired_differences(mine, first) == [2.0]


def test_failed_and_missing_runs_are_counted_not_averaged(planned: Any) -> None:
    tasks, records, psnr = planned
    records = [dict(r) for r in records]
    broken = next(i for i, t in enumerate(tasks) if (t.label, t.image, t.seed) == (METHODS[1], "b", 1))
    records[broken] |= {"status": "failed", "psnr": None, "error": "no luck"}
    absent = next(i for i, t in enumerate(tasks) if (t.label, t.image, t.seed) == (METHODS[1], "c", 2))
    del records[absent]
    _, line = summarise(tasks, records)
    assert (line.done, line.failed, line.planned) == (7, 1, 9)
    m = psnr[1]
    by_seed = [m[:, 0].mean(), (m[0, 1] + m[2, 1]) / 2, (m[0, 2] + m[1, 2]) / 2]
    assert line.scores["psnr"].mean == pytest.approx(np.mean(by_seed))
    d = psnr[1] - psnr[0]
    assert line.scores["psnr"].difference == pytest.approx(np.mean([d[0].mean(), d[1, [0, 2]].mean(), d[2, :2].mean()]))
    assert "7 of 9 (1 failed)" in RENDER["md"]([line])
    text = document("t", [line], ["b: no luck"], ["2026"])
    assert "- b: no luck" in text


def test_one_seed_and_one_picture_claim_no_spread(planned: Any) -> None:
    tasks, records, _ = planned
    some = [t for t in tasks if t.seed == 0 and t.image == "a"]
    _, line = summarise(some, [r for r in records if r["key"] in {t.key for t in some}])
    score = line.scores["psnr"]
    assert score.sd is None and score.low is None and score.difference is not None
    assert difference(score) == f"{score.difference:+.2f}"


def test_csv_holds_the_numbers_in_full(planned: Any) -> None:
    tasks, records, psnr = planned
    lines = summarise(tasks, records)
    rows = list(csv.DictReader(io.StringIO(RENDER["csv"](lines))))
    mine = [r for r in rows if r["score"] == "psnr"]
    assert [float(r["mean"]) for r in mine] == [line.scores["psnr"].mean for line in lines]
    assert mine[0]["difference"] == "" and float(mine[1]["low"]) < float(mine[1]["high"])


def test_tables_keep_their_shape_whatever_is_in_them() -> None:
    heads, rows = ["method", "a_b"], [["x|y & 50 %", "1 ± 2"]]
    text = markdown(heads, rows).splitlines()
    assert text == ["| method | a_b |", "|---|---|", "| x\\|y & 50 % | 1 ± 2 |"]
    assert r"x|y \& 50 \% & 1 $\pm$ 2 \\" in latex(heads, rows).splitlines()
    assert latex(heads, rows).splitlines()[2] == r"method & a\_b \\"


def test_figure_shows_every_picture_and_the_interval(planned: Any) -> None:
    tasks, records, psnr = planned
    lines = summarise(tasks, records)
    figure = draw_bench("a $title", lines)
    assert figure is not None
    (ax,) = [a for a in figure.axes if a.get_title()]
    dots = [line for line in ax.lines if len(line.get_xdata()) == 3]
    assert len(dots) == 1
    assert sorted(dots[0].get_xdata()) == pytest.approx(sorted((psnr[1] - psnr[0]).mean(1)))
    score = lines[1].scores["psnr"]
    assert any(list(x.get_xdata()) == pytest.approx([score.low, score.high]) for x in ax.lines)
    assert "dB above fast-map" in ax.get_xlabel() and "x2" in ax.get_title()
    assert draw_bench("one", [lines[0]]) is None


def test_groups_follow_the_order_of_the_bench(planned: Any) -> None:
    tasks, records, _ = planned
    others = [replace(t, key=t.key + "x", data="zoo") for t in tasks]
    lines = summarise(others + tasks, records)
    assert [line.group[0] for line in lines] == ["zoo", "zoo", "hr", "hr"]
    assert [line.done for line in lines] == [0, 0, 9, 9]
