"""`blindsr degrade` simulates an LR image from an HR image; `blindsr evaluate` scores a result against the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from blindsr.diagnostics.metrics import Border, kernel_psnr, psnr, ssim
from blindsr.errors import UserError
from blindsr.io.files import VERSION, atomic_path, write_text
from blindsr.io.images import Picture, read_image, write_png
from blindsr.io.kernels import KERNEL_SUFFIXES, read_kernel, write_kernel
from blindsr.methods.words import default_degradation, family_named
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.operators.kernels import center_of_mass, framed, width
from blindsr.priors.base import KernelPrior, RecordedKernels
from blindsr.random import generator
from blindsr.results.files import as_array, to_json
from blindsr.simulate import Quantize, degrade

WRITTEN = ("lr.png", "lr.npy", "hr.png", "kernel.npy", "kernel.mat", "kernel.png", "degradation.json")


@dataclass(frozen=True)
class _TrueKernel:
    """The forward operator, the true kernel or its law, the record of what was drawn, and notes for the user."""

    degradation: Degradation
    source: KernelPrior | Tensor
    drawn: dict[str, Any]
    notes: tuple[str, ...] = ()


def _from_file(file: str, scale: int | None, operator: Callable[[int], Degradation]) -> _TrueKernel:
    kernel, notes = read_kernel(Path(file), scale=scale)
    d = operator(kernel.shape[-1])
    center = center_of_mass(kernel)[0]
    if float((center - d.center).abs().max()) > 0.5:
        notes += (
            f"{file}: its centre of mass ({center[0]:.1f}, {center[1]:.1f}) is off the nominal "
            f"({d.center:.1f}, {d.center:.1f}): the LR image is shifted against the {d.alignment} grid",
        )
    return _TrueKernel(d, kernel, {"file": file}, notes)


def _from_family(word: str, d: Degradation, seed: int) -> _TrueKernel:
    try:
        family = family_named(word)
    except UserError as error:
        raise UserError(f"--kernel {error}, or a kernel file ({', '.join(KERNEL_SUFFIXES)})") from error
    prior = family.truth(d)
    if not isinstance(prior, RecordedKernels):
        return _TrueKernel(d, prior, {})
    kernel, drawn = prior.sample_recorded(1, generator=generator(seed))
    return _TrueKernel(d, kernel, drawn[0])


def degrade_file(
    image: Path,
    output: Path,
    *,
    scale: int,
    kernel: str = "gaussian",
    noise_level: float = 0.0,
    seed: int = 0,
    quantize: Quantize = Quantize.ROUND,
    alignment: Alignment | None = None,
    padding: Padding = Padding.CIRCULAR,
    kernel_size: int = 0,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Write lr.png, hr.png (the crop that it was made from), the kernel files and degradation.json to a folder.

    `kernel` is a kernel family (`blindsr methods` lists them), a flow's file, `my_file.py:MyKernels`, or a kernel file,
    which has a size of its own; one of even size is refused unless the alignment is named. The noise level is the
    standard deviation in units of 0..1, and the seed that of kernel and noise.

    Returns what is written to degradation.json, and notes for the user. Raises UserError on bad input, or if the folder
    already holds a test image.
    """
    picture = read_image(image)
    operator = partial(default_degradation, scale, alignment=alignment or Alignment.FKP, padding=padding)
    if Path(kernel).suffix.lower() in KERNEL_SUFFIXES:
        true = _from_file(kernel, scale if alignment is not None else None, operator)
    else:
        true = _from_family(kernel, operator(kernel_size), seed)
    d, notes = true.degradation, true.notes
    if d.kernel_size > min(picture.pixels.shape[-2:]):
        h, w = picture.pixels.shape[-2:]
        raise UserError(f"{image}: a kernel of {d.kernel_size} pixels is larger than the picture ({w}x{h})")
    try:
        test = degrade(picture.pixels, d, true.source, noise_std=noise_level, seed=seed, how=quantize)
    except ValueError as error:
        raise UserError(f"{image}: {error}") from error
    for name in WRITTEN:
        if (output / name).exists():
            raise UserError(f"{output / name}: exists; choose another --output, so that it is not overwritten")
    record = {
        "source": str(image),
        "scale": d.scale,
        "kernel": kernel,
        "kernel_size": d.kernel_size,
        "kernel_drawn": true.drawn,
        "kernel_width": float(width(test.kernel)),
        "kernel_center": center_of_mass(test.kernel)[0].tolist(),
        "kernel_applied_by": "correlation",
        "alignment": str(d.alignment),
        "padding": str(d.padding),
        "noise_level": noise_level,
        "quantize": str(quantize),
        "hr_size": list(test.x.shape[-2:]),
        "lr_size": list(test.y.shape[-2:]),
        "seed": seed,
        "version": VERSION,
    }
    bits = 16 if quantize is Quantize.NONE else 8
    write_png(output / "lr.png", Picture(test.y, None, bits, picture.icc))
    write_png(output / "hr.png", Picture(test.x, None, picture.bits, picture.icc))
    write_kernel(output, test.kernel, str(d.alignment))
    if quantize is Quantize.NONE:
        with atomic_path(output / "lr.npy") as temporary, temporary.open("wb") as file:
            np.save(file, as_array(test.y))
    write_text(output / "degradation.json", to_json(record) + "\n")
    if picture.alpha is not None:
        notes += (f"{image}: its alpha channel is left out",)
    return record, notes + picture.notes


def border_pixels(word: str, scale: int) -> int:
    """Return the border in pixels that `s`, `s2` (s squared) or a number stands for; UserError for another word."""
    if word in list(Border):
        return Border(word).pixels(scale)
    if not word.isdecimal():
        raise UserError(f"--border {word}: choose s, s2 or a number of pixels")
    return int(word)


def evaluate_files(
    image: Path, truth: Path, *, scale: int, border: str, kernel: Path | None = None, true_kernel: Path | None = None
) -> dict[str, Any]:
    """Score an image against the true one, and a kernel against the true kernel if both are given.

    The HR image may have up to s - 1 more rows and columns at its end, which are left out; for `border` see
    `border_pixels`. Returns PSNR (dB) and SSIM of the Y channel, kernel PSNR (dB) where kernels are given, and how they
    were measured; the smaller of two kernels is padded with zeros. Raises UserError if a file cannot be read or the
    images' sizes do not fit.
    """
    if (kernel is None) != (true_kernel is None):
        raise UserError("--kernel and --true-kernel go together: give both or none")
    default_degradation(scale, alignment=Alignment.FKP, padding=Padding.CIRCULAR)
    a, b = read_image(image).pixels, read_image(truth).pixels
    h, w = a.shape[-2:]
    extra = (b.shape[-2] - h, b.shape[-1] - w)
    if not all(0 <= e < scale for e in extra):
        raise UserError(f"{truth}: {b.shape[-1]}x{b.shape[-2]} pixels does not fit {image} of {w}x{h}")
    pixels = border_pixels(border, scale)
    x, t = as_array(a), as_array(b[..., :h, :w])
    try:
        scores = {"psnr": psnr(x, t, pixels), "ssim": ssim(x, t, pixels)}
    except ValueError as error:
        raise UserError(f"{image}: {error}") from error
    scores["border_pixels"] = pixels
    record: dict[str, Any] = {"image": str(image), "truth": str(truth), "scale": scale, "border_rule": border} | scores
    record["channel"] = "Y of BT.601 YCbCr"
    if kernel is not None and true_kernel is not None:
        loaded = [read_kernel(p, scale=scale) for p in (kernel, true_kernel)]
        record["notes"] = [note for one in loaded for note in one.notes]
        size = max(one.kernel.shape[-1] for one in loaded)  # a free kernel may be larger than the true one, or smaller
        k, kt = (framed(one.kernel[0, 0], size).double().numpy() for one in loaded)
        record["kernel_psnr"] = kernel_psnr(k, kt)
    return record
