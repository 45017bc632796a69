"""Every method is a row: parts from the tables of `methods.parts`, assembled for one degradation and one preset.

A new method is one row in `METHODS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from blindsr.estimators.kernelgan.solver import KernelGan
from blindsr.estimators.loop import Assembly, ImageFactory, KernelFactory
from blindsr.estimators.spectral import KernelEstimate, KernelEstimator
from blindsr.estimators.stopping import MovingVariance
from blindsr.generators.kernel import FixedKernel, ParametricKernel
from blindsr.generators.skip import SkipNetwork, SkipSettings
from blindsr.generators.starts import no_kernel
from blindsr.likelihood.data_term import DataTerm, GaussianLikelihood, SsimThenMse
from blindsr.likelihood.noise import FixedNoise, NoiseModel
from blindsr.methods.parts import (
    IMAGE_PRIORS,
    IMAGES,
    KERNELS,
    NOISES,
    OPTIMIZERS,
    PRIORS,
    RESTORERS,
    FlowLatent,
    ImageMaker,
    KernelBlock,
    Part,
    PriorFactory,
    Regularizer,
    bicubic_image,
    bordered,
    skip_network,
    spectral_draws,
)
from blindsr.methods.presets import BSRDM, Preset
from blindsr.operators.degradation import Degradation
from blindsr.optimizers.base import Optimizer
from blindsr.posteriors.spectral_laplace import MomentEnergy
from blindsr.priors.base import KernelEnergy, KernelPrior
from blindsr.restorers.base import Restorer
from blindsr.restorers.tiled import restore
from blindsr.samplers.mcka import MonteCarloKernelApproximation


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
    image: Part[ImageMaker] = IMAGES["skip"]
    kernel: Part[KernelBlock] = KERNELS["network"]
    restorer: Part[Restorer | None] = RESTORERS["none"]
    guide: Part[Restorer | None] = RESTORERS["none"]
    """Where a skip network gets its start from: the image that this restorer makes with the estimated kernel is the
    network's input, and the result is the mean of that image and the network's."""
    steps: int | None = None
    """Inner steps; None takes the preset's. 0: no steps, the kernel is its estimate, the restorer makes the image."""
    stopping: MovingVariance | None = None
    numbers: Preset | None = None
    """Sizes and rates of its own, whatever the preset."""
    kernel_lr: float | None = None
    """Adam's rate of the kernel block; None takes the preset's."""

    @property
    def iterates(self) -> bool:
        """Whether steps are made."""
        return self.steps != 0

    @property
    def composed(self) -> bool:
        """Whether the steps are those of the loop that every method shares, on an image and a kernel block."""
        return self.iterates and not isinstance(self.kernel.value, KernelGan)

    @property
    def uses_network(self) -> bool:
        """Whether a skip network makes the image of the steps."""
        return self.composed and self.image.value is skip_network

    @property
    def estimator(self) -> KernelEstimator | None:
        """What estimates the kernel from y alone, before any step, for the kernel block to start from."""
        return self.kernel.value if isinstance(self.kernel.value, KernelEstimator) else None

    @property
    def estimates(self) -> bool:
        """Whether the kernel is first estimated from y alone."""
        return self.estimator is not None or self.prior.value is spectral_draws

    @property
    def has_kernel(self) -> bool:
        """Whether the method has a kernel at all, found or assumed."""
        return self.kernel.value is not no_kernel


_MLMC = Method("mlmc", "the paper's method", PRIORS["gaussian"], OPTIMIZERS["meta"], IMAGE_PRIORS["hyper-laplacian"])


_BICUBIC = Method(
    "bicubic",
    "interpolation on the protocol's grid (Keys 1981)",
    PRIORS["none"],
    OPTIMIZERS["joint"],
    IMAGE_PRIORS["none"],
    kernel=KERNELS["none"],
    restorer=RESTORERS["bicubic"],
    steps=0,
)


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
            "pam",
            "projected alternating minimisation, total variation (Perrone & Favaro 2016)",
            PRIORS["none"],
            OPTIMIZERS["projected"],
            IMAGE_PRIORS["tv"],
            NOISES["none"],
            GaussianLikelihood(),
            IMAGES["pixels"],
            KERNELS["pixels"],
            steps=1500,
        ),
        Method(
            "dip",
            "deep image prior, kernel assumed (Ulyanov et al. 2018)",
            PRIORS["none"],
            OPTIMIZERS["joint"],
            IMAGE_PRIORS["none"],
            NOISES["none"],
            GaussianLikelihood(),
            kernel=KERNELS["isotropic"],
        ),
        _BICUBIC,
        replace(_BICUBIC, name="external", summary="a model of your own, by --restorer", restorer=RESTORERS["none"]),
        Method(
            "fkp-dip",
            "the latent of a trained flow of kernels (Liang et al. 2021)",
            PRIORS["flow"],
            OPTIMIZERS["image-first"],
            IMAGE_PRIORS["none"],
            NOISES["none"],
            SsimThenMse(80),
            kernel=KERNELS["latent"],
            kernel_lr=0.5,
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
            "kernel by an internal GAN, then ZSSR (Bell-Kligler et al. 2019)",
            PRIORS["none"],
            OPTIMIZERS["joint"],
            IMAGE_PRIORS["none"],
            kernel=KERNELS["gan"],
            restorer=RESTORERS["zssr"],
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


def guided_image(settings: SkipSettings, guide: Tensor) -> ImageFactory:
    """Return the factory of a skip network whose input is an image (1, C, s h, s w) instead of noise."""

    def make(y: Tensor, degradation: Degradation) -> nn.Module:
        network = SkipNetwork(y.shape[1], *degradation.hr_shape(*y.shape[-2:]), settings)
        fits = guide.shape[1] in (1, network.z.shape[1])
        network.z.copy_(bordered(guide if fits else guide.mean(1, keepdim=True), degradation))
        return network

    return make


def estimated_kernel(estimate: KernelEstimate) -> KernelFactory:
    """Return the factory of a kernel of the estimate's family, started at the estimate; fixed where images had no say.

    (Where the estimator made no refinement rounds, an image would only spoil what the spectra say.)
    """

    def make(y: Tensor, degradation: Degradation) -> nn.Module:
        if estimate.rounds == 0:
            return FixedKernel(estimate.kernel)
        return ParametricKernel(estimate.spectral.family, estimate.z)

    return make


def _kernel_and_energy(
    block: KernelEstimator | KernelFactory | FlowLatent,
    part: Part[PriorFactory | None],
    prior: KernelPrior | None,
    estimate: KernelEstimate | None,
) -> tuple[KernelFactory, KernelEnergy | None]:
    """Return what makes the kernel, and the energy Φ that the method keeps of it."""
    if isinstance(block, FlowLatent):
        return block.factory(prior, part.name), None
    if isinstance(block, KernelEstimator):
        assert estimate is not None  # `assemble` has made it
        return estimated_kernel(estimate), MomentEnergy.of(estimate.spectral)
    return block, None


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
    kernel_block = method.kernel.value
    if isinstance(kernel_block, KernelGan):
        raise ValueError(f"method {method.name} has a solver of its own: use `make_solver` or `super_resolve`")
    estimate = None
    if method.estimates:
        if y is None:
            raise ValueError(f"method {method.name} estimates the kernel from the LR image: give it to `assemble`")
        estimate = (method.estimator or KernelEstimator(rounds=0))(y, degradation, known_noise(method))
    image = method.image.value(preset) if method.iterates else bicubic_image
    guide = None
    if method.guide.value is not None and estimate is not None and y is not None:
        guide = restore(method.guide.value, y.cpu(), estimate.kernel, degradation, estimate.noise_std)
        image = guided_image(preset.skip, guide)
    prior = method.prior.value(degradation, estimate) if method.prior.value is not None else None
    kernel, kernel_prior = _kernel_and_energy(kernel_block, method.prior, prior, estimate)
    monte_carlo = None
    if prior is not None and not isinstance(method.kernel.value, FlowLatent):
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
        kernel_lr=method.kernel_lr or preset.kernel_lr,
        average=preset.average,
        noise_steps=preset.noise_steps,
    )
