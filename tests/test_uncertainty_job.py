"""`blindsr uncertainty RUN`: the map lands in the run's folder; every error is one line."""

import json

import numpy as np
import pytest
from helpers import call, error_line, smooth
from PIL import Image


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished fast run on a small picture, and its parts."""
    folder = tmp_path_factory.mktemp("uncertainty")
    rng = np.random.default_rng(0)
    picture = (smooth(24, 28) * 0.7 + rng.integers(0, 60, (24, 28, 3))).astype(np.uint8)
    Image.fromarray(picture).save(folder / "photo.png")
    Image.fromarray(smooth(48, 56)).save(folder / "truth.png")
    assert call("run", folder / "photo.png", "--scale", 2, "--output", folder / "out").exit_code == 0
    return folder


@pytest.mark.slow
def test_map_is_saved_and_ranked_against_a_truth(finished):
    run = finished / "out" / "photo"
    done = call("uncertainty", run, "--draws", 2, "--ground-truth", finished / "truth.png", "--json")
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    std = np.load(run / "uncertainty.npy")
    assert std.shape == (48, 56) and std.dtype == np.float32 and (std > 0).all() and (std < 0.5).all()
    assert record["mean_std"] == pytest.approx(std.mean(), rel=1e-4)
    assert record["kernels"] == "normal approximation" and "no chains" in done.stderr
    assert -1 <= record["spearman"] <= 1 and 0 <= record["within_2_std"] <= 1
    for name in ("uncertainty.png", "sparsification.png"):
        with Image.open(run / name) as page:
            assert min(page.size) > 300


@pytest.mark.slow
def test_same_seed_same_map(finished):
    run, maps = finished / "out" / "photo", []
    for seed in (3, 3, 4):
        assert call("uncertainty", run, "--draws", 2, "--seed", seed).exit_code == 0
        maps.append(np.load(run / "uncertainty.npy"))
    assert np.array_equal(maps[0], maps[1]) and not np.array_equal(maps[0], maps[2])


def test_a_folder_without_a_run_is_refused(tmp_path):
    assert "holds no run.json" in error_line(call("uncertainty", tmp_path))


def test_a_damaged_record_is_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"scale": 2}')
    assert "damaged" in error_line(call("uncertainty", tmp_path))


def record_of(tmp_path, **changes):
    record = {"scale": 2, "kernel_size": 11, "alignment": "fkp", "padding": "circular", "image_sha256": "0"}
    (tmp_path / "run.json").write_text(json.dumps(record | changes))
    return tmp_path


def test_a_picture_that_has_gone_is_named(tmp_path):
    line = error_line(call("uncertainty", record_of(tmp_path, image=str(tmp_path / "gone.png"))))
    assert "gone.png: the picture of this run is no longer there" in line


def test_another_picture_is_refused(tmp_path):
    Image.fromarray(smooth(8, 8)).save(tmp_path / "other.png")
    line = error_line(call("uncertainty", record_of(tmp_path, image=str(tmp_path / "other.png"))))
    assert "is not the picture that this run was made of" in line
