"""`blindsr uncertainty`: how uncertain each pixel of a finished run's picture is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blindsr.commands.diagnose import read_chains
from blindsr.commands.folder import RECORD
from blindsr.commands.interrupt import Interrupt
from blindsr.commands.restore import read_hr
from blindsr.diagnostics import arviz_io
from blindsr.errors import UserError
from blindsr.io.files import atomic_path
from blindsr.io.images import read_image
from blindsr.io.kernels import read_kernel
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.operators.luma import luma
from blindsr.posteriors.spectral_laplace import SpectralPosterior
from blindsr.random import generator
from blindsr.results.files import image_hash
from blindsr.results.posterior import POSTERIOR
from blindsr.uncertainty.image_posterior import restoration_uncertainty
from blindsr.uncertainty.maps import (
    UncertaintyMap,
    draw_sparsification,
    draw_uncertainty,
    save_uncertainty,
    sparsification,
)

LARGEST = 1024 * 1024
"""Pixels of the largest result that a map is made of; the draws of a larger one would take minutes and gigabytes."""
KERNELS = 64
"""Number of kernel draws for a run without chains."""


def uncertainty_of_run(
    folder: Path, *, draws: int, seed: int, ground_truth: Path | None, interrupt: Interrupt, say: Callable[[str], None]
) -> dict[str, Any]:
    """Estimate the standard deviation of every pixel's error in a run's sr.png, and save the map in the run's folder.

    The picture that the run was made of must still be in its place. At least 2 draws of the image are made; an
    interrupt ends them early. An HR image adds how well the map ranks the errors, and sparsification.png. Raises
    UserError if the folder holds no finished run, its picture is missing or has changed, or the result is too large.
    """
    start = time.perf_counter()
    record = _record(folder)
    y, image, kernel, degradation = _inputs(folder, record)
    truth = None if ground_truth is None else read_hr(ground_truth, degradation.scale, y)
    kernels, noise, source = _chains(folder), record.get("noise_std"), POSTERIOR
    if kernels is None or noise is None:
        density = SpectralPosterior.fit(y, degradation)
        noise = density.noise_std if noise is None else noise
    if kernels is None:
        how = "a normal approximation of their posterior (for chains: --sampler hmc)"
        say(f"{folder}: no chains; kernels come from {how}")
        kernels, source = density.sample(KERNELS, generator=generator(seed)).float(), "normal approximation"
    found = restoration_uncertainty(
        y,
        kernels,
        degradation,
        float(noise),
        n=draws,
        generator=generator(seed),
        image=image,
        kernel=kernel,
        interrupt=lambda: interrupt.raised,
    )
    save_uncertainty(folder, found)
    result: dict[str, Any] = {
        "run": str(folder),
        "kernels": source,
        "draws": found.n,
        "complete": found.n == draws,
        "mean_std": float(found.std.mean()),
        "seconds": round(time.perf_counter() - start, 3),
    }
    if truth is not None:
        result |= _against(folder, found, truth)
    return result


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        raise UserError(f"{folder}: holds no {RECORD}; give the folder of a finished `blindsr run`")
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _degradation(record)
        Path(record["image"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error}); run it again with --overwrite") from error
    return record


def _degradation(record: dict[str, Any]) -> Degradation:
    alignment, padding = Alignment(record["alignment"]), Padding(record["padding"])
    return Degradation(record["scale"], record["kernel_size"], alignment, padding)


def _inputs(folder: Path, record: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Degradation]:
    """Return the LR image, the result, the kernel and the operator of a run."""
    path = Path(record["image"])
    if not path.is_file():
        raise UserError(f"{path}: the picture of this run is no longer there; put it back, or make the run again")
    y = read_image(path).pixels
    if image_hash(y) != record["image_sha256"]:
        raise UserError(f"{path}: is not the picture that this run was made of; make the run again with --overwrite")
    if not (folder / "kernel.npy").is_file():
        raise UserError(f"{folder}: its method has no kernel ({record.get('method', 'unknown')}); a map needs one")
    image = read_image(folder / "sr.png").pixels
    if image.shape[-2] * image.shape[-1] > LARGEST:
        raise UserError(
            f"{folder / 'sr.png'}: {image.shape[-1]}x{image.shape[-2]} pixels are too many for a map "
            f"(at most {LARGEST}); run on a crop of the picture"
        )
    kernel = read_kernel(folder / "kernel.npy")[0]
    return y, image, kernel, _degradation(record).for_kernel(kernel)


def _chains(folder: Path) -> Tensor | None:
    """Return the kernel draws (n, 1, K, K) of the run's chains, or None for a run without chains."""
    path = folder / POSTERIOR
    if not path.is_file():
        return None
    kernels = arviz_io.group(read_chains(path), "kernel")
    if kernels is None or "draws" not in kernels:
        return None
    values = torch.from_numpy(kernels["draws"].values).float()
    return values.flatten(0, 1)[:, None]


def _against(folder: Path, found: UncertaintyMap, truth: Tensor) -> dict[str, Any]:
    """Return how well the map ranks the errors, and save the figures that show it."""
    error = (luma(found.mean) - luma(truth)).abs()
    std = found.std if found.std.shape[1] == 1 else luma(found.std)
    curve = sparsification(std, error)
    with atomic_path(folder / "sparsification.png") as path:
        draw_sparsification({"map": curve}).savefig(path, format="png")
    with atomic_path(folder / "uncertainty.png") as path:
        draw_uncertainty(found, truth).savefig(path, format="png")
    inside = float((error < 2 * std).float().mean())
    return {"spearman": curve.spearman, "within_2_std": inside, "ause": curve.ause}
