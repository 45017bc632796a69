"""Every method is a row: parts from the tables below, assembled for one degradation and one preset.

A new part is one file and one line in its table; a new method is one row in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from torch import Tensor, nn

from blindsr.degradation import Degradation, Padding
from blindsr.generators.kernel import FixedKernel, GaussianKernel, KernelNetwork, ParametricKernel
from blindsr.generators.pixels import Pixels
from blindsr.generators.skip import SkipNetwork, SkipSettings
from blindsr.kernel_estimate import KernelEstimate, KernelEstimator
from blindsr.kernelgan.solver import KernelGan
from blindsr.likelihood.data_term import DataTerm, GaussianLikelihood, SsimThenMse
from blindsr.likelihood.noise import FixedNoise, IidNoise, NoiseModel, PatchNoise
from blindsr.optimizers.base import Optimizer
from blindsr.optimizers.em import MonteCarloEm
from blindsr.optimizers.meta import MetaLearned
from blindsr.optimizers.plain import Alternating, Joint
from blindsr.optimizers.refit import RefitKernel
from blindsr.presets import BSRDM, Preset
from blindsr.priors.base import ImagePrior, KernelEnergy, KernelPrior
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import HyperLaplacian, NoPrior, Tikhonov, TotalVariation
from blindsr.priors.motion import CameraShakePrior
from blindsr.priors.spectral import MomentEnergy
from blindsr.restorers.base import Restorer
from blindsr.restorers.bicubic import BicubicRestorer, bicubic
from blindsr.restorers.map import MapRestorer
from blindsr.restorers.tiled import restore
from blindsr.samplers.mcka import MonteCarloKernelApproximation
from blindsr.solver import Assembly, ImageFactory, KernelFactory
from blindsr.stopping import MovingVariance

T = TypeVar("T")

PriorFactory = Callable[[Degradation, KernelEstimate | None], KernelPrior]
"""(degradation, estimate of the kernel where the method makes one) -> what the Monte Carlo step draws from."""


@dataclass(frozen=True)
class Part(Generic[T]):
    """A part, the name it goes by on the command line and in records, and the file that decides it, if one does."""

    name: str
    value: T
    file: str | None = None


@dataclass(frozen=True)
class Regularizer:
    """An image prior with its weight ρ (Eq. 39)."""

    prior: ImagePrior
    rho: float


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


PRIORS: dict[str, Part[PriorFactory | None]] = _table(
    Part("mcmc", gaussian_sampling), Part("motion", camera_shake), Part("spectral", spectral_draws), Part("none", None)
)
"""What the Monte Carlo step draws kernels from; `none` leaves the step and its warm-up out."""


def explicit_gaussian(y: Tensor, degradation: Degradation) -> nn.Module:
    """Build an explicit Gaussian of standard deviation s at the nominal centre, as BSRDM starts."""
    return GaussianKernel(degradation.kernel_size, degradation.center, float(degradation.scale))


KERNELS: dict[str, Part[KernelEstimator | KernelFactory | KernelGan | None]] = _table(
    Part("network", None),
    Part("spectral", KernelEstimator()),
    Part("gaussian", explicit_gaussian),
    Part("gan", KernelGan()),
)
"""The kernel block: `network` starts from random weights; `spectral` is a parametric kernel that starts at an estimate
from y alone and keeps its density Φ in the objective; `gaussian` is an explicit Gaussian; `gan` is found by
a solver of its own, see `blindsr.super_resolve.make_solver`."""

OPTIMIZERS: dict[str, Part[Optimizer]] = _table(
    Part("meta", MetaLearned(interval=3)),
    Part("am", Alternating()),
    Part("joint", Joint()),
    Part("refit", RefitKernel()),
    Part("em", MonteCarloEm()),
)

RESTORERS: dict[str, Part[Restorer | None]] = _table(
    Part("none", None),
    Part("map", MapRestorer()),
    Part("tv", MapRestorer(similar=None)),
    Part("bicubic", BicubicRestorer()),
)
"""What makes the final image from the kernel; `none` keeps the image of the run."""

IMAGE_PRIORS: dict[str, Part[Regularizer]] = _table(
    Part("hyper-laplacian", Regularizer(HyperLaplacian(), 0.2)),
    Part("tv", Regularizer(TotalVariation(), 0.2)),
    Part("tikhonov", Regularizer(Tikhonov(), 2.0)),
    Part("none", Regularizer(NoPrior(), 0.0)),
)

NOISES: dict[str, Part[NoiseModel]] = _table(
    Part("iid", IidNoise()), Part("patch", PatchNoise()), Part("none", FixedNoise())
)
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
    kernel: Part[KernelEstimator | KernelFactory | KernelGan | None] = KERNELS["network"]
    restorer: Part[Restorer | None] = RESTORERS["none"]
    guide: Part[Restorer | None] = RESTORERS["none"]
    """Where a skip network gets its start from: the image that this restorer makes with the estimated kernel is the
    network's input, and the result is the mean of that image and the network's."""
    steps: int | None = None
    """Inner steps; None takes the preset's. 0: no steps, the kernel is its estimate, the restorer makes the image."""
    stopping: MovingVariance | None = None
    numbers: Preset | None = None
    """Sizes and rates of its own, whatever the preset."""

    @property
    def iterates(self) -> bool:
        """Whether steps are made."""
        return self.steps != 0

    @property
    def composed(self) -> bool:
        """Whether the steps are those of the loop that every method shares, on an image and a kernel block."""
        return self.iterates and not isinstance(self.kernel.value, KernelGan)

    @property
    def estimator(self) -> KernelEstimator | None:
        """What estimates the kernel from y alone, before any step, for the kernel block to start from."""
        return self.kernel.value if isinstance(self.kernel.value, KernelEstimator) else None

    @property
    def estimates(self) -> bool:
        """Whether the kernel is first estimated from y alone."""
        return self.estimator is not None or self.prior.value is spectral_draws


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
        Method(
            "fast-map",
            "kernel from spectra and MAP images, then a MAP image; seconds",
            PRIORS["none"],
            OPTIMIZERS["refit"],
            IMAGE_PRIORS["none"],
            kernel=KERNELS["spectral"],
            restorer=RESTORERS["map"],
            steps=0,
        ),
        Method(
            "spectral-dip",
            "the same kernel, refitted while a skip network makes the image",
            PRIORS["none"],
            OPTIMIZERS["refit"],
            IMAGE_PRIORS["hyper-laplacian"],
            kernel=KERNELS["spectral"],
            guide=RESTORERS["map"],
            steps=240,
            stopping=MovingVariance(),
        ),
        Method(
            "kernelgan",
            "kernel by an internal GAN (Bell-Kligler et al. 2019), then a MAP image",
            PRIORS["none"],
            OPTIMIZERS["joint"],
            IMAGE_PRIORS["none"],
            kernel=KERNELS["gan"],
            restorer=RESTORERS["map"],
            steps=3000,
        ),
        Method(
            "bsrdm",
            "Monte Carlo EM, latent Langevin, noise by patches (Yue et al. 2022)",
            PRIORS["none"],
            OPTIMIZERS["em"],
            IMAGE_PRIORS["hyper-laplacian"],
            NOISES["patch"],
            GaussianLikelihood(),
            kernel=KERNELS["gaussian"],
            steps=BSRDM.steps,
            numbers=BSRDM,
        ),
    )
}


DEFAULT_METHOD = "fast-map"
"""What `blindsr run` does if no method is named."""


def skip_image(settings: SkipSettings) -> ImageFactory:
    """Return the factory of a skip network for an LR image and a degradation."""

    def make(y: Tensor, degradation: Degradation) -> nn.Module:
        return SkipNetwork(y.shape[1], *degradation.hr_shape(*y.shape[-2:]), settings)

    return make


def guided_image(settings: SkipSettings, guide: Tensor) -> ImageFactory:
    """Return the factory of a skip network whose input is an image (1, C, s h, s w) instead of noise."""

    def make(y: Tensor, degradation: Degradation) -> nn.Module:
        network = SkipNetwork(y.shape[1], *degradation.hr_shape(*y.shape[-2:]), settings)
        fits = guide.shape[1] in (1, network.z.shape[1])
        network.z.copy_(bordered(guide if fits else guide.mean(1, keepdim=True), degradation))
        return network

    return make


def kernel_network(y: Tensor, degradation: Degradation) -> nn.Module:
    """Build the published FC kernel network for an LR image and a degradation."""
    return KernelNetwork(degradation.kernel_size)


def bicubic_image(y: Tensor, degradation: Degradation) -> nn.Module:
    """Pixels, at the bicubic enlargement: the image of a method that makes no steps."""
    return Pixels(bordered(bicubic(y, degradation.scale, degradation.alignment), degradation))


def bordered(x: Tensor, degradation: Degradation) -> Tensor:
    """Give a picture (1, C, s h, s w) the border that the operator wants under VALID, edges repeated."""
    before, after = (max(n, 0) for n in degradation.margins) if degradation.padding is Padding.VALID else (0, 0)
    return nn.functional.pad(x, (before, after, before, after), mode="replicate")


def estimated_kernel(estimate: KernelEstimate) -> KernelFactory:
    """Return the factory of a kernel of the estimate's family, started at the estimate; fixed where images had no say.

    (Where the estimator made no refinement rounds, an image would only spoil what the spectra say.)
    """

    def make(y: Tensor, degradation: Degradation) -> nn.Module:
        if estimate.rounds == 0:
            return FixedKernel(estimate.kernel)
        return ParametricKernel(estimate.spectral.family, estimate.z)

    return make


def kernel_block(method: Method, estimate: KernelEstimate | None) -> tuple[KernelFactory, KernelEnergy | None]:
    """Return what makes the kernel, and the energy Φ that the method keeps of it.

    Raises
    ------
    ValueError
        If the method's kernel comes from a solver of its own.
    """
    start = method.kernel.value
    if isinstance(start, KernelGan):
        raise ValueError(f"method {method.name} has a solver of its own: use `make_solver` or `super_resolve`")
    if isinstance(start, KernelEstimator):
        assert estimate is not None  # `assemble` has made it
        return estimated_kernel(estimate), MomentEnergy.of(estimate.spectral)
    return start or kernel_network, None


def known_noise(method: Method) -> float | None:
    """Noise level where the method was told it (units of 0..1)."""
    part = method.noise
    return part.value.std if part and part.name != "none" and isinstance(part.value, FixedNoise) else None


def assemble(method: Method, degradation: Degradation, preset: Preset, y: Tensor | None = None) -> Assembly:
    """Put a method's parts together.

    Parameters
    ----------
    method : Method
        A row of `METHODS`, or your own.
    degradation : Degradation
        Forward operator.
    preset : Preset
        Sizes, steps and rates.
    y : Tensor, optional
        LR image (1, C, h, w), values 0..1; methods that estimate the kernel from y alone need it, and do so here.

    Returns
    -------
    Assembly
        Ready for `blindsr.Solver`.

    Raises
    ------
    ValueError
        If y is missing where it is needed.
    """
    preset = method.numbers or preset
    estimate = None
    if method.estimates:
        if y is None:
            raise ValueError(f"method {method.name} estimates the kernel from the LR image: give it to `assemble`")
        estimate = (method.estimator or KernelEstimator(rounds=0))(y, degradation, known_noise(method))
    image = skip_image(preset.skip) if method.iterates else bicubic_image
    guide = None
    if method.guide.value is not None and estimate is not None and y is not None:
        guide = restore(method.guide.value, y.cpu(), estimate.kernel, degradation, estimate.noise_std)
        image = guided_image(preset.skip, guide)
    kernel, kernel_prior = kernel_block(method, estimate)
    monte_carlo = None
    if method.prior.value is not None:
        prior = method.prior.value(degradation, estimate)
        monte_carlo = MonteCarloKernelApproximation(
            prior,
            preset.n_kernels,
            preset.n_simulations.get(degradation.scale, 1),
            warmup_steps=preset.warmup_steps,
        )
    noise = method.noise or NOISES[preset.noise]
    return Assembly(
        degradation=degradation,
        image=image,
        anchor=guide,
        stopping=method.stopping,
        kernel=kernel,
        kernel_prior=kernel_prior,
        estimate=estimate,
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
        noise_steps=preset.noise_steps,
    )
