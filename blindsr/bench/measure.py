"""One run of a bench: make the LR image, super-resolve it as `blindsr run` would, score the result."""

from __future__ import annotations

import math
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blindsr.bench.task import Task, oracle_restorer, plain_settings
from blindsr.commands.interrupt import Interrupt
from blindsr.commands.progress import Progress
from blindsr.commands.restore import restored
from blindsr.commands.run import run_image
from blindsr.diagnostics.metrics import psnr
from blindsr.errors import UserError
from blindsr.io.files import VERSION, file_hash
from blindsr.io.images import MIN_SIDE, Picture, read_image, write_png
from blindsr.io.kernels import read_kernel, write_kernel
from blindsr.operators.degradation import Degradation, Padding
from blindsr.operators.luma import luma
from blindsr.restorers.base import Restorer
from blindsr.simulate import Quantize, TestImage, degrade

COPIED = {
    "kernel_width": "kernel_width",
    "kernel_psnr": "kernel_psnr",
    "psnr": "psnr_border_s2",
    "ssim": "ssim_border_s2",
    "psnr_border_s": "psnr_border_s",
    "ssim_border_s": "ssim_border_s",
    "psnr_bicubic": "psnr_bicubic_border_s2",
}
"""Columns that are metrics of run.json, by their name there."""


def measure(task: Task, folder: Path) -> dict[str, Any]:
    """Make one run and return its columns.

    Its files go to `folder`; a run that was killed there continues from its checkpoint. The columns are those of
    `blindsr.bench.store` by name, as plain values, without those that do not apply. Raises UserError if a file has
    changed since the bench was planned, or the run fails for a reason that the user can remove.
    """
    torch.set_num_threads(task.threads)
    settings = task.run_settings()
    if plain_settings(settings) != task.settings:
        raise UserError(
            "a file of this row, or the machine, has changed since the bench was planned; start the bench again"
        )
    test = make_test_image(task)
    files = save_test_image(test, task, folder / "input")
    run = folder / "run"
    record = run_image(
        files["lr"],
        run,
        settings,
        truth_path=files.get("hr"),
        true_kernel_path=files.get("kernel"),
        progress=lambda name, steps: Progress(),
        interrupt=Interrupt(),
        say=lambda line: None,
    )
    columns: dict[str, Any] = {
        name: record["metrics"][key] for name, key in COPIED.items() if record["metrics"].get(key) is not None
    }
    columns |= {n: record[n] for n in ("seconds", "peak_memory_mib", "parameters", "steps", "stopped")}
    image = read_image(run / "sr.png").pixels
    columns["blur"] = blur(image)
    kernel = read_kernel(run / "kernel.npy")[0] if (run / "kernel.npy").exists() else None
    fitted = test.kernel if kernel is None and task.truth else kernel
    if fitted is not None:
        columns["lr_psnr"] = lr_consistency(image, fitted, test.y, settings.degradation)
    if kernel is not None and task.truth and not record.get("kernel_assumed", False):
        noise_std = task.how_degraded.noise if task.how_degraded else 0.0
        columns |= oracle_gap(oracle_restorer(**task.oracle), test, kernel, settings.degradation, noise_std)
    return columns | provenance(settings.degradation, test)


def make_test_image(task: Task) -> TestImage:
    """Return the LR image of a task with its ground truth; for a photo, x is y and the kernel means nothing.

    Raises UserError if the picture has changed since the bench was planned, or is too small.
    """
    path, degrading = Path(task.path), task.how_degraded
    if not path.is_file() or file_hash(path) != task.image_sha256:
        raise UserError(f"{path}: is missing, or has changed since the bench was planned; start the bench again")
    x = center_crop(read_image(path).pixels, task.crop, path)
    d = task.operator
    if degrading is None:
        return TestImage(x, x, torch.zeros(1, 1, d.kernel_size, d.kernel_size))
    least = MIN_SIDE * task.scale
    if min(x.shape[-2:]) < max(least, d.kernel_size):
        raise UserError(
            f"{path}: {x.shape[-1]}x{x.shape[-2]} pixels is too small for x{task.scale}; at least {least} are needed"
        )
    rule = Quantize(degrading.quantize)
    return degrade(x, d, degrading.source(d), noise_std=degrading.noise, seed=task.kernel_seed, how=rule)


def center_crop(x: Tensor, side: int | None, path: Path) -> Tensor:
    """Return the central `side` x `side` pixels of (1, C, H, W), or the whole picture for None.

    Raises UserError if the picture is smaller.
    """
    if side is None:
        return x
    h, w = x.shape[-2:]
    if min(h, w) < side:
        raise UserError(f"{path}: {w}x{h} pixels is smaller than the crop of {side}; choose a smaller crop")
    top, left = (h - side) // 2, (w - side) // 2
    return x[..., top : top + side, left : left + side]


def save_test_image(test: TestImage, task: Task, folder: Path) -> dict[str, Path]:
    """Write the LR image and, where there is ground truth, hr.png and the kernel; return their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"lr": folder / f"{task.image}.png"}
    levels = test.y * 255
    whole = bool(((levels - levels.round()).abs() < 1e-3).all())
    write_png(files["lr"], Picture(test.y, bits=8 if whole else 16))
    if task.truth:
        files |= {"hr": folder / "hr.png", "kernel": folder / "kernel.npy"}
        write_png(files["hr"], Picture(test.x, bits=16))
        write_kernel(folder, test.kernel, str(task.operator.alignment))
    return files


def lr_consistency(image: Tensor, kernel: Tensor, y: Tensor, degradation: Degradation) -> float:
    """PSNR in dB of the degraded estimate against y, peak 1, over all channels: how well the result explains y.

    The image is (1, C, s h, s w), the kernel (1, 1, K, K), y (1, C, h, w). Where the operator has no border rule, edges
    are repeated. LR pixels that the border touches are left out.
    """
    inside = replace(degradation, padding=Padding.REPLICATE) if degradation.padding is Padding.VALID else degradation
    edge = min(math.ceil(degradation.kernel_size / degradation.scale), (min(y.shape[-2:]) - 1) // 2)
    error = (inside(image.double(), kernel.double()) - y.double())[..., edge : -edge or None, edge : -edge or None]
    mse = float(error.square().mean())
    return math.inf if mse == 0 else -10 * math.log10(mse)


def blur(image: Tensor) -> float:
    """No-reference blur of the luma of an image (1, C, H, W), from 0 (sharp) to 1 (blurred).

    References
    ----------
    Crete, Dolmiere, Ladret, Nicolas, "The blur effect: perception and estimation with a new no-reference perceptual
    blur metric", Human Vision and Electronic Imaging XII, 2007; as in scikit-image. Noise counts as sharpness, so read
    it together with the LR consistency.
    """
    from skimage.measure import blur_effect

    return float(blur_effect(luma(image)[0, 0].double().numpy()))


def oracle_gap(
    restorer: Restorer | None, test: TestImage, kernel: Tensor, degradation: Degradation, noise_std: float
) -> dict[str, float]:
    """PSNR (Y, border s²) of one restorer with the true kernel, and how much lower it is with the estimated one.

    The restorer is told the true noise level both times.
    """
    border = degradation.scale**2
    if restorer is None or min(test.x.shape[-2:]) <= 2 * border:
        return {}
    best, achieved = (
        psnr(restored(restorer, test.y, k, degradation, noise_std, Interrupt())[0].clamp(0, 1), test.x, border)
        for k in (test.kernel, kernel)
    )
    return {"oracle_psnr": best, "oracle_gap": best - achieved}


def provenance(degradation: Degradation, test: TestImage) -> dict[str, Any]:
    """Return what is recorded about a run besides its settings and scores."""
    return {
        "hr_height": degradation.scale * test.y.shape[-2],
        "hr_width": degradation.scale * test.y.shape[-1],
        "versions": {
            "blindsr": VERSION,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": machine(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def machine() -> str:
    """Return the processor, its cores and the graphics card: what the measured seconds depend on."""
    name = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    card = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores{card}, {platform.system()}"
