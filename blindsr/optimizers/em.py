"""Monte Carlo expectation maximisation (BSRDM): the network's weights and the kernel by Adam, its input by Langevin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from blindsr.likelihood.data_term import ssim
from blindsr.operators.degradation import Alignment, Degradation
from blindsr.optimizers.base import Energy, Pass, Run, adam_step, forward, parameters
from blindsr.samplers.latent import LatentLangevin

LATENT = "z"
"""Name of the buffer of an image generator that is its latent input."""
SMALLEST = 1e-10
"""Noise variance that the E-step takes for zero."""


@dataclass(frozen=True)
class MonteCarloEm:
    """M-steps: Adam on φ_x and φ_k with the latent z fixed. E-step, once each outer iteration: Langevin dynamics on z.

    z is the image generator's buffer `z` with the prior N(0, I): state, not a parameter. A generator without one has
    no E-step. Before the first step, the image is brought near the bilinear enlargement of y (on the operator's grid).

    Parameters
    ----------
    langevin : LatentLangevin
        The E-step.
    start_steps : int
        Adam steps of the image block on 1 - SSIM with the bilinear image, before the first step.
    clip : float or None
        Largest length of the gradient for φ_x in an M-step, in units of the published loss, which is the energy per
        value of y: ours over 2σ̄².

    Raises
    ------
    ValueError
        If a number is negative.
    """

    langevin: LatentLangevin = field(default_factory=LatentLangevin)
    start_steps: int = 50
    clip: float | None = 10.0

    def __post_init__(self) -> None:
        if self.start_steps < 0 or (self.clip is not None and not self.clip > 0):
            raise ValueError("expectation maximisation: need start_steps of at least 0 and clip above 0")

    def begin_outer(self, run: Run, energy: Energy) -> None:
        """Bring the image near the bilinear one (before the first step), or make an E-step (before all others)."""
        if run.step == 0:
            self._start(run, energy)
        elif LATENT in dict(run.image.named_buffers()):
            latent = run.image.get_buffer(LATENT)
            latent.copy_(self.langevin(latent, _misfit(run, energy), run.generator))

    def _start(self, run: Run, energy: Energy) -> None:
        target = bilinear(energy.y, energy.degradation)
        for _ in range(self.start_steps):
            (1 - ssim(energy.degradation.crop(run.image()), target)).backward()
            adam_step(run.image_adam, run.image)

    def step(self, run: Run, energy: Energy) -> Pass:
        """One Adam step on both blocks."""
        done = forward(run, energy)
        (done.data + done.prior).backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(parameters(run.image), self.clip * 2 * float(run.variance.mean()))
        adam_step(run.image_adam, run.image)
        adam_step(run.kernel_adam, run.kernel)
        return done


def _misfit(run: Run, energy: Energy) -> Callable[[Tensor], Tensor]:
    """−log p(y, x(z) | k) up to a constant, as a function of z: the energy times n / 2σ̄²."""
    with torch.no_grad():
        kernel = run.kernel()
    scale = energy.y.numel() / (2 * run.variance.mean().clamp_min(SMALLEST))

    def misfit(z: Tensor) -> Tensor:
        x = functional_call(run.image, {LATENT: z}, ())
        return scale * (energy.data(x, kernel, run.variance, run.step)[0] + energy.prior(x, run.variance))

    return misfit


def bilinear(y: Tensor, degradation: Degradation) -> Tensor:
    """Enlarge y (1, C, h, w) to (1, C, s h, s w) by bilinear interpolation on the operator's grid, edges repeated."""
    s = degradation.scale
    x = F.interpolate(y, scale_factor=float(s), mode="bilinear", align_corners=False)
    if degradation.alignment is Alignment.FKP:  # s - 1 pixels up and left
        x = F.pad(x, (0, s - 1, 0, s - 1), mode="replicate")[..., s - 1 :, s - 1 :]
    return x
