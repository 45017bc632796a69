"""Presets: how much time a run may take. They set sizes, steps, rates and defaults that a row leaves open."""

from __future__ import annotations

from dataclasses import dataclass, field

from blindsr.errors import UserError
from blindsr.estimators.loop import LoopNumbers
from blindsr.estimators.problem import MonteCarloSettings
from blindsr.generators.skip import SkipSettings


@dataclass(frozen=True, kw_only=True)
class Preset(LoopNumbers):
    """Numbers that trade quality for time: those of the loop, and defaults for what a row leaves open.

    Parameters
    ----------
    skip : SkipSettings
        Size and precision of the image network.
    ssim_steps : int
        Steps with the SSIM data term, before the squared error.
    ssim_below : float
        Noise level up to which the SSIM data term goes on after that.
    noise : str
        Noise model of the methods that name none, by its name in `blindsr.methods.parts.NOISES`.
    """

    skip: SkipSettings = field(default_factory=SkipSettings)
    ssim_steps: int = 405
    ssim_below: float = 0.0
    monte_carlo: MonteCarloSettings = field(default_factory=MonteCarloSettings)
    noise: str = "none"


PRESETS: dict[str, Preset] = {
    "paper": Preset(),
    "balanced": Preset(
        steps=800,
        skip=SkipSettings(channels=64, bf16=True),
        ssim_steps=300,
        monte_carlo=MonteCarloSettings(n_simulations={3: 4, 4: 12, 8: 12}, warmup_steps=1000),
        average=0.98,
        noise="iid",
    ),
    "fast": Preset(
        steps=300,
        skip=SkipSettings(channels=32, bf16=True),
        ssim_steps=100,
        ssim_below=0.03,
        monte_carlo=MonteCarloSettings(n_simulations={3: 3, 4: 8, 8: 8}, warmup_steps=1000),
        average=0.95,
        noise="iid",
    ),
}
"""Named presets: `paper` holds every published setting; `balanced` and `fast` were chosen by measurement."""

BSRDM = Preset(
    steps=400,
    skip=SkipSettings(channels=96, levels=3, input_channels=8, input_std=1.0, normal_input=True),
    image_lr=2e-3,
    kernel_lr=5e-3,
    inner_steps=50,
    noise="patch",
    noise_steps=50,
)
"""The published numbers of BSRDM, whatever the preset."""


def find_preset(name: str) -> Preset:
    """Return a preset by name; UserError if there is none of that name."""
    if name not in PRESETS:
        raise UserError(f"--preset {name}: unknown; choose {', '.join(PRESETS)}")
    return PRESETS[name]
