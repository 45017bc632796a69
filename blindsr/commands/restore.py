"""From a known kernel to a picture on disk, and the last part of a run: the restorer, in tiles where it must be."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blindsr.commands.interrupt import Interrupt
from blindsr.errors import UserError
from blindsr.io.files import VERSION, write_text
from blindsr.io.images import MIN_SIDE, read_image, write_png
from blindsr.io.kernels import read_kernel
from blindsr.methods.words import default_degradation, restorer_part
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.posteriors.spectral_laplace import SpectralPosterior
from blindsr.priors.normal import GaussianShape
from blindsr.restorers.base import Restorer
from blindsr.restorers.tiled import Mosaic
from blindsr.results.files import Result, Truth, enlarged_picture, score, to_json


def restored(
    restorer: Restorer,
    y: Tensor,
    kernel: Tensor,
    degradation: Degradation,
    noise_std: float,
    interrupt: Interrupt,
    deadline: float = float("inf"),
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Tensor, int, str | None]:
    """Restore in tiles; return the image, the number of tiles, and why it ended early if it did.

    After an interrupt, or at the deadline (`time.perf_counter`), the tiles that are not done are bicubic.
    """
    mosaic, start = Mosaic(y, kernel, degradation), time.perf_counter()
    for done in mosaic.restore(restorer, noise_std):
        if done == 1 and len(mosaic) > 4:
            left = (time.perf_counter() - start) * (len(mosaic) - 1)
            say(f"kernel found; {len(mosaic)} tiles, about {left:.0f} s to go")
        if done < len(mosaic) and (interrupt.raised or time.perf_counter() > deadline):
            return mosaic.image(), len(mosaic), "interrupted" if interrupt.raised else "time limit"
    return mosaic.image(), len(mosaic), None


def try_out(restorer: Restorer | None, y: Tensor, degradation: Degradation) -> None:
    """Call a restorer on a corner of the picture, so that a bad one is found before a long run, not after it."""
    side = max(MIN_SIDE, -(-2 * degradation.kernel_size // degradation.scale))
    corner = y[..., :side, :side]
    family = GaussianShape(degradation.kernel_size, degradation.scale)
    if restorer is not None:
        restorer(corner, family.kernel(torch.tensor([family.mean])), degradation.for_part(), 0.01)


def read_hr(path: Path, scale: int, y: Tensor) -> Tensor:
    """Read the HR image (1, C, s h, s w) that an LR image y was made from, cut to a multiple of s.

    Raises UserError if it cannot be read or its size does not fit.
    """
    truth = read_image(path).pixels
    h, w = (scale * n for n in y.shape[-2:])
    if not all(0 <= n - m < scale for n, m in zip(truth.shape[-2:], (h, w), strict=True)):
        raise UserError(
            f"{path}: {truth.shape[-1]}x{truth.shape[-2]} pixels, but the result will have {w}x{h}; "
            "give the HR image that the LR image was made from, or another --scale"
        )
    return truth[..., :h, :w]


def restore_file(
    image: Path,
    kernel: Path,
    output: Path,
    *,
    scale: int,
    restorer: str | None = None,
    weights: Path | None = None,
    noise: float | None = None,
    alignment: Alignment | None = None,
    padding: Padding | None = None,
    ground_truth: Path | None = None,
    overwrite: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Restore a picture with a kernel from a file; write sr.png and restore.json into the folder `output`.

    The other arguments are the options of `blindsr restore`. Returns what is written to restore.json, and notes for the
    user. Raises UserError on bad input; nothing has been written then.
    """
    start = time.perf_counter()
    if noise is not None and not 0 <= noise < math.inf:
        raise UserError(f"--noise {noise}: a standard deviation of 0 or more, in units of 0..1, is needed")
    loaded = read_kernel(kernel, scale=scale if alignment is not None else None)
    degradation = default_degradation(scale, loaded.kernel.shape[-1], alignment, padding)
    word = restorer or ("usrnet" if weights is not None else "map")
    part = restorer_part(word, weights)
    if part.value is None:
        raise UserError("--restorer none: leaves nothing to do")
    picture = read_image(image, min_side=MIN_SIDE)
    for name in ("sr.png", "restore.json"):
        if (output / name).exists() and not overwrite:
            raise UserError(f"{output / name}: exists; choose another --output, or --overwrite")
    y = picture.pixels
    truth = None if ground_truth is None else read_hr(ground_truth, scale, y)
    if degradation.kernel_size > scale * min(y.shape[-2:]):
        h, w = (scale * n for n in y.shape[-2:])
        raise UserError(f"{kernel}: a kernel of {degradation.kernel_size} pixels is larger than the result ({w}x{h})")
    level = SpectralPosterior.fit(y, degradation).noise_std if noise is None else noise
    notes = [*picture.notes, *loaded.notes]
    with Interrupt().listening() as interrupt:
        x, tiles, stopped = restored(part.value, y, loaded.kernel, degradation, level, interrupt, say=notes.append)
    result = Result(picture, x, loaded.kernel, [], degradation, image.name)
    record: dict[str, Any] = {
        "image": str(image),
        "kernel": str(kernel),
        "restorer": part.name,
        "restorer_file": part.file,
        "scale": degradation.scale,
        "alignment": str(degradation.alignment),
        "padding": str(degradation.padding),
        "noise_std": level,
        "noise_given": noise is not None,
        "tiles": tiles,
        "stopped": stopped or "finished",
        "seconds": round(time.perf_counter() - start, 3),
        "version": VERSION,
    }
    record |= score(result, Truth(truth, None), notes.append)
    write_png(output / "sr.png", enlarged_picture(result))
    write_text(output / "restore.json", to_json(record) + "\n")
    return record, notes
