"""The tables of parts, by the names they go by on the command line and in records.

A new part is one file and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from blindsr.errors import UserError
from blindsr.estimators.problem import ImageFactory, KernelBlock, KernelFactory, PriorFactory, Problem, free_kernel
from blindsr.generators.kernel import FixedKernel, GaussianKernel, KernelNetwork, ParametricKernel
from blindsr.generators.latent import SphericalLatent
from blindsr.generators.memory import check_memory
from blindsr.generators.pixels import Pixels
from blindsr.generators.skip import SkipNetwork, SkipSettings
from blindsr.generators.starts import kernel_pixels, protocol_mean
from blindsr.likelihood.noise import FixedNoise, IidNoise, NoiseModel, PatchNoise
from blindsr.operators.degradation import Degradation, Padding
from blindsr.optimizers.base import Optimizer
from blindsr.optimizers.em import MonteCarloEm
from blindsr.optimizers.meta import MetaLearned
from blindsr.optimizers.plain import Alternating, Joint
from blindsr.optimizers.projected import ProjectedGradient
from blindsr.optimizers.refit import RefitKernel
from blindsr.posteriors.spectral_laplace import MomentEnergy
from blindsr.priors.base import ImagePrior, KernelDensity, KernelPrior
from blindsr.priors.families import FAMILIES, KernelFamily
from blindsr.priors.flow import SUFFIX, FlowPrior
from blindsr.priors.image import HyperLaplacian, NoPrior, Tikhonov, TotalVariation
from blindsr.priors.patch_groups import PatchGroups
from blindsr.restorers.base import Restorer
from blindsr.restorers.bicubic import BicubicRestorer, bicubic
from blindsr.restorers.map import MapRestorer
from blindsr.restorers.unfolded import UnfoldedRestorer
from blindsr.restorers.zssr import ZssrRestorer

T = TypeVar("T")


@dataclass(frozen=True)
class Part(Generic[T]):
    """A part, the name it goes by on the command line and in records, and the file that decides it, if one does."""

    name: str
    value: T
    file: str | None = None


PUBLISHED_RHO = HyperLaplacian.rho
"""ρ of an image prior that states none."""


@dataclass(frozen=True)
class Regularizer:
    """An image prior with its weight ρ in the joint loop (Eq. 39); in a MAP image it has the weight `map_weight`."""

    prior: ImagePrior
    rho: float

    @classmethod
    def of(cls, prior: ImagePrior) -> Regularizer:
        """Take ρ from the prior's attribute `rho`, or the published one."""
        return cls(prior, float(getattr(prior, "rho", PUBLISHED_RHO)))


def _table(*parts: Part[T]) -> dict[str, Part[T]]:
    return {p.name: p for p in parts}


@dataclass(frozen=True)
class FamilyPrior:
    """A kernel family as the prior of a method: what the Monte Carlo step draws from, or what decodes a latent."""

    family: KernelFamily

    def __call__(self, problem: Problem) -> KernelPrior:
        """Return the law that the Monte Carlo step draws from."""
        return self.family.sampling(problem.degradation)

    def density(self, degradation: Degradation) -> KernelDensity | None:
        """Return the density that a sampler's target takes; UserError where the family has none."""
        return self.family.density(degradation)


class SpectralDraws:
    """Kernels from the spectral posterior of y."""

    def __call__(self, problem: Problem) -> KernelPrior:
        """Return the posterior, which draws kernels."""
        return problem.spectral.spectral

    def density(self, degradation: Degradation) -> KernelDensity | None:
        """None: a posterior is no prior of a target; the family that it was fitted in is taken."""
        return None


PRIORS: dict[str, Part[PriorFactory | None]] = {
    **{name: Part(name, FamilyPrior(family)) for name, family in FAMILIES.items()},
    **_table(Part("spectral", SpectralDraws()), Part("none", None)),
}
"""What the Monte Carlo step draws kernels from, and what decodes a latent kernel: the kernel families of
`priors.families`, draws from the spectral posterior of y, or `none`, which leaves the step and its warm-up out."""


@dataclass(frozen=True)
class SkipImage:
    """The image as a skip network; started from the problem's guide image, where there is one."""

    settings: SkipSettings
    """Size of the network."""

    def __call__(self, problem: Problem) -> nn.Module:
        """Build the network for a problem."""
        d, guide = problem.degradation, problem.guide
        network = SkipNetwork(problem.y.shape[1], *d.hr_shape(*problem.y.shape[-2:]), self.settings)
        if guide is not None:
            fits = guide.shape[1] in (1, network.z.shape[1])
            network.z.copy_(bordered(guide if fits else guide.mean(1, keepdim=True), d))
        return network

    def check(self, height: int, width: int, device: torch.device) -> None:
        """Raise ValueError if the memory will not do for an HR image of this size."""
        check_memory(height, width, self.settings, device)


def free_pixels(problem: Problem) -> nn.Module:
    """Pixels, started at the bicubic enlargement."""
    d = problem.degradation
    return Pixels(bordered(bicubic(problem.y, d.scale, d.alignment), d))


ImageMaker = Callable[[SkipSettings], ImageFactory]
"""Size of network -> what makes the image generator."""

IMAGES: dict[str, Part[ImageMaker]] = _table(Part("skip", SkipImage), Part("pixels", lambda settings: free_pixels))
"""The image generator of the joint loop, for the preset's size of network."""


def explicit_gaussian(degradation: Degradation) -> nn.Module:
    """Build an explicit Gaussian of standard deviation s at the nominal centre, as BSRDM starts."""
    return GaussianKernel(degradation.kernel_size, degradation.center, float(degradation.scale))


class FlowLatent:
    """The kernel as a latent that the kernel prior, a flow, decodes; no Monte Carlo step is made then."""

    def check(self, prior: KernelPrior | None) -> FlowPrior:
        """Return the prior, or raise UserError where it is no flow."""
        if isinstance(prior, FlowPrior):
            return prior
        raise UserError(f"this method's kernel is the latent of a flow: give --prior flow, flow-motion or FILE{SUFFIX}")

    def __call__(self, problem: Problem, prior: KernelPrior | None) -> KernelBlock:
        """Build the latent."""
        return KernelBlock(SphericalLatent(self.check(prior)))


def estimated_kernel(problem: Problem, prior: KernelPrior | None) -> KernelBlock:
    """A kernel of the estimate's family, started at the estimate from y alone, with its density Φ in the objective.

    It stays fixed where the estimator made no refinement on images: an image would only spoil what the spectra say.
    """
    found = problem.spectral
    fixed = found.rounds == 0
    module = FixedKernel(found.kernel) if fixed else ParametricKernel(found.spectral.family, found.z)
    return KernelBlock(module, MomentEnergy.of(found.spectral), prior)


class AssumedGaussian:
    """The protocol's mean Gaussian, assumed and never changed."""

    def check(self, prior: KernelPrior | None) -> None:
        """Raise UserError where there is a kernel prior."""
        if prior is not None:
            raise UserError("this method's kernel is fixed: leave out --prior")

    def __call__(self, problem: Problem, prior: KernelPrior | None) -> KernelBlock:
        """Build the kernel."""
        self.check(prior)
        return KernelBlock(FixedKernel(protocol_mean(problem.degradation)), assumed=True)


KERNELS: dict[str, Part[KernelFactory]] = _table(
    Part("network", free_kernel(lambda d: KernelNetwork(d.kernel_size))),
    Part("spectral", estimated_kernel),
    Part("gaussian", free_kernel(explicit_gaussian)),
    Part("pixels", free_kernel(kernel_pixels)),
    Part("isotropic", AssumedGaussian()),
    Part("latent", FlowLatent()),
)
"""The kernel generator of the joint loop: `network` starts from random weights; `spectral` is a parametric kernel that
starts at an estimate from y alone and keeps its density Φ in the objective; `gaussian` is explicit; `pixels` are free;
`isotropic` is assumed, not estimated; `latent` is decoded by the kernel prior, a flow."""


OPTIMIZERS: dict[str, Part[Optimizer]] = _table(
    Part("meta", MetaLearned(interval=3)),
    Part("am", Alternating()),
    Part("joint", Joint()),
    Part("refit", RefitKernel()),
    Part("projected", ProjectedGradient()),
    Part("em", MonteCarloEm()),
    Part("image-first", Joint(kernel_from=75)),
)


RESTORERS: dict[str, Part[Restorer | None]] = _table(
    Part("none", None),
    Part("map", MapRestorer()),
    Part("tv", MapRestorer(TotalVariation())),
    Part("bicubic", BicubicRestorer()),
    Part("zssr", ZssrRestorer()),
    Part("unfolded", UnfoldedRestorer()),
)
"""What makes the final image from the kernel; `none` keeps the image of the run. Of these, `unfolded` alone was trained
beforehand."""


IMAGE_PRIORS: dict[str, Part[Regularizer]] = _table(
    Part("hyper-laplacian", Regularizer.of(HyperLaplacian())),
    Part("tv", Regularizer.of(TotalVariation())),
    Part("tikhonov", Regularizer.of(Tikhonov())),
    Part("patch-groups", Regularizer.of(PatchGroups())),
    Part("none", Regularizer.of(NoPrior())),
)
"""Image priors, of the joint loop and of MAP images alike."""


NOISES: dict[str, Part[NoiseModel]] = _table(
    Part("iid", IidNoise()), Part("patch", PatchNoise()), Part("none", FixedNoise())
)
"""`none` is the published setting: no estimate, the image prior's weight fixed."""


def noise_level(std: float) -> Part[NoiseModel]:
    """Return the part for a known noise standard deviation (units of 0..1)."""
    return Part(f"{std:g}", FixedNoise(std))


def bordered(x: Tensor, degradation: Degradation) -> Tensor:
    """Give a picture (1, C, s h, s w) the border that the operator wants under VALID, edges repeated."""
    before, after = (max(n, 0) for n in degradation.margins) if degradation.padding is Padding.VALID else (0, 0)
    return nn.functional.pad(x, (before, after, before, after), mode="replicate")
