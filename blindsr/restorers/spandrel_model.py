"""Restorers from a bare file of weights, by spandrel, which recognises the architecture by the names of the tensors.

spandrel (MIT) knows RCAN, ESRGAN and BSRGAN, SwinIR, HAT, DAT and some forty others. It needs torchvision, and is
therefore an extra: pip install blindsr[spandrel].
"""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from blindsr.errors import UserError, check_file
from blindsr.operators.degradation import Degradation
from blindsr.restorers.base import Restorer, count_parameters
from blindsr.restorers.external import check_output, one_line

SPANDREL_SUFFIXES = (".pth", ".safetensors")


def _spandrel(path: Path) -> Any:
    """Import spandrel."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return importlib.import_module("spandrel")
    except ImportError as error:
        raise UserError(f"{path}: a bare file of weights needs spandrel: pip install blindsr[spandrel]") from error
    except Exception as error:  # a torchvision built for another torch
        raise UserError(
            f"{path}: spandrel cannot be imported ({one_line(error)}); install torchvision from where torch came from"
        ) from error


@dataclass(frozen=True)
class SpandrelRestorer(Restorer):
    """Restorer by a super-resolution network whose architecture spandrel knows; it ignores kernel and noise level.

    Parameters
    ----------
    path : Path
        State dict, .pth or .safetensors; it is read without running any code in it.

    Raises
    ------
    UserError
        If spandrel is not installed, the file is missing, or it holds no super-resolution network that spandrel knows.
    """

    path: Path
    model: Any = field(init=False, repr=False, compare=False)
    needs_kernel: ClassVar[bool] = False
    needs_noise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_file(self.path, "a model")
        spandrel = _spandrel(self.path)
        try:
            with warnings.catch_warnings(action="ignore"):
                model = spandrel.ModelLoader(device="cpu").load_from_file(str(self.path))
        except Exception as error:  # kinds of its own, and what the readers raise on damaged files
            raise UserError(f"{self.path}: no network that spandrel knows ({one_line(error)})") from error
        if not isinstance(model, spandrel.ImageModelDescriptor) or model.purpose not in ("SR", "FaceSR"):
            raise UserError(f"{self.path}: {model.architecture.name} is no network for super-resolution")
        object.__setattr__(self, "model", model.eval())

    @property
    def parameters(self) -> int:
        """Weights of the network."""
        return count_parameters(self.model.model)

    def __call__(self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float) -> Tensor:
        """Restore an image, as `Restorer` says; a grey y is repeated to the colours of a network for colour."""
        model, channels = self.model, y.shape[1]
        name = f"{self.path} ({model.architecture.name})"
        if model.scale != degradation.scale:
            raise UserError(f"{name}: enlarges {model.scale} times; give --scale {model.scale}")
        if channels not in (1, model.input_channels) or model.output_channels != model.input_channels:
            raise UserError(f"{name}: takes images of {model.input_channels} channels; this one has {channels}")
        try:
            with torch.no_grad():
                x = model(y.detach().float().repeat(1, model.input_channels // channels, 1, 1))  # some write into it
        except Exception as error:
            raise UserError(f"{name}: the network fails ({one_line(error)})") from error
        if isinstance(x, Tensor) and channels < model.input_channels:
            x = x.mean(1, keepdim=True)
        return check_output(x, y, degradation, name)
