"""Restorers made elsewhere: a TorchScript or ONNX file, or a Python function of your own.

A model in a file receives as many of these inputs as it has, in this order:

    y (1, C, h, w)    kernel (1, 1, K, K)    noise_std (1,)          all float32; y and noise_std in units of 0..1

that is y alone for a model of one input, y and the kernel for two, all three for three. It returns (1, C, s h, s w).
The kernel is as `Degradation` applies it: by correlation, with its nominal centre of mass at (K - s)/2. A model with
another convention (USRNet's own flips the kernel) must flip the kernel itself.
"""

from __future__ import annotations

import importlib
import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from blindsr.errors import UserError, check_file
from blindsr.operators.degradation import Degradation
from blindsr.restorers.base import Restorer, count_parameters

TORCHSCRIPT_SUFFIXES = (".pt", ".ts", ".torchscript")
ONNX_SUFFIXES = (".onnx",)


def one_line(error: BaseException) -> str:
    """Kind and text of an error, at most 300 characters; of an error from inside a TorchScript model the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any("TorchScript" in line for line in lines[:2]):
        text = lines[-1].removeprefix("RuntimeError: ")
    else:
        text = " ".join(lines)
    return f"{type(error).__name__}: {text[:300]}"


def check_output(x: Any, y: Tensor, degradation: Degradation, name: str) -> Tensor:
    """Check what a foreign restorer returns for an LR image y (1, C, h, w), and clip it to 0..1.

    The result is (1, C, s h, s w), float32, without a gradient, on the device of y. A UserError, which begins with
    `name`, tells if x is no floating-point tensor, has another shape, holds NaN or infinite values, or is clearly not
    in units of 0..1 (its mean lies outside -1..2).
    """
    if not isinstance(x, Tensor):
        raise UserError(f"{name}: returns {type(x).__name__}, not a tensor")
    wanted = (*y.shape[:2], degradation.scale * y.shape[2], degradation.scale * y.shape[3])
    if tuple(x.shape) != wanted:
        raise UserError(f"{name}: returns an image of shape {tuple(x.shape)}; (1, C, s h, s w) = {wanted} is needed")
    if not x.is_floating_point():
        raise UserError(f"{name}: returns values of type {x.dtype}; floating point in units of 0..1 is needed")
    image: Tensor = x.detach().to(y.device, torch.float32)
    if not bool(torch.isfinite(image).all()):
        raise UserError(f"{name}: returns values that are not finite")
    mean = float(image.mean())
    if not -1 <= mean <= 2:
        raise UserError(f"{name}: returns values around {mean:.3g}; units of 0..1 are needed")
    return image.clamp(0, 1)


def _check_count(n: int, name: str) -> int:
    if not 1 <= n <= 3:
        raise UserError(f"{name}: the model takes {n} inputs; (y), (y, kernel) or (y, kernel, noise_std) are needed")
    return n


def _torchscript_inputs(model: Any) -> int:
    """Inputs to give: up to three, as far as the model has them; all that it has no default for count."""
    arguments = model.forward.schema.arguments[1:]  # without self
    required = sum(not a.has_default_value() for a in arguments)
    return max(required, min(len(arguments), 3))


class _FileRestorer(Restorer):
    """A model in a file, which is called with as many of y, kernel and noise level as it has inputs."""

    path: Path
    n_inputs: int

    @abstractmethod
    def _apply(self, given: tuple[Tensor, ...]) -> Any:
        """Call the model with its inputs."""

    @property
    def needs_kernel(self) -> bool:
        """Whether the model has an input for the kernel."""
        return self.n_inputs > 1

    @property
    def needs_noise(self) -> bool:
        """Whether the model has an input for the noise level."""
        return self.n_inputs > 2

    def __call__(self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float) -> Tensor:
        """Restore an image, as `Restorer` says; UserError if the model fails or its output is refused."""
        tensors = (y, kernel, torch.tensor([noise_std], device=y.device))[: self.n_inputs]
        # Copies, so that no model can change the caller's.
        given = tuple(t.detach().to(torch.float32, copy=True).contiguous() for t in tensors)
        try:
            with warnings.catch_warnings(action="ignore"), torch.no_grad():
                x = self._apply(given)
        except Exception as error:
            raise UserError(f"{self.path}: the model fails ({one_line(error)})") from error
        return check_output(x, y, degradation, str(self.path))


@dataclass(frozen=True)
class TorchScriptRestorer(_FileRestorer):
    """`Restorer` by a TorchScript file (`torch.jit.save`), called as the head of this module says.

    A TorchScript file is a program. It has no access to Python, but open only what you trust.

    Parameters
    ----------
    path : Path
        The file.
    device : str or torch.device
        Where to run the model; the result comes back to the device of y.

    Raises
    ------
    UserError
        If the file is missing or no TorchScript, or the model takes no inputs, or more than three.
    """

    path: Path
    device: str | torch.device = "cpu"
    model: Any = field(init=False, repr=False, compare=False)
    n_inputs: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_file(self.path, "a model")
        try:
            with warnings.catch_warnings(action="ignore"):  # torch calls TorchScript deprecated; the files are there
                model = torch.jit.load(str(self.path), map_location=self.device).eval()
                inputs = _torchscript_inputs(model)
        except Exception as error:  # the reader raises many kinds on damaged and crafted files
            raise UserError(
                f"{self.path}: not a TorchScript model (as torch.jit.save writes it), or damaged, or not for "
                f"device {self.device}"
            ) from error
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "n_inputs", _check_count(inputs, str(self.path)))

    @property
    def parameters(self) -> int:
        """Weights of the network."""
        return count_parameters(self.model)

    def _apply(self, given: tuple[Tensor, ...]) -> Any:
        return self.model(*(t.to(self.device) for t in given))


@dataclass(frozen=True)
class OnnxRestorer(_FileRestorer):
    """`Restorer` by an ONNX file, run by onnxruntime on the CPU, called as the head of this module says.

    Inputs are given by position, whatever their names; the first output is the image. (An exporter may leave out an
    input that the model does not use: count them in the file.)

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    UserError
        If onnxruntime is not installed, the file is missing or no ONNX model, or the model takes no inputs, or more
        than three.
    """

    path: Path
    session: Any = field(init=False, repr=False, compare=False)
    n_inputs: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_file(self.path, "a model")
        try:
            runtime = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise UserError(f"{self.path}: an .onnx model needs onnxruntime: pip install blindsr[onnx]") from error
        try:
            options = runtime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 4  # its errors come as exceptions; none are to be printed as well
            session = runtime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # kinds of its own
            raise UserError(f"{self.path}: not an ONNX model that onnxruntime can run ({one_line(error)})") from error
        object.__setattr__(self, "session", session)
        object.__setattr__(self, "n_inputs", _check_count(len(session.get_inputs()), str(self.path)))

    @property
    def parameters(self) -> None:
        """Not known: onnxruntime does not tell."""

    def _apply(self, given: tuple[Tensor, ...]) -> Any:
        names = [i.name for i in self.session.get_inputs()]
        feed = {name: t.cpu().numpy() for name, t in zip(names, given, strict=True)}
        return torch.from_numpy(self.session.run(None, feed)[0].copy())


@dataclass(frozen=True)
class CallableRestorer(Restorer):
    """`Restorer` by a Python function of your own.

    Parameters
    ----------
    function : callable
        restore(y, kernel, degradation, noise_std), with the arguments and the result of `Restorer`. It may use
        gradients.
    name : str
        Where it comes from, such as my_file.py:restore; named in every message.

    Raises
    ------
    UserError
        If `function` cannot be called.
    """

    function: Callable[[Tensor, Tensor, Degradation, float], Any]
    name: str
    needs_kernel: ClassVar[bool] = False
    """Whether it uses the kernel is not known, nor is the number of its weights."""
    parameters: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise UserError(f"{self.name}: a function restore(y, kernel, degradation, noise_std) is needed")

    def __call__(self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float) -> Tensor:
        """Restore an image, as `Restorer` says; the function is given copies of y and the kernel."""
        try:
            x = self.function(y.detach().clone(), kernel.detach().clone(), degradation, noise_std)
        except (Exception, SystemExit) as error:
            raise UserError(f"{self.name}: fails ({one_line(error)})") from error
        return check_output(x, y, degradation, self.name)
