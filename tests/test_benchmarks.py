"""The benchmark scripts run, and one that is started again repeats nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import run_script
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_set5c_goes_on_where_it_stopped_and_tables(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "Set5").mkdir()
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (40, 44, 3), dtype=np.uint8)).save(tmp_path / "Set5" / f"{name}.png")
    out = tmp_path / "r.jsonl"
    common = [BENCHMARKS / "set5c.py", "--data", tmp_path, "--full", "--scales", 2, "--steps", 2, "--out", out]
    assert len(run_script(*common, "--images", "a").splitlines()) == 1
    assert len(run_script(*common).splitlines()) == 1
    assert [json.loads(line)["image"] for line in out.read_text().splitlines()] == ["a", "b"]
    table = run_script(BENCHMARKS / "table.py", out).splitlines()
    assert len(table) == 3
    assert "| 2 |" in table[2]


@pytest.mark.slow
def test_step_cost_prints_a_ratio():
    out = run_script(BENCHMARKS / "step_cost.py", "--preset", "fast", "--size", 64, "--rounds", 1)
    assert float(out.split("bf16 step / fp32 step: ")[1]) > 0


@pytest.mark.slow
def test_lr_error_prints_a_row_for_each_count():
    out = run_script(
        BENCHMARKS / "lr_error.py", "--size", 32, "--scales", 2, 4, "--counts", 2, 3, "--rounds", 1
    ).splitlines()
    assert [line.split("|")[1].strip() for line in out if line.startswith("| ")] == ["n", "2", "3"] * 2
    assert sum(line.startswith("build: circular ") for line in out) == 2


@pytest.mark.slow
def test_solvers_goes_on_where_it_stopped_and_tables(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "Set5").mkdir()
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (40, 44, 3), dtype=np.uint8)).save(tmp_path / "Set5" / f"{name}.png")
    out = tmp_path / "r.jsonl"
    common = [BENCHMARKS / "solvers.py", "--data", tmp_path, "--set", "set5", "--scales", 2, "--out", out]
    assert len(run_script(*common, "--images", "a").splitlines()) == 2
    assert len(run_script(*common).splitlines()) == 2
    table = run_script(BENCHMARKS / "solvers_table.py", out).splitlines()
    assert len(table) == 4 and "| bicubic | 2 |" in table[2] and "| fast-map | 2 |" in table[3]


def test_cost_adds_up(tmp_path):
    from bench_helpers import pictures, tasks_of

    from blindsr.bench.store import Store

    tasks = tasks_of(pictures(tmp_path / "hr"), seeds=(0, 1))
    with Store(tmp_path / "bench.sqlite") as store:
        for task, seconds in zip(tasks, (1.0, 2.0, 3.0, 4.0), strict=True):
            done = {"status": "done", "seconds": seconds, "hr_height": 100, "hr_width": 250, "versions": {}}
            store.add(task, done if seconds < 4 else {"status": "failed", "error": "no"})
    words = ("--images", 10, "--size", "1000x500", "--runs-per-image", 6)
    price = ("--dollars-per-core-hour", 0.5, "--price-date", "2026-11-24")
    out = run_script(BENCHMARKS / "cost.py", tmp_path / "bench.sqlite", *words, *price).splitlines()
    # 2 s for 0.025 megapixels: 40 s for 0.5; 60 runs: 2400 s
    assert out[2] == "| fast-map+bicubic | x2 | 3 | 40 | 20 | 0.7 | 0.33 |"
    assert out[3] == "| all | | | | | 0.7 | 0.33 |" and "on 2026-11-24" in out[-1]
