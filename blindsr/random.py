"""Random numbers: one `torch.Generator` per run, and a fence around what insists on the global state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with torch's global CPU generator seeded by `seed`; the caller's state is put back after it.

    Module constructors draw their weights from the global state and take no generator: build them in here.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield


def generator(seed: int) -> torch.Generator:
    """Return a CPU generator seeded by `seed` (draws are made on the CPU, so every device sees the same ones).

    torch uses the low 32 bits of a seed, so a larger one is refused rather than silently cut.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed {seed}: a whole number from 0 to 2^32 - 1 is needed")
    return torch.Generator().manual_seed(seed)


def draw_seed(source: torch.Generator) -> int:
    """Draw a seed for another generator from `source`."""
    return int(torch.randint(0, 2**31 - 1, (1,), generator=source))
