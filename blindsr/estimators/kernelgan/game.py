"""Adversarial training: the generator downscales patches of y so that the discriminator takes them for patches of y.

Small patches recur across the scales of a natural picture. Downscaling y by the kernel that made y preserves its patch
distribution best (Michaeli & Irani 2013), so the generator that deceives the discriminator has found the kernel:

    min over G, max over D of  mean |D(y) - 1| + mean |D(G(y))|  + regularisers of G's kernel.

The image is left to a restorer.

Reference
---------
Bell-Kligler, Shocher, Irani, "Blind Super-Resolution Kernel Estimation using an Internal-GAN", NeurIPS 2019.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from blindsr.estimators.base import Estimate, Estimation, Estimator, Metrics, check_adam, check_image, loaded
from blindsr.estimators.kernelgan.crops import Crops
from blindsr.estimators.kernelgan.kernel import finished
from blindsr.estimators.kernelgan.networks import STEP, DeepLinear, PatchDiscriminator
from blindsr.estimators.kernelgan.regularizers import Schedule, Weights, bicubic_gap, bicubic_kernel, boundary_mask
from blindsr.operators.degradation import Degradation, Padding
from blindsr.operators.kernels import width
from blindsr.operators.luma import luma
from blindsr.random import draw_seed, generator, seeded

SCALES = (2, 4, 8)
"""Scales whose kernel follows from that of scale 2."""
PATCH = 7
"""Side of the patches that the discriminator judges."""


@dataclass(frozen=True)
class KernelGan(Estimator):
    """Settings of the training; the defaults are the published values.

    Parameters
    ----------
    layers, channels : tuple of int, int
        Filter sides and number of channels of the generator; the discriminator has as many channels.
    crop : int
        Side of the generator's crops, LR pixels; a smaller picture is used whole.
    lr, betas : float, tuple of float
        Settings of Adam, for both networks.
    decay_every : int
        Steps after which the learning rate falls to a tenth.
    noise : float
        Standard deviation of the noise that keeps the discriminator from recognising a patch by its rounding, units of
        0..1. (The published code adds twice as much to patches of y as to the generator's, and it accumulates in y.)
    weights : Weights
        Weights of the regularisers.
    steps : int
        Number of training steps; the published number is 3,000.
    """

    layers: tuple[int, ...] = (7, 5, 3, 1, 1, 1)
    channels: int = 64
    crop: int = 64
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    decay_every: int = 750
    noise: float = 1 / 255
    weights: Weights = field(default_factory=Weights)
    steps: int = 3000
    takes_steps = True
    loss_name = "generator's loss"

    @property
    def kernel_size(self) -> int:
        """Side of the generator's kernel."""
        return sum(self.layers) - len(self.layers) + 1

    def sides(self, degradation: Degradation, height: int, width: int) -> tuple[int, int, int]:
        """Return the border of the LR image that is left out, and the sides of both networks' crops.

        Raises ValueError if the scale is not 2, 4 or 8, or the image is too small.
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

    def steps_for(self, degradation: Degradation) -> int:
        """Return the number of steps."""
        return self.steps

    def with_steps(self, steps: int) -> KernelGan:
        """Return the same settings with another number of steps."""
        return replace(self, steps=steps)

    def check(self, y: Tensor, degradation: Degradation, device: torch.device) -> None:
        """Raise ValueError if `sides` does."""
        self.sides(degradation, *y.shape[-2:])

    def start(self, y: Tensor, degradation: Degradation, *, seed: int, device: torch.device | str) -> GanEstimation:
        """Prepare the crops of y (1, C, h, w), values 0..1, and draw the weights of both networks."""
        source = generator(seed)
        return GanEstimation(self, y, degradation, source, draw_seed(source), device)

    def resume(
        self, y: Tensor, degradation: Degradation, state: dict[str, Any], *, device: torch.device | str
    ) -> GanEstimation:
        """Rebuild a training from its state; continuing gives the same bits as never having stopped."""
        return loaded(GanEstimation(self, y, degradation, torch.Generator(), 0, device), state)


class GanEstimation(Estimation):
    """Adversarial training on one LR image; random draws are made on the CPU.

    `source` serves the crops and the noise, `seed` the weights of both networks.
    """

    def __init__(
        self,
        settings: KernelGan,
        y: Tensor,
        degradation: Degradation,
        source: torch.Generator,
        seed: int,
        device: torch.device | str,
    ) -> None:
        check_image(y)
        s, self.device = settings, torch.device(device)
        self.settings, self.degradation, self.generator, self.step = settings, degradation, source, 0
        self.center = (s.kernel_size - STEP) / 2
        self.mask = boundary_mask(s.kernel_size).to(self.device)
        self.bicubic = bicubic_kernel(s.kernel_size, self.center).to(self.device)
        self.crops = self._crops(y.detach().cpu())
        """Crops of y for the generator, and crops of y for the discriminator to compare its output with."""
        with seeded(seed):
            self.kernel = DeepLinear(s.layers, s.channels).to(self.device)
            self.judge = PatchDiscriminator(y.shape[1], s.channels)
        self.judge.to(self.device)
        self.adams = [torch.optim.Adam(p.parameters(), s.lr, s.betas, fused=True) for p in (self.kernel, self.judge)]
        """The optimizers of the generator and the discriminator."""
        self.schedule = Schedule(s.weights.bicubic)

    def _crops(self, y: Tensor) -> tuple[Crops, Crops]:
        border, side, judged = self.settings.sides(self.degradation, *y.shape[-2:])
        inner = y[..., border : y.shape[-2] - border, border : y.shape[-1] - border]
        picture, grey = 2 * inner.to(self.device) - 1, luma(inner)[0, 0]
        return Crops.of(picture, grey, side, shrunk=True), Crops.of(picture, grey, judged, shrunk=False)

    def advance(self) -> Metrics:
        """Make a step of the generator and then one of the discriminator on crops of y."""
        s = self.settings
        for adam in self.adams:
            adam.param_groups[0]["lr"] = s.lr * 0.1 ** (self.step // s.decay_every)
        crop, real = (c.draw(self.generator) for c in self.crops)
        metrics = self._generator_step(crop)
        with torch.no_grad():
            fake = _shrink(self.kernel, crop)
        noisy = [v + 2 * s.noise * torch.randn(v.shape, generator=self.generator).to(v) for v in (real, fake)]
        adam = self.adams[1]
        adam.zero_grad(set_to_none=True)
        judged, fooled = (self.judge(v) for v in noisy)
        (0.5 * ((judged - 1).abs().mean() + fooled.abs().mean())).backward()
        adam.step()
        self.step += 1
        return metrics

    def _generator_step(self, crop: Tensor) -> Metrics:
        w, adam = self.settings.weights, self.adams[0]
        kernel = self.kernel.kernel()
        shrunk = _shrink(self.kernel, crop, kernel)
        adversarial = (self.judge(shrunk) - 1).abs().mean()
        gap = bicubic_gap(shrunk.transpose(0, 1), crop.transpose(0, 1), self.bicubic)
        penalty = self.schedule.penalty(kernel, self.mask, self.center, w) + self.schedule.bicubic * gap
        adam.zero_grad(set_to_none=True)
        (adversarial + penalty).backward()
        adam.step()
        self.schedule = self.schedule.after(self.step + 1, float(gap.detach()), w)
        spread = sum(4**j for j in range(int(math.log2(self.degradation.scale))))  # of the analytic kernel, in variance
        k = kernel.detach().clamp_min(0)
        return Metrics(
            step=self.step + 1,
            loss=float(adversarial.detach()),
            prior=float(penalty.detach()),
            kernel_width=float(width(k / k.sum())) * math.sqrt(spread),
        )

    def estimate(self) -> Estimate:
        """Return the generator's kernel, cleaned, centred, converted to the scale."""
        with torch.no_grad():
            return Estimate(None, finished(self.kernel.kernel(), self.degradation))

    def facts(self) -> dict[str, Any]:
        """Return the number of weights of both networks."""
        return {"parameters": sum(p.numel() for m in (self.kernel, self.judge) for p in m.parameters())}

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state as a plain dict of tensors and numbers."""
        state = {
            "kernel": self.kernel.state_dict(),
            "judge": self.judge.state_dict(),
            "adams": [adam.state_dict() for adam in self.adams],
            "schedule": asdict(self.schedule),
            "generator": self.generator.get_state(),
            "step": self.step,
        }
        return copy.deepcopy(state)

    def load(self, state: dict[str, Any]) -> None:
        """Restore a state; see `KernelGan.resume`."""
        self.kernel.load_state_dict(state["kernel"])
        self.judge.load_state_dict(state["judge"])
        for adam, saved in zip(self.adams, state["adams"], strict=True):
            adam.load_state_dict(saved)
            check_adam(adam)
        self.schedule = Schedule(**state["schedule"])
        self.generator.set_state(state["generator"].cpu())
        self.step = int(state["step"])


def _border(degradation: Degradation) -> int:
    """LR pixels at each side that the border rule affects; they are left out (published: 10, or none)."""
    if degradation.padding is Padding.VALID:
        return 0
    return math.ceil(max(*degradation.margins, 0) / degradation.scale)


def _shrink(net: DeepLinear, picture: Tensor, kernel: Tensor | None = None) -> Tensor:
    """Downscale a picture (1, C, h, w), every colour by the same kernel."""
    out: Tensor = net(picture.transpose(0, 1), kernel)
    return out.transpose(0, 1)
