"""One run on one picture: read, solve, save; interruptible at any step, resumable from its checkpoint."""

from __future__ import annotations

import hashlib
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blindsr import __version__, checkpoint
from blindsr.degradation import Alignment, Degradation, Padding
from blindsr.errors import UserError
from blindsr.io.images import MIN_SIDE, Picture, read_image
from blindsr.io.kernels import read_kernel
from blindsr.jobs.device import check_memory, choose_device, peak_memory_mib, with_usable_precision
from blindsr.jobs.outputs import Result, Truth, save_result, score
from blindsr.jobs.progress import Progress
from blindsr.methods import Method, assemble
from blindsr.presets import Preset
from blindsr.solver import Metrics, Run, Solver

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class RunSettings:
    """What a run is asked to do.

    Attributes
    ----------
    degradation : Degradation
        Scale, kernel size, alignment, padding.
    method : Method
        The row of parts.
    preset_name, preset
        Sizes, steps and rates.
    seed : int
        Of everything random.
    iterations : int or None
        Inner steps instead of the preset's.
    time_limit : float or None
        Seconds after which the best result so far is saved.
    checkpoint_seconds : float
        A checkpoint is written at most this often, and at the end.
    """

    degradation: Degradation
    method: Method
    preset_name: str
    preset: Preset
    seed: int = 0
    iterations: int | None = None
    time_limit: float | None = None
    device: str = "auto"
    resume: bool = False
    checkpoint_seconds: float = 15.0

    @property
    def steps(self) -> int:
        """Inner steps in all."""
        return self.iterations if self.iterations is not None else self.preset.steps

    def record(self, preset: Preset) -> dict[str, Any]:
        """Everything that decides the result, as plain values; a resume must find it unchanged."""
        d, m = self.degradation, self.method
        return {
            "scale": d.scale,
            "kernel_size": d.kernel_size,
            "alignment": str(d.alignment),
            "padding": str(d.padding),
            "method": m.name,
            "prior": m.prior.name,
            "optimizer": m.optimizer.name,
            "image_prior": m.image_prior.name,
            "noise": m.noise.name if m.noise else preset.noise,
            "preset": self.preset_name,
            "preset_values": {k: v for k, v in asdict(preset).items() if k != "steps"},
            "seed": self.seed,
        }


@dataclass
class Interrupt:
    """Set by Ctrl-C (or a termination signal); looked at after each step. A second Ctrl-C ends at once."""

    raised: bool = False
    handlers: dict[int, Any] = field(default_factory=dict)

    def _handle(self, number: int, frame: object) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True

    @contextmanager
    def listening(self) -> Iterator[Interrupt]:
        """Catch the signals inside the block."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        old = {n: signal.signal(n, self._handle) for n in numbers}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


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
        On bad input; nothing has been written then.
    """
    start = time.perf_counter()
    device = choose_device(settings.device)
    preset = with_usable_precision(settings.preset, device)
    picture = read_image(path, min_side=MIN_SIDE)
    truth = read_truth(settings.degradation, picture, truth_path, true_kernel_path)
    for note in (*picture.notes, *truth.notes):
        say(note)
    degradation, y = settings.degradation, picture.pixels
    hr = degradation.hr_shape(*y.shape[-2:])
    if degradation.kernel_size > min(hr):
        raise UserError(
            f"{path}: a kernel of {degradation.kernel_size} pixels is larger than the result ({hr[1]}x{hr[0]})"
        )
    check_memory(*hr, preset.skip, device)
    check_folder(folder)
    solver = Solver(assemble(settings.method, degradation, preset), device)
    record = settings.record(preset)
    record["image_sha256"] = hashlib.sha256(y.numpy().tobytes()).hexdigest()
    keeper = _Keeper(folder / CHECKPOINT, record, settings.checkpoint_seconds)
    run, trace = _begin(solver, y, settings, keeper, say)
    first_step = run.step
    deadline = start + settings.time_limit if settings.time_limit is not None else float("inf")
    reason = _loop(
        solver, run, y, trace, settings.steps, deadline, keeper, progress(path.name, settings.steps), interrupt
    )
    image, kernel = solver.estimate(run)
    record |= {
        "image": str(path),
        "steps": run.step,
        "resumed_at": first_step or None,
        "stopped": reason,
        "seconds": round(time.perf_counter() - start, 3),
        "peak_memory_mib": round(peak_memory_mib(device), 1),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "kernel": "applied by correlation; the nominal centre of mass is (kernel_size - scale) / 2 on both axes",
        "versions": {"blindsr": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    result = Result(picture, image, kernel, trace, solver.assembly, path.name)
    record["metrics"] = score(result, truth, say)
    save_result(folder, result, truth, record)
    return record


def read_truth(degradation: Degradation, picture: Picture, truth_path: Path | None, kernel_path: Path | None) -> Truth:
    """Read what is known of the truth and check that it fits the picture.

    Raises
    ------
    UserError
        If a size does not fit.
    """
    image, kernel = None, None
    notes: list[str] = []
    h, w = (degradation.scale * n for n in picture.pixels.shape[-2:])
    if truth_path is not None:
        image = read_image(truth_path).pixels
        extra_h, extra_w = image.shape[-2] - h, image.shape[-1] - w
        if not (0 <= extra_h < degradation.scale and 0 <= extra_w < degradation.scale):
            raise UserError(
                f"{truth_path}: {image.shape[-1]}x{image.shape[-2]} pixels, but the result will have {w}x{h}; "
                "give the HR image that the LR image was made from, or another --scale"
            )
        image = image[..., :h, :w]
    if kernel_path is not None:
        kernel, kernel_notes = read_kernel(kernel_path, scale=degradation.scale)
        notes += kernel_notes
        size = kernel.shape[-1]
        if size != degradation.kernel_size:
            raise UserError(
                f"{kernel_path}: the kernel is {size}x{size}, the run estimates "
                f"{degradation.kernel_size}x{degradation.kernel_size}; give --kernel-size {size}"
            )
    return Truth(image, kernel, tuple(notes))


def check_folder(folder: Path) -> None:
    """Make sure that results may go to a folder: new, empty, or one that an earlier run made.

    Raises
    ------
    UserError
        If it is a file, cannot be written, or holds somebody else's files.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {p.name for p in folder.iterdir()}
        probe = folder / ".blindsr-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); choose another --output") from error
    if names and not names & {"run.json", CHECKPOINT}:
        raise UserError(f"{folder}: holds other files; choose another --output, so that none is overwritten")


class _Keeper:
    """Writes checkpoints, not too often."""

    def __init__(self, path: Path, settings: dict[str, Any], every: float) -> None:
        self.path, self.settings, self.every = path, dict(settings), every
        self.last = time.perf_counter()

    def save(self, solver: Solver, run: Run, trace: list[Metrics]) -> None:
        """Write one now."""
        rows = torch.tensor([list(m) for m in trace], dtype=torch.float64).reshape(-1, len(Metrics._fields))
        checkpoint.save(self.path, self.settings, {"run": solver.state_dict(run), "trace": rows})
        self.last = time.perf_counter()

    def save_if_due(self, solver: Solver, run: Run, trace: list[Metrics]) -> None:
        """Write one if the last is old enough."""
        if time.perf_counter() - self.last >= self.every:
            self.save(solver, run, trace)


def _begin(
    solver: Solver, y: Tensor, settings: RunSettings, keeper: _Keeper, say: Callable[[str], None]
) -> tuple[Run, list[Metrics]]:
    """Start a run, or go on with the one in the checkpoint."""
    there = keeper.path.exists()
    if settings.resume and there:
        state = checkpoint.load(keeper.path, keeper.settings)
        try:
            run = solver.load_state_dict(y, state["run"])
            trace = [Metrics(int(row[0]), *row[1:]) for row in state["trace"].tolist()]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{keeper.path}: damaged checkpoint ({error}); delete it to start anew") from error
        say(f"resumed at step {run.step}")
        return run, trace
    if settings.resume:
        say(f"no checkpoint in {keeper.path.parent}: starting anew")
    elif there:
        say(f"{keeper.path} of an earlier run is replaced (--resume would go on with it)")
    return solver.init(y, settings.seed), []


def _loop(
    solver: Solver,
    run: Run,
    y: Tensor,
    trace: list[Metrics],
    steps: int,
    deadline: float,
    keeper: _Keeper,
    progress: Progress,
    interrupt: Interrupt,
) -> str:
    """Step until done, out of time or interrupted; say which."""
    begin, done, reason = time.perf_counter(), 0, "finished"
    with progress:
        for metrics in solver.iterate(run, y, steps):
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
            keeper.save_if_due(solver, run, trace)
    keeper.save(solver, run, trace)
    return reason


def default_degradation(scale: int, *, kernel_size: int = 0, alignment: Alignment, padding: Padding) -> Degradation:
    """Build the operator, with a user's error if a number does not fit."""
    try:
        return Degradation(scale, kernel_size, alignment, padding)
    except ValueError as error:
        raise UserError(str(error)) from error
