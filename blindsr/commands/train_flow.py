"""`blindsr train-flow`: train a flow on the kernels of a family and write its file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blindsr.errors import UserError
from blindsr.io.files import atomic_path
from blindsr.methods.words import default_degradation, family_named
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.priors.base import KernelPrior
from blindsr.priors.flow import SUFFIX, FlowPrior, flow_bytes
from blindsr.random import generator
from blindsr.results.files import versions

EVERY = 5.0
"""Seconds between two lines of progress."""


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


def train_flow_file(
    out: Path,
    *,
    prior: str = "gaussian",
    scale: int = 4,
    kernel_size: int = 0,
    steps: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train a flow and write its file; return the recipe that the file holds, and the seconds taken.

    The flow learns the true kernels of the family `prior`, or of `my_file.py:MyKernels`, by `steps` of Adam; None takes
    the number in the family's recipe. Raises UserError on bad input, or if training fails; no file is written then.
    """
    if out.suffix != SUFFIX:
        raise UserError(f"--out {out}: a name that ends with {SUFFIX} is needed")
    if out.is_dir() or (out.exists() and not overwrite):
        raise UserError(f"--out {out}: exists; choose another name, or give --overwrite")
    d = default_degradation(scale, kernel_size, Alignment.FKP, Padding.CIRCULAR)
    name, law = _learned(prior, d)
    with atomic_path(out) as temporary:  # fails at once where the file cannot be written
        start = time.perf_counter()
        try:
            flow = _trained(name, law, scale, steps, seed, say)
        except ValueError as error:
            raise UserError(f"--prior {prior}: {error}") from error
        flow.recipe |= {"prior": name, "seed": seed, "scale": d.scale, "kernel_size": d.kernel_size}
        flow.recipe["versions"] = versions()
        content = flow_bytes(flow)
        seconds = round(time.perf_counter() - start, 1)
        temporary.write_bytes(content)
    return flow.recipe | {"seconds": seconds, "bytes": len(content)}


def _trained(
    name: str, law: KernelPrior, scale: int, steps: int | None, seed: int, say: Callable[[str], None]
) -> FlowPrior:
    """Return a flow that has learned a law, with a line of progress now and then."""
    from blindsr.priors.flow_training import Progress, recipe_for, train_flow

    last, how = time.perf_counter(), recipe_for(name, steps)

    def report(progress: Progress) -> None:
        nonlocal last
        if time.perf_counter() - last >= EVERY or progress.step == how.steps:
            last = time.perf_counter()
            left = progress.seconds / progress.step * (how.steps - progress.step)
            say(f"step {progress.step}/{how.steps}: {progress.log_prob:.1f} nats, {left:.0f} s left")

    return train_flow(law, scale, how, generator=generator(seed), report=report)
