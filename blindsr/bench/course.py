"""What a kernel does while a run goes on: Figures 2 and 8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from blindsr.bench.degrading import Degrading
from blindsr.bench.figure import plain, wrapped
from blindsr.bench.row import Row
from blindsr.bench.task import Task, settings_of
from blindsr.commands.interrupt import Interrupt
from blindsr.diagnostics.metrics import kernel_psnr
from blindsr.estimators.base import Estimation
from blindsr.simulate import TestImage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SNAPSHOTS = 6
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Course:
    """A run, seen at the beginning of each outer iteration.

    Attributes
    ----------
    label, words : str
        Name of the row; the run in a few words.
    psnr, error : array (n,)
        Kernel PSNR in dB and mean squared LR error of the kernel as it stands, after each outer iteration.
    kernels : array (n, K, K)
        The kernels.
    sample_psnr, sample_error : array (n, L)
        The same of the kernels that the Monte Carlo step has drawn; L = 0 where there is none.
    truth : array (K, K)
        True kernel.
    """

    label: str
    words: str
    psnr: Array
    error: Array
    kernels: Array
    sample_psnr: Array
    sample_error: Array
    truth: Array


def follow(task: Task, test: TestImage, interrupt: Interrupt) -> Course | None:
    """Make a run in this process and look at its kernels; None after an interrupt.

    Parameters
    ----------
    task : Task
        The run; its method must make steps.
    test : TestImage
        Its LR image and truth.
    interrupt : Interrupt
        Looked at after each step.
    """
    torch.set_num_threads(task.threads)
    degrading = None if task.degrading is None else Degrading.made(task.degrading)
    settings = settings_of(Row(**task.row), task.scale, degrading, task.seed, task.device)
    method = settings.composed
    run = method.estimator.start(test.y, settings.degradation, seed=task.seed, device=task.device)
    truth = test.kernel[0, 0].double().numpy()
    psnrs, errors, kernels, drawn = [], [], [], []
    every = method.estimator.inner_steps
    for step in range(settings.steps):
        if step % every == 0:
            drawn.append(_drawn(run, truth))
        metrics = run.advance()
        if interrupt.raised:
            return None
        if (step + 1) % every == 0:
            estimated = run.estimate().kernel
            assert estimated is not None
            kernel = estimated[0, 0].double().numpy()
            psnrs.append(kernel_psnr(kernel, truth))
            errors.append(metrics.mse)
            kernels.append(kernel)
    n = len(psnrs)
    samples = [np.array([d[i] for d in drawn[:n]]) for i in (0, 1)]
    shown = (np.array(psnrs), np.array(errors), np.array(kernels), *samples, truth)
    return Course(task.label, f"{task.image} x{task.scale}", *shown)


def _drawn(run: Estimation, truth: Array) -> tuple[list[float], list[float]]:
    """PSNR and LR error of the kernels that the coming Monte Carlo step draws."""
    coming = run.coming_kernels()
    if coming is None:
        return [], []
    samples, errors = coming
    return [kernel_psnr(k[0].double().cpu().numpy(), truth) for k in samples], errors.tolist()


def draw_course(title: str, courses: Sequence[Course]) -> Figure:
    """Figure 2: the approximated kernel above, the sampled ones below; each against the iteration and the LR error."""
    from matplotlib.figure import Figure

    c = courses[0]
    rows = 2 if c.sample_psnr.size else 1
    figure = Figure(figsize=(12, 3.6 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False)
    t = np.arange(1, len(c.psnr) + 1)
    axes[0, 0].semilogy(t, c.error, color="#1b3a57")
    _label(axes[0, 0], "approximated kernel: LR error", "outer iteration", "mean squared LR error")
    axes[0, 1].plot(t, c.psnr, color="#1b3a57")
    _label(axes[0, 1], "approximated kernel: PSNR", "outer iteration", "kernel PSNR (dB)")
    shown = axes[0, 2].scatter(c.error, c.psnr, c=t, s=10, cmap="viridis")
    _label(axes[0, 2], "approximated kernel", "mean squared LR error", "kernel PSNR (dB)", log=True)
    figure.colorbar(shown, ax=axes[0, 2], label="outer iteration")
    if rows == 2:
        low, mid, high = (f(c.sample_psnr, axis=1) for f in (np.min, np.mean, np.max))
        axes[1, 0].fill_between(t, low, high, color="#8fb3d1", label="worst to best")
        axes[1, 0].plot(t, mid, color="#1b3a57", lw=1, label="mean")
        axes[1, 0].legend(fontsize=8)
        _label(axes[1, 0], "sampled kernels: PSNR", "outer iteration", "kernel PSNR (dB)")
        thirds = np.array_split(np.arange(len(t)), 3)
        for ax, part, name in ((axes[1, 1], thirds[0], "first"), (axes[1, 2], thirds[2], "last")):
            times = np.repeat(t[part], c.sample_psnr.shape[1])
            shown = ax.scatter(c.sample_error[part].ravel(), c.sample_psnr[part].ravel(), c=times, s=8, cmap="viridis")
            _label(ax, f"sampled kernels, {name} third", "mean squared LR error", "kernel PSNR (dB)", log=True)
            figure.colorbar(shown, ax=ax, label="outer iteration")
    figure.suptitle(plain(f"{title}: {c.label}, {c.words}"))
    return figure


def _label(ax: Axes, title: str, x: str, y: str, *, log: bool = False) -> None:
    if log:
        from matplotlib.ticker import NullFormatter

        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_title(title, fontsize=10)
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.grid(color="0.92")
    ax.set_axisbelow(True)


def draw_snapshots(title: str, courses: Sequence[Course]) -> Figure:
    """Figure 8: for each row the kernel at a few iterations, then the true one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.7 * (SNAPSHOTS + 1), 2.1 * len(courses) + 0.5), layout="constrained")
    axes = figure.subplots(len(courses), SNAPSHOTS + 1, squeeze=False)
    for line, c in zip(axes, courses, strict=True):
        for ax, i in zip(line, np.linspace(0, len(c.psnr) - 1, SNAPSHOTS).round().astype(int), strict=False):
            _kernel(ax, c.kernels[i], f"iteration {i + 1}\n{c.psnr[i]:.1f} dB")
        _kernel(line[-1], c.truth, "true kernel")
        line[0].set_ylabel(plain(wrapped(c.label)), fontsize=9)
    figure.suptitle(plain(f"{title}: {courses[0].words}"))
    return figure


def _kernel(ax: Axes, kernel: Array, title: str) -> None:
    ax.imshow(kernel, cmap="magma", vmin=0, interpolation="nearest")
    ax.set_title(title, fontsize=8)
    ax.set_xticks([])
    ax.set_yticks([])
