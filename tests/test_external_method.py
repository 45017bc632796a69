"""`--method external` and its neighbours: models of others as rows of the same bench, on the right pixel grid."""

import importlib
import json
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import call, error_line, save_png
from PIL import Image
from torch import nn
from torch.nn import functional as F

from blindsr.errors import UserError
from blindsr.operators.degradation import Degradation
from blindsr.restorers.spandrel_model import SpandrelRestorer

OP = Degradation(2)
KERNEL = torch.full((1, 1, 11, 11), 1 / 121)


class SubPixel(nn.Module):
    """A network as the literature has them, convolution and pixel shuffle, with the weights of linear interpolation
    on the usual grid: what one trained on averaged pixels of smooth pictures would come to."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 12, 3, padding=1, padding_mode="replicate", bias=False)
        near, far = 0.75, 0.25
        weight = torch.zeros(12, 3, 3, 3)
        for channel in range(3):
            for row in (0, 1):
                for column in (0, 1):
                    v, h = ((far, near, 0.0) if i == 0 else (0.0, near, far) for i in (row, column))
                    weight[4 * channel + 2 * row + column, channel] = torch.outer(torch.tensor(v), torch.tensor(h))
        self.convolution.weight.data.copy_(weight)

    def forward(self, y):
        return F.pixel_shuffle(self.convolution(y), 2)


class WithKernel(nn.Module):
    def forward(self, y, kernel):
        return F.interpolate(y, scale_factor=2.0) * kernel.sum()


def script(path: Path, model: nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(str(path))
    return path


@pytest.fixture
def scene(tmp_path) -> tuple[Path, Path]:
    """An LR picture by the protocol and the HR picture it was made from."""
    rows, columns = np.mgrid[0:64, 0:72]
    planes = [127 + 60 * np.sin(rows / a) + 60 * np.cos(columns / b) for a, b in ((5, 4), (4, 7), (6, 5))]
    Image.fromarray(np.round(np.stack(planes, -1)).clip(0, 255).astype(np.uint8)).save(tmp_path / "x.png")
    assert call("degrade", tmp_path / "x.png", "--scale", 2, "--output", tmp_path / "made").exit_code == 0
    return tmp_path / "made/lr.png", tmp_path / "made/hr.png"


def external(scene, output: Path, *words: object):
    lr, hr = scene
    done = call("run", lr, "--scale", 2, "--method", "external", "--ground-truth", hr, "--output", output, *words)
    assert done.exit_code == 0, done.stderr
    record = json.loads((output / "lr/run.json").read_text(encoding="utf-8"))
    return record, done.stderr


def test_a_network_of_the_usual_grid_is_scored_where_it_belongs(tmp_path, scene):
    model = script(tmp_path / "net.pt", SubPixel())
    record, text = external(scene, tmp_path / "a", "--restorer", model)
    assert (record["method"], record["restorer"]) == ("external", "net.pt@centered")
    assert str(model) in record["files_sha256"] and "fits the truth better" not in text
    wrong, text = external(scene, tmp_path / "b", "--restorer", f"{model}@fkp")
    assert wrong["restorer"] == "net.pt@fkp" and "moved by 1 pixels the result fits the truth better" in text
    right, off = (r["metrics"]["psnr_border_s2"] for r in (record, wrong))
    assert right > off + 2
    bicubic = record["metrics"]["psnr_bicubic_border_s2"]
    assert abs(right - bicubic) < 3, "linear interpolation on the right grid is near to bicubic on it"


def test_no_kernel_is_saved_or_scored(tmp_path, scene):
    model = script(tmp_path / "net.pt", SubPixel())
    truth = ("--true-kernel", tmp_path / "made/kernel.npy")
    record, _ = external(scene, tmp_path / "a", "--restorer", model, *truth)
    assert {p.name for p in (tmp_path / "a/lr").iterdir()} == {"sr.png", "overview.png", "trace.csv", "run.json"}
    assert record["kernel"] is None and record["kernel_found"] is None and not record["kernel_assumed"]
    assert "noise_std" not in record
    assert not [name for name in record["metrics"] if "kernel" in name]
    line = error_line(call("uncertainty", tmp_path / "a/lr"))
    assert "its method has no kernel (external)" in line


def test_an_earlier_kernel_goes_with_its_result(tmp_path, scene):
    words = ("--scale", 2, "--output", tmp_path / "a")
    assert call("run", scene[0], "--method", "double-dip", "--iterations", 1, "--preset", "fast", *words).exit_code == 0
    assert (tmp_path / "a/lr/kernel.npy").exists()
    assert call("run", scene[0], "--method", "bicubic", "--overwrite", *words).exit_code == 0
    assert not list((tmp_path / "a/lr").glob("kernel*"))


def test_a_fixed_kernel_is_saved_as_assumed_and_not_scored(tmp_path, scene):
    words = ("--scale", 2, "--output", tmp_path / "a", "--iterations", 1, "--preset", "fast")
    truth = ("--true-kernel", tmp_path / "made/kernel.npy")
    assert call("run", scene[0], "--method", "dip", *words, *truth).exit_code == 0
    record = json.loads((tmp_path / "a/lr/run.json").read_text(encoding="utf-8"))
    assert record["kernel_assumed"] and "kernel_psnr" not in record["metrics"]
    assert (tmp_path / "a/lr/kernel.npy").exists()


def test_a_python_function_enters_too(tmp_path, scene):
    (tmp_path / "mine.py").write_text(
        "import torch.nn.functional as F\n"
        "def f(y, kernel, degradation, noise_std):\n"
        "    return F.interpolate(y, scale_factor=float(degradation.scale), mode='bilinear')\n"
    )
    record, _ = external(scene, tmp_path / "a", "--restorer", f"{tmp_path / 'mine.py'}:f")
    script(tmp_path / "net.pt", SubPixel())
    same, _ = external(scene, tmp_path / "b", "--restorer", tmp_path / "net.pt")
    assert record["metrics"]["psnr_border_s2"] == pytest.approx(same["metrics"]["psnr_border_s2"], abs=0.01)


@pytest.mark.parametrize("method", ["mlmc", "fast-map"])
def test_a_restorer_after_an_estimate_keeps_its_grid_unless_named(tmp_path, method):
    image, model = save_png(tmp_path / "a.png"), script(tmp_path / "net.pt", SubPixel())
    words = ("--scale", 2, "--method", method, *(("--iterations", 1, "--preset", "fast") if method == "mlmc" else ()))
    for word, name in ((model, "net.pt"), (f"{model}@corner", "net.pt@corner")):
        out = tmp_path / f"out-{name}"
        assert call("run", image, *words, "--restorer", word, "--output", out).exit_code == 0
        assert json.loads((out / "a/run.json").read_text(encoding="utf-8"))["restorer"] == name


def test_a_known_kernel_and_a_model_of_another_grid(tmp_path, scene):
    lr, hr = scene
    model, scores = script(tmp_path / "net.pt", SubPixel()), []
    for word in (f"{model}@centered", model):
        words = ("--kernel", tmp_path / "made/kernel.npy", "--scale", 2, "--restorer", word, "--ground-truth", hr)
        done = call("restore", lr, *words, "--output", tmp_path / "a", "--overwrite", "--json")
        scores.append(json.loads(done.stdout)["psnr_border_s2"])
    assert scores[0] > scores[1] + 2


def test_what_does_not_go_together(tmp_path):
    image = save_png(tmp_path / "a.png")
    kernel = script(tmp_path / "kernel.pt", WithKernel())
    cases = [
        (
            ("external",),
            "external makes its image by a restorer: name one; for example --restorer model.pt",
        ),
        (
            ("external", "--restorer", "map"),
            "--restorer map: the restorer of method external needs a kernel",
        ),
        (
            ("bicubic", "--restorer", "zssr"),
            "the restorer of method bicubic needs a kernel",
        ),
        (("external", "--restorer", kernel), "kernel.pt@centered: the restorer of method external needs a kernel"),
        (
            ("external", "--restorer", f"{kernel}@nowhere"),
            "a file may be followed by its grid, @fkp, @corner, @centered",
        ),
        (("external", "--restorer", "none"), "--restorer none: method external makes its image by a restorer"),
        (("external", "--restorer", tmp_path / "gone.pt"), "gone.pt: no such file"),
        (("external", "--iterations", 3, "--restorer", "bicubic"), "--iterations 3: leave it out, external takes none"),
        (("dip", "--prior", "mcmc"), "this method's kernel is fixed: leave out --prior"),
        (("spectral-dip", "--prior", "mcmc"), "a kernel without parameters learns nothing from the Monte Carlo step"),
    ]
    for words, message in cases:
        line = error_line(call("run", image, "--scale", 2, "--output", tmp_path / "out", "--method", *words))
        assert message in line, line
    assert not (tmp_path / "out/a/run.json").exists()


class Descriptor:
    """Stands in for what spandrel's loader gives."""

    purpose, scale, input_channels, output_channels = "SR", 2, 3, 3
    architecture = types.SimpleNamespace(name="RCAN")

    def eval(self):
        return self

    def __call__(self, x):
        return SubPixel()(x)


def stand_in(monkeypatch, loaded) -> None:
    class ModelLoader:
        def __init__(self, device):
            assert device == "cpu"

        def load_from_file(self, path):
            if isinstance(loaded, Exception):
                raise loaded
            return loaded

    module = types.SimpleNamespace(ModelLoader=ModelLoader, ImageModelDescriptor=Descriptor)
    monkeypatch.setitem(sys.modules, "spandrel", module)


def test_bare_weights_by_spandrel(tmp_path, monkeypatch, gen):
    stand_in(monkeypatch, Descriptor())
    path = tmp_path / "rcan.pth"
    path.write_bytes(b"")
    restorer, y = SpandrelRestorer(path), torch.rand(1, 3, 6, 7, generator=gen)
    assert not restorer.needs_kernel and not restorer.needs_noise
    torch.testing.assert_close(restorer(y, KERNEL, OP, 0.0), SubPixel()(y).detach())
    grey = restorer(y[:, :1], KERNEL, OP, 0.0)
    torch.testing.assert_close(grey, SubPixel()(y[:, :1].expand(-1, 3, -1, -1)).detach().mean(1, keepdim=True))
    for arguments, message in (
        ((y, KERNEL, Degradation(4), 0.0), "rcan.pth (RCAN): enlarges 2 times; give --scale 2"),
        ((y[:, :2], KERNEL, OP, 0.0), "takes images of 3 channels; this one has 2"),
    ):
        with pytest.raises(UserError) as caught:
            restorer(*arguments)
        assert message in str(caught.value)


def test_bare_weights_that_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    with pytest.raises(UserError, match="no such file"):
        SpandrelRestorer(path)
    path.write_bytes(b"")
    denoiser = Descriptor()
    denoiser.purpose = "Restoration"
    for loaded, message in (
        (ValueError("unknown"), "no network that spandrel knows (ValueError: unknown)"),
        (denoiser, "RCAN is no network for super-resolution"),
    ):
        stand_in(monkeypatch, loaded)
        with pytest.raises(UserError) as caught:
            SpandrelRestorer(path)
        assert message in str(caught.value)
    monkeypatch.setitem(sys.modules, "spandrel", None)
    image = save_png(tmp_path / "a.png")
    words = ("run", image, "--scale", 2, "--method", "external", "--output", tmp_path / "out")
    line = error_line(call(*words, "--restorer", path))
    assert line.endswith("net.safetensors: a bare file of weights needs spandrel: pip install blindsr[spandrel]")


def spandrel_there() -> bool:
    try:
        importlib.import_module("spandrel")
    except Exception:  # or a torchvision that does not fit torch
        return False
    return True


@pytest.mark.skipif(not spandrel_there(), reason="spandrel is not installed")
def test_a_small_rcan_as_spandrel_reads_it(tmp_path, scene, gen):
    from spandrel.architectures.RCAN import RCAN

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = RCAN(scale=2, n_resgroups=1, n_resblocks=1, n_feats=8, reduction=4)
    torch.save(net.state_dict(), tmp_path / "rcan.pth")
    y = torch.rand(1, 3, 12, 10, generator=gen)
    before = y.clone()
    found = SpandrelRestorer(tmp_path / "rcan.pth")(y, KERNEL, OP, 0.0)
    assert torch.equal(y, before)
    with torch.no_grad():
        torch.testing.assert_close(found, net.eval()(y).clamp(0, 1))
    record, _ = external(scene, tmp_path / "a", "--restorer", tmp_path / "rcan.pth")
    assert record["restorer"] == "rcan.pth@centered"
