"""`blindsr train-flow`: train a flow on a kernel prior and write its file."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blindsr import __version__
from blindsr.commands.settings import default_degradation
from blindsr.errors import UserError
from blindsr.io.files import atomic_path
from blindsr.methods.words import prior_part
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.priors.base import KernelPrior
from blindsr.priors.flow import SUFFIX, flow_bytes
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.motion import CameraShakePrior
from blindsr.random import generator

EVERY = 5.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True)
class TrainFlow:
    """What `blindsr train-flow` is asked to do.

    Attributes
    ----------
    out : Path
        File to write.
    prior : str
        "gaussian", "motion" or `my_file.py:MyPrior`.
    scale, kernel_size : int
        s and K; 0 for the usual size.
    steps : int or None
        Steps of Adam; None: the family's own number.
    seed : int
        Of everything random.
    overwrite : bool
        Whether an existing file may be replaced.
    """

    out: Path
    prior: str = "gaussian"
    scale: int = 4
    kernel_size: int = 0
    steps: int | None = None
    seed: int = 0
    overwrite: bool = False


def _gaussian(d: Degradation) -> KernelPrior:
    return GaussianKernelPrior.truth(d.scale, d.kernel_size)


def _motion(d: Degradation) -> KernelPrior:
    return CameraShakePrior.protocol(d.scale, d.kernel_size)


FAMILIES: dict[str, Callable[[Degradation], KernelPrior]] = {"gaussian": _gaussian, "motion": _motion}
"""What a flow can learn by name: the kernels of the test protocol (as FKP did, not the wider ones of the Monte Carlo
step), and camera shake."""


def _source(asked: TrainFlow, degradation: Degradation) -> KernelPrior:
    if asked.prior in FAMILIES:
        return FAMILIES[asked.prior](degradation)
    if ".py:" not in asked.prior:
        raise UserError(f"--prior {asked.prior}: unknown; choose {', '.join(FAMILIES)}, or my_file.py:MyPrior")
    made: KernelPrior = prior_part(asked.prior, degradation).value(degradation, None)
    return made


def train_flow_file(asked: TrainFlow, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Train a flow and write its file, whole or not at all.

    Parameters
    ----------
    asked : TrainFlow
        What to train.
    say : callable
        Takes one-line notes for the user.

    Returns
    -------
    dict
        The recipe that the file holds, and the seconds taken.

    Raises
    ------
    UserError
        On bad input, or if training fails; no file is written then.
    """
    if asked.out.suffix != SUFFIX:
        raise UserError(f"--out {asked.out}: a name that ends with {SUFFIX} is needed")
    if asked.out.is_dir() or (asked.out.exists() and not asked.overwrite):
        raise UserError(f"--out {asked.out}: exists; choose another name, or give --overwrite")
    alignment = Alignment.FKP
    degradation = default_degradation(
        asked.scale, kernel_size=asked.kernel_size, alignment=alignment, padding=Padding.CIRCULAR
    )
    prior = _source(asked, degradation)
    with atomic_path(asked.out) as temporary:  # tells at once whether the file can be written
        content, recipe, seconds = _trained(asked, prior, degradation, say)
        temporary.write_bytes(content)
    return recipe | {"seconds": round(seconds, 1), "bytes": len(content)}


def _trained(
    asked: TrainFlow, prior: KernelPrior, degradation: Degradation, say: Callable[[str], None]
) -> tuple[bytes, dict[str, Any], float]:
    from blindsr.priors.flow_training import Progress, recipe_for, train_flow

    start = last = time.perf_counter()
    how = recipe_for(asked.prior, asked.steps)

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
        "prior": asked.prior,
        "seed": asked.seed,
        "scale": degradation.scale,
        "kernel_size": degradation.kernel_size,
        "versions": {"blindsr": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    return flow_bytes(flow), flow.recipe, time.perf_counter() - start
