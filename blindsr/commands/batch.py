"""`blindsr run` on several pictures, and `blindsr demo`: one bad picture does not stop the rest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindsr.commands.interrupt import Interrupt
from blindsr.commands.outputs import to_json
from blindsr.commands.posterior import read_sampling, sampled_words
from blindsr.commands.progress import for_terminal
from blindsr.commands.run import run_image
from blindsr.commands.settings import RunSettings, default_degradation
from blindsr.errors import UserError
from blindsr.io.images import SUFFIXES, find_images
from blindsr.io.kernels import KERNEL_SUFFIXES
from blindsr.methods.presets import PRESETS, Preset
from blindsr.methods.table import DEFAULT_METHOD
from blindsr.methods.words import compose
from blindsr.operators.degradation import Alignment, Padding

INTERRUPTED = 130
SOME_FAILED = 1
BAD_INPUT = 2


@dataclass(frozen=True)
class Batch:
    """The options of `blindsr run`, as given."""

    images: list[Path]
    scale: int = 4
    method: str = DEFAULT_METHOD
    prior: str | None = None
    optimizer: str | None = None
    image_prior: str | None = None
    noise: str | None = None
    restorer: str | None = None
    weights: Path | None = None
    preset: str = "balanced"
    iterations: int | None = None
    time_limit: float | None = None
    seed: int = 0
    alignment: Alignment | None = None
    padding: Padding | None = None
    kernel_size: int = 0
    ground_truth: Path | None = None
    true_kernel: Path | None = None
    output: Path = Path("blindsr-out")
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False
    checkpoint_every: float = 15.0
    sampler: str | None = None
    chains: int | None = None
    draws: int | None = None
    warmup: int | None = None
    thin: int | None = None
    target: str | None = None
    restarts: int | None = None


def find_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises
    ------
    UserError
        If there is none of that name.
    """
    if name not in PRESETS:
        raise UserError(f"--preset {name}: unknown; choose {', '.join(PRESETS)}")
    return PRESETS[name]


def _settings(batch: Batch) -> RunSettings:
    for option, seconds in (("time-limit", batch.time_limit or 0.0), ("checkpoint-every", batch.checkpoint_every)):
        if not seconds >= 0:
            raise UserError(f"--{option} {seconds}: seconds, 0 or more, are needed")
    preset = find_preset(batch.preset)
    alignment = batch.alignment or Alignment.FKP
    degradation = default_degradation(
        batch.scale,
        kernel_size=batch.kernel_size,
        alignment=alignment,
        padding=batch.padding or alignment.usual_padding,
    )
    method = compose(
        batch.method,
        degradation,
        prior=batch.prior,
        optimizer=batch.optimizer,
        image_prior=batch.image_prior,
        noise=batch.noise,
        restorer=batch.restorer,
        weights=batch.weights,
    )
    if batch.iterations is not None and not method.iterates:
        raise UserError(f"--iterations {batch.iterations}: {method.name} makes no steps; leave it out")
    if batch.restarts is not None and (batch.restarts < 2 or not method.iterates):
        why = "at least 2 are needed" if method.iterates else f"{method.name} makes no steps, all would be the same"
        raise UserError(f"--restarts {batch.restarts}: {why}")
    sampling = read_sampling(
        batch.sampler,
        batch.chains,
        batch.draws,
        batch.warmup,
        batch.thin,
        batch.target,
        prior=batch.prior,
        method=method,
        degradation=degradation,
    )
    return RunSettings(
        degradation,
        method,
        batch.preset if method.numbers is None else method.name,
        method.numbers or preset,
        batch.seed,
        batch.iterations,
        batch.time_limit,
        batch.device,
        batch.resume,
        batch.checkpoint_every,
        even_kernel=batch.alignment is not None,
        overwrite=batch.overwrite,
        sampling=sampling,
        restarts=batch.restarts,
    )


def output_folders(paths: list[Path], output: Path) -> list[Path]:
    """Give each picture a folder named after it; pictures of the same stem get their suffix, then a number."""
    names: list[str] = []
    stems = [p.stem.casefold() for p in paths]
    for path in paths:
        name = path.stem if stems.count(path.stem.casefold()) == 1 else path.name.replace(".", "-")
        base, n = name, 1
        while name.casefold() in (other.casefold() for other in names):
            n += 1
            name = f"{base}-{n}"
        names.append(name)
    return [output / name for name in names]


def _check_companion(given: Path | None, many: bool) -> None:
    if given is not None and many and not given.is_dir():
        raise UserError(
            f"{given}: the truth of several pictures must be a folder of same-named files; one file cannot be all of it"
        )


def _companion(given: Path | None, image: Path, suffixes: tuple[str, ...]) -> Path | None:
    """Find the truth that belongs to a picture: the file given, or the same-named one in the folder given."""
    if given is None or not given.is_dir():
        return given
    for suffix in suffixes:
        if (given / (image.stem + suffix)).exists():
            return given / (image.stem + suffix)
    raise UserError(f"{given}: holds no file named like {image.name} ({', '.join(image.stem + s for s in suffixes)})")


def run_batch(batch: Batch, *, say: Callable[[str], None], as_json: bool) -> tuple[int, str]:
    """Run on every picture.

    Returns
    -------
    int, str
        Exit code (0; 1: some picture failed; 2: the only one did; 130: interrupted), and what to print.

    Raises
    ------
    UserError
        If the options make no sense: no picture is tried then.
    """
    settings = _settings(batch)
    paths = find_images(batch.images)
    many = len(paths) > 1
    for given in (batch.ground_truth, batch.true_kernel):
        _check_companion(given, many)
    records: list[dict[str, Any]] = []
    failed: list[str] = []
    with Interrupt().listening() as interrupt:
        for path, folder in zip(paths, output_folders(paths, batch.output), strict=True):
            if interrupt.raised:
                break
            try:
                record = run_image(
                    path,
                    folder,
                    settings,
                    truth_path=_companion(batch.ground_truth, path, SUFFIXES),
                    true_kernel_path=_companion(batch.true_kernel, path, KERNEL_SUFFIXES),
                    progress=for_terminal,
                    interrupt=interrupt,
                    say=say,
                )
            except (UserError, OSError) as error:
                reason = str(error)
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "memory" not in str(error):
                    raise
                reason = f"{path}: out of memory; crop the picture or take a smaller --preset"
            else:
                records.append(record)
                say(summary(record, folder))
                continue
            failed.append(str(path))
            say(f"blindsr: {' '.join(reason.split())}")
    if failed and many:
        say(f"blindsr: {len(failed)} of {len(paths)} pictures failed: {', '.join(failed)}")
    rest = len(paths) - len(records) - len(failed)
    if rest:
        say(f"blindsr: interrupted; {rest} of {len(paths)} pictures not begun")
    text = to_json(records if many else records[0]) if as_json and records else ""
    if interrupt.raised:
        return INTERRUPTED, text
    return (0 if not failed else SOME_FAILED if many else BAD_INPUT), text


def summary(record: dict[str, Any], folder: Path) -> str:
    """One line on a finished run: where it is, what was done, how good it is."""
    metrics = record["metrics"]
    did = f"{record['steps']} steps" if record["steps"] else record["method"]
    parts = [f"{folder}: {did} in {record['seconds']:.0f} s ({record['stopped']})"]
    if record["kernel_found"] and record["kernel_start"] != "network":
        found = record["kernel_found"]
        parts.append(f"kernel {found['family']}, width {record['metrics']['kernel_width']:.2f} px")
    if record["restorer"] != "none":
        tiles = f", {record['tiles']} tiles" if record["tiles"] > 1 else ""
        parts.append(f"image by {record['restorer']}{tiles}")
    known = "kernel_psnr" in metrics or "psnr_border_s" in metrics
    hint = "" if known or record["alignment"] != "fkp" else " (the paper's grid; for a photo: --alignment centered)"
    parts.append(f"alignment {record['alignment']}{hint}")
    if "psnr_border_s2" in metrics:
        parts.append(f"PSNR {metrics['psnr_border_s2']:.2f} dB, SSIM {metrics['ssim_border_s2']:.4f} (border s2)")
    elif "psnr_border_s" in metrics:
        parts.append(f"PSNR {metrics['psnr_border_s']:.2f} dB, SSIM {metrics['ssim_border_s']:.4f} (border s)")
    if "kernel_psnr" in metrics:
        parts.append(f"kernel {metrics['kernel_psnr']:.2f} dB")
    if "posterior" in record:
        parts.append(sampled_words(record["posterior"]))
    if "restarts_made" in record:
        made = record["restarts_made"]
        parts.append(f"{made['made']} of {made['asked']} restarts")
    return "; ".join(parts)


def run_demo(output: Path, method: str, seed: int, *, say: Callable[[str], None]) -> int:
    """Super-resolve a small crop of a real photo (scikit-image's cat Chelsea, CC0)."""
    from PIL import Image
    from skimage import data

    photo = data.chelsea()[70:150, 90:186]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.png"
        Image.fromarray(photo).save(path)
        batch = Batch([path], method=method, seed=seed, output=output, alignment=Alignment.CENTERED)
        code, _ = run_batch(batch, say=say, as_json=False)
    if code == 0:
        say(f"look at {output / 'demo' / 'overview.png'}")
    return code
