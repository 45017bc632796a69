"""A fork server: each run has a process of its own, forked from one that has loaded everything.

So a run that crashes, or is killed for its memory, costs only itself; its peak memory is its own; and starting it takes
milliseconds. The server is started as `python -m blindsr.bench.fork_server`. It reads one line of JSON for each run,
forks, and answers with one line. When its standard input closes, because the bench has ended or was killed, it kills
the run and exits. (A fork server of `multiprocessing` cannot be used: Dask's workers are daemons, which may have no
children there, and it imports the user's main script again.)
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from blindsr.errors import UserError

PRELOADED = (
    "blindsr.bench.measure",
    "torch._dynamo",
    "png",
    *(f"scipy.{name}" for name in ("io", "ndimage", "optimize", "special")),
    *(f"skimage.{name}" for name in ("color", "filters", "measure", "metrics", "restoration")),
)
"""Loaded before forking, so that the measured seconds of a run do not include imports."""
POLL = 0.2
"""Seconds between two checks of whether a run is to be stopped."""


class Stopped(Exception):
    """The user stopped a run before its end."""


@dataclass
class ForkServer:
    """A process that makes runs, one at a time; use it as a context manager."""

    threads: int = 1
    """Threads of the numerical libraries in each run."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and the current run, if there is one."""
        process, self.process = self.process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def run(self, task: dict[str, Any], folder: Path, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """Make the run of a `Task.plain` with its files in `folder`, and return its outcome.

        The outcome has `status` "done" and the columns of `measure`, or `status` "failed", `error` and perhaps
        `traceback`. Once `stop`, which is asked from time to time, returns True, the run is killed, and Stopped is
        raised.
        """
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        line = json.dumps({"task": task, "folder": str(folder)}) + "\n"
        try:
            process.stdin.write(line.encode())
            process.stdin.flush()
            answer = self._answer(process, stop)
        except BrokenPipeError:
            answer = b""
        if not answer:
            code = process.wait()
            self.close()
            return {"status": "failed", "error": f"the process that makes the runs exited with code {code}"}
        outcome: dict[str, Any] = json.loads(answer)
        return outcome

    def _answer(self, process: subprocess.Popen[bytes], stop: Callable[[], bool]) -> bytes:
        assert process.stdout is not None
        answer = b""
        while not answer.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], POLL)
            if stop():
                self.close()
                raise Stopped
            if ready:
                got = os.read(process.stdout.fileno(), 1 << 16)
                if not got:
                    return b""
                answer += got
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if not hasattr(os, "fork"):
            raise UserError(
                "blindsr bench forks a process for each run, which this system cannot do; use Linux or macOS"
            )
        if self.process is None or self.process.poll() is not None:
            n = str(self.threads)
            threads = {f"{name}_NUM_THREADS": n for name in ("OMP", "OPENBLAS", "MKL")}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "blindsr.bench.fork_server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | threads,
                start_new_session=True,  # Ctrl-C reaches the bench alone, which then stops the run
            )
        return self.process


def outcome_of(request: dict[str, Any]) -> dict[str, Any]:
    """Make a run in this process; never raises."""
    from blindsr.bench.measure import measure
    from blindsr.bench.task import Task

    try:
        return {"status": "done"} | measure(Task(**request["task"]), Path(request["folder"]))
    except (UserError, OSError) as error:
        return {"status": "failed", "error": " ".join(str(error).split())}
    except BaseException as error:  # whatever it is, the rest of the bench continues
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return {"status": "failed", "error": words[:1000], "traceback": traceback.format_exc()}


def _child(request: dict[str, Any], answer: Connection) -> None:
    """Make the run in the forked process and send its outcome."""
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    answer.send(outcome_of(request))
    os._exit(0)  # at once, whatever threads a user's part has left


def _forked(request: dict[str, Any]) -> dict[str, Any] | None:
    """Fork, wait for the run, and return its outcome; None if standard input closed meanwhile."""
    fork = multiprocessing.get_context("fork")
    answer, outside = fork.Pipe(duplex=False)
    child = fork.Process(target=_child, args=(request, outside))
    child.start()
    outside.close()
    if 0 in wait([0, answer]):
        child.kill()
        child.join()
        return None
    try:
        outcome: dict[str, Any] = answer.recv()
    except EOFError:
        child.join()
        code = child.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        hint = "; out of memory?" if code == -signal.SIGKILL else ""
        outcome = {"status": "failed", "error": f"the run's process {how}{hint}"}
    child.join()
    return outcome


def main() -> None:
    """Read requests, make runs and answer until standard input closes."""
    for name in PRELOADED:
        importlib.import_module(name)
    answers = os.dup(1)
    os.dup2(2, 1)  # what a user's part prints must not get between the answers
    pending = b""
    while True:
        got = os.read(0, 1 << 16)
        if not got:
            return
        pending += got
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            outcome = _forked(json.loads(line))
            if outcome is None:
                return
            os.write(answers, json.dumps(outcome).encode() + b"\n")


if __name__ == "__main__":
    main()
