"""The kernel from y alone, in seconds: a spectral start, then refinement on MAP images.

Minimises, over the parameters z of a kernel family (kernels k(z)) and the image x in turn,

    ‖y − (x ⊗ k(z))↓s‖² / 2σ_e² − log p(z | spectra of y),       x by patch groups at the current k.

The second term is `priors.spectral`, the marginal likelihood with the image integrated out. Joint MAP without it
drifts to wrong kernels (Levin et al. 2009). y enters twice, so this is an estimator, not a posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from blindsr.likelihood.quadratic import LrErrorForm
from blindsr.likelihood.spectral import SpectralSettings
from blindsr.operators.degradation import Degradation, Padding
from blindsr.operators.luma import luma, luma_gain
from blindsr.posteriors.laplace import minimise
from blindsr.posteriors.spectral_laplace import SpectralPrior
from blindsr.priors.base import ImagePrior
from blindsr.priors.normal import SHAPES, shape
from blindsr.priors.patch_groups import PatchGroups
from blindsr.restorers.splitting import PlugAndPlay, Splitting, map_solution

ROUNDS = {2: 0}
"""Refinement rounds by scale. At scale 2 the spectra see most of the kernel, and MAP images add nothing to them."""
MARGIN = 3.0
"""Nats by which another kernel family must be likelier than the first."""
POINTLESS = 100.0
"""See `KernelEstimator.noise_error`: at the defaults, rounds end where the luma's noise is above 1.7 grey levels."""
MOST_ROUNDS = 6
"""Refinement rounds at the other scales."""


@dataclass(frozen=True)
class KernelEstimate:
    """What an estimator found.

    Attributes
    ----------
    kernel : Tensor
        (1, 1, K, K), float32.
    spectral : SpectralPrior
        What the spectra alone say: mode, density, draws.
    family : str
        Name of the kernel family in `priors.normal.SHAPES`.
    z : Tensor
        The family's parameters, float64.
    noise_std : float
        Noise level, units of 0..1.
    rounds : int
        Refinement rounds made.
    """

    kernel: Tensor
    spectral: SpectralPrior
    family: str
    z: Tensor
    noise_std: float
    rounds: int


@dataclass(frozen=True)
class KernelEstimator:
    """Spectral start, then alternating refinement.

    Parameters
    ----------
    families : tuple of str
        Kernel families to choose from (`priors.normal.SHAPES`): the first, unless the spectral posterior of another is
        higher by more than `MARGIN` nats.
    rounds : int, optional
        Image and kernel turns; 0 keeps the spectral mode. Default: `ROUNDS` of the scale.
    error_variance, noise_error : float
        σ_e², what the MAP image gets wrong, in squared units of y, and the multiple of the noise level added to it in
        squares (images of noisy data are smooth, and smooth images ask for narrow kernels). Larger trusts the spectra
        more; above `POINTLESS` times error_variance no rounds are made.
    image_prior : ImagePrior
        Of the MAP images (of the luma). Patch groups hardly drift; a gradient prior alone would, to narrow kernels.
    model_error : float
        Standard deviation added to the noise in the MAP images, so that they do not hide a wrong kernel, in units of
        `contrast(y)`.
    relaxation : float
        Factor on each kernel step: image and kernel in turn approach their common optimum slowly, from one side.
    side : int
        A larger y is cut to its most detailed square of this side (HR pixels) for the refinement.
    splitting : Splitting, optional
        How the MAP images are made, for `image_prior`; None takes what suits the prior (`splitting_for`).
    """

    families: tuple[str, ...] = ("gaussian", "line", "disk")
    rounds: int | None = None
    error_variance: float = 1e-4
    noise_error: float = 15.0
    image_prior: ImagePrior = field(default_factory=PatchGroups)
    model_error: float = 0.12
    relaxation: float = 2.0
    side: int = 192
    splitting: Splitting | None = field(default_factory=lambda: PlugAndPlay(steps=8))

    def __post_init__(self) -> None:
        unknown = [name for name in self.families if name not in SHAPES]
        if unknown or not self.families:
            raise ValueError(f"kernel families {', '.join(unknown) or '(none)'}: choose from {', '.join(SHAPES)}")
        if not min(self.rounds or 0, self.model_error, self.noise_error) >= 0:
            raise ValueError("kernel estimator: need rounds, model_error and noise_error of 0 or more")
        if not self.error_variance > 0 or self.side < 64:
            raise ValueError("kernel estimator: need error_variance above 0 and side of at least 64")

    def __call__(self, y: Tensor, degradation: Degradation, noise_std: float | None = None) -> KernelEstimate:
        """Estimate the kernel of y (1, C, h, w), values 0..1.

        Parameters
        ----------
        y : Tensor
            LR image.
        degradation : Degradation
            Scale, kernel size, alignment, padding.
        noise_std : float, optional
            Noise level where it is known, units of 0..1; else estimated from the spectra.
        """
        y = y.detach().cpu()
        family = self._family(y, degradation)
        spectral = SpectralPrior.fit(y, degradation, shape(family, degradation))
        noise = spectral.noise_std if noise_std is None else noise_std
        crop = detailed_crop(luma(y), degradation, self.side // degradation.scale)
        rounds = ROUNDS.get(degradation.scale, MOST_ROUNDS) if self.rounds is None else self.rounds
        z, rounds = self._refine(*crop, spectral, noise * luma_gain(y.shape[1]), rounds)
        return KernelEstimate(spectral.kernel(z[None]).float(), spectral, family, z, noise, rounds)

    def _family(self, y: Tensor, degradation: Degradation) -> str:
        """Choose the family, on the windows of most detail."""
        if len(self.families) == 1:
            return self.families[0]
        few = SpectralSettings(max_windows=9)
        energies = {
            name: SpectralPrior.fit(y, degradation, shape(name, degradation), few).energy_at_mode
            for name in self.families
        }
        first = self.families[0]
        best = min(energies, key=lambda name: energies[name])
        return best if energies[best] < energies[first] - MARGIN else first

    @torch.no_grad()
    def _refine(
        self, y: Tensor, degradation: Degradation, spectral: SpectralPrior, noise: float, rounds: int
    ) -> tuple[Tensor, int]:
        """Take turns between image and kernel; return z and the rounds made."""
        z, canvas = spectral.mode.clone(), None
        variance = self.error_variance + (self.noise_error * noise) ** 2
        if variance > POINTLESS * self.error_variance or not has_interior(y, degradation):
            return z, 0
        assumed = math.hypot(noise, self.model_error * contrast(y, noise))
        for _ in range(rounds):
            kernel = spectral.kernel(z[None]).float()
            if canvas is None:
                canvas = map_solution(y, kernel, degradation, noise).canvas
            solution = map_solution(
                y, kernel, degradation, assumed, prior=self.image_prior, splitting=self.splitting, start=canvas
            )
            canvas = solution.canvas
            form = LrErrorForm.build(*interior(solution.image, y, degradation))
            with torch.enable_grad():
                z = z + self.relaxation * (refit(spectral, z, form, y.numel(), variance) - z)
        return z, rounds


def refit(spectral: SpectralPrior, z: Tensor, form: Callable[[Tensor], Tensor], n: int, variance: float) -> Tensor:
    """Minimise n e(k(z)) / 2σ² − log p(z) from z, with e the mean squared LR error of a kernel (`LrErrorForm`).

    Parameters
    ----------
    spectral : SpectralPrior
        Density of z.
    z : Tensor
        (dim,), float64.
    form : callable
        Kernels (n, 1, K, K) to errors (n,).
    n : int
        Values of y.
    variance : float
        σ².
    """

    def energy(v: Tensor) -> Tensor:
        return form(spectral.kernel(v[None]))[0] * (n / (2 * variance)) - spectral.log_prob(v[None])[0]

    return minimise(energy, z, steps=15)[1]


def contrast(y: Tensor, noise_std: float) -> float:
    """How much there is to fit in a grey image: geometric mean of the rms of its gradient and of its finest detail.

    The finest detail is what the mask [1, -2, 1] along both axes, over 6, leaves (Immerkær 1996), less the noise.
    """
    gradient = y.diff(dim=-1).square().mean() + y.diff(dim=-2).square().mean()
    fine = y[..., 2:] - 2 * y[..., 1:-1] + y[..., :-2]
    fine = (fine[..., 2:, :] - 2 * fine[..., 1:-1, :] + fine[..., :-2, :]) / 6
    detail = (fine.square().mean() - noise_std**2).clamp_min(0)
    rest = (gradient - 4 * noise_std**2).clamp_min(0)  # two differences of two pixels each
    return float((detail * rest) ** 0.25)


def detailed_crop(y: Tensor, degradation: Degradation, side: int) -> tuple[Tensor, Degradation]:
    """Cut y (1, 1, h, w) to the square of `side` LR pixels with most fine detail; nothing is assumed of its border."""
    h, w = y.shape[-2:]
    if max(h, w) <= side:
        return y, degradation
    tall, wide = min(side, h), min(side, w)
    detail = torch.zeros(h, w)
    detail[1:] += y[0, 0].diff(dim=0).abs()
    detail[:, 1:] += y[0, 0].diff(dim=1).abs()
    total = torch.nn.functional.avg_pool2d(detail[None, None], (tall, wide), stride=1)[0, 0]
    top, left = divmod(int(total.argmax()), total.shape[1])
    return y[..., top : top + tall, left : left + wide], degradation.for_part()


def has_interior(y: Tensor, degradation: Degradation) -> bool:
    """Whether `interior` leaves anything of y."""
    if degradation.padding is Padding.CIRCULAR:
        return True
    reach = math.ceil(max(*degradation.margins, 0) / degradation.scale)
    return degradation.kernel_size >= 2 * degradation.scale - 1 and min(y.shape[-2:]) > 2 * reach


def interior(x: Tensor, y: Tensor, degradation: Degradation) -> tuple[Degradation, Tensor, Tensor]:
    """Part of y that a picture x (…, s h, s w) explains without its border, as (degradation, x, y) of that part.

    All of it where the borders are circular; else without the LR pixels whose kernel reaches over the border.
    """
    if degradation.padding is Padding.CIRCULAR:
        return degradation, x, y
    s, size = degradation.scale, degradation.kernel_size
    before, after = degradation.margins
    m = math.ceil(max(before, after, 0) / s)
    if not has_interior(y, degradation):
        raise ValueError(f"an LR image of {y.shape[-1]}x{y.shape[-2]} pixels has no interior for this kernel")
    h, w = y.shape[-2:]
    rows, cols = (slice(s * m - before, s * (n - m - 1) - before + size) for n in (h, w))
    return replace(degradation, padding=Padding.VALID), x[..., rows, cols], y[..., m : h - m, m : w - m]
