import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import call, error_line, gaussian_kernel, save_png, smooth
from PIL import Image
from scipy.signal import correlate2d
from skimage.metrics import structural_similarity

import blindsr
from blindsr.io.images import read_image
from blindsr.io.kernels import read_kernel
from blindsr.priors.families import FAMILIES


def made(output: Path, image: Path, *words: object) -> dict[str, Any]:
    result = call("degrade", image, "--output", output, "--json", *words)
    assert result.exit_code == 0, result.stderr
    record: dict[str, Any] = json.loads(result.stdout)
    assert record == json.loads((output / "degradation.json").read_text(encoding="utf-8"))
    return record


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(np.float64)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(smooth(41, 50)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("kernel", FAMILIES)
def test_reproducible_by_its_seed(photo: Path, tmp_path: Path, kernel: str) -> None:
    words = ("--scale", 2, "--kernel", kernel, "--noise-level", 0.0392)
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        made(tmp_path / name, photo, *words, "--seed", seed)
    for name in ("lr.png", "hr.png", "kernel.npy", "degradation.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for name in ("lr.png", "kernel.npy"):
        assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()
    made(tmp_path / "quiet", photo, "--scale", 2, "--kernel", kernel, "--seed", 7)
    assert (tmp_path / "a/kernel.npy").read_bytes() == (tmp_path / "quiet/kernel.npy").read_bytes()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lr_image_is_the_formula(photo: Path, tmp_path: Path, scale: int) -> None:
    record = made(tmp_path / "out", photo, "--scale", scale, "--quantize", "none", "--seed", 3)
    k = np.load(tmp_path / "out/kernel.npy")
    assert k.shape == (4 * scale + 3,) * 2 and record["kernel_size"] == 4 * scale + 3
    x = pixels(tmp_path / "out/hr.png") / 255
    assert x.shape[:2] == (41 // scale * scale, 50 // scale * scale) == tuple(record["hr_size"])
    r = len(k) // 2
    wrapped = np.pad(x, ((r, r), (r, r), (0, 0)), mode="wrap")
    expected = np.stack([correlate2d(wrapped[..., c], k, "valid")[::scale, ::scale] for c in range(3)], -1)
    assert np.allclose(np.load(tmp_path / "out/lr.npy"), expected, atol=1e-5)
    assert record["lr_size"] == list(expected.shape[:2])
    deep = read_image(tmp_path / "out/lr.png")
    assert deep.bits == 16 and np.allclose(deep.pixels[0].permute(1, 2, 0), expected, atol=2e-5)


def test_quantisation(photo: Path, tmp_path: Path) -> None:
    words = ("--scale", 2, "--noise-level", 0.05, "--seed", 2)
    for how in ("round", "truncate", "none"):
        record = made(tmp_path / how, photo, *words, "--quantize", how)
        assert record["quantize"] == how
    exact = np.load(tmp_path / "none/lr.npy").clip(0, 1) * 255
    assert np.array_equal(pixels(tmp_path / "round/lr.png"), exact.round())
    assert np.array_equal(pixels(tmp_path / "truncate/lr.png"), np.floor(exact + 1e-4))
    assert not (tmp_path / "round/lr.npy").exists()


def test_noise_has_the_level_asked_for(tmp_path: Path) -> None:
    Image.fromarray(np.full((128, 128), 128, np.uint8)).save(tmp_path / "flat.png")
    made(tmp_path / "out", tmp_path / "flat.png", "--scale", 2, "--noise-level", 0.0392, "--quantize", "none")
    noise = np.load(tmp_path / "out/lr.npy") - 128 / 255
    assert noise.std() == pytest.approx(0.0392, rel=0.05) and abs(noise.mean()) < 0.003


def test_everything_drawn_is_on_record(photo: Path, tmp_path: Path) -> None:
    record = made(tmp_path / "out", photo, "--scale", 3, "--seed", 9, "--noise-level", 0.01, "--alignment", "centered")
    fixed = {
        "source": str(photo),
        "scale": 3,
        "kernel": "gaussian",
        "alignment": "centered",
        "padding": "circular",
        "noise_level": 0.01,
        "seed": 9,
        "version": blindsr.__version__,
    }
    assert fixed.items() <= record.items()
    drawn = record["kernel_drawn"]
    # the kernel can be rebuilt from the record alone
    t, n = drawn["angle"], record["kernel_size"]
    rotation = np.array([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]])
    inverse = np.linalg.inv(rotation @ np.diag([drawn["variance_1"], drawn["variance_2"]]) @ rotation.T)
    rows, columns = np.mgrid[0:n, 0:n]
    d = np.stack([columns - drawn["center_column"], rows - drawn["center_row"]], -1)
    k = np.exp(-0.5 * np.einsum("...i,ij,...j", d, inverse, d))
    assert np.allclose(np.load(tmp_path / "out/kernel.npy"), k / k.sum(), atol=1e-5)


def test_kernel_from_a_file(photo: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", 2 * gaussian_kernel(9, 1.3, 3.5))
    result = call("degrade", photo, "--scale", 2, "--kernel", tmp_path / "k.npy", "--output", tmp_path / "out")
    assert result.exit_code == 0 and "summed to 2 and was normalised" in result.stderr
    assert np.allclose(np.load(tmp_path / "out/kernel.npy"), gaussian_kernel(9, 1.3, 3.5), atol=1e-6)
    np.save(tmp_path / "k.npy", gaussian_kernel(9, 1.3, 5.5))
    result = call("degrade", photo, "--scale", 2, "--kernel", tmp_path / "k.npy", "--output", tmp_path / "off")
    assert result.exit_code == 0 and "centre of mass (5.5, 5.5) is off the nominal (3.5, 3.5)" in result.stderr


def test_kernel_of_even_size_needs_the_alignment(photo: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", gaussian_kernel(10, 1.3))
    words = ("degrade", photo, "--scale", 2, "--kernel", tmp_path / "k.npy", "--output", tmp_path / "out")
    assert "for an even size, name the --alignment" in error_line(call(*words))
    assert call(*words, "--alignment", "fkp").exit_code == 0
    assert np.load(tmp_path / "out/kernel.npy").shape == (11, 11)


def test_bad_input_of_degrade(photo: Path, tmp_path: Path) -> None:
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--noise-level", -1), "noise level -1.0: a standard deviation of 0 or more"),
        (("--noise-level", "nan"), "noise level nan"),
        (("--noise-level", "inf"), "noise level inf"),
        (("--kernel", "blurry"), "--kernel blurry: unknown kernel family; choose gaussian, motion, shake, line"),
        (("--kernel", tmp_path / "gone.mat"), "gone.mat: no such file"),
        (("--kernel", tmp_path / "gone.safetensors"), "gone.safetensors: no such file"),
        (("--kernel", f"{tmp_path}/gone.py:Mine"), "gone.py: no such file (wanted Mine from it)"),
        (("--kernel-size", 4), "kernel size 4: an odd number"),
        (("--kernel-size", 43), "a kernel of 43 pixels is larger than the picture (50x41)"),
        (("--kernel-size", 9999), "larger than the picture"),
    ]
    for words, message in cases:
        assert message in error_line(call("degrade", photo, "--scale", 2, "--output", tmp_path / "out", *words)), words
    assert not (tmp_path / "out").exists()
    assert call("degrade", photo, "--quantize", "maybe").exit_code == 2


@pytest.mark.parametrize("name", ["lr.png", "hr.png", "kernel.mat", "kernel.npy", "kernel.png", "degradation.json"])
def test_nothing_is_overwritten(photo: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("precious")
    line = error_line(call("degrade", photo, "--scale", 2, "--output", tmp_path / "out"))
    assert f"{name}: exists; choose another --output" in line
    assert (tmp_path / "out" / name).read_text() == "precious" and len(list((tmp_path / "out").iterdir())) == 1


def test_alpha_is_left_out_with_a_note(tmp_path: Path) -> None:
    Image.fromarray(smooth(24, 24)).convert("RGBA").save(tmp_path / "a.png")
    result = call("degrade", tmp_path / "a.png", "--scale", 2, "--output", tmp_path / "out")
    assert result.exit_code == 0 and "alpha channel is left out" in result.stderr


# evaluate


def luma(a: np.ndarray) -> np.ndarray:
    return 16 + (65.481 * a[..., 0] + 128.553 * a[..., 1] + 24.966 * a[..., 2]) / 255


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    a = smooth(48, 56)
    b = np.clip(a.astype(int) + np.random.default_rng(0).integers(-9, 10, a.shape), 0, 255).astype(np.uint8)
    Image.fromarray(a).save(tmp_path / "truth.png")
    Image.fromarray(b).save(tmp_path / "result.png")
    return tmp_path / "result.png", tmp_path / "truth.png"


@pytest.mark.parametrize(("border", "n"), [("s", 3), ("s2", 9), ("0", 0), ("7", 7)])
def test_scores_are_the_published_definitions(pair: tuple[Path, Path], border: str, n: int) -> None:
    result = call("evaluate", *pair, "--scale", 3, "--border", border, "--json")
    record = json.loads(result.stdout)
    ya, yb = (luma(pixels(p)) for p in pair)
    inner = (slice(n, ya.shape[0] - n), slice(n, ya.shape[1] - n))
    mse = ((ya - yb)[inner] ** 2).mean()
    assert record["psnr"] == pytest.approx(10 * math.log10(255**2 / mse), abs=1e-6)
    _, full = structural_similarity(
        ya[inner], yb[inner], data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert record["ssim"] == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-6)
    assert (record["border_rule"], record["border_pixels"]) == (border, n)
    assert "Y of BT.601" in record["channel"]
    text = call("evaluate", *pair, "--scale", 3, "--border", border).stdout
    assert f"border {border} = {n} pixels" in text and f"PSNR {record['psnr']:.2f} dB" in text


def test_kernels_are_scored(pair: tuple[Path, Path], tmp_path: Path) -> None:
    k, t = gaussian_kernel(11, 1.5), gaussian_kernel(11, 2.0)
    np.save(tmp_path / "k.npy", k)
    np.savetxt(tmp_path / "t.txt", 3 * t)
    words = ("--kernel", tmp_path / "k.npy", "--true-kernel", tmp_path / "t.txt")
    result = call("evaluate", *pair, "--scale", 2, "--json", *words)
    assert "summed to 3 and was normalised" in result.stderr
    expected = -10 * math.log10(((k - t) ** 2).mean())
    assert json.loads(result.stdout)["kernel_psnr"] == pytest.approx(expected, abs=1e-3)
    assert f"kernel PSNR {expected:.2f} dB (peak 1)" in call("evaluate", *pair, "--scale", 2, *words).stdout


def test_the_smaller_of_two_kernels_is_padded(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """As after a run whose free kernel is larger than the true one."""
    k, t = gaussian_kernel(15, 1.5), gaussian_kernel(11, 2.0)
    np.save(tmp_path / "k.npy", k)
    np.save(tmp_path / "t.npy", t)
    expected = -10 * math.log10(((k - np.pad(t, 2)) ** 2).mean())
    for one, other in (("k.npy", "t.npy"), ("t.npy", "k.npy")):
        words = ("--kernel", tmp_path / one, "--true-kernel", tmp_path / other)
        result = call("evaluate", *pair, "--scale", 2, "--json", *words)
        assert json.loads(result.stdout)["kernel_psnr"] == pytest.approx(expected, abs=1e-3)


def test_identical_pictures_have_no_number_in_json(pair: tuple[Path, Path]) -> None:
    result = call("evaluate", pair[0], pair[0], "--scale", 2, "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["psnr"] is None
    assert "PSNR inf dB" in call("evaluate", pair[0], pair[0], "--scale", 2).stdout


def test_grey_against_colour(pair: tuple[Path, Path], tmp_path: Path) -> None:
    Image.open(pair[1]).convert("L").save(tmp_path / "grey.png")
    assert call("evaluate", tmp_path / "grey.png", pair[1], "--scale", 2).exit_code == 0


def test_truth_with_a_rest_is_cut_like_degrade_does(pair: tuple[Path, Path], tmp_path: Path) -> None:
    save_png(tmp_path / "hr.png", 33, 35)
    with Image.open(tmp_path / "hr.png") as hr:
        hr.crop((0, 0, 34, 32)).save(tmp_path / "sr.png")
    result = call("evaluate", tmp_path / "sr.png", tmp_path / "hr.png", "--scale", 2)
    assert result.exit_code == 0 and "PSNR inf" in result.stdout


def test_bad_input_of_evaluate(pair: tuple[Path, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", gaussian_kernel(11))
    save_png(tmp_path / "small.png", 20, 20)
    k = tmp_path / "k.npy"
    cases: list[tuple[tuple[object, ...], str]] = [
        ((*pair, "--border", "wide"), "--border wide: choose s, s2 or a number of pixels"),
        ((*pair, "--border", "-1"), "--border -1: choose"),
        ((*pair, "--border", "²"), "--border ²: choose"),
        ((*pair, "--border", "24"), "a border of 24 pixels leaves nothing"),
        ((*pair, "--border", "999999"), "leaves nothing"),
        ((*pair, "--kernel", k), "--kernel and --true-kernel go together"),
        ((*pair, "--kernel", k, "--true-kernel", tmp_path / "x.npy"), "x.npy: no such file"),
        ((pair[0], tmp_path / "small.png"), "20x20 pixels does not fit"),
    ]
    for words, message in cases:
        assert message in error_line(call("evaluate", *words, "--scale", 2)), words


def test_degraded_kernel_files_agree(photo: Path, tmp_path: Path) -> None:
    made(tmp_path / "out", photo, "--scale", 4)
    both = [read_kernel(tmp_path / "out" / name).kernel for name in ("kernel.npy", "kernel.mat")]
    assert torch.equal(*both)
