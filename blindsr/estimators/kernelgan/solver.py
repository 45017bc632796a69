"""Adversarial training: the generator downscales patches of y so that the discriminator takes them for patches of y.

Small patches recur across the scales of a natural picture. Downscaling y by the kernel that made y preserves its patch
distribution best (Michaeli & Irani 2013), so the generator that deceives the discriminator has found the kernel:

    min over G, max over D of  mean |D(y) - 1| + mean |D(G(y))|  + regularisers of G's kernel.

A solver with the face of `blindsr.estimators.loop.Solver`; its image is the bicubic one, left for a restorer to make.

Reference
---------
Bell-Kligler, Shocher, Irani, "Blind Super-Resolution Kernel Estimation using an Internal-GAN", NeurIPS 2019.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from blindsr.estimators.kernelgan.crops import Crops
from blindsr.estimators.kernelgan.kernel import finished
from blindsr.estimators.kernelgan.networks import STEP, DeepLinear, PatchDiscriminator
from blindsr.estimators.kernelgan.regularizers import Schedule, Weights, bicubic_gap, bicubic_kernel, boundary_mask
from blindsr.estimators.loop import Estimate, Metrics, check_adam
from blindsr.estimators.spectral import KernelEstimate
from blindsr.operators.degradation import Degradation, Padding
from blindsr.operators.kernels import width
from blindsr.operators.luma import luma
from blindsr.random import draw_seed, generator, seeded
from blindsr.restorers.bicubic import bicubic

SCALES = (2, 4, 8)
"""Scales whose kernel follows from that of scale 2."""
PATCH = 7
"""Side of the patches that the discriminator judges."""


@dataclass(frozen=True)
class KernelGan:
    """Settings of the training; the defaults are the published values.

    Parameters
    ----------
    layers, channels : tuple of int, int
        Of the generator; `channels` of the discriminator too.
    crop : int
        Side of the generator's crops, LR pixels; a smaller picture is used whole.
    lr, betas : float, tuple of float
        Of Adam, for both networks.
    decay_every : int
        Steps after which the learning rate falls to a tenth.
    noise : float
        Standard deviation of the noise that keeps the discriminator from recognising a patch by its rounding, units of
        0..1. (The published code adds twice as much to patches of y as to the generator's, and it accumulates in y.)
    weights : Weights
        Of the regularisers.
    """

    layers: tuple[int, ...] = (7, 5, 3, 1, 1, 1)
    channels: int = 64
    crop: int = 64
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    decay_every: int = 750
    noise: float = 1 / 255
    weights: Weights = field(default_factory=Weights)

    @property
    def kernel_size(self) -> int:
        """Side of the generator's kernel."""
        return sum(self.layers) - len(self.layers) + 1

    def sides(self, degradation: Degradation, height: int, width: int) -> tuple[int, int, int]:
        """Return the border of the LR image that is left out, and the sides of both networks' crops.

        Raises
        ------
        ValueError
            If the scale is not 2, 4 or 8, or the image is too small.
        """
        if degradation.scale not in SCALES:
            raise ValueError(f"KernelGAN finds kernels of scale {', '.join(map(str, SCALES))}, not {degradation.scale}")
        border = _border(degradation)
        side = min(self.crop, *(n - 2 * border for n in (height, width))) // STEP * STEP
        judged = (side - self.kernel_size) // STEP + 1
        if judged <= PATCH:  # batch statistics need more than one patch
            least = self.kernel_size + STEP * PATCH + 2 * border
            raise ValueError(f"KernelGAN needs an LR image of {least + least % STEP} pixels a side or more")
        return border, side, judged


@dataclass
class GanRun:
    """Everything that changes during training, and what is computed from y once."""

    kernel: DeepLinear
    judge: PatchDiscriminator
    adams: tuple[torch.optim.Optimizer, torch.optim.Optimizer]
    """Of the generator and the discriminator."""
    schedule: Schedule
    generator: torch.Generator
    crops: tuple[Crops, Crops]
    """Crops of y for the generator, and crops of y for the discriminator to compare its output with."""
    image: Tensor
    """Bicubic enlargement of y."""
    step: int = 0


class KernelGanSolver:
    """Adversarial training, step by step.

    Parameters
    ----------
    settings : KernelGan
        Sizes, rates and weights.
    degradation : Degradation
        Forward operator; scale 2, 4 or 8.
    device : torch.device or str
        Where to compute; random draws are made on the CPU.
    """

    found: KernelEstimate | None = None

    def __init__(self, settings: KernelGan, degradation: Degradation, device: torch.device | str = "cpu") -> None:
        self.settings, self.degradation, self.device = settings, degradation, torch.device(device)
        size = self.settings.kernel_size
        self.center = (size - STEP) / 2
        self.mask = boundary_mask(size).to(self.device)
        self.bicubic = bicubic_kernel(size, self.center).to(self.device)

    def init(self, y: Tensor, seed: int) -> GanRun:
        """Prepare the crops of y (1, C, h, w), values 0..1, and draw the weights of both networks.

        Raises
        ------
        ValueError
            If y has another shape or is too small, or the scale is not 2, 4 or 8.
        """
        source = generator(seed)
        return self._build(y, source, draw_seed(source))

    def _build(self, y: Tensor, source: torch.Generator, seed: int) -> GanRun:
        s = self.settings
        if y.ndim != 4 or y.shape[0] != 1:
            raise ValueError(f"the LR image has shape {tuple(y.shape)}: (1, C, h, w) is needed")
        crops = self._crops(y.detach().cpu())
        with seeded(seed):
            players = DeepLinear(s.layers, s.channels).to(self.device), PatchDiscriminator(y.shape[1], s.channels)
        players[1].to(self.device)
        adams = [torch.optim.Adam(p.parameters(), s.lr, s.betas, fused=True) for p in players]
        image = bicubic(y.cpu(), self.degradation.scale, self.degradation.alignment)
        return GanRun(*players, (adams[0], adams[1]), Schedule(s.weights.bicubic), source, crops, image)

    def _crops(self, y: Tensor) -> tuple[Crops, Crops]:
        border, side, judged = self.settings.sides(self.degradation, *y.shape[-2:])
        inner = y[..., border : y.shape[-2] - border, border : y.shape[-1] - border]
        picture, grey = 2 * inner.to(self.device) - 1, luma(inner)[0, 0]
        return Crops.of(picture, grey, side, shrunk=True), Crops.of(picture, grey, judged, shrunk=False)

    def step(self, run: GanRun, y: Tensor) -> Metrics:
        """Make a step of the generator and then one of the discriminator on crops of y."""
        s = self.settings
        for adam in run.adams:
            adam.param_groups[0]["lr"] = s.lr * 0.1 ** (run.step // s.decay_every)
        crop, real = (c.draw(run.generator) for c in run.crops)
        metrics = self._generator_step(run, crop)
        with torch.no_grad():
            fake = _shrink(run.kernel, crop)
        noisy = [v + 2 * s.noise * torch.randn(v.shape, generator=run.generator).to(v) for v in (real, fake)]
        adam = run.adams[1]
        adam.zero_grad(set_to_none=True)
        judged, fooled = (run.judge(v) for v in noisy)
        (0.5 * ((judged - 1).abs().mean() + fooled.abs().mean())).backward()
        adam.step()
        run.step += 1
        return metrics

    def _generator_step(self, run: GanRun, crop: Tensor) -> Metrics:
        w, adam = self.settings.weights, run.adams[0]
        kernel = run.kernel.kernel()
        shrunk = _shrink(run.kernel, crop, kernel)
        game = (run.judge(shrunk) - 1).abs().mean()
        gap = bicubic_gap(shrunk.transpose(0, 1), crop.transpose(0, 1), self.bicubic)
        penalty = run.schedule.penalty(kernel, self.mask, self.center, w) + run.schedule.bicubic * gap
        adam.zero_grad(set_to_none=True)
        (game + penalty).backward()
        adam.step()
        run.schedule = run.schedule.after(run.step + 1, float(gap.detach()), w)
        spread = sum(4**j for j in range(int(math.log2(self.degradation.scale))))  # of the analytic kernel, in variance
        k = kernel.detach().clamp_min(0)
        return Metrics(
            step=run.step + 1,
            loss=float(game.detach()),
            mse=float("nan"),
            prior=float(penalty.detach()),
            noise_std=float("nan"),
            kernel_width=float(width(k / k.sum())) * math.sqrt(spread),
            monte_carlo=float("nan"),
        )

    def iterate(self, run: GanRun, y: Tensor, steps: int) -> Iterator[Metrics]:
        """Step until the run has made `steps` steps in all; stop iterating at any time."""
        while run.step < steps:
            yield self.step(run, y)

    def settled(self, run: GanRun) -> bool:
        """Whether the training has converged: never, it ends after its steps."""
        return False

    def estimate(self, run: GanRun) -> Estimate:
        """Return the bicubic image and the generator's kernel, cleaned, centred, converted to the scale."""
        with torch.no_grad():
            return Estimate(run.image, finished(run.kernel.kernel(), self.degradation))

    def state_dict(self, run: GanRun) -> dict[str, Any]:
        """Return a copy of the run as a plain dict of tensors and numbers (see `blindsr.io.checkpoint`)."""
        state = {
            "kernel": run.kernel.state_dict(),
            "judge": run.judge.state_dict(),
            "adams": [adam.state_dict() for adam in run.adams],
            "schedule": asdict(run.schedule),
            "generator": run.generator.get_state(),
            "step": run.step,
        }
        return copy.deepcopy(state)

    def load_state_dict(self, y: Tensor, state: dict[str, Any]) -> GanRun:
        """Rebuild a run on y from `state_dict`; going on from it gives the same bits as never having stopped.

        Raises
        ------
        ValueError
            If the state belongs to other settings.
        """
        state = copy.deepcopy(state)
        try:
            run = self._build(y, torch.Generator(), seed=0)
            run.kernel.load_state_dict(state["kernel"])
            run.judge.load_state_dict(state["judge"])
            for adam, saved in zip(run.adams, state["adams"], strict=True):
                adam.load_state_dict(saved)
                check_adam(adam)
            run.schedule = Schedule(**state["schedule"])
            run.generator.set_state(state["generator"].cpu())
            run.step = int(state["step"])
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise ValueError(f"this checkpoint does not fit the method and image: {error}".splitlines()[0]) from error
        return run


def _border(degradation: Degradation) -> int:
    """LR pixels at each side that the border rule affects; they are left out (published: 10, or none)."""
    if degradation.padding is Padding.VALID:
        return 0
    return math.ceil(max(*degradation.margins, 0) / degradation.scale)


def _shrink(net: DeepLinear, picture: Tensor, kernel: Tensor | None = None) -> Tensor:
    """Downscale a picture (1, C, h, w), every colour by the same kernel."""
    out: Tensor = net(picture.transpose(0, 1), kernel)
    return out.transpose(0, 1)
