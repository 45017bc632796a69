"""An optimisation repeated with other seeds, saved as trace.nc: its spread is neither a posterior nor an R-hat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blindsr.diagnostics import arviz_io
from blindsr.diagnostics.arviz_io import Group
from blindsr.diagnostics.metrics import kernel_psnr
from blindsr.diagnostics.moments import NAMES, RunningMoments, kernel_moments
from blindsr.estimators.base import Metrics
from blindsr.io.files import atomic_path
from blindsr.operators.kernels import width
from blindsr.results.posterior import RESTARTS

Array = NDArray[Any]


@dataclass(frozen=True)
class Restart:
    """One optimisation: its seed, image (1, C, H, W), kernel (1, 1, K, K), metrics by step, and why it ended."""

    seed: int
    image: Tensor
    kernel: Tensor
    trace: list[Metrics]
    reason: str


def repeat(
    first: Restart,
    count: int,
    again: Callable[[int], Restart],
    stopped: Callable[[], bool],
    folder: Path,
    true_kernel: Tensor | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Repeat the optimisation with the following seeds, up to `count` in all; return the entry for run.json.

    All of them are saved in trace.nc, even if `stopped` ends them early. `again` makes the restart of a seed; the true
    kernel is (1, 1, K, K) or None.
    """
    made, images = [first], RunningMoments()
    images.add(first.image.cpu())
    while len(made) < count and not stopped():
        seed = (first.seed + len(made)) % 2**32
        say(f"restart {len(made) + 1} of {count}, seed {seed}")
        restart = again(seed)
        if restart.reason in ("interrupted", "time limit"):
            break  # unfinished, and so not comparable with the others
        images.add(restart.image.cpu())
        made.append(restart)
    data = arviz_io.build({"trace": _group(made, images, count, true_kernel)})
    with atomic_path(folder / RESTARTS) as temporary:
        arviz_io.save(data, temporary)
    return {
        "asked": count,
        "made": len(made),
        "complete": len(made) == count,
        "seeds": [r.seed for r in made],
        "kernel_widths": [float(width(r.kernel)) for r in made],
        "image_sd_grey_levels": 255 * float(images.std().square().mean().sqrt()),
        "file": RESTARTS,
    }


def _group(made: list[Restart], images: RunningMoments, asked: int, truth: Tensor | None) -> Group:
    """Kernels, their moments, losses, and mean and standard deviation of the image over the restarts."""
    kernels = torch.cat([r.kernel.cpu() for r in made])
    moments = kernel_moments(lambda k: k, kernels)
    steps = max(len(r.trace) for r in made)
    losses = np.full((len(made), steps), np.nan)
    for row, restart in zip(losses, made, strict=True):
        row[: len(restart.trace)] = [m.loss for m in restart.trace]
    values: dict[str, tuple[tuple[str, ...], Array]] = {name: (("restart",), moments.columns[name]) for name in NAMES}
    values |= {
        "kernel": (("restart", "row", "column"), kernels[:, 0].float().numpy()),
        "loss": (("restart", "step"), losses),
        "seed": (("restart",), np.array([r.seed for r in made])),
        "kernel_width": (("restart",), width(kernels).double().numpy()),
        "image_mean": (("channel", "image_row", "image_column"), images.mean.float().numpy()),
        "image_sd": (("channel", "image_row", "image_column"), images.std().float().numpy()),
    }
    if truth is not None:
        true = truth[0, 0].double().numpy()
        scores = [kernel_psnr(k[0].double().numpy(), true) for k in kernels]
        values["kernel_psnr"] = (("restart",), np.array(scores))
        values["true_kernel"] = (("row", "column"), true)
    side = kernels.shape[-1]
    coords = {
        "restart": np.arange(len(made)),
        "row": np.arange(side),
        "column": np.arange(side),
        "step": np.arange(1, steps + 1),
    }
    attrs = {
        "kind": "restarts of an optimisation",
        "valid": 0,
        "complete": int(len(made) == asked),
        "restarts_asked": asked,
        "seeds": [r.seed for r in made],
    }
    return Group(values, coords, attrs)
