"""One run on one picture: read, estimate, restore, save; interruptible at any step, resumable from its checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blindsr.commands.folder import CHECKPOINT, Keeper, check_folder
from blindsr.commands.interrupt import Interrupt
from blindsr.commands.progress import Progress
from blindsr.commands.restarts import Restart, repeat
from blindsr.commands.restore import read_hr, restored, try_out
from blindsr.commands.settings import AFTERWARDS, RunSettings
from blindsr.errors import UserError
from blindsr.estimators.base import Estimate, Estimation, Metrics
from blindsr.generators.starts import pixel_average
from blindsr.io import checkpoint
from blindsr.io.images import MIN_SIDE, Picture, read_image
from blindsr.io.kernels import read_kernel
from blindsr.results.device import choose_device
from blindsr.results.files import (
    Result,
    Truth,
    estimate_record,
    image_hash,
    save_record,
    save_result,
    score,
    surroundings,
)
from blindsr.results.posterior import forget, sample_posterior
from blindsr.results.targets import Scene


@dataclass(frozen=True)
class Conditions:
    """How a run is carried out: where, until when, and who is told."""

    settings: RunSettings
    device: torch.device
    interrupt: Interrupt
    """Ends the run early when set."""
    deadline: float
    """Value of `time.perf_counter` at which the run ends early."""
    progress: Callable[[str, int], Progress]
    """Makes a display from a name and a number of steps."""
    say: Callable[[str], None]
    """Takes one-line notes for the user."""
    name: str

    def stopped(self) -> bool:
        """Whether to end early."""
        return self.why_stopped() is not None

    def why_stopped(self) -> str | None:
        """Return why to end early, None to go on."""
        if self.interrupt.raised:
            return "interrupted"
        return "the time limit was reached" if time.perf_counter() > self.deadline else None


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
    """Super-resolve one picture, save the result into a folder, and return what is written to run.json.

    The result is scored against an HR image and a kernel where their files are given; for the rest see `Conditions`.
    Raises UserError on bad input; no result has been written then, and none that was there is lost.
    """
    start = time.perf_counter()
    deadline = start + settings.time_limit if settings.time_limit is not None else float("inf")
    where = Conditions(settings, choose_device(settings.device), interrupt, deadline, progress, say, path.name)
    picture = read_image(path, min_side=MIN_SIDE)
    truth = read_truth(settings, picture, truth_path, true_kernel_path)
    for note in (*picture.notes, *truth.notes):
        say(note)
    y, record = picture.pixels, _checked(path, picture, where)
    finished = check_folder(folder, record, steps=settings.steps, resume=settings.resume, overwrite=settings.overwrite)
    if finished is not None:
        say(f"{folder}: already finished" + (f" ({finished['steps']} steps)" if finished["steps"] else ""))
        return finished
    first_part = {name: value for name, value in record.items() if name not in AFTERWARDS}
    keeper = Keeper(folder / CHECKPOINT, first_part, settings.checkpoint_every, at_end=not settings.bare)

    def seconds() -> float:
        return round(keeper.seconds_before + time.perf_counter() - start, 3)

    with faults_of(settings.composed.own_parts):
        first, found, facts = _solved(path, y, where, keeper)
    record |= facts | {"image": str(path), "seconds": seconds()} | surroundings(where.device)
    kernel = found.kernel
    assert found.image is not None
    loss = settings.composed.estimator.loss_name
    result = Result(picture, found.image, kernel, first.trace, settings.degradation, path.name, loss)
    record["metrics"] = score(result, replace(truth, kernel=None) if found.assumed else truth, say)
    forget(folder)
    more = settings.sampling is not None or settings.restarts is not None
    save_result(folder, result, truth, record | ({"complete": False} if more else {}), page=not settings.bare)
    if not more:
        return record
    with faults_of(settings.composed.own_parts):
        record |= _afterwards(folder, y, where, first, found, truth)
    parts = [record[name] for name in ("posterior", "restarts_made") if name in record]
    record["complete"] = record["complete"] and all(part["complete"] for part in parts)
    if not record["complete"] and interrupt.raised:
        record["stopped"] = "interrupted"
    record["seconds"] = seconds()
    save_record(folder, record)
    return record


def _checked(path: Path, picture: Picture, where: Conditions) -> dict[str, Any]:
    """Check that the method can serve the picture; return what decides the result, for run.json."""
    settings, y = where.settings, picture.pixels
    try:
        settings.composed.check(y, settings.degradation, where.device)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return settings.record() | {"image_sha256": image_hash(y)}


def _solved(path: Path, y: Tensor, where: Conditions, keeper: Keeper) -> tuple[Restart, Estimate, dict[str, Any]]:
    """Estimate the kernel and make the image; return the optimisation, the estimate with its image, and the record."""
    settings, method, d = where.settings, where.settings.composed, where.settings.degradation
    if settings.steps and any(name == method.labels["restorer"] for name in method.own_parts):
        try_out(method.restorer, y, d)
    try:
        run, trace = _begin(y, where, keeper)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    first_step = run.step
    reason = _advance(run, trace, where, keeper)
    found = run.estimate()
    kernel = pixel_average(d) if found.kernel is None else found.kernel
    tiles, ended, restorer = 0, None, method.restorer_for(settings.seed)
    facts: dict[str, Any] = {}
    if restorer is not None:
        noise = method.restoration_noise(found, y, d)
        image, tiles, ended = restored(
            restorer, y, kernel, d.for_kernel(kernel), noise, where.interrupt, where.deadline, where.say
        )
        found, reason = replace(found, image=image), ended or reason
        if restorer.needs_noise:
            facts["noise_std"] = noise
    facts |= estimate_record(run, found, restorer) | {
        "tiles": tiles,
        "complete": ended is None,
        "resumed_at": first_step or None,
        "stopped": reason,
    }
    assert found.image is not None
    return Restart(settings.seed, found.image, kernel, trace, reason), found, facts


def _afterwards(
    folder: Path, y: Tensor, where: Conditions, first: Restart, found: Estimate, truth: Truth
) -> dict[str, Any]:
    """Sample the kernel's posterior and repeat the optimisation, where asked for; return the entries for run.json."""
    settings, entries = where.settings, dict[str, Any]()
    estimator, d = settings.composed.estimator, settings.degradation
    if settings.sampling is not None:
        scene = Scene.of(y, first.image, first.kernel, d, found, truth.kernel)
        entries["posterior"] = sample_posterior(
            folder, settings.sampling, scene, estimator.prior, settings.seed, where.why_stopped, where.say
        )
    if settings.restarts is not None:

        def again(seed: int) -> Restart:
            other, trace = estimator.start(y, d, seed=seed, device=where.device), list[Metrics]()
            reason = _advance(other, trace, where, None)
            made = other.estimate()
            assert made.image is not None and made.kernel is not None
            return Restart(seed, made.image, made.kernel, trace, reason)

        entries["restarts_made"] = repeat(
            first, settings.restarts, again, where.stopped, folder, truth.kernel, where.say
        )
    return entries


def read_truth(settings: RunSettings, picture: Picture, truth_path: Path | None, kernel_path: Path | None) -> Truth:
    """Read what is known of the truth and check that it fits the picture; UserError if a size does not fit."""
    degradation, image, kernel = settings.degradation, None, None
    notes: list[str] = []
    if truth_path is not None:
        image = read_hr(truth_path, degradation.scale, picture.pixels)
    if kernel_path is not None:
        even = degradation.scale if settings.alignment is not None else None  # an even kernel needs a named grid
        kernel, kernel_notes = read_kernel(kernel_path, scale=even)
        notes += kernel_notes
        size = kernel.shape[-1]
        if size != degradation.kernel_size:
            raise UserError(
                f"{kernel_path}: the kernel is {size}x{size}, the run estimates "
                f"{degradation.kernel_size}x{degradation.kernel_size}; give --kernel-size {size}"
            )
    return Truth(image, kernel, tuple(notes))


@contextmanager
def faults_of(own_parts: tuple[str, ...]) -> Iterator[None]:
    """Turn any failure inside the block into a user's error, where the user's own parts take part in it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not own_parts:
            raise
        raise UserError(f"{', '.join(own_parts)}: fails during the run ({type(error).__name__}: {error})") from error


def _begin(y: Tensor, where: Conditions, keeper: Keeper) -> tuple[Estimation, list[Metrics]]:
    """Start a run, or go on with the one in the checkpoint."""
    settings, there = where.settings, keeper.path.exists()
    estimator, d = settings.composed.estimator, settings.degradation
    if settings.resume and there:
        state = checkpoint.load(keeper.path, keeper.settings)
        try:
            run = estimator.resume(y, d, state["run"], device=where.device)
            trace = [Metrics(int(row[0]), *row[1:]) for row in state["trace"].tolist()]
            keeper.seconds_before = float(state["seconds"])
        except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise UserError(f"{keeper.path}: damaged checkpoint ({error}); delete it to start anew") from error
        where.say(f"resumed at step {run.step}")
        return run, trace
    if settings.resume:
        where.say(f"no checkpoint in {keeper.path.parent}: starting anew")
    elif there:
        where.say(f"{keeper.path} of an earlier run is replaced (--resume would go on with it)")
    return estimator.start(y, d, seed=settings.seed, device=where.device), []


def _advance(run: Estimation, trace: list[Metrics], where: Conditions, keeper: Keeper | None) -> str:
    """Step until done, out of time or interrupted; say which. Without a keeper no checkpoint is written."""
    steps, deadline = where.settings.steps, where.deadline
    begin, done, reason = time.perf_counter(), 0, "finished"
    with where.progress(where.name, steps) as progress:
        for metrics in run.iterate(steps):
            if not math.isfinite(metrics.loss):
                at = f"{keeper.path.parent}: " if keeper is not None else "restart: "
                raise UserError(f"{at}diverged at step {metrics.step} (loss not finite); try another --seed")
            trace.append(metrics)
            done += 1
            now = time.perf_counter()
            per_step = (now - begin) / done
            progress.update(metrics, min(per_step * (steps - run.step), max(deadline - now, 0.0)))
            if where.interrupt.raised:
                reason = "interrupted"
                break
            if now + per_step > deadline:
                reason = "time limit" if run.step < steps else "finished"
                break
            if keeper is not None:
                keeper.save_if_due(run, trace)
    if run.settled is not None:
        reason = run.settled
    if steps and keeper is not None and (keeper.at_end or reason == "interrupted"):
        keeper.save(run, trace)
    return reason
