"""External restorers: a TorchScript or ONNX file, or a Python function of your own.

A model in a file receives as many of these tensors as it has inputs, in this order:

    y (1, C, h, w)    kernel (1, 1, K, K)    noise_std (1,)          all float32; y and noise_std in units of 0..1

A model with one input receives y alone, one with two inputs y and the kernel. The result is (1, C, s h, s w). The
kernel is meant as in `Degradation`: it is applied by correlation, with its nominal centre of mass at (K - s)/2. A model
with another convention (USRNet's flips the kernel) must convert the kernel itself.
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
    """Type and text (at most 300 characters) of an error; the last line alone if a TorchScript model raised it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any("TorchScript" in line for line in lines[:2]):
        text = lines[-1].removeprefix("RuntimeError: ")
    else:
        text = " ".join(lines)
    return f"{type(error).__name__}: {text[:300]}"


def check_output(x: Any, y: Tensor, degradation: Degradation, name: str) -> Tensor:
    """Check the result x of an external restorer for an LR image y (1, C, h, w), and clip it to 0..1.

    The image returned is (1, C, s h, s w), float32, detached, on the device of y. A UserError that begins with `name`
    is raised if x is not a floating-point tensor, has another shape, contains NaN or infinite values, or is clearly not
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
    """Number of inputs to give: at most three, or as many as have no default."""
    arguments = model.forward.schema.arguments[1:]  # without self
    required = sum(not a.has_default_value() for a in arguments)
    return max(required, min(len(arguments), 3))


class _FileRestorer(Restorer):
    """A model in a file, which receives as many of y, kernel and noise level as it has inputs."""

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
        # Copies, so that a model cannot modify the tensors of the caller.
        given = tuple(t.detach().to(torch.float32, copy=True).contiguous() for t in tensors)
        try:
            with warnings.catch_warnings(action="ignore"), torch.no_grad():
                x = self._apply(given)
        except Exception as error:
            raise UserError(f"{self.path}: the model fails ({one_line(error)})") from error
        return check_output(x, y, degradation, str(self.path))


@dataclass(frozen=True)
class TorchScriptRestorer(_FileRestorer):
    """Restorer from a TorchScript file (`torch.jit.save`); for its inputs see the head of this module.

    A TorchScript file is a program. It has no access to Python, but open only files that you trust.

    Parameters
    ----------
    path : Path
        The file.
    device : str or torch.device
        Where to run the model; the result is moved to the device of y.

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
    """Restorer from an ONNX file, run by onnxruntime on the CPU; for its inputs see the head of this module.

    Inputs are passed by position, whatever their names; the first output is the image. (An exporter may drop an input
    that the model does not use, so check the inputs of the file.)

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
            options.log_severity_level = 4  # its errors come as exceptions and need not be printed as well
            session = runtime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # kinds of its own
            raise UserError(f"{self.path}: not an ONNX model that onnxruntime can run ({one_line(error)})") from error
        object.__setattr__(self, "session", session)
        object.__setattr__(self, "n_inputs", _check_count(len(session.get_inputs()), str(self.path)))

    @property
    def parameters(self) -> None:
        """Unknown: onnxruntime does not report it."""

    def _apply(self, given: tuple[Tensor, ...]) -> Any:
        names = [i.name for i in self.session.get_inputs()]
        feed = {name: t.cpu().numpy() for name, t in zip(names, given, strict=True)}
        return torch.from_numpy(self.session.run(None, feed)[0].copy())


@dataclass(frozen=True)
class CallableRestorer(Restorer):
    """Restorer from a Python function of your own.

    Parameters
    ----------
    function : callable
        restore(y, kernel, degradation, noise_std), with the arguments and the result of `Restorer`. It may use
        gradients.
    name : str
        Where it comes from, such as my_file.py:restore, for messages.

    Raises
    ------
    UserError
        If `function` cannot be called.
    """

    function: Callable[[Tensor, Tensor, Degradation, float], Any]
    name: str
    needs_kernel: ClassVar[bool] = False
    """Unknown, as is the number of weights: the function is given the kernel in any case."""
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
