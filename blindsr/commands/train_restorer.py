"""`blindsr train-restorer`: train an unfolded network on the pictures of a folder and write its file."""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blindsr.commands.interrupt import Interrupt
from blindsr.errors import UserError
from blindsr.io import checkpoint
from blindsr.io.files import atomic_path, file_hash
from blindsr.io.images import SUFFIXES, read_image
from blindsr.restorers import unfolded_training
from blindsr.restorers.unfolded import SUFFIX, unfolded_bytes
from blindsr.results.files import versions

EVERY = 5.0
"""Seconds between two lines of progress."""
CHECKPOINT_EVERY = 180.0
"""Seconds between two checkpoints."""
PART = ".part"
"""What the name of the checkpoint has more than that of the file to write."""


def _files(data: Path) -> list[Path]:
    """Return the pictures in a folder and the folders in it, sorted."""
    if not data.is_dir():
        raise UserError(f"--data {data}: {'not a folder' if data.exists() else 'no such folder'}")
    found = sorted(p for p in data.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise UserError(f"--data {data}: this folder holds no picture ({', '.join(SUFFIXES)})")
    return found


def train_restorer_file(
    data: Path,
    out: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train an unfolded network on the pictures of a folder and write its file.

    Every few minutes, and when it is interrupted, the training is saved as OUT.part, from which the same call goes on
    with the same bits; it is removed at the end. `steps` are those of the second stage; the first is changed in
    proportion. Pictures that are smaller than a patch take no part.

    Returns the recipe that the file holds, and the seconds taken by this call. Raises UserError on bad input, or if
    training fails, and KeyboardInterrupt after an interrupt; no file is written then.
    """
    if out.suffix != SUFFIX:
        raise UserError(f"--out {out}: a name that ends with {SUFFIX} is needed")
    if out.is_dir() or (out.exists() and not overwrite):
        raise UserError(f"--out {out}: exists; choose another name, or give --overwrite")
    start, recipe = time.perf_counter(), unfolded_training.RECIPE
    recipe = recipe if steps is None else recipe.with_steps(steps)
    files = _files(data)
    try:
        training = unfolded_training.RestorerTraining((read_image(p).pixels for p in files), recipe, seed=seed)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--data {data}: {error} in this folder") from error
    names = [str(p.relative_to(data)) for p in files]
    about: dict[str, Any] = {"settings": asdict(recipe), "seed": seed, "pictures": len(names), "names": names}
    part, kept = out.with_name(out.name + PART), _settings(about, files)
    losses: deque[float] = deque(maxlen=100)

    def save() -> None:
        checkpoint.save(part, kept, {"training": training.state_dict(), "losses": list(losses)})

    if part.exists():
        state = checkpoint.load(part, kept, advice="run the same command, or delete the file to start anew")
        training.load_state_dict(state["training"])
        losses.extend(state["losses"])
        say(f"{part}: going on after step {training.training.step} of {training.stage}")
    else:
        save()  # fails at once where nothing can be written
    with Interrupt().listening() as interrupt:
        _train(training, losses, save, interrupt, say)
    about |= {"loss": round(sum(losses) / len(losses), 6), "versions": versions()}
    content = unfolded_bytes(training.result(), about)
    with atomic_path(out) as temporary:
        temporary.write_bytes(content)
    part.unlink(missing_ok=True)
    return about | {"seconds": round(time.perf_counter() - start, 1), "bytes": len(content)}


def _settings(about: dict[str, Any], files: list[Path]) -> dict[str, Any]:
    """Return what a checkpoint must have been made with: steps, seed, and the hashes of recipe and pictures."""

    def digest(value: object) -> str:
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]

    return {
        "steps": about["settings"]["restoring"]["steps"],
        "seed": about["seed"],
        "pictures": digest([file_hash(p) for p in files]),
        "recipe": digest(about["settings"]),
    }


def _train(
    training: unfolded_training.RestorerTraining,
    losses: deque[float],
    save: Callable[[], None],
    interrupt: Interrupt,
    say: Callable[[str], None],
) -> None:
    """Train to the end, with checkpoints and lines of progress; `losses` takes those of the last steps of the stage."""
    told = saved = time.perf_counter()
    while not training.done:
        try:
            progress = training.advance()
        except ValueError as error:
            raise UserError(f"train-restorer: {error}") from error
        now = time.perf_counter()
        if progress.step == 1:
            losses.clear()
        losses.append(progress.loss)
        if now - told >= EVERY or progress.step == progress.steps:
            told = now
            say(f"{progress.stage}: step {progress.step}/{progress.steps}, loss {sum(losses) / len(losses):.5f}")
        if interrupt.raised or now - saved >= CHECKPOINT_EVERY:
            save()
            saved = time.perf_counter()
        if interrupt.raised:
            raise KeyboardInterrupt
