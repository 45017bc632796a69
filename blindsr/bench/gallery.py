"""Results side by side, with their kernels: Figures 5, 6 and 9; draws of a prior: Figures 3 and 7."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blindsr.bench.figure import plain, wrapped
from blindsr.bench.task import Task, operator
from blindsr.io.images import read_image
from blindsr.io.kernels import read_kernel
from blindsr.priors.base import KernelPrior
from blindsr.random import generator
from blindsr.restorers.bicubic import bicubic
from blindsr.results.files import as_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ZOOM = 96
"""Side of the part that is shown, HR pixels."""
INSET = 0.34
"""Side of the kernel in it, as a share."""
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

    Parameters
    ----------
    title : str
        Heading.
    tasks : sequence of Task
        Finished runs, whose folders are in `runs`.
    runs : Path
        Folder of the runs' folders, by key.
    records : dict
        Rows of the file of results, by key.
    """
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(t.label for t in tasks))
    scenes: dict[Any, list[Task]] = {}
    for task in tasks:
        scenes.setdefault((*task.group, task.image, task.seed), []).append(task)
    truth = any(t.truth for t in tasks)
    across = 1 + len(labels) + truth
    figure = Figure(figsize=(2.1 * across, 2.5 * len(scenes) + 0.4), layout="constrained")
    axes = figure.subplots(len(scenes), across, squeeze=False)
    for line, members in zip(axes, scenes.values(), strict=True):
        for ax in line:
            ax.axis("off")
        _scene(line, members, labels, runs, records)
    figure.suptitle(plain(title))
    return figure


def _scene(
    axes: Sequence[Axes], members: Sequence[Task], labels: Sequence[str], runs: Path, records: dict[str, dict[str, Any]]
) -> None:
    first = members[0]
    inputs = runs / first.key / "input"
    low = bicubic(
        read_image(inputs / f"{first.image}.png").pixels,
        first.scale,
        operator(first.scale, _degrading(first)).alignment,
    )
    hr = as_array(read_image(inputs / "hr.png").pixels) if first.truth else None
    top, left = detailed_square(as_array(low) if hr is None else hr, ZOOM)
    square = (slice(top, top + ZOOM), slice(left, left + ZOOM))
    _image(axes[0], as_array(low)[square], f"{first.image} x{first.scale}\nbicubic")
    for task in members:
        ax, folder, record = axes[1 + labels.index(task.label)], runs / task.key / "run", records[task.key]
        score = _caption(record)
        _image(ax, as_array(read_image(folder / "sr.png").pixels)[square], f"{wrapped(task.label)}\n{score}")
        if record["kernel_width"] is not None:
            _inset(ax, read_kernel(folder / "kernel.npy")[0][0, 0].numpy())
    if hr is not None:
        _image(axes[-1], hr[square], "HR image\nand true kernel")
        _inset(axes[-1], read_kernel(inputs / "kernel.npy")[0][0, 0].numpy())


def _caption(record: dict[str, Any]) -> str:
    if record["psnr"] is None:
        return "" if record["lr_psnr"] is None else f"LR {record['lr_psnr']:.1f} dB"
    kernel = f", kernel {record['kernel_psnr']:.1f}" if record["kernel_psnr"] is not None else ""
    return f"{record['psnr']:.2f} dB{kernel}"


def _degrading(task: Task) -> Any:
    from blindsr.bench.degrading import Degrading

    return None if task.degrading is None else Degrading.made(task.degrading)


def _image(ax: Axes, picture: Array, title: str) -> None:
    shown = picture[..., 0] if picture.shape[2] == 1 else picture
    ax.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(plain(title), fontsize=8)


def _inset(ax: Axes, kernel: Array) -> None:
    inset = ax.inset_axes((1 - INSET, 1 - INSET, INSET, INSET))
    inset.imshow(kernel, cmap="magma", vmin=0, interpolation="nearest")
    inset.set_xticks([])
    inset.set_yticks([])


def draw_kernels(title: str, prior: KernelPrior, n: int, seed: int) -> Figure:
    """Draw n kernels of a prior."""
    from matplotlib.figure import Figure

    kernels = prior.sample(n, generator=generator(seed))[:, 0].double().numpy()
    across = (n + 1) // 2
    figure = Figure(figsize=(1.6 * across, 3.8), layout="constrained")
    axes = figure.subplots(2, across, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for i, (ax, kernel) in enumerate(zip(axes, kernels, strict=False), 1):
        ax.imshow(kernel, cmap="magma", vmin=0, interpolation="nearest")
        ax.set_title(f"draw {i}, peak {kernel.max():.3f}", fontsize=8)
    figure.suptitle(plain(f"{title}, seed {seed}"))
    return figure
