"""Presets: how much time a run may take. They set sizes, steps, rates and defaults that a row leaves open."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from blindsr.errors import UserError
from blindsr.generators.skip import SkipSettings


@dataclass(frozen=True)
class Preset:
    """Numbers that trade quality for time.

    Parameters
    ----------
    steps : int
        Inner steps of a run.
    skip : SkipSettings
        Size and precision of the image network.
    ssim_steps : int
        Steps with the SSIM data term, before the squared error.
    ssim_below : float
        Noise level up to which the SSIM data term goes on after that.
    image_lr, kernel_lr : float
        Adam's learning rates.
    inner_steps : int
        Q, inner steps in one outer iteration.
    n_kernels : int
        L, kernels in one Monte Carlo simulation.
    n_simulations : dict of int to int
        Monte Carlo simulations per outer iteration, by scale; a scale that is not named has one.
    warmup_steps : int
        Steps of the kernel network towards random kernels before the run.
    average : float
        Share of the old image mean kept at each step; 0 for the image of the last step.
    noise : str
        Noise model of the methods that name none, by its name in `blindsr.methods.parts.NOISES`.
    noise_steps : int
        Steps between two updates of the noise variance.
    """

    steps: int = 1000
    skip: SkipSettings = field(default_factory=SkipSettings)
    ssim_steps: int = 405
    ssim_below: float = 0.0
    image_lr: float = 5e-3
    kernel_lr: float = 1e-4
    inner_steps: int = 5
    n_kernels: int = 5
    n_simulations: dict[int, int] = field(default_factory=dict)
    warmup_steps: int = 200
    average: float = 0.0
    noise: str = "none"
    noise_steps: int = 1


_ours = partial(Preset, warmup_steps=1000, noise="iid")

PRESETS: dict[str, Preset] = {
    "paper": Preset(),
    "balanced": _ours(
        steps=800,
        skip=SkipSettings(channels=64, bf16=True),
        ssim_steps=300,
        n_simulations={3: 4, 4: 12, 8: 12},
        average=0.98,
    ),
    "fast": _ours(
        steps=300,
        skip=SkipSettings(channels=32, bf16=True),
        ssim_steps=100,
        ssim_below=0.03,
        n_simulations={3: 3, 4: 8, 8: 8},
        average=0.95,
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
