"""How a kernel converges in the course of a run: Figures 2 and 8 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from blindsr.bench.figure import DOT, MEAN, plain, wrapped
from blindsr.bench.task import Task
from blindsr.commands.interrupt import Interrupt
from blindsr.diagnostics.metrics import kernel_psnr
from blindsr.diagnostics.style import label_axes, new_figure, show_kernel
from blindsr.estimators.base import Estimation
from blindsr.simulate import TestImage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SNAPSHOTS = 6
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Convergence:
    """A run, seen at each outer iteration."""

    label: str
    description: str
    """Name of the row; the run in a few words."""
    psnr: Array
    error: Array
    """Kernel PSNR in dB, and mean squared LR error, of the estimated kernel after each outer iteration."""
    kernels: Array
    sample_psnr: Array
    sample_error: Array
    """The same of the kernels that the Monte Carlo step has drawn; L = 0 for a method without that step."""
    truth: Array


def follow(task: Task, test: TestImage, interrupt: Interrupt) -> Convergence | None:
    """Make a run of steps on a test image in this process and record its kernels; None after an interrupt."""
    torch.set_num_threads(task.threads)
    settings = task.run_settings()
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
    samples = [np.array([d[i] for d in drawn[: len(psnrs)]]) for i in (0, 1)]
    recorded = (np.array(psnrs), np.array(errors), np.array(kernels), *samples, truth)
    return Convergence(task.label, f"{task.image} x{task.scale}", *recorded)


def _drawn(run: Estimation, truth: Array) -> tuple[list[float], list[float]]:
    """PSNR and LR error of the kernels that the next Monte Carlo step will draw."""
    coming = run.coming_kernels()
    if coming is None:
        return [], []
    samples, errors = coming
    return [kernel_psnr(k[0].double().cpu().numpy(), truth) for k in samples], errors.tolist()


def draw_convergence(title: str, followed: Sequence[Convergence]) -> Figure:
    """Draw Figure 2: the estimated kernel above and the drawn ones below, against iteration and LR error."""
    c = followed[0]
    rows = 2 if c.sample_psnr.size else 1
    figure = new_figure(12, 3.6 * rows + 0.5, plain(f"{title}: {c.label}, {c.description}"))
    axes = figure.subplots(rows, 3, squeeze=False)
    t = np.arange(1, len(c.psnr) + 1)
    axes[0, 0].semilogy(t, c.error, color=MEAN)
    label_axes(axes[0, 0], "estimated kernel: LR error", "outer iteration", "mean squared LR error")
    axes[0, 1].plot(t, c.psnr, color=MEAN)
    label_axes(axes[0, 1], "estimated kernel: PSNR", "outer iteration", "kernel PSNR (dB)")
    _scatter(axes[0, 2], "estimated kernel", c.error, c.psnr, t)
    if rows == 2:
        low, mean, high = (f(c.sample_psnr, axis=1) for f in (np.min, np.mean, np.max))
        axes[1, 0].fill_between(t, low, high, color=DOT, label="worst to best")
        axes[1, 0].plot(t, mean, color=MEAN, lw=1, label="mean")
        axes[1, 0].legend(fontsize=8)
        label_axes(axes[1, 0], "drawn kernels: PSNR", "outer iteration", "kernel PSNR (dB)")
        first, _, last = np.array_split(np.arange(len(t)), 3)
        for ax, part, name in ((axes[1, 1], first, "first"), (axes[1, 2], last, "last")):
            times = np.repeat(t[part], c.sample_psnr.shape[1])
            _scatter(ax, f"drawn kernels, {name} third", c.sample_error[part], c.sample_psnr[part], times)
    for ax in axes.ravel():
        ax.grid(color="0.92")
        ax.set_axisbelow(True)
    return figure


def _scatter(ax: Axes, title: str, error: Array, psnr: Array, iteration: NDArray[np.integer]) -> None:
    """Draw kernel PSNR against LR error, coloured by iteration."""
    from matplotlib.ticker import NullFormatter

    shown = ax.scatter(error.ravel(), psnr.ravel(), c=iteration, s=9, cmap="viridis")
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(NullFormatter())
    label_axes(ax, title, "mean squared LR error", "kernel PSNR (dB)")
    ax.figure.colorbar(shown, ax=ax, label="outer iteration")


def draw_snapshots(title: str, followed: Sequence[Convergence]) -> Figure:
    """Draw Figure 8: for each row the kernel at a few iterations, then the true one."""
    heading = plain(f"{title}: {followed[0].description}")
    figure = new_figure(1.7 * (SNAPSHOTS + 1), 2.1 * len(followed) + 0.5, heading)
    axes = figure.subplots(len(followed), SNAPSHOTS + 1, squeeze=False)
    for line, c in zip(axes, followed, strict=True):
        for ax, i in zip(line, np.linspace(0, len(c.psnr) - 1, SNAPSHOTS).round().astype(int), strict=False):
            show_kernel(ax, c.kernels[i], f"iteration {i + 1}\n{c.psnr[i]:.1f} dB", scale=False)
        show_kernel(line[-1], c.truth, "true kernel", scale=False)
        line[0].set_ylabel(plain(wrapped(c.label)), fontsize=9)
    return figure
