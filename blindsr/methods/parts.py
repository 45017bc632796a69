"""The tables of parts, by the names they go by on the command line and in records.

A new part is one file and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor, nn

from blindsr.errors import UserError
from blindsr.estimators.kernelgan.solver import KernelGan
from blindsr.estimators.loop import ImageFactory, KernelFactory
from blindsr.estimators.spectral import KernelEstimate, KernelEstimator
from blindsr.generators.kernel import GaussianKernel, KernelNetwork
from blindsr.generators.latent import SphericalLatent
from blindsr.generators.pixels import Pixels
from blindsr.generators.skip import SkipNetwork, SkipSettings
from blindsr.generators.starts import isotropic_gaussian, kernel_pixels, no_kernel
from blindsr.likelihood.noise import FixedNoise, IidNoise, NoiseModel, PatchNoise
from blindsr.methods.presets import Preset
from blindsr.operators.degradation import Degradation, Padding
from blindsr.optimizers.base import Optimizer
from blindsr.optimizers.em import MonteCarloEm
from blindsr.optimizers.meta import MetaLearned
from blindsr.optimizers.plain import Alternating, Joint
from blindsr.optimizers.projected import ProjectedGradient
from blindsr.optimizers.refit import RefitKernel
from blindsr.priors.base import ImagePrior, KernelPrior
from blindsr.priors.flow import SUFFIX, FlowPrior, flow_for
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import HyperLaplacian, NoPrior, Tikhonov, TotalVariation
from blindsr.priors.motion import CameraShakePrior
from blindsr.priors.patch_groups import PatchGroups
from blindsr.restorers.base import Restorer
from blindsr.restorers.bicubic import BicubicRestorer, bicubic
from blindsr.restorers.map import MapRestorer
from blindsr.restorers.zssr import ZssrRestorer

T = TypeVar("T")


ImageMaker = Callable[[Preset], ImageFactory]
"""preset -> what makes x from parameters."""


PriorFactory = Callable[[Degradation, KernelEstimate | None], KernelPrior]
"""(degradation, estimate of the kernel where the method makes one) -> what the Monte Carlo step draws from."""


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


def gaussian_sampling(degradation: Degradation, estimate: KernelEstimate | None) -> KernelPrior:
    """Random Gaussian kernels in the published sampling range."""
    return GaussianKernelPrior.sampling(degradation.scale, degradation.kernel_size)


def camera_shake(degradation: Degradation, estimate: KernelEstimate | None) -> KernelPrior:
    """Random camera-shake kernels."""
    return CameraShakePrior.protocol(degradation.scale, degradation.kernel_size)


def spectral_draws(degradation: Degradation, estimate: KernelEstimate | None) -> KernelPrior:
    """Kernels from the spectral density of y."""
    if estimate is None:
        raise ValueError("the spectral prior needs the LR image: give it to `assemble`")
    return estimate.spectral


def gaussian_flow(degradation: Degradation, estimate: KernelEstimate | None) -> KernelPrior:
    """Kernels of the flow that learned the protocol's Gaussians."""
    return flow_for(degradation, "gaussian")


def motion_flow(degradation: Degradation, estimate: KernelEstimate | None) -> KernelPrior:
    """Kernels of the flow that learned camera shake."""
    return flow_for(degradation, "motion")


PRIORS: dict[str, Part[PriorFactory | None]] = _table(
    Part("mcmc", gaussian_sampling),
    Part("motion", camera_shake),
    Part("spectral", spectral_draws),
    Part("flow", gaussian_flow),
    Part("flow-motion", motion_flow),
    Part("none", None),
)
"""What the Monte Carlo step draws kernels from, and what a latent kernel is decoded by; `none` leaves the step and its
warm-up out."""


@dataclass(frozen=True)
class FlowLatent:
    """The kernel as a latent that the method's kernel prior, a flow, decodes; no Monte Carlo step is made then."""

    def factory(self, prior: KernelPrior | None, name: str) -> KernelFactory:
        """Return what makes the kernel; `name` is the prior's.

        Raises
        ------
        UserError
            If the prior is no flow.
        """
        if not isinstance(prior, FlowPrior):
            raise UserError(
                f"--prior {name}: this kernel is the latent of a flow; give flow, flow-motion or FILE{SUFFIX}"
            )
        return lambda y, degradation: SphericalLatent(prior)


def skip_network(preset: Preset) -> ImageFactory:
    """A skip network of the preset's size."""
    return skip_image(preset.skip)


def free_pixels(preset: Preset) -> ImageFactory:
    """Pixels, started at the bicubic enlargement."""
    return bicubic_image


IMAGES: dict[str, Part[ImageMaker]] = _table(Part("skip", skip_network), Part("pixels", free_pixels))
"""The image block of a method that makes steps."""


def kernel_network(y: Tensor, degradation: Degradation) -> nn.Module:
    """Build the published FC kernel network for an LR image and a degradation."""
    return KernelNetwork(degradation.kernel_size)


def explicit_gaussian(y: Tensor, degradation: Degradation) -> nn.Module:
    """Build an explicit Gaussian of standard deviation s at the nominal centre, as BSRDM starts."""
    return GaussianKernel(degradation.kernel_size, degradation.center, float(degradation.scale))


KernelBlock = KernelEstimator | KernelFactory | KernelGan | FlowLatent


KERNELS: dict[str, Part[KernelBlock]] = _table(
    Part("network", kernel_network),
    Part("spectral", KernelEstimator()),
    Part("gaussian", explicit_gaussian),
    Part("pixels", kernel_pixels),
    Part("isotropic", isotropic_gaussian),
    Part("latent", FlowLatent()),
    Part("gan", KernelGan()),
    Part("none", no_kernel),
)
"""The kernel block: `network` starts from random weights; `spectral` is a parametric kernel that starts at an estimate
from y alone and keeps its density Φ in the objective; `gaussian` is explicit; `pixels` are free; `isotropic` is
assumed, not estimated; `latent` is decoded by the kernel prior, a flow; `gan` is found by a solver of its own, see
`super_resolve.make_solver`; `none`: the method knows no kernel, and none is saved."""


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
)
"""What makes the final image from the kernel; `none` keeps the image of the run."""


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


def skip_image(settings: SkipSettings) -> ImageFactory:
    """Return the factory of a skip network for an LR image and a degradation."""

    def make(y: Tensor, degradation: Degradation) -> nn.Module:
        return SkipNetwork(y.shape[1], *degradation.hr_shape(*y.shape[-2:]), settings)

    return make


def bicubic_image(y: Tensor, degradation: Degradation) -> nn.Module:
    """Pixels, at the bicubic enlargement: the image of a method that makes no steps."""
    return Pixels(bordered(bicubic(y, degradation.scale, degradation.alignment), degradation))


def bordered(x: Tensor, degradation: Degradation) -> Tensor:
    """Give a picture (1, C, s h, s w) the border that the operator wants under VALID, edges repeated."""
    before, after = (max(n, 0) for n in degradation.margins) if degradation.padding is Padding.VALID else (0, 0)
    return nn.functional.pad(x, (before, after, before, after), mode="replicate")
