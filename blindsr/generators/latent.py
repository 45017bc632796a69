"""The kernel as a latent of white noise on a sphere, decoded by a prior that was trained beforehand (FKP-DIP)."""

from __future__ import annotations

import math

import torch

from blindsr.generators.kernel import ParametricKernel
from blindsr.priors.base import KernelDensity


class SphericalLatent(ParametricKernel):
    """k = kernel(z), z on a sphere about 0; its parameter is z (Eqs. 9-11).

    White noise in d dimensions lies near the sphere of radius √d; FKP-DIP keeps its latent, d = K², at K - 1, a little
    inside (Liang et al. 2021).

    Parameters
    ----------
    family : KernelDensity
        What z means; under its prior z is N(0, I).
    radius : float, optional
        Default: √d - 1.

    Notes
    -----
    The start is drawn from torch's global random state: construct inside `blindsr.random.seeded`.
    """

    def __init__(self, family: KernelDensity, radius: float | None = None) -> None:
        super().__init__(family, torch.randn(family.dim))
        self.radius = math.sqrt(family.dim) - 1 if radius is None else radius
        self.retract_()

    @torch.no_grad()
    def retract_(self) -> None:
        """Put z back on the sphere."""
        self.z.mul_(self.radius / self.z.norm().clamp_min(1e-12))
