"""Runs: what is measured, in processes of their own; failures, crashes, stops."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_helpers import CHEAP, QUICK, bench, pictures, results, tasks_of
from helpers import call
from PIL import Image

from blindsr.bench.convergence import draw_convergence, draw_snapshots, follow
from blindsr.bench.engine import Engine, pending
from blindsr.bench.fork_server import ForkServer, Stopped
from blindsr.bench.measure import blur, lr_consistency, make_test_image, measure, oracle_gap
from blindsr.bench.progress import Remaining
from blindsr.bench.task import oracle_restorer
from blindsr.commands.interrupt import Interrupt
from blindsr.commands.progress import clock
from blindsr.errors import UserError
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.simulate import degrade

posix = pytest.mark.skipif(os.name != "posix", reason="needs forks")


@pytest.fixture
def hr(tmp_path: Path) -> Path:
    return pictures(tmp_path / "hr")


def test_the_lr_image_is_the_protocol_s(hr: Path) -> None:
    task = tasks_of(hr, seeds=(3,), crop=32, degradations=("gaussian+0.02",))[1]
    test = make_test_image(task)
    a = np.asarray(Image.open(hr / "b.png"))[2:34, 2:34] / np.float32(255)
    x = torch.from_numpy(a).permute(2, 0, 1)[None]
    same = degrade(x, Degradation(2), GaussianKernelPrior.truth(2), noise_std=0.02, seed=301)
    assert torch.equal(test.kernel, same.kernel) and torch.equal(test.y, same.y) and torch.equal(test.x, same.x)


def test_a_picture_that_was_not_planned_is_refused(hr: Path) -> None:
    task = tasks_of(hr)[0]
    pictures(hr, ("a",), side=40)
    with pytest.raises(UserError, match="has changed since the bench was planned"):
        make_test_image(task)
    with pytest.raises(UserError, match="40x40 pixels is smaller than the crop of 64"):
        make_test_image(tasks_of(hr, crop=64)[0])
    with pytest.raises(UserError, match="40x40 pixels is too small for x4; at least 64 are needed"):
        make_test_image(tasks_of(hr, scales=(4,))[0])


def test_a_file_that_changed_on_the_way_is_noticed(hr: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(CHEAP)
    task = tasks_of(hr, methods=(f"fast-map+{own}:restore",))[0]
    own.write_text(CHEAP + "\n")
    with pytest.raises(UserError, match="has changed since the bench was planned"):
        measure(task, tmp_path / "run")


@pytest.mark.parametrize("padding", [Padding.CIRCULAR, Padding.VALID])
def test_lr_consistency_is_the_error_of_the_degraded_estimate(padding: Padding, gen: torch.Generator) -> None:
    alignment = Alignment.FKP if padding is Padding.CIRCULAR else Alignment.CENTERED
    d = Degradation(2, 5, alignment, padding)
    x = torch.rand(1, 3, 24, 28, generator=gen)
    k = torch.rand(1, 1, 5, 5, generator=gen)
    k /= k.sum()
    y = torch.rand(1, 3, 12, 14, generator=gen)
    squares = []
    for c, i, j in np.ndindex(3, 12, 14):
        if 3 <= i < 9 and 3 <= j < 11:  # three LR pixels of border: ceil(5 / 2)
            window = x[0, c, 2 * i + d.offset - 2 : 2 * i + d.offset + 3, 2 * j + d.offset - 2 : 2 * j + d.offset + 3]
            squares.append((float((window.double() * k[0, 0].double()).sum()) - float(y[0, c, i, j])) ** 2)
    assert lr_consistency(x, k, y, d) == pytest.approx(-10 * math.log10(np.mean(squares)))
    assert math.isinf(
        lr_consistency(x.double(), k.double(), Degradation(2, 5)(x.double(), k.double()), Degradation(2, 5))
    )


def test_blur_rises_with_blur(hr: Path) -> None:
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    soft = torch.nn.functional.avg_pool2d(x, 5, 1, 2)
    assert 0 <= blur(x) < blur(soft) <= 1


def test_oracle_gap_is_zero_with_the_true_kernel_and_positive_with_another(hr: Path) -> None:
    task = tasks_of(pictures(hr.parent / "big", ("a",), side=72))[0]
    test, d = make_test_image(task), Degradation(2)
    same = oracle_gap(oracle_restorer("tv", None), test, test.kernel, d, 0.0)
    assert same["oracle_gap"] == 0 and same["oracle_psnr"] > 20
    wrong = GaussianKernelPrior.uniform(11, 9.0, 9.1, d.center).sample(1, generator=torch.Generator())
    assert oracle_gap(oracle_restorer("tv", None), test, wrong, d, 0.0)["oracle_gap"] > 1
    assert oracle_gap(None, test, wrong, d, 0.0) == {}


@posix
def test_a_bench_and_its_summary(hr: Path, tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", ("p",), side=32)
    words = ("--photos", photos, "--seeds", "0,1", "--oracle", "bicubic", "--keep")
    result = bench(hr, tmp_path / "out", *words, methods=f"double-dip:fast,{QUICK}")
    assert result.exit_code == 0, result.stderr
    records = results(tmp_path / "out")
    assert len(records) == 2 * 2 * 2 + 2 * 2 and len({r["key"] for r in records}) == len(records)
    for r in records:
        truth = r["data"] == "hr"
        assert r["status"] == "done" and (r["psnr"] is not None) is truth and (r["oracle_gap"] == 0) is truth
        assert r["lr_psnr"] > 5 and 0 <= r["blur"] <= 1 and r["seconds"] > 0 and r["peak_memory_mib"] > 50
        assert r["versions"]["torch"] == torch.__version__ and r["machine"] and r["threads"] == 1
        folder = tmp_path / "out" / "runs" / r["key"]
        record = json.loads((folder / "run" / "run.json").read_text())
        assert record["metrics"].get("psnr_border_s2") == r["psnr"] and record["seed"] == r["seed"]
        assert not {"overview.png", "checkpoint.pt"} & {p.name for p in (folder / "run").iterdir()}
    again = bench(hr, tmp_path / "out", *words, methods=f"double-dip:fast,{QUICK}")
    assert again.stdout == result.stdout and "12 of 12 runs are already there" in again.stderr
    assert results(tmp_path / "out") == records
    lines = result.stdout.splitlines()
    assert lines[0].startswith("| data | scale | degradation | method | runs | PSNR |") and len(lines) == 2 + 4
    for name in ("summary.md", "summary.csv", "summary.tex", "bench.png"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    assert "left 0:00" in result.stderr and "12/12" in result.stderr


OWN = """
import os, torch
def up(y, d):
    return torch.nn.functional.interpolate(y, scale_factor=d.scale)
def fails(y, k, d, n):
    if y.shape[-1] == 18:
        raise RuntimeError("no luck today")
    return up(y, d)
def dies(y, k, d, n):
    os.kill(os.getpid(), 9)
def large(y, k, d, n):
    hold = torch.ones(100 * 2**20)
    print("what a part prints is nobody's answer", flush=True)
    return up(y, d) * hold[0]
"""


@pytest.mark.slow
@posix
def test_failures_and_crashes_are_recorded_and_the_rest_goes_on(hr: Path, tmp_path: Path) -> None:
    pictures(hr, ("a",), side=40)
    own = tmp_path / "own.py"
    own.write_text(OWN)
    methods = ",".join(f"double-dip:fast+{own}:{name}" for name in ("fails", "dies", "large")) + f",{QUICK}"
    out = tmp_path / "out"
    result = bench(hr, out, "--oracle", "none", methods=methods)
    assert result.exit_code == 1
    assert "5 runs done, 3 failed (--retry-failed makes them again)" in result.stderr
    by = {(r["label"].rpartition(":")[2], r["image"]): r for r in results(out)}
    failed = [r for r in by.values() if r["status"] == "failed"]
    assert sorted(r["label"].rpartition(":")[2] for r in failed) == ["dies", "dies", "fails"]
    (luckless,) = (r for r in failed if r["label"].endswith("fails"))
    assert "no luck today" in luckless["error"] and "\n" not in luckless["error"]
    assert "killed by signal 9; out of memory?" in by["dies", "a"]["error"]
    assert "no luck today" in (out / "summary.md").read_text()
    # memory is each run's own: the runs after the large one do not inherit its peak
    large, small = by["large", "a"]["peak_memory_mib"], by["fast+bicubic", "b"]["peak_memory_mib"]
    assert 350 < large - small < 450
    assert list(out.glob("runs/*")) == []
    keys = [r["key"] for r in results(out)]
    assert bench(hr, out, "--oracle", "none", methods=methods).exit_code == 1
    retried = bench(hr, out, "--oracle", "none", "--retry-failed", methods=methods)
    assert "5 of 8 runs are already there" in retried.stderr and "3/3" in retried.stderr
    assert sorted(r["key"] for r in results(out)) == sorted(keys)


def test_what_is_still_pending(hr: Path, tmp_path: Path) -> None:
    done, failed, new = tasks_of(hr, seeds=(0, 1))[:3]
    status = {done.key: "done", failed.key: "failed"}
    some = [done, failed, new]
    assert pending(some, status, Engine(), tmp_path) == [new]
    assert pending(some, status, Engine(retry_failed=True), tmp_path) == [failed, new]
    assert pending(some, status, Engine(keep=True), tmp_path) == [done, new]
    (tmp_path / "runs" / done.key / "run").mkdir(parents=True)
    (tmp_path / "runs" / done.key / "run" / "run.json").write_text("{}")
    assert pending(some, status, Engine(keep=True), tmp_path) == [new]


SLEEPER = """
import os, time
from pathlib import Path
def restore(y, k, d, n):
    Path({file!r}).write_text(str(os.getpid()))
    time.sleep(600)
"""


@posix
@pytest.mark.slow
def test_a_run_can_be_stopped_and_the_server_goes_on(hr: Path, tmp_path: Path) -> None:
    own, file = tmp_path / "own.py", tmp_path / "pid"
    own.write_text(SLEEPER.format(file=str(file)))
    sleeping = tasks_of(hr, methods=(f"double-dip:fast+{own}:restore",), steps=1)[0]
    with ForkServer() as server:
        with pytest.raises(Stopped):
            server.run(sleeping.plain(), tmp_path / "run", file.exists)
        outcome = server.run(tasks_of(hr, methods=(QUICK,), steps=1)[0].plain(), tmp_path / "other")
    assert outcome["status"] == "done" and outcome["steps"] == 1


def test_a_run_that_was_killed_goes_on_from_its_checkpoint(
    hr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blindsr.bench import measure as module
    from blindsr.bench.row import Row
    from blindsr.commands.folder import Keeper

    task = tasks_of(hr, methods=("double-dip:fast",), steps=6)[0]
    whole = measure(task, tmp_path / "whole")
    settings, save, saved = Row.settings, Keeper.save, []

    def deadly(keeper: Keeper, *state: Any) -> None:
        save(keeper, *state)
        saved.append(1)
        if len(saved) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Row, "settings", lambda *args: replace(settings(*args), checkpoint_every=0.0))
        patch.setattr(Keeper, "save", deadly)
        with pytest.raises(KeyboardInterrupt):
            module.measure(task, tmp_path / "parts")
    parts = measure(task, tmp_path / "parts")
    assert json.loads((tmp_path / "parts/run/run.json").read_text())["resumed_at"] == 3
    same = ("psnr", "ssim", "kernel_psnr", "lr_psnr", "blur", "steps", "parameters")
    assert [parts[n] for n in same] == [whole[n] for n in same]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_runs_do_not_outlive_a_killed_bench(hr: Path, tmp_path: Path) -> None:
    own, file = tmp_path / "own.py", tmp_path / "pid"
    own.write_text(SLEEPER.format(file=str(file)))
    words = [
        "bench",
        "--data",
        hr,
        "--methods",
        f"double-dip:fast+{own}:restore",
        "--steps",
        1,
        "--scales",
        "2",
        "--out",
        tmp_path / "out",
    ]
    process = subprocess.Popen([sys.executable, "-m", "blindsr", *map(str, words)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not (file.exists() and file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    run = int(file.read_text())
    assert alive(run)
    process.kill()
    process.wait()
    while alive(run) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(run)


def test_time_left_knows_slow_rows_from_fast_ones(hr: Path) -> None:
    tasks = tasks_of(hr, seeds=(0, 1), methods=("fast-map", "fast-map+bicubic"))
    remaining = Remaining(tasks)
    assert math.isinf(remaining.seconds()) and clock(math.inf) == "?"
    slow, fast = (next(t for t in tasks if t.label == name) for name in ("fast-map", "fast-map+bicubic"))
    remaining.done(slow, 10.0)
    assert remaining.seconds() == 7 * 10  # nothing else known yet
    remaining.done(fast, 1.0)
    assert remaining.seconds() == 3 * 10 + 3 * 1
    assert (clock(59.9), clock(61), clock(3725)) == ("0:59", "1:01", "1:02:05")


@pytest.mark.slow
def test_the_followed_run_is_the_run_itself(hr: Path) -> None:
    from blindsr.diagnostics.metrics import kernel_psnr

    task = tasks_of(hr, methods=("mlmc:fast",), steps=15)[0]
    test = make_test_image(task)
    found = follow(task, test, Interrupt())
    assert found is not None and found.kernels.shape == (3, 11, 11) and found.sample_psnr.shape == (3, 5)
    estimator = task.run_settings().composed.estimator
    run = estimator.start(test.y, Degradation(2), seed=task.seed, device="cpu")
    for _ in range(15):
        run.advance()
    estimated = run.estimate().kernel
    assert estimated is not None
    kernel = estimated[0, 0].double().numpy()
    assert np.array_equal(found.kernels[-1], kernel)  # looking on changes nothing
    assert found.psnr[-1] == kernel_psnr(kernel, test.kernel[0, 0].double().numpy())
    assert len(draw_convergence("t", [found]).axes) >= 6
    assert [ax.get_title().split("\n")[0] for ax in draw_snapshots("t", [found]).axes][-1] == "true kernel"


def test_interrupt_ends_with_what_is_there(hr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from blindsr.bench import engine

    def one(todo: Any, out: Path, interrupt: Interrupt) -> Any:
        yield todo[0], {"status": "done", "seconds": 1.0, "psnr": 20.0, "date": "2026-01-01", "versions": {}}, 1.0
        interrupt.raised = True

    monkeypatch.setattr(engine, "one_by_one", one)
    result = bench(hr, tmp_path / "out")
    assert result.exit_code == 130 and "1 runs done, 1 left (the same command continues)" in result.stderr
    assert "1 of 2" in result.stdout


def test_dask_is_asked_for_by_name_where_it_is_missing(
    hr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = call(
        "bench", "--data", hr, "--methods", "fast-map", "--scales", 2, "--workers", 2, "--out", tmp_path / "o"
    )
    assert result.exit_code == 2 and result.stderr.splitlines()[-1] == (
        "blindsr: --workers and --scheduler need Dask: pip install 'blindsr[cluster]'"
    )
