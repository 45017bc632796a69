"""One run on one picture: read, solve, save; interruptible at any step, resumable from its checkpoint."""

from __future__ import annotations

import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blindsr import __version__
from blindsr.commands.device import check_memory, choose_device, peak_memory_mib
from blindsr.commands.folder import CHECKPOINT, Keeper, check_folder
from blindsr.commands.interrupt import Interrupt
from blindsr.commands.outputs import Result, Truth, save_record, save_result, score
from blindsr.commands.posterior import Scene, forget, sample_posterior
from blindsr.commands.progress import Progress
from blindsr.commands.restarts import Restart, repeat
from blindsr.commands.restore import described, read_hr, restored, try_out
from blindsr.commands.settings import AFTERWARDS, RunSettings
from blindsr.errors import UserError
from blindsr.estimators.loop import Metrics, RunSolver
from blindsr.generators.kernel import FixedKernel
from blindsr.generators.skip import has_bf16
from blindsr.io import checkpoint
from blindsr.io.images import MIN_SIDE, Picture, read_image
from blindsr.io.kernels import read_kernel
from blindsr.restorers.base import Restorer
from blindsr.super_resolve import check_method, make_solver, restoration_noise

KERNEL_WORDS = "applied by correlation; the nominal centre of mass is (kernel_size - scale) / 2 on both axes"


def run_image(
    path: Path,
    folder: Path,
    settings: RunSettings,
    *,
    truth_path: Path | None = None,
    true_kernel_path: Path | None = None,
    progress: Callable[[str, int], Progress],
    interrupt: Interrupt,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Super-resolve one picture and save what came of it into a folder.

    Parameters
    ----------
    path, folder : Path
        Picture; where to save (made if need be).
    settings : RunSettings
        What to do.
    truth_path, true_kernel_path : Path, optional
        HR image and kernel to score against.
    progress : callable
        Makes a display from a name and a number of steps.
    interrupt : Interrupt
        Ends the run early when set.
    say : callable
        Takes one-line notes for the user.

    Returns
    -------
    dict
        What is written to run.json.

    Raises
    ------
    UserError
        On bad input; no result has been written then, and none that was there is lost.
    """
    start = time.perf_counter()
    device = choose_device(settings.device)
    picture = read_image(path, min_side=MIN_SIDE)
    truth = read_truth(settings, picture, truth_path, true_kernel_path)
    for note in (*picture.notes, *truth.notes):
        say(note)
    degradation, y = settings.degradation, picture.pixels
    hr = degradation.hr_shape(*y.shape[-2:])
    h, w = (degradation.scale * n for n in y.shape[-2:])
    if degradation.kernel_size > min(h, w):
        raise UserError(f"{path}: a kernel of {degradation.kernel_size} pixels is larger than the result ({w}x{h})")
    if settings.method.uses_network:
        check_memory(*hr, settings.preset.skip, device)
    try:
        check_method(settings.method, degradation, y)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    record = settings.record()
    record["image_sha256"] = hashlib.sha256(y.numpy().tobytes()).hexdigest()
    finished = check_folder(folder, record, steps=settings.steps, resume=settings.resume, overwrite=settings.overwrite)
    if finished is not None:
        say(f"{folder}: already finished" + (f" ({finished['steps']} steps)" if finished["steps"] else ""))
        return finished
    first_part = {name: value for name, value in record.items() if name not in AFTERWARDS}
    keeper = Keeper(folder / CHECKPOINT, first_part, settings.checkpoint_seconds, at_end=not settings.bare)
    deadline = start + settings.time_limit if settings.time_limit is not None else float("inf")
    with _blamed(settings.own_parts):
        if settings.method.iterates and settings.method.restorer.file is not None:
            try_out(settings.method.restorer.value, y, degradation)
        try:
            solver = make_solver(settings.method, degradation, settings.preset, y, device)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        run, trace = _begin(solver, y, settings, keeper, say)
        first_step = run.step
        reason = _loop(
            solver, run, y, trace, settings.steps, deadline, keeper, progress(path.name, settings.steps), interrupt
        )
        image, kernel = solver.estimate(run)
        first = Restart(settings.seed, image, kernel, trace, reason)
        found = solver.found
        tiles, ended = 0, None
        restorer = settings.method.restorer.value
        if restorer is not None:
            restorer = restorer.with_seed(settings.seed)
            noise = restoration_noise(settings.method, degradation, found, y)
            image, tiles, ended = restored(restorer, y, kernel, degradation, noise, interrupt, deadline, say)
            reason = ended or reason
            if restorer.needs_noise:
                record["noise_std"] = noise
    record |= {
        "kernel_found": None if found is None else described(found),
        "tiles": tiles,
        "complete": ended is None,
        "image": str(path),
        "steps": run.step,
        "parameters": count_parameters(run if settings.method.iterates else None, restorer),
        "resumed_at": first_step or None,
        "stopped": reason,
        "seconds": round(keeper.seconds_before + time.perf_counter() - start, 3),
        "peak_memory_mib": round(peak_memory_mib(device), 1),
        "device": str(device),
        "bf16": settings.preset.skip.bf16 and has_bf16(device),
        "threads": torch.get_num_threads(),
        "kernel": KERNEL_WORDS if settings.method.has_kernel else None,
        "kernel_assumed": settings.method.has_kernel and found is None and isinstance(run.kernel, FixedKernel),
        "versions": {"blindsr": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    result = Result(picture, image, kernel if settings.method.has_kernel else None, trace, degradation, path.name)
    record["metrics"] = score(result, replace(truth, kernel=None) if record["kernel_assumed"] else truth, say)
    forget(folder)
    more = settings.sampling is not None or settings.restarts is not None
    save_result(folder, result, truth, record | ({"complete": False} if more else {}), page=not settings.bare)
    if not more:
        return record
    scene = Scene(y, image.cpu(), kernel.cpu(), degradation, found, truth.kernel)

    def again(seed: int) -> Restart:
        other, course = solver.init(y, seed), list[Metrics]()
        why = _loop(
            solver, other, y, course, settings.steps, deadline, None, progress(path.name, settings.steps), interrupt
        )
        return Restart(seed, *solver.estimate(other), course, why)

    with _blamed(settings.own_parts):
        record |= _afterwards(folder, settings, scene, first, again, interrupt, deadline, say)
    parts = [record[name] for name in ("posterior", "restarts_made") if name in record]
    record["complete"] = record["complete"] and all(part["complete"] for part in parts)
    if not record["complete"] and interrupt.raised:
        record["stopped"] = "interrupted"
    record["seconds"] = round(keeper.seconds_before + time.perf_counter() - start, 3)
    save_record(folder, record)
    return record


def _afterwards(
    folder: Path,
    settings: RunSettings,
    scene: Scene,
    first: Restart,
    again: Callable[[int], Restart],
    interrupt: Interrupt,
    deadline: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Sample the kernel's posterior and repeat the optimisation, where asked for; return the entries for run.json."""
    entries: dict[str, Any] = {}
    if settings.sampling is not None:
        prior, seed = settings.method.prior.value, settings.seed
        entries["posterior"] = sample_posterior(folder, settings.sampling, scene, prior, seed, interrupt, deadline, say)
    if settings.restarts is not None:

        def stopped() -> bool:
            return interrupt.raised or time.perf_counter() > deadline

        entries["restarts_made"] = repeat(first, settings.restarts, again, stopped, folder, scene.true_kernel, say)
    return entries


def count_parameters(run: object | None, restorer: Restorer | None) -> int | None:
    """Count the numbers that a run fits and the weights of its restorer; None where the restorer does not tell them."""
    blocks = [] if run is None else [part for part in vars(run).values() if isinstance(part, nn.Module)]
    weights = 0 if restorer is None else restorer.parameters
    return None if weights is None else weights + sum(p.numel() for block in blocks for p in block.parameters())


def read_truth(settings: RunSettings, picture: Picture, truth_path: Path | None, kernel_path: Path | None) -> Truth:
    """Read what is known of the truth and check that it fits the picture.

    Raises
    ------
    UserError
        If a size does not fit.
    """
    degradation, image, kernel = settings.degradation, None, None
    notes: list[str] = []
    if truth_path is not None:
        image = read_hr(truth_path, degradation.scale, picture.pixels)
    if kernel_path is not None:
        kernel, kernel_notes = read_kernel(kernel_path, scale=degradation.scale if settings.even_kernel else None)
        notes += kernel_notes
        size = kernel.shape[-1]
        if size != degradation.kernel_size:
            raise UserError(
                f"{kernel_path}: the kernel is {size}x{size}, the run estimates "
                f"{degradation.kernel_size}x{degradation.kernel_size}; give --kernel-size {size}"
            )
    return Truth(image, kernel, tuple(notes))


@contextmanager
def _blamed(own_parts: list[str]) -> Iterator[None]:
    """Turn any failure inside the block into a user's error, where the user's own parts take part in it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not own_parts:
            raise
        raise UserError(f"{', '.join(own_parts)}: fails during the run ({type(error).__name__}: {error})") from error


def _begin(
    solver: RunSolver, y: Tensor, settings: RunSettings, keeper: Keeper, say: Callable[[str], None]
) -> tuple[Any, list[Metrics]]:
    """Start a run, or go on with the one in the checkpoint."""
    there = keeper.path.exists()
    if settings.resume and there:
        state = checkpoint.load(keeper.path, keeper.settings)
        try:
            run = solver.load_state_dict(y, state["run"])
            trace = [Metrics(int(row[0]), *row[1:]) for row in state["trace"].tolist()]
            keeper.seconds_before = float(state["seconds"])
        except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise UserError(f"{keeper.path}: damaged checkpoint ({error}); delete it to start anew") from error
        say(f"resumed at step {run.step}")
        return run, trace
    if settings.resume:
        say(f"no checkpoint in {keeper.path.parent}: starting anew")
    elif there:
        say(f"{keeper.path} of an earlier run is replaced (--resume would go on with it)")
    try:
        return solver.init(y, settings.seed), []
    except ValueError as error:
        raise UserError(f"{keeper.path.parent}: {error}") from error


def _loop(
    solver: RunSolver,
    run: Any,
    y: Tensor,
    trace: list[Metrics],
    steps: int,
    deadline: float,
    keeper: Keeper | None,
    progress: Progress,
    interrupt: Interrupt,
) -> str:
    """Step until done, out of time or interrupted; say which. Without a keeper no checkpoint is written."""
    begin, done, reason = time.perf_counter(), 0, "finished"
    with progress:
        for metrics in solver.iterate(run, y, steps):
            if not math.isfinite(metrics.loss):
                where = f"{keeper.path.parent}: " if keeper is not None else "restart: "
                raise UserError(f"{where}diverged at step {metrics.step} (loss not finite); try another --seed")
            trace.append(metrics)
            done += 1
            now = time.perf_counter()
            per_step = (now - begin) / done
            progress.update(metrics, min(per_step * (steps - run.step), max(deadline - now, 0.0)))
            if interrupt.raised:
                reason = "interrupted"
                break
            if now + per_step > deadline:
                reason = "time limit" if run.step < steps else "finished"
                break
            if keeper is not None:
                keeper.save_if_due(solver, run, trace)
    if solver.settled(run):
        reason = "settled: the image's moving variance had stopped falling"
    if steps and keeper is not None and (keeper.at_end or reason == "interrupted"):
        keeper.save(solver, run, trace)
    return reason
