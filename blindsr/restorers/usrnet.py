"""USRNet as a restorer: reading published weights, borders, both grids, grey images.

References
----------
Zhang, Van Gool, Timofte, "Deep Unfolding Network for Image Super-Resolution", CVPR 2020.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blindsr.errors import UserError
from blindsr.operators.degradation import Degradation
from blindsr.restorers.base import Restorer, count_parameters
from blindsr.restorers.borders import border_width, close_border
from blindsr.restorers.usrnet_net import UsrNet


def _state_dict(path: Path) -> Mapping[str, Tensor]:
    """Read the tensors of a weight file, bare or as the entry of a dict; no code in it is run."""
    try:
        with warnings.catch_warnings(action="ignore"):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # the reader raises many kinds on damaged and crafted files
        raise UserError(f"{path}: not a file of weights (a state dict, saved by torch.save), or damaged") from error
    for name in ("state_dict", "params_ema", "params"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: holds no state dict, so it is not a file of USRNet weights")
    for name, value in content.items():
        plain = isinstance(value, Tensor) and value.is_floating_point() and value.layout is torch.strided
        if not (plain and isinstance(name, str) and value.device.type == "cpu"):
            raise UserError(f"{path}: holds more than named arrays of numbers, so it is not a file of USRNet weights")
    return {name: tensor.float() for name, tensor in content.items()}


def load_usrnet(path: Path) -> UsrNet:
    """Build the network for a file of weights: its size is read from the shapes of the tensors.

    Raises UserError if the file is missing, unreadable, holds no state dict, or one that is not USRNet's.
    """
    state = _state_dict(path)
    try:
        sizes = [state[f"p.{name}.weight"].shape[0] for name in ("m_head", "m_tail")]
        n_blocks = sum(name.startswith("p.m_body.") and name.endswith(".res.0.weight") for name in state)
        wide = [state[f"p.m_down{i}.{n_blocks}.weight"].shape[0] for i in (1, 2, 3)]
        hidden, n_alpha_beta = state["h.mlp.0.weight"].shape[0], state["h.mlp.4.weight"].shape[0]
        if n_alpha_beta < 2:
            raise ValueError("no iterations")
        with torch.device("meta"):  # no memory for sizes that a damaged file claims
            net = UsrNet(n_alpha_beta // 2, (sizes[0], wide[0], wide[1], wide[2]), n_blocks, hidden, sizes[1])
        net.load_state_dict(state, assign=True)
    except KeyError as error:
        raise UserError(f"{path}: not USRNet weights ({error.args[0]} is missing)") from error
    except (RuntimeError, IndexError, ValueError) as error:
        raise UserError(f"{path}: not USRNet weights (names or shapes of the tensors do not fit)") from error
    if not all(bool(torch.isfinite(p).all()) for p in net.parameters()):
        raise UserError(f"{path}: the weights are not all finite numbers")
    return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class UsrNetRestorer(Restorer):
    """`Restorer` by USRNet.

    Parameters
    ----------
    weights : Path
        State dict of `torch.save`: the published weights, tiny or large, or your own training of the same network.

    Raises
    ------
    UserError
        If the file does not hold USRNet weights.

    Notes
    -----
    The network assumes circular borders and was trained on the grid of `Alignment.FKP`. Under any other padding y
    gets a border of one kernel width that closes smoothly, which is cut off again. On the centred grid the same
    samples show a scene s - 1 pixels further down and right: start image and kernel are moved by that much.
    Scales above 4 are outside the training of the published weights.
    """

    weights: Path
    network: UsrNet = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", load_usrnet(self.weights))

    @property
    def parameters(self) -> int:
        """Weights of the network."""
        return count_parameters(self.network)

    @torch.no_grad()
    def __call__(self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float) -> Tensor:
        """Restore y (1, C, h, w) with kernel (1, 1, K, K), as `Restorer` says; a grey y is repeated to the colours."""
        net, s = self.network.to(y.device), degradation.scale
        channels, h, w = y.shape[-3:]
        if channels not in (1, net.image_channels):
            raise UserError(
                f"{self.weights}: restores images of 1 or {net.image_channels} channels; this one has {channels}"
            )
        pad = border_width(degradation)
        wide = (close_border(y, pad) if pad else y).float().expand(-1, net.image_channels, -1, -1)
        sigma = wide.new_full((1, 1, 1, 1), noise_std)
        x = net(wide, kernel.to(wide), s, sigma, degradation.offset)
        x = x[..., s * pad : s * (pad + h), s * pad : s * (pad + w)]
        out: Tensor = x.mean(1, keepdim=True) if channels < net.image_channels else x
        return out.clamp(0, 1)
