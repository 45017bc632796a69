"""A bench of 30 runs, killed twice, and on a cluster that loses a worker: 30 results, none twice, the same numbers."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_helpers import QUICK, pictures, results

SEEDS = ",".join(map(str, range(5)))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")]


def start(hr: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    """Start a bench of 3 pictures x 2 methods x 5 seeds."""
    command = [sys.executable, "-m", "blindsr", "bench", "--data", str(hr), "--methods", f"double-dip:fast,{QUICK}"]
    command += ["--scales", "2", "--seeds", SEEDS, "--steps", "1", "--oracle", "none", "--out", str(out), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def count(out: Path) -> int:
    """Count the results so far, as any other program would."""
    if not (out / "bench.sqlite").exists():
        return 0
    try:
        db = sqlite3.connect(f"file:{out / 'bench.sqlite'}?mode=ro", uri=True, timeout=30)
        try:
            return int(db.execute("SELECT COUNT(*) FROM runs").fetchone()[0])
        finally:
            db.close()
    except sqlite3.OperationalError:  # not made yet
        return 0


def wait_for(out: Path, n: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 1200
    while count(out) < n and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def hr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "hr", ("a", "b", "c"), side=34)


@pytest.fixture(scope="module")
def killed(hr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the bench, killed after 7 results and after 16."""
    out = tmp_path_factory.mktemp("killed")
    for n in (7, 16):
        process = start(hr, out)
        wait_for(out, n, process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL and n <= count(out) < 30
    before = {r["key"]: r for r in results(out)}
    process = start(hr, out)
    _, err = process.communicate(timeout=1800)
    assert process.returncode == 0 and f"{len(before)} of 30 runs are already there" in err
    after = {r["key"]: r for r in results(out)}
    assert all(after[key] == record for key, record in before.items())
    return out


def test_killed_twice(killed: Path) -> None:
    records = results(killed)
    assert len(records) == 30 and len({r["key"] for r in records}) == 30
    assert {r["status"] for r in records} == {"done"}
    assert len({(r["image"], r["label"], r["seed"]) for r in records}) == 30
    assert not (killed / "runs").exists()


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Processes that have a fork server as a child: the cluster's workers."""
    import psutil

    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if (
                "blindsr.bench.fork_server" in child.cmdline()
                and "blindsr.bench.fork_server" not in child.parent().cmdline()
            ):
                found.append(child.ppid())
        except (psutil.Error, AttributeError):
            continue
    return found


def test_a_worker_killed(hr: Path, killed: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    out = tmp_path / "cluster"
    process = start(hr, out, "--workers", "2")
    wait_for(out, 5, process)
    workers = workers_of(process)
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    at = count(out)
    _, err = process.communicate(timeout=1800)
    assert process.returncode == 0, err
    assert at < 30
    records = results(out)
    assert len(records) == 30 and {r["status"] for r in records} == {"done"}
    alone = {r["key"]: r for r in results(killed)}
    assert {r["key"] for r in records} == alone.keys()
    for record in records:  # the same bits on a cluster
        assert all(record[n] == alone[record["key"]][n] for n in ("psnr", "ssim", "kernel_psnr", "lr_psnr", "blur"))


def test_a_scheduler_that_is_not_there(hr: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    process = start(hr, tmp_path / "out", "--scheduler", "nonsense://nowhere")
    _, err = process.communicate(timeout=600)
    assert process.returncode == 2 and "Traceback" not in err
    assert err.splitlines()[-1].startswith("blindsr: --scheduler nonsense://nowhere: cannot be reached")
