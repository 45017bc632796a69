"""A bench on many processes or machines, by Dask. Only the client writes the database.

A run is a Dask task. If its worker dies, the scheduler gives the run to another worker. No result can be lost, since
none stays on a worker, and none can come twice, since a run has one key and the client takes its result once.
"""

from __future__ import annotations

import importlib
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from blindsr.bench.fork_server import ForkServer
from blindsr.bench.task import Task
from blindsr.commands.interrupt import Interrupt
from blindsr.errors import UserError
from blindsr.io.files import VERSION

DEATHS = 5
"""Workers that may die during a run before it counts as failed; a scheduler that was named keeps its own setting."""
WAIT = 20.0
"""Seconds to wait for a scheduler."""

_local = threading.local()


def perform(task: dict[str, Any], folder: str | None) -> tuple[dict[str, Any], float]:
    """Make one run on a worker, in a process of its own; return its outcome and the seconds it took."""
    if not hasattr(_local, "server"):
        _local.server = ForkServer(int(task["threads"]))
    start = time.perf_counter()
    place = Path(tempfile.mkdtemp(prefix="blindsr-")) if folder is None else Path(folder)
    try:
        outcome: dict[str, Any] = _local.server.run(task, place)
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
    return outcome, time.perf_counter() - start


def _version() -> str:
    return VERSION


def _distributed() -> Any:
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise UserError("--workers and --scheduler need Dask: pip install 'blindsr[cluster]'") from error


def _connected(stack: ExitStack, workers: int | None, scheduler: str | None, say: Callable[[str], None]) -> Any:
    """Return a Dask client; the stack closes it, together with the cluster if that was started here."""
    distributed, dask = _distributed(), importlib.import_module("dask")
    if scheduler is not None:
        try:
            client = stack.enter_context(distributed.Client(scheduler, timeout=WAIT))
        except (OSError, ValueError) as error:
            raise UserError(f"--scheduler {scheduler}: cannot be reached ({error})") from error
        others = {address: v for address, v in _versions(client).items() if v != VERSION}
        if others:
            address, version = next(iter(others.items()))
            raise UserError(
                f"--scheduler {scheduler}: worker {address} has blindsr {version}; install {VERSION}, as here"
            )
        count = len(client.scheduler_info()["workers"])
        say(f"{scheduler}: {count} workers" + ("" if count else "; waiting for the first one"))
        return client
    if workers is None or workers < 1:
        raise UserError(f"--workers {workers}: at least 1 is needed")
    stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": DEATHS}))
    cluster = distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
    )
    stack.callback(cluster.close)
    return stack.enter_context(distributed.Client(cluster))


def _versions(client: Any) -> dict[str, str]:
    """Return blindsr's version on each worker."""
    try:
        return dict(client.run(_version))
    except Exception as error:  # unpickling on another machine may raise anything
        raise UserError(
            f"the workers cannot run blindsr ({type(error).__name__}: {error}); install it there"
        ) from error


def on_cluster(
    todo: Sequence[Task],
    out: Path | None,
    workers: int | None,
    scheduler: str | None,
    interrupt: Interrupt,
    say: Callable[[str], None],
) -> Generator[tuple[Task, dict[str, Any], float], None, None]:
    """Make runs on a Dask cluster and yield each with its outcome and its seconds as it comes.

    Pictures, weights and your own parts must be at the same paths on every worker, and `out`, where the runs' folders
    are kept, must be visible to each; None: temporary folders of the workers. An interrupt ends it early. Raises
    UserError if Dask is not installed, or the scheduler cannot be reached or disappears.
    """
    with ExitStack() as stack:
        client = _connected(stack, workers, scheduler, say)
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        waiting: dict[str, Task] = {}
        futures = {}
        for n, task in enumerate(todo):
            folder = None if out is None else str(out.resolve() / "runs" / task.key)
            future = client.submit(perform, task.plain(), folder, key=task.key, pure=False, priority=-n)
            waiting[future.key], futures[future.key] = task, future
            future.add_done_callback(results.put)
        while waiting:
            if interrupt.raised:
                client.cancel(list(futures.values()))
                return
            try:
                future = results.get(timeout=0.3)
            except queue.Empty:
                continue
            if future.status in ("cancelled", "lost"):
                raise UserError("the Dask scheduler is gone; start the bench again to continue")
            task = waiting.pop(future.key)
            yield task, *_outcome(future)
            futures.pop(future.key).release()


def _outcome(future: Any) -> tuple[dict[str, Any], float]:
    if future.status == "finished":
        outcome, seconds = future.result()
        return outcome, seconds
    error = future.exception()
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return {"status": "failed", "error": words[:1000]}, 0.0
