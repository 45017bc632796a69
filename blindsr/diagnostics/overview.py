"""overview.png: LR image, result, kernel and loss on one page, with the ground truth where it is known."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blindsr.diagnostics.style import BLUE, RED, label_axes, new_figure, show_kernel, show_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Overview:
    """What the page shows: images (H, W, C) in 0..1, kernels (K, K), and curves with one value for each step."""

    lr: Array
    enlarged: Array
    result: Array
    kernel: Array | None
    loss: Array
    lr_rmse: Array
    title: str
    loss_name: str = "loss"
    truth: Array | None = None
    true_kernel: Array | None = None
    captions: dict[str, str] | None = None
    """Second line under the name of a panel, by panel: lr, enlarged, result, truth, kernel, true_kernel."""


def _curves(axes: Axes, page: Overview) -> None:
    steps = np.arange(1, len(page.loss) + 1)
    if np.isnan(page.lr_rmse).all():  # an estimator without an image of its own
        axes.plot(steps, page.loss, color=BLUE, lw=0.8)
        label_axes(axes, "Loss", "step", page.loss_name)
        return
    (a,) = axes.semilogy(steps, page.loss, color=BLUE, lw=1.1, label=page.loss_name)
    label_axes(axes, "Loss", "step", page.loss_name.partition(" (")[0])
    axes.yaxis.label.set_color(BLUE)
    twin = axes.twinx()
    (b,) = twin.semilogy(steps, page.lr_rmse, color=RED, lw=1.1, label="LR error (grey levels, rms)")
    twin.set_ylabel("LR error (grey levels of 255, rms)", fontsize=9, color=RED)
    twin.tick_params(which="both", labelsize=8)
    axes.legend(handles=[a, b], fontsize=8, loc="upper right", frameon=False)


def _sections(axes: Axes, kernels: list[tuple[Array, str]]) -> None:
    """Draw, for a method without steps, the profiles of the kernels along both axes (sums over the other axis)."""
    for (kernel, text), style in zip(kernels, ("-", "--"), strict=False):
        for axis, name, color in ((0, "columns", BLUE), (1, "rows", RED)):
            profile = kernel.sum(axis=axis)
            label = f"{text.splitlines()[0].lower()}, along {name}"
            axes.plot(np.arange(len(profile)), profile, style, color=color, lw=1.3, label=label)
    label_axes(axes, "Profiles of the kernel", "HR pixels", "kernel, summed over the other axis")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, loc="upper right", frameon=False)


def draw(page: Overview) -> Figure:
    """Lay the page out as a matplotlib figure."""
    captions = page.captions or {}

    def name(key: str, text: str) -> str:
        return f"{text}\n{captions[key]}" if captions.get(key) else text

    pictures = [
        (page.lr, name("lr", "LR image")),
        (page.enlarged, name("enlarged", "Bicubic")),
        (page.result, name("result", "blindsr")),
    ]
    if page.truth is not None:
        pictures.append((page.truth, name("truth", "Truth")))
    n = len(pictures)
    height, width = page.result.shape[:2]
    side = 3.6
    upper = side * min(max(height / width, 0.5), 1.8)
    figure = new_figure(side * n, upper + 4.2, dpi=130)
    parts: Any = figure.subfigures(3, 1, height_ratios=[0.3, upper + 0.5, 3.7])
    title, *rows = parts
    upper_axes = rows[0].subplots(1, n)
    for axes, (picture, text) in zip(upper_axes, pictures, strict=True):
        show_picture(axes, picture, text)
    kernels = [] if page.kernel is None else [(page.kernel, name("kernel", "Kernel"))]
    if page.true_kernel is not None:
        kernels.append((page.true_kernel, name("true_kernel", "True kernel")))
    ratios = [1.0] * len(kernels) + [max(n - len(kernels), 1.0)]
    lower = rows[1].subplots(1, len(kernels) + 1, squeeze=False, gridspec_kw={"width_ratios": ratios})[0]
    for axes, (kernel, text) in zip(lower, kernels, strict=False):
        show_kernel(axes, kernel, text)
    if len(page.loss):
        _curves(lower[-1], page)
    elif kernels:
        _sections(lower[-1], kernels)
    else:
        lower[-1].axis("off")
    title.text(0.5, 0.5, page.title, ha="center", va="center", fontsize=12)
    return figure


def draw_strip(page: Overview) -> Figure:
    """Lay out the LR image, the result and the kernel, if there is one, side by side."""
    height, width = page.result.shape[:2]
    panels = 2 if page.kernel is None else 3
    figure = new_figure(3.2 * panels, 3.2 * min(max(height / width, 0.5), 1.8) + 0.4, dpi=100)
    axes = figure.subplots(1, panels)
    captions = page.captions or {}
    show_picture(axes[0], page.lr, f"LR image\n{captions.get('lr', '')}")
    show_picture(axes[1], page.result, f"blindsr\n{captions.get('result', '')}")
    if page.kernel is not None:
        show_kernel(axes[2], page.kernel, f"Kernel\n{captions.get('kernel', '')}")
    return figure


def render(page: Overview) -> bytes:
    """Return the page as the bytes of a PNG file."""
    return as_png(draw(page))


def as_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    out = io.BytesIO()
    with warnings.catch_warnings():  # letters of a file's name that the font does not have
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")
        figure.savefig(out, format="png")
    return out.getvalue()
