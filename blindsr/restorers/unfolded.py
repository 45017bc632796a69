"""Restoration by the unfolded network that comes with blindsr, which was trained to cope with wrong kernels.

The weights that come with the package were trained on photographs, by the training of `blindsr train-restorer`; their
recipe is in their file. No method uses them unless `unfolded` is named.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blindsr.errors import UserError, check_file
from blindsr.operators.degradation import Degradation
from blindsr.restorers.base import Restorer, count_parameters
from blindsr.restorers.borders import border_width, close_border
from blindsr.restorers.unfolded_net import UnfoldedNet

FORMAT = "blindsr-unfolded-1"
SUFFIX = ".safetensors"
SHIPPED = Path(__file__).parent / "weights" / f"unfolded{SUFFIX}"
"""The weights that come with the package."""
LEAST_NOISE = 0.4 / 255
"""Smallest noise level that the network is told, units of 0..1: just above the least of the training, 0.3/255, which
is the rounding of an 8-bit picture, 1/(255 √12)."""
MOST_UNITS = 256
"""Largest number of channels, blocks, rounds or units that a file may ask for."""


def unfolded_bytes(net: UnfoldedNet, recipe: dict[str, Any]) -> bytes:
    """The content of a network's file (safetensors): weights in half precision, shape and recipe as JSON metadata.

    The recipe, plain values, says how the network was trained.
    """
    from safetensors.torch import save

    about = json.dumps({"format": FORMAT, "shape": net.shape, "recipe": recipe})  # one entry: several come in any order
    return save({name: t.detach().cpu().half().contiguous() for name, t in net.state_dict().items()}, {"about": about})


def read_unfolded(path: Path) -> tuple[UnfoldedNet, dict[str, Any]]:
    """Read a network and its recipe from a file (.safetensors), without running any code in it.

    Raises
    ------
    UserError
        If the file cannot be read, or does not hold an unfolded network.
    """
    from safetensors import SafetensorError, safe_open

    check_file(path, "a file of weights")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a safetensors file, or damaged") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(
            f"{path}: not an unfolded network of this version of blindsr; `blindsr train-restorer` makes one"
        )
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise UserError(f"{path}: the weights are not all finite numbers")
    try:
        shape = {name: int(n) for name, n in about["shape"].items()}
        if not all(0 < n <= MOST_UNITS for n in shape.values()):
            raise ValueError("a size that no network has")
        with torch.device("meta"):  # no memory for sizes that a damaged file claims
            net = UnfoldedNet.of(shape)
        net.load_state_dict(tensors, assign=True)
        recipe = dict(about["recipe"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise UserError(f"{path}: the weights do not fit their description; train the network anew") from error
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.eval().requires_grad_(False), recipe


@dataclass(frozen=True)
class UnfoldedRestorer(Restorer):
    """`Restorer` by an unfolded network of blindsr's own.

    Parameters
    ----------
    weights : Path, optional
        File of `blindsr train-restorer`. Default: the weights that come with the package, which are read when they are
        first needed.

    Raises
    ------
    UserError
        If the file does not hold such a network.

    Notes
    -----
    The noise level should include the error of the kernel, since that is what the network was trained with: its square
    is the mean square of y − (x ⊗ k)↓s for the kernel that is given.

    The network assumes a circular border. Under any other padding y gets a border of one kernel width that closes
    smoothly, which is cut off again. On the centred grid the same samples show a scene s - 1 pixels further down and
    right: start image and kernel are moved by that much. Three channels are restored together, any other number each
    by itself as grey. Scale 8, kernels larger than 31x31 and noise above 25/255 are outside the training.
    """

    weights: Path | None = None

    def __post_init__(self) -> None:
        if self.weights is not None:
            self._read  # noqa: B018 - a file that is named is checked at once

    @cached_property
    def _read(self) -> tuple[UnfoldedNet, dict[str, Any]]:
        return read_unfolded(SHIPPED if self.weights is None else self.weights)

    @property
    def network(self) -> UnfoldedNet:
        """The network."""
        return self._read[0]

    @property
    def recipe(self) -> dict[str, Any]:
        """How it was trained; plain values."""
        return self._read[1]

    @property
    def parameters(self) -> int:
        """Weights of the network."""
        return count_parameters(self.network)

    @torch.no_grad()
    def __call__(self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float) -> Tensor:
        """Restore y (1, C, h, w) with kernel (1, 1, K, K), as `Restorer` says."""
        net, s = self.network.to(y.device), degradation.scale
        channels, h, w = y.shape[-3:]
        pad = border_width(degradation)
        wide = (close_border(y, pad) if pad else y).float()
        planes = wide if channels == 3 else wide.transpose(0, 1).expand(-1, 3, -1, -1)
        sigma = planes.new_full((len(planes), 1, 1, 1), max(noise_std, LEAST_NOISE))
        x: Tensor = net(planes, kernel.to(planes), s, sigma, degradation.offset)
        x = x[..., s * pad : s * (pad + h), s * pad : s * (pad + w)].clamp(0, 1)
        return x if channels == 3 else x.mean(1, keepdim=True).transpose(0, 1)
