import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import FAST, run, save_png

from blindsr.commands.interrupt import Interrupt

SAME = ("sr.png", "kernel.npy", "trace.csv")
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def bits(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in SAME}


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "words"),
    [(6, ()), (1, ("--noise", "iid")), (7, ("--method", "mlmc-no-meta")), (4, ("--method", "double-dip"))],
)
def test_going_on_gives_the_bits_of_one_run(tmp_path: Path, first: int, words: tuple[str, ...]) -> None:
    image = save_png(tmp_path / "a.png", 17, 20)
    assert run(image, tmp_path / "whole", *words, steps=12).exit_code == 0
    assert run(image, tmp_path / "parts", *words, steps=first).exit_code == 0
    assert bits(tmp_path / "parts/a") != bits(tmp_path / "whole/a")
    result = run(image, tmp_path / "parts", "--resume", *words, steps=12)
    assert result.exit_code == 0 and f"resumed at step {first}" in result.stderr
    assert bits(tmp_path / "parts/a") == bits(tmp_path / "whole/a")
    r = record(tmp_path / "parts/a")
    assert (r["steps"], r["resumed_at"], r["stopped"]) == (12, first, "finished")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    assert run(image, tmp_path / "out").exit_code == 0
    before = bits(tmp_path / "out/a")
    assert run(image, tmp_path / "out", "--resume").exit_code == 0
    assert bits(tmp_path / "out/a") == before


def killed(image: Path, output: Path, steps: int, moments: list[str]) -> tuple[list[int], str]:
    """Run a picture, killed at these moments; return how each life ended, and what they said."""
    program = [sys.executable, str(Path(__file__).with_name("killer.py")), str(image), str(output), str(steps), "3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*program, *moments], capture_output=True, text=True, timeout=1800, env=environment, check=False
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    ends: list[int] = json.loads(done.stdout.splitlines()[-1])
    return ends, done.stderr


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Make a run that nothing ends, in a folder, and count its calls of functions."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    image = save_png(folder / "a.png")
    ends, said = killed(image, folder / "out", 12, [f"call:{10**12}"])
    assert ends == [0, 0]  # the second finds the first one's result
    return folder, int(re.findall(r"^calls (\d+)$", said, re.M)[-1])


@posix
@pytest.mark.slow
def test_kill_at_random_moments(uninterrupted: tuple[Path, int], tmp_path: Path) -> None:
    rng, output = random.Random(5), tmp_path / "out"
    whole, calls = uninterrupted
    moments = [f"call:{rng.randrange(1, calls // 2)}" for _ in range(8)]
    ends, _ = killed(whole / "a.png", output, 12, moments)
    assert ends[-1] == 0 and ends.count(-signal.SIGKILL) >= 3
    assert bits(output / "a") == bits(whole / "out/a")
    assert sorted(p.name for p in (output / "a").iterdir()) == sorted(p.name for p in (whole / "out/a").iterdir())


@posix
@pytest.mark.slow
def test_kill_at_every_kind_of_moment_of_writing(uninterrupted: tuple[Path, int], tmp_path: Path) -> None:
    output, (whole, _) = tmp_path / "out", uninterrupted
    # before the first checkpoint is whole; between its sync and its name; right after; then among the results
    moments = ["fsync:1", "replace:1", "replace-after:1", "fsync:4", "replace:12"]
    ends, _ = killed(whole / "a.png", output, 12, moments)
    assert ends == [-signal.SIGKILL] * len(moments) + [0]
    assert bits(output / "a") == bits(whole / "out/a")


@posix
@pytest.mark.slow
def test_interrupt_saves_and_resume_goes_on(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    folder = tmp_path / "out" / "a"
    words = [sys.executable, "-m", "blindsr", "run", str(image), *FAST, "--iterations", "1000000"]
    words += ["--output", str(tmp_path / "out"), "--checkpoint-every", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 900
    while not (folder / "checkpoint.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert out == "" and "Traceback" not in err and "(interrupted)" in err
    r = record(folder)
    assert r["stopped"] == "interrupted" and r["steps"] >= 1
    assert {"sr.png", "kernel.npy", "overview.png", "trace.csv"} <= {p.name for p in folder.iterdir()}
    steps = r["steps"] + 2
    assert run(image, tmp_path / "out", "--resume", steps=steps).exit_code == 0
    assert record(folder)["resumed_at"] == r["steps"] and record(folder)["steps"] == steps


@posix
def test_termination_leaves_the_rest_of_several_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from blindsr.commands import run as job
    from blindsr.io import images

    def read(path: Path, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return images.read_image(path, **options)

    monkeypatch.setattr(job, "read_image", read)
    for name in ("a", "b", "c"):
        save_png(tmp_path / "in" / f"{name}.png")
    result = run(tmp_path / "in", tmp_path / "out", steps=50)
    assert result.exit_code == 130 and "interrupted; 2 of 3 pictures not begun" in result.stderr
    assert record(tmp_path / "out/a")["stopped"] == "interrupted" and record(tmp_path / "out/a")["steps"] == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]


@posix
def test_second_interrupt_ends_at_once() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupt().listening() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.raised
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler
