"""The kernel from y alone, in seconds: the mode of the spectral posterior, and refinement on MAP images if asked for.

Refinement minimises, over the parameters z of a kernel family (kernels k(z)) and the image x in turn,

    ‖y − (x ⊗ k(z))↓s‖² / 2σ_e² − log p(z | spectra of y),       x by patch groups at the current k.

The second term is `posteriors.spectral_laplace`, the marginal likelihood with the image integrated out. Without it,
joint MAP estimation drifts to wrong kernels (Levin et al. 2009). y enters twice, so this is an estimator, not a
posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from blindsr.estimators.base import Estimate, Estimation, Estimator, Metrics, check_image, loaded
from blindsr.estimators.interior import contrast, detailed_crop, has_interior, interior
from blindsr.likelihood.quadratic import LrErrorForm
from blindsr.likelihood.spectral import SpectralSettings
from blindsr.operators.degradation import Degradation
from blindsr.operators.kernels import width
from blindsr.operators.luma import luma, luma_gain
from blindsr.posteriors.laplace import minimise
from blindsr.posteriors.spectral_laplace import SpectralPosterior
from blindsr.priors.base import ImagePrior
from blindsr.priors.families import kernel_family, smooth_families
from blindsr.priors.patch_groups import PatchGroups
from blindsr.restorers.splitting import PlugAndPlay, Splitting, map_solution

MARGIN = 3.0
"""Nats by which another kernel family must be likelier than the first."""
SETTLED = 0.1
"""Rounds end when a step moves the kernel by less than this many standard deviations of its spectral posterior."""


@dataclass(frozen=True)
class KernelEstimate:
    """A kernel estimated from y alone.

    Attributes
    ----------
    kernel : Tensor
        (1, 1, K, K), float32.
    spectral : SpectralPosterior
        What the spectra alone say: mode, density, draws.
    family : str
        Name of the kernel family in `priors.families`.
    z : Tensor
        The family's parameters, float64.
    noise_std : float
        Noise level, units of 0..1.
    rounds : int
        Refinement rounds made.
    """

    kernel: Tensor
    spectral: SpectralPosterior
    family: str
    z: Tensor
    noise_std: float
    rounds: int

    def described(self) -> dict[str, Any]:
        """Return what is kept on record, in plain values."""
        names = getattr(self.spectral.family, "names", ())
        return {
            "family": self.family,
            "parameters": dict(zip(names, self.z.tolist(), strict=False)),
            "spectral_mode": self.spectral.mode.tolist(),
            "spectral_precision": self.spectral.precision.tolist(),
            "noise_std": self.noise_std,
            "rounds": self.rounds,
        }


@dataclass(frozen=True)
class KernelEstimator(Estimator):
    """Spectral estimate, and refinement on MAP images in turn with it.

    Its steps are the spectral estimate (the first) and the refinement rounds.

    Parameters
    ----------
    families : tuple of str
        Kernel families to choose from (`priors.families`): the first, unless the spectral posterior of another is
        higher by more than `MARGIN` nats.
    rounds : int
        Image and kernel turns at most; they end earlier where the image no longer moves the kernel (`SETTLED`). 0 keeps
        the spectral mode.
    image_error, noise_error : float
        σ_e, what the MAP image gets wrong: so many times `contrast(y)`, and in squares so many times the noise level
        (images of noisy data are smooth, and smooth images ask for narrow kernels). A MAP image invents detail in
        proportion to the detail that there is, so on textured pictures it counts little against the spectra. At 0.6,
        σ_e is 3 grey levels for the smooth `set14/foreman` at x4, where rounds help, and 8 for `bsd100/img_045`, where
        they hurt.
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
    noise_std : float, optional
        Noise level where it is known, units of 0..1; else it is estimated from the spectra.

    Raises
    ------
    ValueError
        If a family is unknown or a number lies outside its range.
    """

    families: tuple[str, ...] = ("gaussian", "line", "disk")
    rounds: int = 0
    image_error: float = 0.6
    noise_error: float = 15.0
    image_prior: ImagePrior = field(default_factory=PatchGroups)
    model_error: float = 0.12
    relaxation: float = 2.0
    side: int = 192
    splitting: Splitting | None = field(default_factory=lambda: PlugAndPlay(steps=8))
    noise_std: float | None = None
    stochastic = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.families if name not in smooth_families()]
        if unknown or not self.families:
            known = ", ".join(smooth_families())
            raise ValueError(f"kernel families {', '.join(unknown) or '(none)'}: choose from {known}")
        if not min(self.rounds, self.model_error, self.noise_error) >= 0:
            raise ValueError("kernel estimator: need rounds, model_error and noise_error of 0 or more")
        if not self.image_error > 0 or self.side < 64:
            raise ValueError("kernel estimator: need image_error above 0 and side of at least 64")

    def __call__(self, y: Tensor, degradation: Degradation, noise_std: float | None = None) -> KernelEstimate:
        """Estimate the kernel of y (1, C, h, w), values 0..1, in one go.

        Parameters
        ----------
        y : Tensor
            LR image.
        degradation : Degradation
            Scale, kernel size, alignment, padding.
        noise_std : float, optional
            Noise level where it is known, units of 0..1; else that of the settings, or the estimate from the spectra.
        """
        settings = self if noise_std is None else replace(self, noise_std=noise_std)
        run = SpectralEstimation(settings, y, degradation)
        for _ in run.iterate(self.steps_for(degradation)):
            pass
        return run.found

    def steps_for(self, degradation: Degradation) -> int:
        """The spectral estimate, and the rounds."""
        return 1 + self.rounds

    def start(
        self, y: Tensor, degradation: Degradation, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> SpectralEstimation:
        """Begin on an LR image (1, C, h, w); nothing is drawn, and everything is computed on the CPU."""
        check_image(y)
        return SpectralEstimation(self, y, degradation)

    def resume(
        self, y: Tensor, degradation: Degradation, state: dict[str, Any], *, device: torch.device | str = "cpu"
    ) -> SpectralEstimation:
        """Rebuild an estimation; the spectral estimate is computed anew, the rounds go on where they were."""
        return loaded(self.start(y, degradation), state)

    def family_of(self, y: Tensor, degradation: Degradation) -> str:
        """Choose the family, on the windows of most detail."""
        if len(self.families) == 1:
            return self.families[0]
        few = SpectralSettings(max_windows=9)
        energies = {
            name: SpectralPosterior.fit(y, degradation, kernel_family(name).density(degradation), few).energy_at_mode
            for name in self.families
        }
        first = self.families[0]
        best = min(energies, key=lambda name: energies[name])
        return best if energies[best] < energies[first] - MARGIN else first


class SpectralEstimation(Estimation):
    """A kernel estimation under way: the spectral estimate at the first step, then one round of refinement each."""

    spectral: SpectralPosterior
    family: str
    z: Tensor

    def __init__(self, settings: KernelEstimator, y: Tensor, degradation: Degradation) -> None:
        self.settings, self.y, self.degradation = settings, y.detach().cpu(), degradation
        self.step = 0
        self.canvas: Tensor | None = None

    def advance(self) -> Metrics:
        """Fit the spectra (at the first step), or refine the kernel on a MAP image."""
        if self.step == 0:
            self._fit()
        else:
            self._refine()
        self.step += 1
        loss = -float(self.spectral.log_density(self.z[None]))
        kernel_width = float(width(self.spectral.kernel(self.z[None])))
        return Metrics(self.step, loss, noise_std=self.noise_std, kernel_width=kernel_width)

    def _fit(self) -> None:
        s, y, degradation = self.settings, self.y, self.degradation
        self.family = s.family_of(y, degradation)
        self.spectral = SpectralPosterior.fit(y, degradation, kernel_family(self.family).density(degradation))
        self.noise_std = self.spectral.noise_std if s.noise_std is None else s.noise_std
        self.crop = detailed_crop(luma(y), degradation, s.side // degradation.scale)
        self.noise = self.noise_std * luma_gain(y.shape[1])
        detail = contrast(self.crop[0], self.noise)
        self.assumed = math.hypot(self.noise, s.model_error * detail)
        self.variance = (s.image_error * detail) ** 2 + (s.noise_error * self.noise) ** 2
        self.z = self.spectral.mode.clone()
        if s.steps_for(degradation) == 1:
            return
        if not has_interior(*self.crop):
            self.settled = "settled: the picture is too small for a refinement"

    @torch.no_grad()
    def _refine(self) -> None:
        """One turn: the MAP image at the current kernel, then the kernel that fits it."""
        s, (y, degradation) = self.settings, self.crop
        kernel = self.spectral.kernel(self.z[None]).float()
        if self.canvas is None:
            self.canvas = map_solution(y, kernel, degradation, self.noise).canvas
        solution = map_solution(
            y, kernel, degradation, self.assumed, prior=s.image_prior, splitting=s.splitting, start=self.canvas
        )
        self.canvas = solution.canvas
        form = LrErrorForm.build(*interior(solution.image, y, degradation))
        with torch.enable_grad():
            best = refit(self.spectral, self.z, form, y.numel(), self.variance)
        step = best - self.z
        self.z = self.z + s.relaxation * step
        if float(step @ self.spectral.precision @ step) < SETTLED**2:
            self.settled = "settled: the image does not move the kernel any more"

    @property
    def found(self) -> KernelEstimate:
        """The kernel as it stands; before the first step, that step is made."""
        if self.step == 0:
            self.advance()
        kernel = self.spectral.kernel(self.z[None]).float()
        return KernelEstimate(kernel, self.spectral, self.family, self.z, self.noise_std, self.step - 1)

    def estimate(self) -> Estimate:
        """Return the kernel; the image is left to a restorer."""
        found = self.found
        return Estimate(None, found.kernel, found.noise_std, False, found.spectral, found.described())

    def state_dict(self) -> dict[str, Any]:
        """Return the step, z, the canvas of the last MAP image, and why the estimation has ended, if it has."""
        canvas = None if self.canvas is None else self.canvas.clone()
        z = self.z.clone() if self.step else None
        return {"step": self.step, "z": z, "canvas": canvas, "settled": self.settled}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a state; see `KernelEstimator.resume`."""
        step, z, canvas = int(state["step"]), state["z"], state["canvas"]
        if step < 1:
            return
        self.advance()
        if z.shape != self.z.shape or z.dtype != self.z.dtype or (step > 1) != (canvas is not None):
            raise ValueError("kernel parameters of another family")
        self.step, self.z, self.canvas, self.settled = step, z, canvas, state["settled"]


def refit(spectral: SpectralPosterior, z: Tensor, form: Callable[[Tensor], Tensor], n: int, variance: float) -> Tensor:
    """Minimise n e(k(z)) / 2σ² − log p(z) from z (dim,), float64; e is the mean squared LR error (`LrErrorForm`).

    n is the number of values of y, and `variance` is σ².
    """

    def energy(v: Tensor) -> Tensor:
        return form(spectral.kernel(v[None]))[0] * (n / (2 * variance)) - spectral.log_density(v[None])[0]

    return minimise(energy, z, steps=15)[1]
