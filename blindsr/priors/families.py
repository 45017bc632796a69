"""The kernel families by name: one registry for `run`, `degrade`, `bench`, `train-flow` and the sampled posteriors.

A new family is a file with its laws and one entry in `FAMILIES`. What the uses ask of it:

    truth       the law of the true kernels in simulated test images, which is also what a flow learns
    sampling    the law that the Monte Carlo step draws from
    density     a smooth density over an unconstrained z, for the targets of samplers and for the spectral estimate
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from blindsr.errors import UserError
from blindsr.operators.degradation import Degradation
from blindsr.priors.base import KernelDensity, KernelPrior
from blindsr.priors.flow import SUFFIX, flow_for
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.mixture import MixtureKernelPrior
from blindsr.priors.motion import CameraShakePrior, ExposedShakePrior, LineKernelPrior
from blindsr.priors.normal import DiskShape, GaussianShape, GeneralizedGaussianShape, LineShape, SmoothKernels
from blindsr.priors.shaped import DiskKernelPrior, GeneralizedGaussianKernelPrior
from blindsr.priors.simplex import SimplexPrior

Law = Callable[[Degradation], KernelPrior]


@dataclass(frozen=True)
class KernelFamily:
    """A kernel family under its name, with its law for each use.

    Parameters
    ----------
    name : str
        Its name on the command line, in TOML files and in records.
    summary : str
        What its kernels are, in a few words.
    law : callable
        Degradation to the law of true kernels (`truth`).
    drawn : callable, optional
        Degradation to the law of the Monte Carlo step (`sampling`), where it is another one.
    smooth : callable, optional
        Degradation to the smooth parametric family (`density`).
    file : str, optional
        The file that defines the family, if it is not one of the package.
    """

    name: str
    summary: str
    law: Law
    drawn: Law | None = None
    smooth: Callable[[Degradation], SmoothKernels] | None = None
    file: str | None = None

    def truth(self, degradation: Degradation) -> KernelPrior:
        """Return the law of true kernels in simulations; UserError if there is none for this scale and kernel size."""
        return self._made(self.law, degradation)

    def sampling(self, degradation: Degradation) -> KernelPrior:
        """Return the law that the Monte Carlo step draws from; UserError if there is none for this scale and size."""
        return self._made(self.drawn or self.law, degradation)

    def _made(self, law: Law, degradation: Degradation) -> KernelPrior:
        try:
            return law(degradation)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"the kernel family {self.name}: {error}") from error

    def density(self, degradation: Degradation) -> KernelDensity:
        """Return a density over z: the smooth family, else the Monte Carlo law if it has one; else UserError."""
        found = self.sampling(degradation) if self.smooth is None else self.smooth(degradation)
        if isinstance(found, KernelDensity):
            return found
        raise UserError(
            f"the kernel family {self.name} has no density, only random draws; {', '.join(smooth_families())} have one"
        )


def _sized(law: Callable[[int, int], KernelPrior]) -> Law:
    """Return a law of (scale, kernel size) as one of a degradation."""
    return lambda degradation: law(degradation.scale, degradation.kernel_size)


FAMILIES: dict[str, KernelFamily] = {
    family.name: family
    for family in (
        KernelFamily(
            "gaussian",
            "anisotropic Gaussians; the Monte Carlo step draws wider ones than the test protocol",
            _sized(GaussianKernelPrior.truth),
            _sized(GaussianKernelPrior.sampling),
            GaussianShape.of,
        ),
        KernelFamily("motion", "camera shake; no density", _sized(CameraShakePrior.protocol)),
        KernelFamily("shake", "camera shake of 13 to 27 pixels; no density", _sized(ExposedShakePrior.protocol)),
        KernelFamily("line", "straight motion", _sized(LineKernelPrior.protocol), smooth=LineShape.of),
        KernelFamily("disk", "defocus", DiskKernelPrior.protocol, smooth=DiskShape.of),
        KernelFamily(
            "mixture",
            "line, shake, disk or gaussian, or a motion with an optical blur; no density",
            MixtureKernelPrior.protocol,
        ),
        KernelFamily(
            "generalized-gaussian",
            "Gaussians with heavier tails or flatter tops",
            GeneralizedGaussianKernelPrior,
            smooth=GeneralizedGaussianShape.of,
        ),
        KernelFamily("simplex", "free pixels around a Gaussian envelope (Dirichlet)", SimplexPrior.of),
        KernelFamily("flow", "a flow that learned gaussian", flow_for),
        KernelFamily("flow-motion", "a flow that learned motion", partial(flow_for, source="motion")),
    )
}
"""The families that come with blindsr, by name."""

ALIASES = {"mcmc": "gaussian"}
"""Other names: the command line of the MLMC paper calls the Gaussians of its Monte Carlo step `mcmc`."""


def kernel_family(name: str) -> KernelFamily:
    """Return the family of a name or alias.

    Raises
    ------
    UserError
        If there is none of that name.
    """
    family = FAMILIES.get(ALIASES.get(name, name))
    if family is None:
        raise UserError(
            f"{name}: unknown kernel family; choose {', '.join(FAMILIES)}, a flow's file (*{SUFFIX}) "
            "or your own, my_file.py:MyKernels"
        )
    return family


def smooth_families() -> tuple[str, ...]:
    """Return the names of the families that have a smooth parametric density."""
    return tuple(name for name, family in FAMILIES.items() if family.smooth is not None)
