"""Every example runs, at tiny size."""

from pathlib import Path

import numpy as np
import pytest
from helpers import run_script
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_own_photo(tmp_path):
    photo = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(photo)
    out = run_script(EXAMPLES / "own_photo.py", photo, "--scale", 2, "--output", tmp_path / "out")
    assert "pixels wide (rms)" in out
    with Image.open(tmp_path / "out" / "sr.png") as sr:
        assert sr.size == (48, 40)


@pytest.mark.slow
def test_compose_solver():
    assert "kernel (1, 1, 11, 11)" in run_script(EXAMPLES / "compose_solver.py", "--steps", 3, "--side", 48)


@pytest.mark.slow
def test_kernel_and_restorers():
    out = run_script(EXAMPLES / "kernel_and_restorers.py", "--side", 96, "--scale", 2).splitlines()
    assert [line.split(":")[0] for line in out[-3:]] == ["BicubicRestorer", "MapRestorer", "MapRestorer"]
    assert float(out[-1].split()[1]) > float(out[-3].split()[1])


def test_my_prior():
    assert "keeps the contract" in run_script(EXAMPLES / "my_prior.py")


@pytest.mark.slow
def test_ablation():
    out = run_script(EXAMPLES / "ablation.py", "--steps", 2, "--side", 64)
    assert [line.split()[0] for line in out.splitlines()] == ["mlmc", "mlmc-no-mc", "mlmc-no-meta"]
