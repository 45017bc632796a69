"""Train a denoiser on pictures: the first stage of training an unfolded network, and what both stages share."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blindsr.operators.luma import luma
from blindsr.random import generator
from blindsr.restorers.unfolded_net import DenoiserNet

SIZES = (1.0, 0.7, 0.5)
"""Each picture is also shown at these sizes: shrinking removes traces of JPEG and sharpening, and turns texture into
detail."""
MOST_NOISE, EXPONENT = 50 / 255, 1.5
"""Noise levels are `MOST_NOISE` u^1.5 with u uniform, units of 0..1: from the level at which plug-and-play restoration
starts (Zhang et al. 2021) down to none; the low levels, at which it ends, come more often."""
AVERAGE = 0.998
"""Decay, a step, of the moving average of the weights, which is what is kept."""


@dataclass(frozen=True)
class Stage:
    """Numbers of a stage of training.

    Parameters
    ----------
    steps, batch, side : int
        Steps of Adam, patches in each, and their side in pixels, a multiple of 4.
    lr : float
        Largest learning rate.
    rise, span : int
        The learning rate rises over the first `rise` steps, then falls as a cosine that reaches its end at step
        `span`; a stage may end before.
    last : float
        Learning rate at that end, in units of `lr`.
    clip : float
        Largest norm of a gradient.
    grey : float
        Share of the patches that are made grey.

    Raises
    ------
    ValueError
        If a number lies outside its range.
    """

    steps: int
    batch: int
    side: int
    lr: float
    rise: int
    span: int
    last: float
    clip: float
    grey: float

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.rise) < 1 or self.side < 16 or self.side % 4 or self.span < self.steps:
            raise ValueError("training: need steps, batch and rise of at least 1, span >= steps, a side of 16, 20, ...")
        if not (self.lr > 0 < self.clip and 0 <= self.grey <= 1 and 0 < self.last <= 1):
            raise ValueError("training: need lr and clip above 0, grey in [0, 1] and last in (0, 1]")

    def rate(self, step: int) -> float:
        """Learning rate at a step, from 0."""
        if step < self.rise:
            return self.lr * (step + 1) / self.rise
        share = min((step - self.rise) / max(self.span - self.rise, 1), 1.0)
        return self.lr * (self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * share)))


class Patches:
    """Random patches of pictures (1, C, H, W), C 1 or 3, values 0..1: flipped, turned, shrunk, some made grey.

    Pictures are kept as bytes. The chance of each, at each of its `SIZES`, is proportional to its pixels. ValueError
    where no picture has `least` pixels on either side.
    """

    def __init__(self, pictures: Iterable[Tensor], least: int) -> None:
        self.pictures: list[Tensor] = []
        for x in pictures:
            colour = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
            for f in SIZES:
                if f * min(x.shape[-2:]) >= least:
                    small = colour if f == 1 else F.interpolate(colour, scale_factor=f, mode="bicubic", antialias=True)
                    self.pictures.append((small[0] * 255).round().clamp(0, 255).byte())
        if not self.pictures:
            raise ValueError(f"no picture of at least {least}x{least} pixels")

    def draw(self, stage: Stage, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw patches (batch, 3, side, side), values 0..1, and which of them were made grey (batch, 1, 1, 1).

        Pictures that are smaller than the stage's patches take no part.
        """
        chance = torch.tensor([float(p[0].numel()) * (min(p.shape[-2:]) >= stage.side) for p in self.pictures])
        chosen = torch.multinomial(chance, stage.batch, replacement=True, generator=source).tolist()
        x = torch.stack([_patch(self.pictures[i], stage.side, source) for i in chosen]).float() / 255
        grey = torch.rand(stage.batch, 1, 1, 1, generator=source) < stage.grey
        return torch.where(grey, luma(x), x), grey


def _patch(picture: Tensor, side: int, source: torch.Generator) -> Tensor:
    h, w = picture.shape[-2:]
    top, left, turn = (int(torch.randint(n, (1,), generator=source)) for n in (h - side + 1, w - side + 1, 8))
    patch = picture[:, top : top + side, left : left + side]
    patch = patch.transpose(1, 2) if turn & 1 else patch
    return patch.flip([axis for axis, bit in ((1, 2), (2, 4)) if turn & bit])


def grey_or_colour_noise(x: Tensor, grey: Tensor, source: torch.Generator) -> Tensor:
    """White noise of level one for images (B, 3, H, W); equal channels where they are grey, (B, 1, 1, 1)."""
    noise = torch.randn(x.shape, generator=source)
    return torch.where(grey, noise[:, :1], noise)


class Training(ABC):
    """A training under way: `advance` makes a step of Adam; `state_dict` and `load_state_dict` are for checkpoints.

    `kept` is the network with a moving average of the weights. A subclass says what the loss of a random batch is.
    """

    def __init__(self, net: nn.Module, stage: Stage, seed: int) -> None:
        self.stage, self.step, self.source = stage, 0, generator(seed)
        self.net: nn.Module = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.kept = copy.deepcopy(self.net)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=stage.lr)

    @abstractmethod
    def loss(self) -> Tensor:
        """Draw a batch and return its loss."""

    def advance(self) -> float:
        """Make one step and return its loss; ValueError if it is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.rate(self.step)
        loss = self.loss()
        if not torch.isfinite(loss):
            raise ValueError(f"the training diverges at step {self.step + 1}; try another seed")
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.stage.clip)
        self.optimizer.step()
        self.step += 1
        share = min(AVERAGE, self.step / (self.step + 10))
        with torch.no_grad():
            for kept, new in zip(self.kept.parameters(), self.net.parameters(), strict=True):
                kept.lerp_(new, 1 - share)
        return float(loss.detach())

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on with the same bits."""
        parts = {name: getattr(self, name).state_dict() for name in ("net", "kept", "optimizer")}
        return parts | {"step": self.step, "source": self.source.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name in ("net", "kept", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]
        self.source.set_state(state["source"])


class DenoiserTraining(Training):
    """Train a denoiser for white Gaussian noise.

    The loss is the mean absolute error divided by √(σ + 2/255), so that low noise counts, too. Products are taken in
    bfloat16.
    """

    net: DenoiserNet
    kept: DenoiserNet

    def __init__(self, net: DenoiserNet, patches: Patches, stage: Stage, seed: int) -> None:
        super().__init__(net, stage, seed)
        self.patches = patches

    def loss(self) -> Tensor:
        """Draw clean and noisy patches, and compare what the network makes of the latter."""
        clean, grey = self.patches.draw(self.stage, self.source)
        level = MOST_NOISE * torch.rand(len(clean), 1, 1, 1, generator=self.source) ** EXPONENT
        noisy = clean + level * grey_or_colour_noise(clean, grey, self.source)
        with torch.autocast("cpu", torch.bfloat16):
            found = self.net(noisy.contiguous(memory_format=torch.channels_last), level)
        loss: Tensor = ((found.float() - clean).abs() / (level + 2 / 255).sqrt()).mean()
        return loss
