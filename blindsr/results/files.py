"""What a run leaves behind: pictures, kernel files, trace.csv, run.json, overview.png; and its scores."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blindsr.diagnostics.metrics import Border, kernel_psnr, psnr, ssim
from blindsr.diagnostics.overview import Overview, render
from blindsr.estimators.base import Estimate, Estimation, Metrics
from blindsr.io.files import VERSION, atomic_path, file_hash, write_text
from blindsr.io.images import Picture, write_png
from blindsr.io.kernels import remove_kernel, write_kernel
from blindsr.methods.base import Method
from blindsr.operators.degradation import Degradation
from blindsr.operators.kernels import center_of_mass, framed, width
from blindsr.restorers.base import Restorer
from blindsr.restorers.bicubic import bicubic
from blindsr.results.device import peak_memory_mib

KERNEL_WORDS = "applied by correlation; the nominal centre of mass is (kernel_size - scale) / 2 on both axes"
LABELS = ("kernel", "prior", "optimizer", "image_prior", "noise", "preset", "restorer")
"""Columns whose part is on record by its name, where a method has one."""
SHIFT_GAIN = 1.0
"""The user is warned if the result fits the truth better by this many dB on the other alignment's grid."""


@dataclass(frozen=True)
class Truth:
    """What is known of the truth: HR image (1, C, H, W), kernel (1, 1, K, K); notes from reading them."""

    image: Tensor | None
    kernel: Tensor | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """A finished run, before it is saved; kernel None where the method has none, loss_name where none is drawn."""

    picture: Picture
    image: Tensor
    kernel: Tensor | None
    trace: list[Metrics]
    degradation: Degradation
    name: str
    loss_name: str | None = None

    @property
    def bicubic(self) -> Tensor:
        """The LR image enlarged on the same grid."""
        d = self.degradation
        return bicubic(self.picture.pixels, d.scale, d.alignment)


def as_array(x: Tensor) -> NDArray[np.float64]:
    """Turn an image (1, C, H, W) into (H, W, C)."""
    a: NDArray[np.float64] = x[0].permute(1, 2, 0).double().cpu().numpy()
    return a


def _matched(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Give a grey and a colour image the same number of channels."""
    c = max(a.shape[1], b.shape[1])
    return a.expand(-1, c, -1, -1), b.expand(-1, c, -1, -1)


def score(result: Result, truth: Truth, say: Callable[[str], None]) -> dict[str, Any]:
    """Score a result against what is known of the truth.

    Returns
    -------
    dict
        Always: `lr_rmse` (grey levels). With a kernel: `kernel_width`, `kernel_center`, and with a true one
        `kernel_psnr`. With a true image: `psnr` and `ssim` for both border rules, and of bicubic.
    """
    scale, kernel = result.degradation.scale, result.kernel
    scores: dict[str, Any] = {"lr_rmse": 255 * result.trace[-1].mse ** 0.5 if result.trace else None}
    if kernel is not None:
        scores |= {"kernel_width": float(width(kernel)), "kernel_center": center_of_mass(kernel)[0].tolist()}
        if truth.kernel is not None:
            size = max(kernel.shape[-1], truth.kernel.shape[-1])
            pair = (framed(k[0, 0].double(), size).numpy() for k in (kernel, truth.kernel))
            scores["kernel_psnr"] = kernel_psnr(*pair)
    if truth.image is None:
        return scores
    x, t = (as_array(v.clamp(0, 1)) for v in _matched(result.image, truth.image))
    for border in Border:
        pixels = border.pixels(scale)
        if min(x.shape[:2]) <= 2 * pixels + 11:
            continue
        scores[f"psnr_border_{border}"] = psnr(x, t, pixels)
        scores[f"ssim_border_{border}"] = ssim(x, t, pixels)
        low, high = (as_array(v.clamp(0, 1)) for v in _matched(result.bicubic, truth.image))
        scores[f"psnr_bicubic_border_{border}"] = psnr(low, high, pixels)
    _warn_if_shifted(x, t, result.degradation, say)
    return scores


def _warn_if_shifted(
    x: NDArray[np.float64], t: NDArray[np.float64], degradation: Degradation, say: Callable[[str], None]
) -> None:
    """Tell the user if the truth t lies on the other alignment's grid (which would cost decibels silently)."""
    scale, n, (h, w) = degradation.scale, degradation.scale - 1, x.shape[:2]
    if min(h, w) <= 2 * n + 2 * scale + 1:
        return
    here = psnr(x, t, scale)
    moved = psnr(x[: h - n, : w - n], t[n:, n:], scale), psnr(x[n:, n:], t[: h - n, : w - n], scale)
    best = max(moved)
    if best > here + SHIFT_GAIN:
        say(
            f"warning: moved by {n} pixels the result fits the truth better ({best:.2f} instead of {here:.2f} dB): "
            f"the LR image was probably not made with --alignment {degradation.alignment}; try the other one"
        )


def finite(value: Any) -> Any:
    """Replace what JSON has no word for (NaN, infinity) by None, in nested dicts and lists."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(record: Any) -> str:
    """Return a record as JSON text."""
    return json.dumps(finite(record), indent=2, ensure_ascii=False)


def trace_csv(trace: list[Metrics]) -> str:
    """Return the trace as CSV text, one row for each step."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Metrics._fields)
    writer.writerows([["" if v != v else v for v in row] for row in trace])
    return out.getvalue()


def enlarged_picture(result: Result) -> Picture:
    """The result as a picture like the one that was read: alpha enlarged on the same grid, same bits and profile."""
    d, p = result.degradation, result.picture
    alpha = None if p.alpha is None else bicubic(p.alpha, d.scale, d.alignment)
    return Picture(result.image, alpha, p.bits, p.icc)


def save_result(folder: Path, result: Result, truth: Truth, record: dict[str, Any], *, page: bool = True) -> None:
    """Write every file of a run (overview.png if `page`); each is written whole or not at all, run.json last."""
    write_png(folder / "sr.png", enlarged_picture(result))
    if result.kernel is not None:
        write_kernel(folder, result.kernel, str(result.degradation.alignment))
    else:  # an earlier result that is being replaced may have had one
        remove_kernel(folder)
    write_text(folder / "trace.csv", trace_csv(result.trace))
    if page:
        overview = render(overview_of(result, truth, record))
        with atomic_path(folder / "overview.png") as temporary:
            temporary.write_bytes(overview)
    save_record(folder, record)


def save_record(folder: Path, record: dict[str, Any]) -> None:
    """Write run.json."""
    write_text(folder / "run.json", to_json(record) + "\n")


def overview_of(result: Result, truth: Truth, record: dict[str, Any]) -> Overview:
    """Return what overview.png shows of a finished run and its record."""
    scores = record["metrics"]
    border = "s2" if "psnr_border_s2" in scores else "s"
    captions = {"lr": f"{result.picture.pixels.shape[-1]} x {result.picture.pixels.shape[-2]}"}
    captions["result"] = f"{result.image.shape[-1]} x {result.image.shape[-2]}"
    if f"psnr_border_{border}" in scores:
        captions["enlarged"] = f"{scores[f'psnr_bicubic_border_{border}']:.2f} dB"
        captions["result"] = f"{scores[f'psnr_border_{border}']:.2f} dB, SSIM {scores[f'ssim_border_{border}']:.3f}"
    if result.kernel is not None:
        captions["kernel"] = "assumed, " if record.get("kernel_assumed") else ""
        captions["kernel"] += f"width {scores['kernel_width']:.2f} px"
    if "kernel_psnr" in scores:
        captions["kernel"] += f", {scores['kernel_psnr']:.1f} dB"
    name = result.name.replace("$", r"\$")  # no formulas
    return Overview(
        lr=as_array(result.picture.pixels),
        enlarged=as_array(result.bicubic),
        result=as_array(result.image),
        kernel=None if result.kernel is None else result.kernel[0, 0].double().numpy(),
        loss=np.array([m.loss for m in result.trace] if result.loss_name else []),
        loss_name=result.loss_name or "",
        lr_rmse=np.array([255 * m.mse**0.5 for m in result.trace]),
        title=f"{name}   x{record['scale']}   {record['method']}, "
        + (f"preset {record['preset']}, " if record["preset"] else "")
        + (f"{record['steps']} steps, " if result.loss_name else "")
        + f"{record['seconds']:.0f} s",
        truth=None if truth.image is None else as_array(truth.image),
        true_kernel=None if truth.kernel is None else truth.kernel[0, 0].double().numpy(),
        captions=captions,
    )


def method_record(method: Method, degradation: Degradation, seed: int) -> dict[str, Any]:
    """Return everything that decides an estimate but the picture, as plain values."""
    d = degradation
    record = {
        "scale": d.scale,
        "kernel_size": d.kernel_size,
        "alignment": d.alignment,
        "padding": d.padding,
        "image_generator": method.labels.get("image"),  # "image" is the path of the picture
        **{name: method.labels.get(name) for name in LABELS},
        "method": method.name,  # after the parts, so that a refused resume names the part that differs
        "estimator": _without_steps(_plain(method.estimator)),
        "image_by": _plain(method.restorer),
        "seed": seed,
        "files_sha256": {name: file_hash(name) for name in method.files},
    }
    plain: dict[str, Any] = json.loads(json.dumps(record))  # enums to words, tuples to lists
    return plain


def _plain(part: Any) -> Any:
    """Describe a part by its class and settings; numbers stay numbers."""
    if part is None or isinstance(part, int | float | str):
        return part
    if is_dataclass(part) and not isinstance(part, type):
        return {"class": type(part).__name__} | {f.name: _plain(getattr(part, f.name)) for f in fields(part)}
    if isinstance(part, dict):
        return {str(k): _plain(v) for k, v in part.items()}
    if isinstance(part, tuple | list):
        return [_plain(v) for v in part]
    return getattr(part, "__name__", type(part).__name__)


def _without_steps(estimator: Any) -> Any:
    """Leave the number of steps out, since a run may be prolonged; a user's estimator may be a bare name."""
    return {k: v for k, v in estimator.items() if k != "steps"} if isinstance(estimator, dict) else estimator


def estimate_record(run: Estimation, found: Estimate, restorer: Restorer | None) -> dict[str, Any]:
    """Return what an estimation found and how many values it fitted, as plain values."""
    facts = run.facts()
    weights = 0 if restorer is None else restorer.parameters
    return facts | {
        "kernel_found": found.description,
        "kernel_assumed": found.assumed,
        "steps": run.step,
        "kernel_convention": None if found.kernel is None else KERNEL_WORDS,
        "parameters": None if weights is None else facts["parameters"] + weights,
    }


def image_hash(y: Tensor) -> str:
    """Return the SHA-256 of an LR image's values, by which run.json tells pictures apart."""
    return hashlib.sha256(y.numpy().tobytes()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that a result is made with."""
    return {"blindsr": VERSION, "torch": torch.__version__, "python": platform.python_version()}


def surroundings(device: torch.device) -> dict[str, Any]:
    """Return what an estimate was made with: device, threads, memory, versions, date."""
    return {
        "peak_memory_mib": round(peak_memory_mib(device), 1),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
