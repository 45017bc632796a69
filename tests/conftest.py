"""What all tests share: reproducible property tests, a clock of their own, the optional data folder."""

import os
import time
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core, so one thread each
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import pytest
import torch
from helpers import Clock
from hypothesis import settings

from blindsr.diagnostics.overview import render

settings.register_profile("blindsr", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("blindsr")


@pytest.fixture
def gen() -> torch.Generator:
    return torch.Generator().manual_seed(20240610)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put a clock that only the test moves in the place of `time.perf_counter`, so that no limit depends on speed."""
    it = Clock()
    monkeypatch.setattr(time, "perf_counter", it)
    return it


@pytest.fixture(autouse=True)
def no_overview(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave overview.png blank, which takes longer than a short run; `real_overview` has it drawn."""
    monkeypatch.setattr("blindsr.results.files.render", lambda page: b"")


@pytest.fixture
def real_overview(no_overview: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw overview.png in this test."""
    monkeypatch.setattr("blindsr.results.files.render", render)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    folder = os.environ.get("BLINDSR_DATA")
    if not folder or not (Path(folder) / "Set5").is_dir():
        pytest.skip("BLINDSR_DATA names no folder with Set5")
    return Path(folder)
