"""What all figures share: colours, panels, labels, kernels and pictures. No window opens; no global state changes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]

BLUE, RED, GREY = "#1b6ca8", "#d1495b", "#c9ced6"
COLORS = (BLUE, RED, "#edae49", "#4f9d69", "#7a5195", "#8c564b", "#00798c", "#5c5c5c")
"""Colours of chains, restarts and other series, in turn."""


def new_figure(width: float, height: float, title: str = "", *, dpi: int = 110) -> Figure:
    """Return an empty figure; width and height in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=dpi)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def panels(
    count: int, columns: int, size: tuple[float, float], title: str = "", *, dpi: int = 110
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels of a size (width, height) in inches, in rows of at most `columns`."""
    across = min(count, columns)
    down = math.ceil(count / across)
    figure = new_figure(size[0] * across, size[1] * down + 0.8, title, dpi=dpi)
    axes = list(np.ravel(figure.subplots(down, across, squeeze=False)))
    for spare in axes[count:]:
        spare.axis("off")
    return figure, axes[:count]


def label_axes(axes: Axes, title: str = "", x: str = "", y: str = "", *, size: float = 9) -> None:
    """Set the title and the names of the axes, the title a point larger."""
    axes.set_title(title, fontsize=size + 1)
    axes.set_xlabel(x, fontsize=size)
    axes.set_ylabel(y, fontsize=size)
    axes.tick_params(which="both", labelsize=min(size, 8))


def color_bar(axes: Axes, shown: Any) -> None:
    """Put the scale of what is shown beside it."""
    axes.figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.04).ax.tick_params(labelsize=8)


def show_kernel(
    axes: Axes, kernel: Array, title: str = "", *, top: float | None = None, cmap: str = "magma", scale: bool = True
) -> None:
    """Show a kernel (K, K), from 0 to `top`; with a scale beside it and names on the axes, or without both."""
    shown = axes.imshow(kernel, cmap=cmap, vmin=0, vmax=top, interpolation="nearest")
    if scale:
        label_axes(axes, title, "column (HR pixels)", "row (HR pixels)")
        axes.locator_params(integer=True)
        color_bar(axes, shown)
    else:
        axes.set_title(title, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])


def show_picture(axes: Axes, picture: Array, title: str = "", *, size: float = 11) -> None:
    """Show a picture (H, W) or (H, W, C), grey or RGB, values 0..1."""
    shown = np.clip(np.squeeze(picture), 0, 1)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=size)
    axes.axis("off")
