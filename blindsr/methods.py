"""Every method is a row: parts from the tables below, assembled for one degradation and one preset.

A new part is one file and one line in its table; a new method is one row in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from torch import Tensor, nn

from blindsr.degradation import Degradation
from blindsr.generators.kernel import KernelNetwork
from blindsr.generators.skip import SkipNetwork, SkipSettings
from blindsr.likelihood.data_term import DataTerm, SsimThenMse
from blindsr.likelihood.noise import FixedNoise, IidNoise, NoiseModel
from blindsr.optimizers.base import Optimizer
from blindsr.optimizers.meta import MetaLearned
from blindsr.optimizers.plain import Alternating, Joint
from blindsr.presets import Preset
from blindsr.priors.base import ImagePrior, KernelPrior
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import HyperLaplacian, NoPrior, Tikhonov, TotalVariation
from blindsr.priors.motion import CameraShakePrior
from blindsr.samplers.mcka import MonteCarloKernelApproximation
from blindsr.solver import Assembly, ImageFactory

T = TypeVar("T")

PriorFactory = Callable[[Degradation], KernelPrior]


@dataclass(frozen=True)
class Part(Generic[T]):
    """A part and the name it goes by on the command line and in records."""

    name: str
    value: T


@dataclass(frozen=True)
class Regularizer:
    """An image prior with its weight ρ (Eq. 39)."""

    prior: ImagePrior
    rho: float


def _table(*parts: Part[T]) -> dict[str, Part[T]]:
    return {p.name: p for p in parts}


def gaussian_sampling(degradation: Degradation) -> KernelPrior:
    """Random Gaussian kernels in the published sampling range."""
    return GaussianKernelPrior.sampling(degradation.scale, degradation.kernel_size)


def camera_shake(degradation: Degradation) -> KernelPrior:
    """Random camera-shake kernels."""
    return CameraShakePrior.protocol(degradation.scale, degradation.kernel_size)


PRIORS: dict[str, Part[PriorFactory | None]] = _table(
    Part("mcmc", gaussian_sampling), Part("motion", camera_shake), Part("none", None)
)
"""What the Monte Carlo step draws kernels from; `none` leaves the step and its warm-up out."""

OPTIMIZERS: dict[str, Part[Optimizer]] = _table(
    Part("meta", MetaLearned(interval=3)), Part("am", Alternating()), Part("joint", Joint())
)

IMAGE_PRIORS: dict[str, Part[Regularizer]] = _table(
    Part("hyper-laplacian", Regularizer(HyperLaplacian(), 0.2)),
    Part("tv", Regularizer(TotalVariation(), 0.2)),
    Part("tikhonov", Regularizer(Tikhonov(), 2.0)),
    Part("none", Regularizer(NoPrior(), 0.0)),
)

NOISES: dict[str, Part[NoiseModel]] = _table(Part("iid", IidNoise()), Part("none", FixedNoise()))
"""`none` is the published setting: no estimate, the image prior's weight fixed."""


def noise_level(std: float) -> Part[NoiseModel]:
    """Return the part for a known noise standard deviation (units of 0..1)."""
    return Part(f"{std:g}", FixedNoise(std))


@dataclass(frozen=True)
class Method:
    """A row of the table: one part for each place. `noise` and `data_term` None take the preset's default."""

    name: str
    summary: str
    prior: Part[PriorFactory | None]
    optimizer: Part[Optimizer]
    image_prior: Part[Regularizer]
    noise: Part[NoiseModel] | None = None
    data_term: DataTerm | None = None


_MLMC = Method("mlmc", "the paper's method", PRIORS["mcmc"], OPTIMIZERS["meta"], IMAGE_PRIORS["hyper-laplacian"])

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        _MLMC,
        replace(_MLMC, name="mlmc-no-mc", summary="no Monte Carlo step, no warm-up", prior=PRIORS["none"]),
        replace(_MLMC, name="mlmc-no-meta", summary="plain alternating minimisation", optimizer=OPTIMIZERS["am"]),
        replace(_MLMC, name="mlmc-tv", summary="total variation", image_prior=IMAGE_PRIORS["tv"]),
        replace(_MLMC, name="mlmc-tikhonov", summary="Tikhonov", image_prior=IMAGE_PRIORS["tikhonov"]),
        replace(_MLMC, name="mlmc-no-image-prior", summary="no image prior", image_prior=IMAGE_PRIORS["none"]),
        replace(_MLMC, name="mlmc-motion", summary="random camera shake sampled", prior=PRIORS["motion"]),
        Method(
            "double-dip",
            "two deep image priors, joint descent (Ren et al. 2020)",
            PRIORS["none"],
            OPTIMIZERS["joint"],
            IMAGE_PRIORS["none"],
            NOISES["none"],
            SsimThenMse(80),
        ),
    )
}


def skip_image(settings: SkipSettings) -> ImageFactory:
    """Return the factory of a skip network for an LR image and a degradation."""

    def make(y: Tensor, degradation: Degradation) -> nn.Module:
        return SkipNetwork(y.shape[1], *degradation.hr_shape(*y.shape[-2:]), settings)

    return make


def kernel_network(y: Tensor, degradation: Degradation) -> nn.Module:
    """Build the published FC kernel network for an LR image and a degradation."""
    return KernelNetwork(degradation.kernel_size)


def assemble(method: Method, degradation: Degradation, preset: Preset) -> Assembly:
    """Put a method's parts together.

    Parameters
    ----------
    method : Method
        A row of `METHODS`, or your own.
    degradation : Degradation
        Forward operator.
    preset : Preset
        Sizes, steps and rates.

    Returns
    -------
    Assembly
        Ready for `blindsr.Solver`.
    """
    monte_carlo = None
    if method.prior.value is not None:
        prior = method.prior.value(degradation)
        monte_carlo = MonteCarloKernelApproximation(
            prior,
            preset.n_kernels,
            preset.n_simulations.get(degradation.scale, 1),
            warmup_steps=preset.warmup_steps,
        )
    noise = method.noise or NOISES[preset.noise]
    return Assembly(
        degradation=degradation,
        image=skip_image(preset.skip),
        kernel=kernel_network,
        optimizer=method.optimizer.value,
        data_term=method.data_term or SsimThenMse(preset.ssim_steps, preset.ssim_below),
        image_prior=method.image_prior.value.prior,
        rho=method.image_prior.value.rho,
        noise=noise.value,
        monte_carlo=monte_carlo,
        inner_steps=preset.inner_steps,
        image_lr=preset.image_lr,
        kernel_lr=preset.kernel_lr,
        average=preset.average,
    )
