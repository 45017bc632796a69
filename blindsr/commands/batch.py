"""`blindsr run` on several pictures, and `blindsr demo`: one bad picture does not stop the rest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blindsr.commands.interrupt import Interrupt
from blindsr.commands.progress import for_terminal
from blindsr.commands.run import run_image
from blindsr.commands.settings import RunSettings
from blindsr.errors import UserError
from blindsr.io.images import SUFFIXES, find_images
from blindsr.io.kernels import KERNEL_SUFFIXES
from blindsr.operators.degradation import Alignment
from blindsr.results.files import to_json
from blindsr.results.posterior import sampled_words

INTERRUPTED = 130
SOME_FAILED = 1
BAD_INPUT = 2


@dataclass(frozen=True)
class Batch(RunSettings):
    """The options of `blindsr run`: those of a run, and which files it reads and writes."""

    images: list[Path] = field(default_factory=list)
    """Pictures, or folders of pictures."""
    ground_truth: Path | None = None
    true_kernel: Path | None = None
    """What to score against: a file, or a folder of same-named files."""
    output: Path = Path("blindsr-out")
    """Where results go, a folder for each picture."""


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


def _companion(given: Path | None, image: Path, suffixes: tuple[str, ...]) -> Path | None:
    """Find the truth that belongs to a picture: the file given, or the same-named one in the folder given."""
    if given is None or not given.is_dir():
        return given
    for suffix in suffixes:
        if (given / (image.stem + suffix)).exists():
            return given / (image.stem + suffix)
    raise UserError(f"{given}: holds no file named like {image.name} ({', '.join(image.stem + s for s in suffixes)})")


def run_batch(batch: Batch, *, say: Callable[[str], None], as_json: bool) -> tuple[int, str]:
    """Run on every picture; return the exit code and what to print.

    The code is 0, or 1 if some picture failed, 2 if the only one did, 130 if it was interrupted. Raises UserError,
    before any picture is tried, if the options make no sense.
    """
    batch.check()
    for note in batch.composed.notes:
        say(note)
    paths = find_images(batch.images)
    many = len(paths) > 1
    for given in (batch.ground_truth, batch.true_kernel):
        if many and given is not None and not given.is_dir():
            raise UserError(f"{given}: one file cannot be the truth of several pictures; name a folder of such files")
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
                    batch,
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
    metrics, found = record["metrics"], record["kernel_found"]
    steps = record["steps"]
    did = record["method"] + (f", {steps} step{'s' if steps > 1 else ''}" if steps else "")
    parts = [f"{folder}: {did} in {record['seconds']:.0f} s ({record['stopped']})"]
    if found and record["kernel"] in (None, "spectral"):  # else the estimate is only where a kernel prior comes from
        parts.append(f"kernel {found['family']}, width {metrics['kernel_width']:.2f} px")
    if record["restorer"] != "none":
        tiles = f", {record['tiles']} tiles" if record["tiles"] > 1 else ""
        parts.append(f"image by {record['restorer']}{tiles}")
    known = "kernel_psnr" in metrics or "psnr_border_s" in metrics
    hint = "" if known or record["alignment"] != "fkp" else " (the paper's grid; for a photo: --alignment centered)"
    parts.append(f"alignment {record['alignment']}{hint}")
    for border in ("s2", "s"):
        if f"psnr_border_{border}" in metrics:
            psnr, ssim = metrics[f"psnr_border_{border}"], metrics[f"ssim_border_{border}"]
            parts.append(f"PSNR {psnr:.2f} dB, SSIM {ssim:.4f} (border {border})")
            break
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
        batch = Batch(images=[path], method=method, seed=seed, output=output, alignment=Alignment.CENTERED)
        code, _ = run_batch(batch, say=say, as_json=False)
    if code == 0:
        say(f"look at {output / 'demo' / 'overview.png'}")
    return code
