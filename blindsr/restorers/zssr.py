"""ZSSR: a small network trained on the LR image itself, under the given kernel.

Patterns that recur across the scales of an image teach a network to invert its degradation: y and crops of it are the
"fathers", their versions degraded by the kernel are the "sons", and the network learns to predict a father from its
son. It is then applied to y itself.

References
----------
Shocher, Cohen, Irani, "Zero-Shot Super-Resolution Using Deep Internal Learning", CVPR 2018.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from blindsr.operators.degradation import Degradation, Padding
from blindsr.random import draw_seed, generator, seeded
from blindsr.restorers.base import Restorer
from blindsr.restorers.bicubic import bicubic
from blindsr.restorers.zssr_pairs import Fathers, symmetries

INIT_VARIANCE = 0.1
"""Variance of each filter's initial weights, times its number of inputs."""
WATCH_EVERY, CHECK_EVERY, PATIENCE, SLOPE_RATIO, LAST_RATE = 50, 60, 256, 1.5, 9e-6
"""Plateaus: steps between two looks at the reconstruction error and between two decisions; steps that the line is
fitted to and a rate is kept at least; the rate falls tenfold where -SLOPE_RATIO · slope is below the slope's standard
deviation; training ends where the rate is below LAST_RATE."""
NOISY = 0.0125
"""Noise level above which nothing is projected back: it would bring the noise of y into the result."""


@dataclass(frozen=True)
class ZssrRestorer(Restorer):
    """Zero-shot super-resolution in a single step (the gradual mode of the paper is not implemented).

    The network predicts the residual of the bicubic enlargement by 3x3 convolutions with ReLU and without biases. It is
    trained with the L1 loss and Adam; the learning rate falls when the error of y as predicted from its own son no
    longer decreases. The result is the median over the flips and quarter turns that leave the kernel unchanged (all
    eight for a round one), each back-projected onto y.

    Parameters
    ----------
    steps : int
        Largest number of training steps; training ends sooner if the error no longer decreases. Published: 3000.
    crop : int
        Side of a father in pixels; for a smaller y it is that of y minus s - 1, so that sons of every phase occur.
    width, depth : int
        Number of channels and of convolutions.
    rate : float
        First learning rate.
    back_projections : int
        Number of steps x ← x + bicubic(y − (x ⊗ k)↓s), for each flip and again for the median. Published: 2 if the
        kernel is given, none under noise (`NOISY`).
    seed : int
        Seed of the weights, crops and noise.

    Raises
    ------
    ValueError
        If a number is too small.

    Notes
    -----
    An image that is restored in tiles gets one network for each tile. As published, noise of the level of y is added to
    the sons.
    """

    steps: int = 3000
    crop: int = 128
    width: int = 64
    depth: int = 8
    rate: float = 1e-3
    back_projections: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.width) < 1 or self.depth < 2 or self.crop < 16 or self.back_projections < 0:
            raise ValueError(
                "ZSSR: need steps and width of 1, depth of 2, crop of 16 and back_projections of 0 or more"
            )
        if not self.rate > 0:
            raise ValueError(f"ZSSR: rate {self.rate}: a number above 0 is needed")

    def with_seed(self, seed: int) -> ZssrRestorer:
        """Return the same restorer with another seed."""
        return replace(self, seed=seed)

    def __call__(self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float) -> Tensor:
        """Restore an image, see `blindsr.restorers.base.Restorer`."""
        flips = symmetries(kernel, degradation)
        network = self.fitted(y, kernel, degradation, noise_std)
        rounds = 0 if noise_std > NOISY else self.back_projections
        wide = bicubic(y, degradation.scale, degradation.alignment)
        with torch.no_grad():
            outputs = [_projected(back(network(there(wide))), y, kernel, degradation, rounds) for there, back in flips]
            middle = torch.stack(outputs).quantile(0.5, dim=0)
            return _projected(middle, y, kernel, degradation, rounds)

    def fitted(self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float) -> nn.Module:
        """Train the network on y (1, C, h, w); it maps enlargements (1, C, H, W) to pictures of the same size."""
        source = generator(self.seed)
        fathers = Fathers(y, kernel, degradation, self.crop, source)
        with seeded(draw_seed(source)):
            network = _Network(y.shape[1], self.width, self.depth).to(y.device)
        adam = torch.optim.Adam(network.parameters(), lr=self.rate, fused=True)
        whole = fathers.son_and_father(y)
        plateau = Plateau(self.rate)
        for step in range(self.steps):
            son, father = fathers.son_and_father(fathers.draw())
            son = (son + noise_std * torch.randn(son.shape, generator=source).to(son)).clamp(0, 1)
            adam.param_groups[0]["lr"] = plateau.rate
            (network(bicubic(son, degradation.scale, degradation.alignment)) - father).abs().mean().backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
            if step % WATCH_EVERY == 0:
                with torch.no_grad():
                    again = network(bicubic(whole[0], degradation.scale, degradation.alignment))
                    plateau.seen(step, float((again - whole[1]).square().mean()))
            if plateau.ended(step):
                break
        return network


class _Network(nn.Module):
    """Residual on its input."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [channels, *([width] * (depth - 1)), channels]
        layers: list[nn.Module] = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            convolution = nn.Conv2d(a, b, 3, padding=1, bias=False)
            nn.init.normal_(convolution.weight, std=math.sqrt(INIT_VARIANCE / (9 * a)))
            layers += [convolution, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x.contiguous(memory_format=torch.channels_last))
        return out


class Plateau:
    """Learning rate that falls tenfold where a line through the last errors no longer falls clearly."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.changed = 0
        self.steps: list[int] = []
        self.errors: list[float] = []

    def seen(self, step: int, error: float) -> None:
        """Record the reconstruction error at a step."""
        self.steps.append(step)
        self.errors.append(error)

    def ended(self, step: int) -> bool:
        """Lower the rate if it is time; return whether training is over."""
        if (step + 1) % CHECK_EVERY == 0 and step - self.changed > PATIENCE:
            n = PATIENCE // WATCH_EVERY
            (slope, _), cov = np.polyfit(self.steps[-n:], self.errors[-n:], 1, cov=True)
            if -SLOPE_RATIO * slope < math.sqrt(cov[0, 0]):
                self.rate, self.changed = self.rate / 10, step
        return self.rate < LAST_RATE


def _projected(x: Tensor, y: Tensor, kernel: Tensor, degradation: Degradation, rounds: int) -> Tensor:
    """Project a picture (1, C, s h, s w) back onto y, `rounds` times; clipped to 0..1."""
    valid = degradation.padding is Padding.VALID
    op = replace(degradation, padding=Padding.REPLICATE) if valid else degradation  # x is the picture without a border
    for _ in range(rounds):
        residual = (y - op(x, kernel) + 1) / 2  # of 0..1, which `bicubic` clips to
        x = (x + (2 * bicubic(residual, degradation.scale, degradation.alignment) - 1)).clamp(0, 1)
    return x.clamp(0, 1)
