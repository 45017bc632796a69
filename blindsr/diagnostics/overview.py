"""overview.png: the LR image, the result, the kernel and the loss on one page, with the truth where it is known."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Overview:
    """What the page shows; images (H, W, C) in 0..1, kernels (K, K), one entry of each curve for every step."""

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


def _image(axes: Axes, picture: Array, name: str) -> None:
    grey = picture.ndim == 2 or picture.shape[2] == 1
    axes.imshow(np.squeeze(picture), cmap="gray" if grey else None, vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(name, fontsize=11)
    axes.axis("off")


def _kernel(axes: Axes, kernel: Array, name: str) -> None:
    shown = axes.imshow(kernel, cmap="magma", vmin=0, interpolation="nearest")
    axes.set_title(name, fontsize=11)
    axes.set_xlabel("column (HR pixels)", fontsize=9)
    axes.set_ylabel("row (HR pixels)", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.locator_params(integer=True)
    axes.figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.04).ax.tick_params(labelsize=8)


def _curves(axes: Axes, page: Overview) -> None:
    steps = np.arange(1, len(page.loss) + 1)
    axes.set_xlabel("step", fontsize=9)
    axes.set_title("Loss", fontsize=11)
    if np.isnan(page.lr_rmse).all():  # an estimator without an image of its own
        axes.plot(steps, page.loss, color="#1b6ca8", lw=0.8)
        axes.set_ylabel(page.loss_name, fontsize=9)
        axes.tick_params(labelsize=8)
        return
    (a,) = axes.semilogy(steps, page.loss, color="#1b6ca8", lw=1.1, label=page.loss_name)
    axes.set_ylabel(page.loss_name.partition(" (")[0], fontsize=9, color="#1b6ca8")
    axes.tick_params(which="both", labelsize=8)
    twin = axes.twinx()
    (b,) = twin.semilogy(steps, page.lr_rmse, color="#d1495b", lw=1.1, label="LR error (grey levels, rms)")
    twin.set_ylabel("LR error (grey levels of 255, rms)", fontsize=9, color="#d1495b")
    twin.tick_params(which="both", labelsize=8)
    axes.legend(handles=[a, b], fontsize=8, loc="upper right", frameon=False)


def _sections(axes: Axes, kernels: list[tuple[Array, str]]) -> None:
    """For a method without steps: the kernels' profiles along both axes (sums over the other)."""
    for (kernel, text), style in zip(kernels, ("-", "--"), strict=False):
        for axis, name, color in ((0, "columns", "#1b6ca8"), (1, "rows", "#d1495b")):
            profile = kernel.sum(axis=axis)
            label = f"{text.splitlines()[0].lower()}, along {name}"
            axes.plot(np.arange(len(profile)), profile, style, color=color, lw=1.3, label=label)
    axes.set_xlabel("HR pixels", fontsize=9)
    axes.set_ylabel("kernel, summed over the other axis", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, loc="upper right", frameon=False)
    axes.set_title("Profiles of the kernel", fontsize=11)


def draw(page: Overview) -> Figure:
    """Lay the page out as a matplotlib figure (no window, no global state)."""
    from matplotlib.figure import Figure

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
    figure = Figure(figsize=(side * n, side * min(max(height / width, 0.5), 1.8) + 4.2), layout="constrained", dpi=130)
    upper = side * min(max(height / width, 0.5), 1.8)
    parts: Any = figure.subfigures(3, 1, height_ratios=[0.3, upper + 0.5, 3.7])
    title, *rows = parts
    upper_axes = rows[0].subplots(1, n)
    for axes, (picture, text) in zip(upper_axes, pictures, strict=True):
        _image(axes, picture, text)
    kernels = [] if page.kernel is None else [(page.kernel, name("kernel", "Kernel"))]
    if page.true_kernel is not None:
        kernels.append((page.true_kernel, name("true_kernel", "True kernel")))
    ratios = [1.0] * len(kernels) + [max(n - len(kernels), 1.0)]
    lower = rows[1].subplots(1, len(kernels) + 1, squeeze=False, gridspec_kw={"width_ratios": ratios})[0]
    for axes, (kernel, text) in zip(lower, kernels, strict=False):
        _kernel(axes, kernel, text)
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
    from matplotlib.figure import Figure

    height, width = page.result.shape[:2]
    panels = 2 if page.kernel is None else 3
    size = (3.2 * panels, 3.2 * min(max(height / width, 0.5), 1.8) + 0.4)
    axes = Figure(figsize=size, layout="constrained", dpi=100).subplots(1, panels)
    captions = page.captions or {}
    _image(axes[0], page.lr, f"LR image\n{captions.get('lr', '')}")
    _image(axes[1], page.result, f"blindsr\n{captions.get('result', '')}")
    if page.kernel is not None:
        _kernel(axes[2], page.kernel, f"Kernel\n{captions.get('kernel', '')}")
    figure: Figure = axes[0].figure
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
