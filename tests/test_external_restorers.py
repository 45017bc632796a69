"""Restorers from files and functions: what they are given, what they may return, and one clear line otherwise."""

import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from blindsr.errors import UserError
from blindsr.operators.degradation import Degradation
from blindsr.restorers.external import CallableRestorer, OnnxRestorer, TorchScriptRestorer, check_output

OP = Degradation(2)
KERNEL = torch.full((1, 1, 11, 11), 1 / 121)


class One(torch.nn.Module):
    def forward(self, y):
        return F.interpolate(y, scale_factor=2.0)


class Two(torch.nn.Module):
    def forward(self, y, kernel):
        return F.interpolate(y, scale_factor=2.0) * kernel.sum()


class Three(torch.nn.Module):
    def forward(self, y, kernel, noise_std):
        return F.interpolate(y, scale_factor=2.0) * kernel.sum() * (1 - noise_std)


class Option(torch.nn.Module):
    def forward(self, y, kernel, noise_std, more: float = 1.0):
        return F.interpolate(y, scale_factor=2.0) * kernel.sum() * (1 - noise_std) * more


class Four(torch.nn.Module):
    def forward(self, y, kernel, noise_std, more):
        return y + kernel + noise_std + more


class NoInput(torch.nn.Module):
    def forward(self):
        return torch.zeros(1)


class Same(torch.nn.Module):
    def forward(self, y):
        return y


class Pair(torch.nn.Module):
    def forward(self, y):
        return y, y


class Fails(torch.nn.Module):
    def forward(self, y):
        return y @ torch.ones(3, 3)


class InPlace(torch.nn.Module):
    def forward(self, y):
        return F.interpolate(y.mul_(0.5), scale_factor=2.0)


@pytest.fixture
def y(gen) -> torch.Tensor:
    return 0.9 * torch.rand(1, 3, 5, 6, generator=gen)


def script(path: Path, model: torch.nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(str(path))
    return path


def refused(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    line = str(caught.value)
    assert "\n" not in line
    return line


def doubled(y):
    return F.interpolate(y, scale_factor=2.0)


@pytest.mark.parametrize(("model", "factor"), [(One(), 1), (Two(), 1), (Three(), 0.75), (Option(), 0.75)])
def test_torchscript_is_given_what_it_takes(tmp_path, y, model, factor):
    restorer = TorchScriptRestorer(script(tmp_path / "m.pt", model))
    torch.testing.assert_close(restorer(y, KERNEL, OP, 0.25), factor * doubled(y))


def test_torchscript_traced_and_with_weights(tmp_path, y):
    net = torch.nn.Sequential(torch.nn.ConvTranspose2d(3, 3, 2, 2), torch.nn.Sigmoid())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net, (torch.rand(1, 3, 8, 8),)).save(str(tmp_path / "m.torchscript"))
    x = TorchScriptRestorer(tmp_path / "m.torchscript", torch.device("cpu"))(y, KERNEL, OP, 0.0)
    assert not x.requires_grad
    torch.testing.assert_close(x, net(y).detach())


def test_torchscript_cannot_change_the_input(tmp_path, y):
    before = y.clone()
    TorchScriptRestorer(script(tmp_path / "m.pt", InPlace()))(y, KERNEL, OP, 0.0)
    assert torch.equal(y, before)


def test_torchscript_files_that_are_none(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("no model")
    assert "no such file" in refused(TorchScriptRestorer, tmp_path / "gone.pt")
    assert "is a folder" in refused(TorchScriptRestorer, tmp_path)
    for name in ("state.pt", "text.pt"):
        assert f"{name}: not a TorchScript model" in refused(TorchScriptRestorer, tmp_path / name)
    good = script(tmp_path / "good.pt", One())
    assert "not for device nonsense" in refused(TorchScriptRestorer, good, "nonsense")
    for model, n in ((NoInput(), 0), (Four(), 4)):
        line = refused(TorchScriptRestorer, script(tmp_path / "m.pt", model))
        assert f"the model takes {n} inputs; (y), (y, kernel)" in line


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Same(), "returns an image of shape (1, 3, 5, 6); (1, C, s h, s w) = (1, 3, 10, 12) is needed"),
        (Pair(), "returns tuple, not a tensor"),
        (Fails(), "the model fails ("),
    ],
)
def test_torchscript_models_that_do_something_else(tmp_path, y, model, message):
    path = script(tmp_path / "m.pt", model)
    line = refused(TorchScriptRestorer(path), y, KERNEL, OP, 0.0)
    assert line.startswith(f"{path}: {message}") and len(line) < 500


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "returns NoneType, not a tensor"),
        (np.zeros((1, 3, 10, 12)), "returns ndarray, not a tensor"),
        (torch.zeros(3, 10, 12), "returns an image of shape (3, 10, 12); (1, C, s h, s w) = (1, 3, 10, 12) is needed"),
        (torch.zeros(1, 1, 10, 12), "returns an image of shape (1, 1, 10, 12)"),
        (torch.zeros(1, 3, 10, 12, dtype=torch.uint8), "returns values of type torch.uint8"),
        (torch.full((1, 3, 10, 12), torch.nan), "returns values that are not finite"),
        (torch.full((1, 3, 10, 12), torch.inf), "returns values that are not finite"),
        (torch.full((1, 3, 10, 12), 127.0), "returns values around 127; units of 0..1 are needed"),
    ],
)
def test_outputs_that_are_refused(y, output, message):
    assert refused(check_output, output, y, OP, "it").startswith(f"it: {message}")
    restorer = CallableRestorer(lambda *_: output, "my.py:restore")
    assert refused(restorer, y, KERNEL, OP, 0.0).startswith(f"my.py:restore: {message}")


def test_outputs_are_clipped_and_detached(y):
    x = torch.linspace(-0.5, 1.5, 360, dtype=torch.float64).reshape(1, 3, 10, 12).requires_grad_()
    out = check_output(x, y, OP, "it")
    assert out.dtype == torch.float32 and not out.requires_grad
    torch.testing.assert_close(out, x.detach().float().clamp(0, 1))


def test_callable_is_given_everything(y):
    seen = []

    def restore(*arguments):
        seen.append(arguments)
        return doubled(arguments[0].mul_(0.5))

    before, restorer = y.clone(), CallableRestorer(restore, "my.py:restore")
    torch.testing.assert_close(restorer(y, KERNEL, OP, 0.1), 0.5 * doubled(before))
    assert torch.equal(y, before)
    assert torch.equal(seen[0][1], KERNEL) and seen[0][2:] == (OP, 0.1)


@pytest.mark.parametrize("error", [RuntimeError("too\nbad"), SystemExit("too bad")])
def test_callable_that_fails_is_named_with_its_error(y, error):
    def restore(y, kernel, degradation, noise_std):
        raise error

    line = refused(CallableRestorer(restore, "my.py:restore"), y, KERNEL, OP, 0.0)
    assert line == f"my.py:restore: fails ({type(error).__name__}: too bad)"


def test_callable_with_other_arguments(y):
    line = refused(CallableRestorer(lambda y: y, "my.py:restore"), y, KERNEL, OP, 0.0)
    assert line.startswith("my.py:restore: fails (TypeError: ")
    assert "is needed" in refused(CallableRestorer, 3, "my.py:restore")


# ONNX: the few bytes of a model, written by hand, so that the tests need onnxruntime alone.


def _field(number: int, value: int | bytes | str) -> bytes:
    """One field of a protocol-buffer message."""

    def whole(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128, n >> 7])

    if isinstance(value, int):
        return whole(number << 3) + whole(value)
    data = value.encode() if isinstance(value, str) else value
    return whole(number << 3 | 2) + whole(len(data)) + data


def _node(kind: str, inputs: str, output: str, **attributes: int) -> bytes:
    body = b"".join(_field(1, name) for name in inputs.split()) + _field(2, output) + _field(4, kind)
    for name, value in attributes.items():
        body += _field(5, _field(1, name) + _field(3, value) + _field(20, 2))  # 2: a whole number
    return _field(1, body)


def _value(number: int, name: str, rank: int) -> bytes:
    """A float32 input (11) or output (12) of free shape."""
    shape = b"".join(_field(1, _field(2, f"{name}{i}")) for i in range(rank))
    return _field(number, _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, shape))))


def onnx(path: Path, inputs: int, out: str = "x") -> Path:
    """Write a model that repeats pixels, times the sum of the kernel, times the noise level."""
    graph = _node("Concat", "y y y y", "four", axis=1) + _node("DepthToSpace", "four", "big", blocksize=2)
    graph += _node("ReduceSum", "kernel", "sum", keepdims=0) if inputs > 1 else b""
    graph += _node("Mul", "big sum", "two") if inputs > 1 else _node("Identity", "big", "two")
    graph += _node("Mul", "two noise", "x") if inputs > 2 else _node("Identity", "two", "x")
    graph += _field(2, "g")
    names = [("y", 4), ("kernel", 4), ("noise", 1), ("more", 1)][:inputs]
    graph += b"".join(_value(11, *n) for n in names) + _value(12, out, 4)
    path.write_bytes(_field(1, 8) + _field(8, _field(1, "") + _field(2, 13)) + _field(7, graph))
    return path


@pytest.mark.parametrize(("inputs", "factor"), [(1, 1), (2, 1), (3, 0.25)])
def test_onnx_is_given_what_it_takes(tmp_path, y, inputs, factor):
    pytest.importorskip("onnxruntime")
    restorer = OnnxRestorer(onnx(tmp_path / "m.onnx", inputs))
    torch.testing.assert_close(restorer(y, KERNEL, OP, 0.25), factor * doubled(y))


def test_onnx_files_and_models_that_are_refused(tmp_path, y, capfd):
    pytest.importorskip("onnxruntime")
    (tmp_path / "text.onnx").write_text("no model")
    assert "text.onnx: not an ONNX model" in refused(OnnxRestorer, tmp_path / "text.onnx")
    assert "the model takes 4 inputs" in refused(OnnxRestorer, onnx(tmp_path / "m.onnx", 4))
    restorer = OnnxRestorer(onnx(tmp_path / "m.onnx", 1))
    assert "of shape (1, 3, 10, 12); (1, C, s h, s w) = (1, 3, 20, 24)" in refused(
        restorer, y, KERNEL, Degradation(4), 0.0
    )
    assert "m.onnx: the model fails (" in refused(restorer, y[0], KERNEL, OP, 0.0)
    assert capfd.readouterr().err == ""


def test_onnx_without_onnxruntime(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "m.onnx").write_bytes(b"")
    assert refused(OnnxRestorer, tmp_path / "m.onnx").endswith("needs onnxruntime: pip install blindsr[onnx]")
    assert "no such file" in refused(OnnxRestorer, tmp_path / "gone.onnx")


def test_onnx_calls_the_runtime_by_the_names_in_the_file(tmp_path, y, monkeypatch):
    """With a stand-in for onnxruntime: the order of inputs, their types and shapes."""
    fed = {}

    class Session:
        def __init__(self, path, options, providers):
            assert providers == ["CPUExecutionProvider"]

        def get_inputs(self):
            return [types.SimpleNamespace(name=n) for n in ("lr", "psf", "level")]

        def run(self, outputs, feed):
            fed.update(feed)
            return [doubled(torch.from_numpy(feed["lr"])).numpy()]

    stand_in = types.SimpleNamespace(SessionOptions=types.SimpleNamespace, InferenceSession=Session)
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in)
    (tmp_path / "m.onnx").write_bytes(b"")
    x = OnnxRestorer(tmp_path / "m.onnx")(y, KERNEL.double(), OP, 0.25)
    torch.testing.assert_close(x, doubled(y))
    assert {n: (a.shape, str(a.dtype)) for n, a in fed.items()} == {
        "lr": ((1, 3, 5, 6), "float32"),
        "psf": ((1, 1, 11, 11), "float32"),
        "level": ((1,), "float32"),
    }
    assert float(fed["level"][0]) == 0.25
