"""The device of a run, and whether its memory suffices."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from blindsr.errors import UserError
from blindsr.generators.skip import SkipSettings, has_bf16

BYTES_PER_CHANNEL_PIXEL = 120
"""Peak memory of the skip network, bytes for each of its channels and each HR pixel, float32.

`benchmarks/step_cost.py --preset paper`: 908 MiB, the program included, at 256x256 and 128 channels, which is 114."""


def choose_device(name: str) -> torch.device:
    """Return the device for auto, cpu, cuda or mps.

    Raises
    ------
    UserError
        If the name is unknown or this machine has no such device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if available["cuda"] else "mps" if available["mps"] else "cpu")
    if name not in available:
        raise UserError(f"--device {name}: unknown; choose auto, cpu, cuda or mps")
    if not available[name]:
        raise UserError(f"--device {name}: not available on this machine; choose auto or cpu")
    return torch.device(name)


def available_memory() -> int | None:
    """Return the bytes of memory that are available, or None on a system that does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


def check_memory(height: int, width: int, skip: SkipSettings, device: torch.device) -> None:
    """Check that the image network of a result fits into the available memory.

    Raises
    ------
    UserError
        If it does not.
    """
    need = BYTES_PER_CHANNEL_PIXEL * skip.channels * height * width * (0.6 if skip.bf16 and has_bf16(device) else 1.0)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if free is not None and need > 0.9 * free:
        raise UserError(
            f"a result of {width}x{height} pixels needs about {need / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} GiB are free; crop the picture or choose a smaller --preset"
        )


def peak_memory_mib(device: torch.device) -> float:
    """Return the peak memory of the process in MiB; on CUDA, that of the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return float("nan")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
