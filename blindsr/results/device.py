"""The device of a run, and its peak memory."""

from __future__ import annotations

import sys

import torch

from blindsr.errors import UserError


def choose_device(name: str) -> torch.device:
    """Return the device for auto, cpu, cuda or mps.

    Raises UserError if the name is unknown or this machine has no such device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if available["cuda"] else "mps" if available["mps"] else "cpu")
    if name not in available:
        raise UserError(f"--device {name}: unknown; choose auto, cpu, cuda or mps")
    if not available[name]:
        raise UserError(f"--device {name}: not available on this machine; choose auto or cpu")
    return torch.device(name)


def peak_memory_mib(device: torch.device) -> float:
    """Return the peak memory of the process in MiB; on CUDA, that of the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return float("nan")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
