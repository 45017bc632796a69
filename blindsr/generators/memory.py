"""Whether the memory of a device suffices for an image network."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from blindsr.generators.skip import SkipSettings, has_bf16

BYTES_PER_CHANNEL_PIXEL = 120
"""Peak memory of the skip network, bytes for each of its channels and each HR pixel, float32.

`benchmarks/step_cost.py --preset paper`: 908 MiB, the program included, at 256x256 and 128 channels, which is 114."""


def available_memory() -> int | None:
    """Return the bytes of memory that are free for use, or None where the system does not report it."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


def check_memory(height: int, width: int, skip: SkipSettings, device: torch.device) -> None:
    """Raise ValueError if the image network of a result would not fit into the free memory."""
    need = BYTES_PER_CHANNEL_PIXEL * skip.channels * height * width * (0.6 if skip.bf16 and has_bf16(device) else 1.0)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if free is not None and need > 0.9 * free:
        raise ValueError(
            f"a result of {width}x{height} pixels needs about {need / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} GiB are free; crop the picture or take a smaller --preset"
        )
