"""Results side by side, with their kernels: Figures 5, 6 and 9 of the paper; draws from a prior: Figures 3 and 7."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blindsr.bench.figure import plain, wrapped
from blindsr.bench.task import Task
from blindsr.diagnostics.style import new_figure, panels, show_kernel, show_picture
from blindsr.io.images import read_image
from blindsr.io.kernels import read_kernel
from blindsr.priors.base import KernelPrior
from blindsr.random import generator
from blindsr.restorers.bicubic import bicubic
from blindsr.results.files import as_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CROP = 96
"""Side of the part of a picture that is shown, HR pixels."""
INSET = 0.34
"""Side of the kernel in the corner of a picture, as a share of the picture's."""
Array = NDArray[Any]


def detailed_square(image: Array, side: int) -> tuple[int, int]:
    """Return (top, left) of the square with the largest variance in an image (H, W, C)."""
    from scipy.ndimage import uniform_filter

    grey = image.mean(2)
    side = min(side, *grey.shape)
    variance = uniform_filter(grey**2, side, mode="nearest") - uniform_filter(grey, side, mode="nearest") ** 2
    half = side // 2
    inside = variance[half : grey.shape[0] - side + half + 1, half : grey.shape[1] - side + half + 1]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(top), int(left)


def draw_crops(title: str, tasks: Sequence[Task], runs: Path, records: dict[str, dict[str, Any]]) -> Figure:
    """Draw a line for each picture, scale and degradation: bicubic, each row's result with its kernel, the truth.

    The folders of the finished runs are in `runs`, and `records` holds their records of the database, both by key.
    """
    labels = list(dict.fromkeys(t.label for t in tasks))
    lines: dict[Any, list[Task]] = {}
    for task in tasks:
        lines.setdefault((*task.group, task.image, task.seed), []).append(task)
    across = 1 + len(labels) + any(t.truth for t in tasks)
    figure = new_figure(2.1 * across, 2.5 * len(lines) + 0.4, plain(title))
    axes = figure.subplots(len(lines), across, squeeze=False)
    for ax in axes.ravel():
        ax.axis("off")
    for line, members in zip(axes, lines.values(), strict=True):
        _draw_line(line, members, labels, runs, records)
    return figure


def _draw_line(
    axes: Sequence[Axes], members: Sequence[Task], labels: Sequence[str], runs: Path, records: dict[str, dict[str, Any]]
) -> None:
    first = members[0]
    inputs = runs / first.key / "input"
    y = read_image(inputs / f"{first.image}.png").pixels
    enlarged = as_array(bicubic(y, first.scale, first.operator.alignment))
    hr = as_array(read_image(inputs / "hr.png").pixels) if first.truth else None
    top, left = detailed_square(enlarged if hr is None else hr, CROP)
    square = (slice(top, top + CROP), slice(left, left + CROP))
    show_picture(axes[0], enlarged[square], plain(f"{first.image} x{first.scale}\nbicubic"), size=8)
    for task in members:
        ax, folder, record = axes[1 + labels.index(task.label)], runs / task.key / "run", records[task.key]
        caption = plain(f"{wrapped(task.label)}\n{_caption(record)}")
        show_picture(ax, as_array(read_image(folder / "sr.png").pixels)[square], caption, size=8)
        if record["kernel_width"] is not None:
            _inset(ax, folder / "kernel.npy")
    if hr is not None:
        show_picture(axes[-1], hr[square], "HR image\nand true kernel", size=8)
        _inset(axes[-1], inputs / "kernel.npy")


def _caption(record: dict[str, Any]) -> str:
    if record["psnr"] is None:
        return "" if record["lr_psnr"] is None else f"LR {record['lr_psnr']:.1f} dB"
    kernel = f", kernel {record['kernel_psnr']:.1f}" if record["kernel_psnr"] is not None else ""
    return f"{record['psnr']:.2f} dB{kernel}"


def _inset(ax: Axes, kernel: Path) -> None:
    """Show the kernel of a file in the upper right corner."""
    inset = ax.inset_axes((1 - INSET, 1 - INSET, INSET, INSET))
    show_kernel(inset, read_kernel(kernel)[0][0, 0].numpy(), scale=False)


def draw_kernels(title: str, prior: KernelPrior, n: int, seed: int) -> Figure:
    """Draw n kernels from a prior."""
    kernels = prior.sample(n, generator=generator(seed))[:, 0].double().numpy()
    figure, axes = panels(n, (n + 1) // 2, (1.6, 1.6), plain(f"{title}, seed {seed}"), dpi=140)
    for i, (ax, kernel) in enumerate(zip(axes, kernels, strict=True), 1):
        show_kernel(ax, kernel, f"draw {i}, peak {kernel.max():.3f}", scale=False)
    return figure
