"""`blindsr train-flow`: train a flow on the kernels of a family and write its file."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blindsr.errors import UserError
from blindsr.io.files import VERSION, atomic_path
from blindsr.methods.words import default_degradation, family_named
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.priors.base import KernelPrior
from blindsr.priors.flow import SUFFIX, FlowPrior, flow_bytes
from blindsr.random import generator

EVERY = 5.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True)
class TrainFlow:
    """What `blindsr train-flow` is asked to do."""

    out: Path
    prior: str = "gaussian"
    """The kernel family to learn, by the law of its true kernels, or `my_file.py:MyKernels`."""
    scale: int = 4
    kernel_size: int = 0
    """s and K; a K of 0 is the usual size."""
    steps: int | None = None
    """Steps of Adam; None: those of the family's recipe."""
    seed: int = 0
    overwrite: bool = False
    """Whether an existing file may be replaced."""


def _learned(word: str, degradation: Degradation) -> tuple[str, KernelPrior]:
    """Return the name of the family to learn, and the law of its true kernels."""
    try:
        family = family_named(word)
    except UserError as error:
        raise UserError(f"--prior {error}") from error
    prior = family.truth(degradation)
    if isinstance(prior, FlowPrior):
        raise UserError(
            f"--prior {word}: is a trained flow already; name a family for a flow to learn, such as gaussian"
        )
    return family.name, prior


def train_flow_file(asked: TrainFlow, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Train a flow and write its file; return the recipe that the file holds, and the seconds taken.

    Raises UserError on bad input, or if training fails; no file is written then.
    """
    if asked.out.suffix != SUFFIX:
        raise UserError(f"--out {asked.out}: a name that ends with {SUFFIX} is needed")
    if asked.out.is_dir() or (asked.out.exists() and not asked.overwrite):
        raise UserError(f"--out {asked.out}: exists; choose another name, or give --overwrite")
    degradation = default_degradation(
        asked.scale, kernel_size=asked.kernel_size, alignment=Alignment.FKP, padding=Padding.CIRCULAR
    )
    name, prior = _learned(asked.prior, degradation)
    with atomic_path(asked.out) as temporary:  # fails at once where the file cannot be written
        content, recipe, seconds = _trained(asked, name, prior, degradation, say)
        temporary.write_bytes(content)
    return recipe | {"seconds": round(seconds, 1), "bytes": len(content)}


def _trained(
    asked: TrainFlow, name: str, prior: KernelPrior, degradation: Degradation, say: Callable[[str], None]
) -> tuple[bytes, dict[str, Any], float]:
    from blindsr.priors.flow_training import Progress, recipe_for, train_flow

    start = last = time.perf_counter()
    how = recipe_for(name, asked.steps)

    def report(progress: Progress) -> None:
        nonlocal last
        if time.perf_counter() - last >= EVERY or progress.step == how.steps:
            last = time.perf_counter()
            left = progress.seconds / progress.step * (how.steps - progress.step)
            say(f"step {progress.step}/{how.steps}: {progress.log_prob:.1f} nats, {left:.0f} s left")

    try:
        flow = train_flow(prior, degradation.scale, how, generator=generator(asked.seed), report=report)
    except ValueError as error:
        raise UserError(f"--prior {asked.prior}: {error}") from error
    flow.recipe |= {
        "prior": name,
        "seed": asked.seed,
        "scale": degradation.scale,
        "kernel_size": degradation.kernel_size,
        "versions": {"blindsr": VERSION, "torch": torch.__version__, "python": platform.python_version()},
    }
    return flow_bytes(flow), flow.recipe, time.perf_counter() - start
