"""`blindsr restore`: a picture and its kernel in, sr.png and restore.json out; one line for whatever is wrong."""

import itertools
import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import call, error_line, gaussian_kernel, noise, save_png, smooth
from PIL import Image
from torch.nn import functional as F

import blindsr
from blindsr.io.images import read_image, write_png
from blindsr.io.picture import Picture
from blindsr.restorers import tiled
from blindsr.restorers.usrnet_net import UsrNet

FUNCTIONS = """
import signal
import torch
from torch.nn import functional as F
calls = []
def good(y, kernel, degradation, noise_std):
    calls.append((tuple(y.shape), tuple(kernel.shape), degradation.scale, noise_std))
    return F.interpolate(y, scale_factor=degradation.scale)
def black(y, kernel, degradation, noise_std):
    return 0 * good(y, kernel, degradation, noise_std)
def stop(y, kernel, degradation, noise_std):
    if not calls:
        signal.raise_signal(signal.SIGINT)
    return black(y, kernel, degradation, noise_std)
def fails(y, kernel, degradation, noise_std):
    raise RuntimeError("too\\nbad")
def leaves(y, kernel, degradation, noise_std):
    raise SystemExit(0)
def second(y, kernel, degradation, noise_std):
    if calls:
        raise RuntimeError("second tile")
    return good(y, kernel, degradation, noise_std)
def same(y, kernel, degradation, noise_std):
    return y
def nan(y, kernel, degradation, noise_std):
    return good(y, kernel, degradation, noise_std) / 0 * 0
def bytes_(y, kernel, degradation, noise_std):
    return 255 * good(y, kernel, degradation, noise_std)
def whole(y, kernel, degradation, noise_std):
    return good(y, kernel, degradation, noise_std).byte()
def nothing(y, kernel, degradation, noise_std):
    pass
def two(y, kernel):
    return y
class Good:
    def __call__(self, *arguments):
        return good(*arguments)
class NoCall:
    pass
class Wants:
    def __init__(self, more):
        pass
three = 3
"""

BAD_FUNCTIONS = {
    "fails": "fails (RuntimeError: too bad)",
    "leaves": "fails (SystemExit",
    "same": "returns an image of shape (1, 3, 16, 18); (1, C, s h, s w) = (1, 3, 32, 36) is needed",
    "nan": "returns values that are not finite",
    "bytes_": "; units of 0..1 are needed",
    "whole": "returns values of type torch.uint8; floating point in units of 0..1 is needed",
    "nothing": "returns NoneType, not a tensor",
    "two": "fails (TypeError: two() takes 2 positional arguments but 4 were given)",
    "NoCall": "not a function; restore(y, kernel, degradation, noise_std) is needed",
    "three": "not a function; restore(y, kernel, degradation, noise_std) is needed",
    "Wants": "fails when called with (): TypeError",
    "gone": "has no gone",
    "": "name the part in it",
}


def functions(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "my_restorer_file.py"
    path.write_text(FUNCTIONS)
    return path


def restore(image: Path, kernel: Path, output: Path, *words: object, scale: int = 2) -> Any:
    return call("restore", image, "--kernel", kernel, "--scale", scale, "--output", output, *words)


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "restore.json").read_text(encoding="utf-8"))
    return content


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pictures of more than 24 LR pixels at scale 2 be tiled."""
    monkeypatch.setattr(tiled, "SIDE", 32)
    monkeypatch.setattr(tiled, "OVERLAP", 16)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(smooth(16, 18)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    np.save(tmp_path / "k.npy", gaussian_kernel(11, 1.5))
    return tmp_path / "k.npy"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HR picture, the LR picture made from it, and its kernel."""
    folder = tmp_path_factory.mktemp("made")
    Image.fromarray(np.kron(noise(7, 8, 3), np.ones((7, 7, 1), np.uint8))[:, :53]).save(folder / "photo.png")
    assert call("degrade", folder / "photo.png", "--scale", 2, "--output", folder, "--seed", 4).exit_code == 0
    return folder


# what comes out


def test_everything_it_leaves(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = restore(made / "lr.png", made / "kernel.mat", out, "--ground-truth", made / "photo.png")
    assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in out.iterdir()) == ["restore.json", "sr.png"]
    r = record(out)
    fixed = {
        "image": str(made / "lr.png"),
        "kernel": str(made / "kernel.mat"),
        "restorer": "map",
        "scale": 2,
        "alignment": "fkp",
        "padding": "circular",
        "noise_given": False,
        "tiles": 1,
        "stopped": "finished",
        "version": blindsr.__version__,
    }
    assert fixed.items() <= r.items()
    assert 0 <= r["noise_std"] < 0.05 and r["seconds"] > 0 and r["kernel_width"] > 0.3
    assert r["psnr_border_s2"] > r["psnr_bicubic_border_s2"] + 2, "restoration under the true kernel must pay"
    with Image.open(out / "sr.png") as sr:
        assert sr.size == (52, 48) and sr.mode == "RGB"
    assert (
        result.stdout
        == f"{out / 'sr.png'}: map in {r['seconds']:.0f} s; PSNR {r['psnr_border_s2']:.2f} dB (border s2)\n"
    )
    scored = call("evaluate", out / "sr.png", made / "hr.png", "--scale", 2, "--json")
    assert json.loads(scored.stdout)["psnr"] == pytest.approx(r["psnr_border_s2"], abs=0.05)


@pytest.mark.parametrize("restorer", ["map", "tv", "bicubic"])
def test_same_result_twice(image: Path, kernel: Path, tmp_path: Path, restorer: str) -> None:
    for name in ("one", "two"):
        assert restore(image, kernel, tmp_path / name, "--restorer", restorer).exit_code == 0
    assert (tmp_path / "one/sr.png").read_bytes() == (tmp_path / "two/sr.png").read_bytes()
    one, two = (record(tmp_path / name) for name in ("one", "two"))
    assert {**one, "seconds": 0} == {**two, "seconds": 0} and one["restorer"] == restorer


def test_json_alone_on_standard_output(image: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", 3 * gaussian_kernel(11, 1.5))
    result = restore(image, tmp_path / "k.npy", tmp_path / "out", "--restorer", "tv", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout) == record(tmp_path / "out")
    assert "the kernel summed to 3 and was normalised" in result.stderr


@pytest.mark.parametrize("value", ["0", "0.05"])
def test_noise_that_is_given(image: Path, kernel: Path, tmp_path: Path, value: str) -> None:
    assert restore(image, kernel, tmp_path / "out", "--restorer", "tv", "--noise", value).exit_code == 0
    assert restore(image, kernel, tmp_path / "other", "--restorer", "tv", "--noise", "0.2").exit_code == 0
    r = record(tmp_path / "out")
    assert r["noise_given"] is True and r["noise_std"] == float(value)
    assert (tmp_path / "out/sr.png").read_bytes() != (tmp_path / "other/sr.png").read_bytes()


def test_alignment_and_padding(image: Path, kernel: Path, tmp_path: Path) -> None:
    usual = {"fkp": "circular", "centered": "valid"}
    for alignment, padding in itertools.product(usual, (None, "circular", "replicate", "reflect", "valid")):
        words = ("--overwrite", "--alignment", alignment) + (("--padding", padding) if padding else ())
        result = restore(image, kernel, tmp_path / "out", "--restorer", "tv", *words)
        assert result.exit_code == 0, result.stderr
        r = record(tmp_path / "out")
        assert (r["alignment"], r["padding"]) == (alignment, padding or usual[alignment])
        with Image.open(tmp_path / "out/sr.png") as sr:
            assert sr.size == (36, 32)


def test_every_scale_on_the_smallest_picture(tmp_path: Path, kernel: Path) -> None:
    small = save_png(tmp_path / "small.png", 16, 16)
    for scale in (2, 3, 4, 8):
        assert restore(small, kernel, tmp_path, "--restorer", "tv", "--overwrite", scale=scale).exit_code == 0
        with Image.open(tmp_path / "sr.png") as sr:
            assert sr.size == (16 * scale, 16 * scale)


@pytest.mark.parametrize("name", ["k.npy", "k.mat", "k.txt", "k.png"])
def test_kernel_files_of_every_kind(made: Path, image: Path, tmp_path: Path, name: str) -> None:
    import scipy.io

    k = gaussian_kernel(11, 1.5)
    match name[2:]:
        case "npy":
            np.save(tmp_path / name, k)
        case "mat":
            scipy.io.savemat(tmp_path / name, {"Kernel": k})
        case "txt":
            np.savetxt(tmp_path / name, k)
        case "png":
            Image.fromarray(np.round(255 * k / k.max()).astype(np.uint8)).save(tmp_path / name)
    result = restore(image, tmp_path / name, tmp_path / "out", "--restorer", "tv")
    assert result.exit_code == 0 and result.stderr == ""
    assert record(tmp_path / "out")["kernel_width"] == pytest.approx(1.5, abs=0.05)


def test_kernels_of_extreme_sizes(image: Path, tmp_path: Path) -> None:
    for size in (1, 3, 31):
        np.save(tmp_path / "k.npy", gaussian_kernel(size, 1.0))
        assert restore(image, tmp_path / "k.npy", tmp_path / str(size), "--restorer", "tv").exit_code == 0


@pytest.mark.parametrize(
    "kind", ["grey 8", "grey 16", "grey alpha 8", "colour 16", "colour alpha 8", "colour alpha 16"]
)
def test_pictures_keep_their_kind(tmp_path: Path, kernel: Path, kind: str) -> None:
    colour, bits = 3 if "colour" in kind else 1, int(kind.split()[-1])
    x = torch.from_numpy(smooth(16, 18)).permute(2, 0, 1)[None, :colour] / 255
    alpha = torch.linspace(0, 1, 18).expand(1, 1, 16, 18) if "alpha" in kind else None
    write_png(tmp_path / "in.png", Picture(x, alpha, bits, None))
    assert restore(tmp_path / "in.png", kernel, tmp_path / "out", "--restorer", "tv").exit_code == 0
    back = read_image(tmp_path / "out" / "sr.png")
    assert back.bits == bits and back.pixels.shape == (1, colour, 32, 36)
    assert (back.alpha is None) == (alpha is None)
    if back.alpha is not None:
        assert back.alpha.shape == (1, 1, 32, 36) and back.alpha[..., 0].max() < 0.1 and back.alpha[..., -1].min() > 0.9


def test_truth_with_a_rest_and_truth_too_small_to_score(image: Path, kernel: Path, tmp_path: Path) -> None:
    truth = save_png(tmp_path / "truth.png", 33, 37)
    result = restore(image, kernel, tmp_path / "out", "--restorer", "tv", "--ground-truth", truth)
    assert result.exit_code == 0 and "psnr_border_s" in record(tmp_path / "out")
    tiny, big = save_png(tmp_path / "tiny.png", 16, 16), save_png(tmp_path / "big.png", 128, 128)
    result = restore(tiny, kernel, tmp_path / "b", "--restorer", "bicubic", "--ground-truth", big, scale=8)
    assert result.exit_code == 0 and "PSNR" not in result.stdout, "a border of 64 pixels leaves nothing of 128"


def test_truth_on_the_other_grid_is_noticed(made: Path, tmp_path: Path) -> None:
    words = ("--restorer", "bicubic", "--alignment", "centered", "--ground-truth", made / "hr.png")
    result = restore(made / "lr.png", made / "kernel.npy", tmp_path / "out", *words)
    assert result.exit_code == 0 and "warning: moved by 1 pixels the result fits the truth better" in result.stderr


# restorers of the user's own


def test_a_function_of_the_user(image: Path, kernel: Path, tmp_path: Path) -> None:
    path = functions(tmp_path)
    for name in ("good", "Good"):
        word = f"{path}:{name}"
        assert restore(image, kernel, tmp_path / name, "--restorer", word, "--noise", "0.03").exit_code == 0
        assert record(tmp_path / name)["restorer"] == word
    x = pixels(tmp_path / "good" / "sr.png")
    assert np.array_equal(x[::2, ::2], pixels(image)) and np.array_equal(x[1::2, 1::2], pixels(image))


def test_functions_that_are_refused(image: Path, kernel: Path, tmp_path: Path) -> None:
    for name, message in BAD_FUNCTIONS.items():
        line = error_line(restore(image, kernel, tmp_path / "out", "--restorer", f"{functions(tmp_path)}:{name}"))
        assert message in line and str(tmp_path) in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["plain", "with a space"])
def test_torchscript_file(image: Path, kernel: Path, tmp_path: Path, folder: str) -> None:
    class Double(torch.nn.Module):
        def forward(self, y):
            return F.interpolate(y, scale_factor=2.0)

    path = tmp_path / folder / "model.pt"
    path.parent.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Double()).save(str(path))
    assert restore(image, kernel, tmp_path / "out", "--restorer", path).exit_code == 0
    assert np.array_equal(pixels(tmp_path / "out/sr.png")[::2, ::2], pixels(image))
    line = error_line(restore(image, kernel, tmp_path / "four", "--restorer", path, scale=4))
    assert "returns an image of shape (1, 3, 32, 36); (1, C, s h, s w) = (1, 3, 64, 72) is needed" in line
    assert not (tmp_path / "four").exists()


def test_onnx_file(image: Path, kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for onnxruntime, then without any."""

    class Session:
        def __init__(self, path, options, providers):
            if Path(path).read_bytes() != b"model":
                raise ValueError("no\nmodel")

        def get_inputs(self):
            return [types.SimpleNamespace(name="y")]

        def run(self, outputs, feed):
            return [feed["y"].repeat(2, 2).repeat(2, 3)]

    stand_in = types.SimpleNamespace(SessionOptions=types.SimpleNamespace, InferenceSession=Session)
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in)
    (tmp_path / "m.onnx").write_bytes(b"model")
    (tmp_path / "bad.onnx").write_bytes(b"text")
    words = ("--restorer", tmp_path / "m.onnx")
    assert restore(image, kernel, tmp_path / "out", *words).exit_code == 0
    assert np.array_equal(pixels(tmp_path / "out/sr.png")[::2, ::2], pixels(image))
    line = error_line(restore(image, kernel, tmp_path / "bad", "--restorer", tmp_path / "bad.onnx"))
    assert "bad.onnx: not an ONNX model that onnxruntime can run (ValueError: no model)" in line
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = error_line(restore(image, kernel, tmp_path / "bad", *words))
    assert "needs onnxruntime: pip install blindsr[onnx]" in line and not (tmp_path / "bad").exists()


def test_usrnet_by_its_weights(image: Path, kernel: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(UsrNet(1, (4, 4, 4, 4), 1, 4, 3).state_dict(), tmp_path / "w.pth")
    for name, words in (("named", ("--restorer", "usrnet")), ("not", ())):
        result = restore(image, kernel, tmp_path / name, *words, "--weights", tmp_path / "w.pth")
        assert result.exit_code == 0, result.stderr
        assert record(tmp_path / name)["restorer_file"] == str(tmp_path / "w.pth")
    assert (tmp_path / "named/sr.png").read_bytes() == (tmp_path / "not/sr.png").read_bytes()


# tiles


def test_tiles_fit_together(tmp_path: Path, kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(smooth(16, 28)).save(tmp_path / "wide.png")
    for name in ("whole", "tiles"):
        assert restore(tmp_path / "wide.png", kernel, tmp_path / name, "--restorer", "bicubic").exit_code == 0
        small_tiles(monkeypatch)
    assert (record(tmp_path / "whole")["tiles"], record(tmp_path / "tiles")["tiles"]) == (1, 4)
    assert abs(pixels(tmp_path / "whole/sr.png") - pixels(tmp_path / "tiles/sr.png")).max() <= 1


def test_a_function_that_fails_on_a_later_tile(tmp_path: Path, kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch)
    word = f"{functions(tmp_path)}:second"
    line = error_line(restore(save_png(tmp_path / "w.png", 16, 28), kernel, tmp_path / "out", "--restorer", word))
    assert "second: fails (RuntimeError: second tile)" in line and not (tmp_path / "out").exists()


def test_interrupt_leaves_a_complete_picture(tmp_path: Path, kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch)
    Image.fromarray(smooth(16, 28)).save(tmp_path / "wide.png")
    restore(tmp_path / "wide.png", kernel, tmp_path / "out", "--restorer", f"{functions(tmp_path)}:stop")
    assert record(tmp_path / "out")["stopped"] == "interrupted"
    restore(tmp_path / "wide.png", kernel, tmp_path / "bicubic", "--restorer", "bicubic")
    x, low = pixels(tmp_path / "out/sr.png"), pixels(tmp_path / "bicubic/sr.png")
    assert x.shape == (32, 56, 3) and not x[:, :16].any(), "the first tile is the restorer's"
    assert abs(x[:, 40:] - low[:, 40:]).max() <= 1, "the rest is bicubic"


def test_interrupt_is_said(tmp_path: Path, kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch)
    wide = save_png(tmp_path / "w.png", 16, 28)
    result = restore(wide, kernel, tmp_path / "out", "--restorer", f"{functions(tmp_path)}:stop")
    assert result.exit_code == 130 and "interrupted" in result.output


# what is refused


def test_options_that_are_refused(image: Path, kernel: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.pt").write_text("no model")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    for size in (10, 33):
        np.save(tmp_path / f"k{size}.npy", gaussian_kernel(size))
    np.save(tmp_path / "k1.npy", np.ones((1, 1)))
    np.save(tmp_path / "nan.npy", np.full((11, 11), np.nan))
    gone, damaged = tmp_path / "gone.pt", tmp_path / "damaged.pt"
    save_png(tmp_path / "small.png", 31, 36)
    save_png(tmp_path / "big.png", 34, 36)
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--restorer", "none"), "--restorer none: leaves nothing to do"),
        (
            ("--restorer", "magic"),
            "--restorer magic: unknown; choose none, map, tv, bicubic, zssr, unfolded, usrnet, a",
        ),
        (("--restorer", "usrnet"), "--restorer usrnet: needs --weights FILE"),
        (
            ("--restorer", "tv", "--weights", gone),
            f"--weights {gone}: goes with --restorer usrnet or unfolded, not with tv",
        ),
        (("--weights", gone), "gone.pt: cannot be read (No such file or directory)"),
        (("--weights", tmp_path), "cannot be read ("),
        (("--weights", damaged), "damaged.pt: not a file of weights (a state dict, saved by torch.save), or damaged"),
        (("--weights", tmp_path / "other.pth"), "other.pth: not USRNet weights (p.m_head.weight is missing)"),
        (("--restorer", gone), "gone.pt: no such file"),
        (("--restorer", tmp_path / "gone.onnx"), "gone.onnx: no such file"),
        (("--restorer", f"{tmp_path / 'gone.py'}:restore"), "gone.py: no such file (wanted restore from it)"),
        (("--restorer", damaged), "damaged.pt: not a TorchScript model"),
        (("--restorer", tmp_path / "other.pth"), "other.pth: a bare file of weights needs spandrel"),
        (("--kernel", tmp_path / "gone.npy"), "gone.npy: no such file"),
        (("--kernel", tmp_path), "is a folder, a kernel file is needed"),
        (("--kernel", tmp_path / "k10.npy"), "the kernel is 10x10; for an even size, name the --alignment"),
        (("--kernel", tmp_path / "k33.npy"), "k33.npy: a kernel of 33 pixels is larger than the result (36x32)"),
        (
            ("--kernel", tmp_path / "k33.npy", "--alignment", "centered"),
            "a kernel of 33 pixels is larger than the result (36x32)",
        ),
        (("--kernel", tmp_path / "nan.npy"), "nan.npy: the kernel holds NaN or infinite values"),
        (("--kernel", image), "a.png: the kernel is 16x18; a square is needed"),
        (("--kernel", tmp_path / "k1.npy", "--padding", "valid", "--alignment", "centered"), "of 3 pixels or more"),
        (("--ground-truth", tmp_path / "gone.png"), "gone.png: no such file"),
        (("--ground-truth", tmp_path / "small.png"), "small.png: 36x31 pixels, but the result will have 36x32"),
        (("--ground-truth", tmp_path / "big.png"), "big.png: 36x34 pixels, but the result will have 36x32"),
        (("--scale", "5"), "scale 5 is not supported: choose 2, 3, 4 or 8"),
    ]
    for words, message in cases:
        assert message in error_line(restore(image, kernel, tmp_path / "out", *words)), words
        assert not (tmp_path / "out").exists()


def test_pictures_that_are_refused(kernel: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    save_png(tmp_path / "small.png", 15, 40)
    for name, message in (
        ("gone.png", "gone.png: no such file"),
        ("text.png", "text.png: not a picture"),
        ("small.png", "small.png: 40x15 pixels is too small; at least 16x16 is needed"),
        (".", "is a folder, a picture is needed"),
    ):
        assert message in error_line(restore(tmp_path / name, kernel, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_usage_errors(image: Path, kernel: Path, tmp_path: Path) -> None:
    wrong = ("--noise -1", "--noise nan", "--noise loud", "--scale x", "--alignment left", "--padding 9", "--no-such")
    for words in (*(line.split() for line in wrong), ["--kernel"]):
        if words == ["--kernel"]:
            result = call("restore", image, "--output", tmp_path / "out")
        else:
            result = restore(image, kernel, tmp_path / "out", *words)
        assert result.exit_code == 2 and result.stdout == "", words
        assert words[0] in result.stderr and "Traceback" not in result.stderr
    for restorer in ("tv", "bicubic"):
        line = error_line(restore(image, kernel, tmp_path / "out", "--restorer", restorer, "--noise", "inf"))
        assert "--noise inf" in line
    assert not (tmp_path / "out").exists()


def test_even_kernel_with_the_alignment_named(image: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", gaussian_kernel(10, 1.5, 4.5))
    words = ("--alignment", "fkp", "--restorer", "tv")
    assert restore(image, tmp_path / "k.npy", tmp_path / "out", *words).exit_code == 0
    assert record(tmp_path / "out")["kernel_center"] == pytest.approx([4.5, 4.5], abs=0.01)


@pytest.mark.parametrize("name", ["sr.png", "restore.json"])
def test_what_is_there_is_not_lost(image: Path, kernel: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("precious")
    line = error_line(restore(image, kernel, out, "--restorer", "tv"))
    assert f"{out / name}: exists; choose another --output, or --overwrite" in line
    assert (out / name).read_text() == "precious" and [p.name for p in out.iterdir()] == [name]
    # with --overwrite: not before the new one is there
    word = f"{functions(tmp_path)}:fails"
    assert "fails" in error_line(restore(image, kernel, out, "--overwrite", "--restorer", word))
    assert (out / name).read_text() == "precious" and [p.name for p in out.iterdir()] == [name]
    assert restore(image, kernel, out, "--restorer", "tv", "--overwrite").exit_code == 0
    assert sorted(p.name for p in out.iterdir()) == ["restore.json", "sr.png"] and record(out)["restorer"] == "tv"


def test_other_files_in_the_folder_stay(image: Path, kernel: Path, tmp_path: Path) -> None:
    before = image.read_bytes()
    assert restore(image, kernel, tmp_path, "--restorer", "tv").exit_code == 0
    assert image.read_bytes() == before and (tmp_path / "sr.png").exists()


def test_output_below_a_file(image: Path, kernel: Path) -> None:
    before = image.read_bytes()
    assert "cannot be written" in error_line(restore(image, kernel, image, "--restorer", "tv"))
    assert "cannot be written" in error_line(restore(image, kernel, image / "below", "--restorer", "tv"))
    assert image.read_bytes() == before


def test_pictures_of_no_detail(kernel: Path, tmp_path: Path) -> None:
    for name, value in (("black", 0), ("grey", 128), ("white", 255)):
        Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
        assert restore(tmp_path / f"{name}.png", kernel, tmp_path / name).exit_code == 0
        assert abs(pixels(tmp_path / name / "sr.png") - value).max() <= 1


def test_noise_of_the_full_range(kernel: Path, tmp_path: Path) -> None:
    Image.fromarray(noise(16, 16)).save(tmp_path / "noise.png")
    assert restore(tmp_path / "noise.png", kernel, tmp_path / "out").exit_code == 0
    assert record(tmp_path / "out")["noise_std"] > 0.1
