"""Train an unfolded network: first its denoiser on noise, then the whole on blur, half of it with wrong kernels.

In the second stage y = (x ⊗ k)↓s + n with circular borders. Half of the time the network is given another kernel q than
the true one (`wrong_kernels.wrong`). The noise level that it is told is

    σ = sqrt(σ_n² + e² e^{2 δ}),     e² = mean ((x ⊗ q)↓s − (x ⊗ k)↓s)²,     δ ~ N(0, 0.25²),

so that it learns to read in σ how far to trust y and q. The factor e^δ stands for an estimate of e that is off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Uniform

from blindsr.operators.degradation import Degradation
from blindsr.priors.gaussian import GaussianKernelPrior, protocol_variances
from blindsr.priors.motion import ExposedShakePrior, LineKernelPrior
from blindsr.priors.normal import DiskShape
from blindsr.priors.parametric import Delta
from blindsr.priors.shaped import DiskKernelPrior
from blindsr.random import seeded
from blindsr.restorers.denoiser_training import (
    DenoiserTraining,
    Patches,
    Stage,
    Training,
    grey_or_colour_noise,
)
from blindsr.restorers.unfolded_net import UnfoldedNet
from blindsr.restorers.usrnet_net import alias_mean, transfer_function
from blindsr.restorers.wrong_kernels import wrong

KERNEL_SIZE = 31
SCALES = (1, 2, 2, 2, 3, 4, 4)
"""A batch has one scale, each of these equally likely."""
EXTENT, LENGTH = (5.0, 27.0), (3.0, 27.0)
"""Extents of camera shake and lengths of lines, HR pixels."""
LEAST_NOISE, MOST_NOISE, EXPONENT = 0.3 / 255, 25 / 255, 2.5
"""σ_n is `LEAST_NOISE`, the rounding of an 8-bit picture, half of the time, and else `LEAST_NOISE` + `MOST_NOISE` u^2.5
with u uniform; units of 0..1."""
WRONG, JITTER = 0.5, 0.25
"""Share of the kernels that are given wrong; standard deviation of δ."""


@dataclass(frozen=True)
class RestorerRecipe:
    """How an unfolded network is trained. The defaults are those of the weights that come with the package.

    Parameters
    ----------
    denoising, restoring : Stage
        The two stages. The cosine of the first was laid out for 24,000 steps, and left after 8,500. The side of the
        patches of the second is a multiple of 12, so that every scale divides it.
    shape : dict
        Size of the network, as `UnfoldedNet.of` takes it.
    pool : int
        Gaussian kernels for each scale, as many camera shakes, and a third as many lines and disks each; drawn once.

    Raises
    ------
    ValueError
        If a number lies outside its range.
    """

    denoising: Stage = Stage(8500, 16, 64, 1e-3, rise=240, span=24000, last=0.01, clip=1.0, grey=0.35)
    restoring: Stage = Stage(11000, 5, 96, 4e-4, rise=100, span=11000, last=0.02, clip=0.5, grey=0.3)
    shape: dict[str, int] = field(
        default_factory=lambda: {
            "fine": 32,
            "coarse": 64,
            "fine_blocks": 2,
            "coarse_blocks": 4,
            "rounds": 6,
            "hidden": 32,
        }
    )
    pool: int = 1500

    def __post_init__(self) -> None:
        if self.restoring.side % 12 or self.pool < 3:
            raise ValueError("unfolded: need a side of 24, 36, ... in the second stage, and a pool of at least 3")

    def with_steps(self, steps: int) -> RestorerRecipe:
        """Return the recipe with so many steps in the second stage, and the first changed in proportion."""
        ratio = steps / self.restoring.steps

        def scaled(stage: Stage) -> Stage:
            return replace(stage, **{n: max(round(getattr(stage, n) * ratio), 1) for n in ("steps", "rise", "span")})

        return replace(self, denoising=scaled(self.denoising), restoring=scaled(self.restoring))


RECIPE = RestorerRecipe()
"""The recipe of the weights that come with the package."""


def true_kernels(scale: int, n: int, source: torch.Generator) -> Tensor:
    """Draw the pool of true kernels (m, 1, 31, 31) for a scale from 1 to 4; centre (K - s)/2.

    These are n Gaussians of the test protocol, n camera shakes of 5 to 27 pixels, n/3 lines of 3 to 27 pixels and n/3
    disks as wide as the Gaussians. At scale 1, Gaussians and disks are those of scale 2, with their centre.
    """
    k, nominal, usual = KERNEL_SIZE, (KERNEL_SIZE - scale) / 2, max(scale, 2)
    center, (low, high) = Delta(nominal), protocol_variances(usual)
    laws = [
        (GaussianKernelPrior.truth(usual, k), n),
        (ExposedShakePrior(k, nominal, EXTENT), n),
        (LineKernelPrior(k, Uniform(*LENGTH), Uniform(0.0, math.pi), (center, center)), n // 3),
        (DiskKernelPrior(DiskShape.of(Degradation(usual, k)), 2 * math.sqrt(low), 2 * math.sqrt(high)), n // 3),
    ]
    return torch.cat([law.sample(count, generator=source).float() for law, count in laws])


class UnfoldedTraining(Training):
    """The second stage. The loss is the mean absolute error of the last image; products are taken in bfloat16."""

    net: UnfoldedNet
    kept: UnfoldedNet

    def __init__(self, net: UnfoldedNet, patches: Patches, stage: Stage, pool: int, seed: int) -> None:
        super().__init__(net, stage, seed)
        self.patches = patches
        self.kernels = {scale: true_kernels(scale, pool, self.source) for scale in sorted(set(SCALES))}

    def batch(self) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
        """Draw x (B, 3, H, W), y, kernels as they are given (B, 1, K, K), the scale, and σ (B, 1, 1, 1)."""
        source = self.source
        scale = SCALES[int(torch.randint(len(SCALES), (1,), generator=source))]
        x, _ = self.patches.draw(self.stage, source)
        pool = self.kernels[scale]
        k = pool[torch.randint(len(pool), (len(x),), generator=source)]
        clean = _degraded(x, k, scale)
        grey = (x == x[:, :1]).all(1, keepdim=True).all(2, keepdim=True).all(3, keepdim=True)  # by nature, too
        u = torch.rand(len(x), 1, 1, 1, generator=source)
        level = LEAST_NOISE + MOST_NOISE * (2 * u - 1).clamp_min(0) ** EXPONENT
        y = clean + level * grey_or_colour_noise(clean, grey, source)
        astray = torch.rand(len(x), 1, 1, 1, generator=source) < WRONG
        given = torch.where(astray, wrong(k, generator=source), k)
        error = (_degraded(x, given, scale) - clean).square().mean((1, 2, 3), keepdim=True)
        factor = (JITTER * torch.randn(len(x), 1, 1, 1, generator=source)).exp()
        return x, y, given, scale, (level.square() + error * factor.square()).sqrt()

    def loss(self) -> Tensor:
        """Draw a batch and compare what the network makes of it with the truth."""
        x, y, kernels, scale, sigma = self.batch()
        with torch.autocast("cpu", torch.bfloat16):
            found: Tensor = self.net(y, kernels, scale, sigma)
        return (found - x).abs().mean()


def _degraded(x: Tensor, kernels: Tensor, scale: int) -> Tensor:
    """Blur images circularly, each by its own kernel, and keep every s-th pixel; `Degradation` has no scale 1."""
    spectrum = transfer_function(kernels, *x.shape[-2:]) * torch.fft.fft2(x)
    y: Tensor = torch.fft.ifft2(alias_mean(spectrum, scale)).real
    return y


class Progress(NamedTuple):
    """What is reported after a step."""

    stage: str
    step: int
    """In the stage, from 1."""
    steps: int
    """Of the stage."""
    loss: float


class RestorerTraining:
    """Both stages, one after the other: `advance` makes a step.

    Parameters
    ----------
    pictures : iterable of Tensor
        (1, C, H, W), C 1 or 3, values 0..1.
    recipe : RestorerRecipe, optional
        Default: that of the weights that come with the package.
    seed : int
        Decides everything random.

    Raises
    ------
    ValueError
        If no picture has patches of the second stage.
    """

    def __init__(self, pictures: Iterable[Tensor], recipe: RestorerRecipe | None = None, *, seed: int = 0) -> None:
        self.recipe, self.seed = recipe or RECIPE, seed
        stages = self.recipe.denoising, self.recipe.restoring
        self.patches = Patches(pictures, min(s.side for s in stages))
        largest = max(s.side for s in stages)
        if not any(min(p.shape[-2:]) >= largest for p in self.patches.pictures):
            raise ValueError(f"no picture of at least {largest}x{largest} pixels")
        with seeded(seed):
            self._net = UnfoldedNet.of(self.recipe.shape)
        self.training: Training = DenoiserTraining(self._net.denoiser, self.patches, self.recipe.denoising, seed)

    @property
    def stage(self) -> str:
        """`denoising` or `restoring`."""
        return "restoring" if isinstance(self.training, UnfoldedTraining) else "denoising"

    @property
    def done(self) -> bool:
        """Whether all steps are made."""
        return isinstance(self.training, UnfoldedTraining) and self.training.step >= self.recipe.restoring.steps

    def advance(self) -> Progress:
        """Make the next step; ValueError if the training diverges."""
        if isinstance(self.training, DenoiserTraining) and self.training.step >= self.recipe.denoising.steps:
            self._net.denoiser.load_state_dict(self.training.kept.state_dict())
            self._restore()
        loss = self.training.advance()
        return Progress(self.stage, self.training.step, self.training.stage.steps, loss)

    def _restore(self) -> None:
        self.training = UnfoldedTraining(self._net, self.patches, self.recipe.restoring, self.recipe.pool, self.seed)

    def result(self) -> UnfoldedNet:
        """Return the trained network; ValueError before the second stage has begun."""
        if not isinstance(self.training, UnfoldedTraining):
            raise ValueError("unfolded: the second stage of the training has not begun")
        return self.training.kept.eval().requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on with the same bits."""
        return {"restoring": isinstance(self.training, UnfoldedTraining), "training": self.training.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the state of a training of the same pictures, recipe and seed."""
        if state["restoring"]:
            self._restore()
        self.training.load_state_dict(state["training"])


def train_restorer(pictures: Iterable[Tensor], recipe: RestorerRecipe | None = None, *, seed: int = 0) -> UnfoldedNet:
    """Train an unfolded network on pictures (1, C, H, W), values 0..1; arguments and errors of `RestorerTraining`."""
    training = RestorerTraining(pictures, recipe, seed=seed)
    while not training.done:
        training.advance()
    return training.result()
