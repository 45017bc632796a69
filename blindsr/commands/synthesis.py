"""`blindsr degrade` and `blindsr evaluate`: make a test image from an HR image; score a result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blindsr import __version__
from blindsr.commands.settings import default_degradation
from blindsr.diagnostics.metrics import Border, kernel_psnr, psnr, ssim
from blindsr.errors import UserError
from blindsr.io.files import atomic_path, write_text
from blindsr.io.images import Picture, read_image, write_png
from blindsr.io.kernels import KERNEL_SUFFIXES, LoadedKernel, read_kernel, write_kernel
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.operators.kernels import center_of_mass, width
from blindsr.priors.base import KernelPrior
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.motion import CameraShakePrior
from blindsr.random import generator
from blindsr.results.files import as_array, to_json
from blindsr.simulate import Quantize, degrade

WRITTEN = ("lr.png", "lr.npy", "hr.png", "kernel.npy", "kernel.mat", "kernel.png", "degradation.json")


@dataclass(frozen=True)
class DegradeSettings:
    """How to make a test image."""

    scale: int
    kernel: str
    noise_level: float = 0.0
    seed: int = 0
    quantize: Quantize = Quantize.ROUND
    alignment: Alignment | None = None
    """None: fkp, and a kernel of even size is refused."""
    padding: Padding = Padding.CIRCULAR
    kernel_size: int = 0


def _given(settings: DegradeSettings) -> LoadedKernel:
    path = Path(settings.kernel)
    if path.suffix.lower() not in KERNEL_SUFFIXES:
        raise UserError(f"--kernel {path}: choose gaussian, motion, or a file ({', '.join(KERNEL_SUFFIXES)})")
    return read_kernel(path, scale=settings.scale if settings.alignment is not None else None)


def _source(settings: DegradeSettings) -> tuple[Degradation, Any, tuple[str, ...], dict[str, Any]]:
    """Operator, kernel or prior, notes, and what is on record about the kernel."""
    notes: tuple[str, ...] = ()
    given = None
    size = settings.kernel_size
    if settings.kernel not in ("gaussian", "motion"):
        given, notes = _given(settings)
        size = given.shape[-1]
    alignment = settings.alignment or Alignment.FKP
    d = default_degradation(settings.scale, kernel_size=size, alignment=alignment, padding=settings.padding)
    if given is not None:
        center = center_of_mass(given)[0]
        if float((center - d.center).abs().max()) > 0.5:
            notes += (
                f"{settings.kernel}: its centre of mass ({center[0]:.1f}, {center[1]:.1f}) is off the nominal "
                f"({d.center:.1f}, {d.center:.1f}): the LR image is shifted against the {d.alignment} grid",
            )
        return d, given, notes, {"file": settings.kernel}
    prior: KernelPrior
    if settings.kernel == "gaussian":
        prior = GaussianKernelPrior.truth(d.scale, d.kernel_size)
        theta = prior.sample_theta(1, generator=generator(settings.seed))[0].tolist()
        return d, prior, notes, dict(zip(prior.names, theta, strict=True))
    prior = CameraShakePrior.protocol(d.scale, d.kernel_size)
    return d, prior, notes, {"extent": prior.extent}


def degrade_file(path: Path, folder: Path, settings: DegradeSettings) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Make lr.png, hr.png (the crop it was made from), the kernel files and degradation.json in a folder.

    Returns
    -------
    dict, tuple of str
        What is written to degradation.json; notes for the user.

    Raises
    ------
    UserError
        On bad input, or if the folder already holds a test image.
    """
    picture = read_image(path)
    d, source, notes, drawn = _source(settings)
    if d.kernel_size > min(picture.pixels.shape[-2:]):
        h, w = picture.pixels.shape[-2:]
        raise UserError(f"{path}: a kernel of {d.kernel_size} pixels is larger than the picture ({w}x{h})")
    try:
        test = degrade(
            picture.pixels, d, source, noise_std=settings.noise_level, seed=settings.seed, how=settings.quantize
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    for name in WRITTEN:
        if (folder / name).exists():
            raise UserError(f"{folder / name}: exists; choose another --output, so that it is not overwritten")
    record = {
        "source": str(path),
        "scale": d.scale,
        "kernel": settings.kernel,
        "kernel_size": d.kernel_size,
        "kernel_drawn": drawn,
        "kernel_width": float(width(test.kernel)),
        "kernel_center": center_of_mass(test.kernel)[0].tolist(),
        "kernel_applied_by": "correlation",
        "alignment": str(d.alignment),
        "padding": str(d.padding),
        "noise_level": settings.noise_level,
        "quantize": str(settings.quantize),
        "hr_size": list(test.x.shape[-2:]),
        "lr_size": list(test.y.shape[-2:]),
        "seed": settings.seed,
        "version": __version__,
    }
    bits = 16 if settings.quantize is Quantize.NONE else 8
    write_png(folder / "lr.png", Picture(test.y, None, bits, picture.icc))
    write_png(folder / "hr.png", Picture(test.x, None, picture.bits, picture.icc))
    write_kernel(folder, test.kernel, str(d.alignment))
    if settings.quantize is Quantize.NONE:
        with atomic_path(folder / "lr.npy") as temporary, temporary.open("wb") as file:
            np.save(file, as_array(test.y))
    write_text(folder / "degradation.json", to_json(record) + "\n")
    if picture.alpha is not None:
        notes += (f"{path}: its alpha channel is left out",)
    return record, notes + picture.notes


def border_pixels(word: str, scale: int) -> int:
    """Return the border in pixels that `s`, `s2` or a number names.

    Raises
    ------
    UserError
        If it is none of these.
    """
    if word in list(Border):
        return Border(word).pixels(scale)
    if not word.isdecimal():
        raise UserError(f"--border {word}: choose s, s2 or a number of pixels")
    return int(word)


def evaluate_files(
    image: Path, truth: Path, *, scale: int, border: str, kernel: Path | None = None, true_kernel: Path | None = None
) -> dict[str, Any]:
    """Score an image, and a kernel if both are given.

    Raises
    ------
    UserError
        If a file cannot be read or the sizes do not fit.
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
        k, kt = (one.kernel[0, 0].double().numpy() for one in loaded)
        if k.shape != kt.shape:
            raise UserError(f"{kernel}: {k.shape[0]}x{k.shape[0]}, but {true_kernel} is {kt.shape[0]}x{kt.shape[0]}")
        record["kernel_psnr"] = kernel_psnr(k, kt)
    return record
