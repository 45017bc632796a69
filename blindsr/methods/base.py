"""A method: an estimator, which finds the kernel, and a restorer, which makes the image from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from blindsr.estimators.base import Estimate, Estimator
from blindsr.generators.starts import pixel_average
from blindsr.operators.degradation import Degradation
from blindsr.posteriors.spectral_laplace import SpectralPosterior
from blindsr.restorers.base import Restorer
from blindsr.restorers.tiled import restore


@dataclass(frozen=True)
class Method:
    """An estimator and a restorer; nothing is computed before `solve` or `Estimator.start`.

    Parameters
    ----------
    name : str
        A row of `METHODS`, "custom", or a name of your own.
    estimator : Estimator
        Finds the kernel, and perhaps an image.
    restorer : Restorer, optional
        Makes the image from the kernel; None keeps the estimator's image.
    noise_std : float, optional
        Noise level where it is known, units of 0..1.
    labels : dict
        Names of the parts, by the column that they stand in; for records.
    files : tuple of str
        Files that decide the result: a user's own parts, models, weights.
    own_parts : tuple of str
        A user's own parts, as `my_file.py:MyPart`.
    notes : tuple of str
        What the user should be told about how the method was composed.

    Raises
    ------
    ValueError
        If nothing would make an image, or the restorer needs a kernel and the estimator has none.
    """

    name: str
    estimator: Estimator
    restorer: Restorer | None = None
    noise_std: float | None = None
    labels: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    own_parts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.restorer is None and not self.estimator.makes_image:
            raise ValueError(f"method {self.name} makes its image by a restorer: name one")
        if self.restorer is not None and self.restorer.needs_kernel and not self.estimator.has_kernel:
            raise ValueError(f"the restorer of method {self.name} needs a kernel, and its estimator finds none")

    def steps_for(self, degradation: Degradation) -> int:
        """Steps of a whole estimation."""
        return self.estimator.steps_for(degradation)

    def restoration_noise(self, found: Estimate, y: Tensor, degradation: Degradation) -> float:
        """Noise level for the restorer, units of 0..1: known, or the estimator's, or from the spectra of y.

        0 where the restorer makes no use of it.
        """
        if self.restorer is None or not self.restorer.needs_noise:
            return 0.0
        for level in (self.noise_std, found.noise_std):
            if level is not None:
                return level
        return SpectralPosterior.fit(y, degradation).noise_std

    def restorer_for(self, seed: int) -> Restorer | None:
        """Return the restorer with a seed, where it draws random numbers."""
        return None if self.restorer is None else self.restorer.with_seed(seed)

    def solve(
        self, y: Tensor, degradation: Degradation, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> Estimate:
        """Estimate kernel and image.

        Parameters
        ----------
        y : Tensor
            LR image (1, C, h, w), values 0..1.
        degradation : Degradation
            Scale, kernel size, alignment, padding.
        seed : int
            Of everything random.
        device : torch.device or str
            Where networks are computed.

        Returns
        -------
        Estimate
            With the image (1, C, s h, s w) in [0, 1].

        Raises
        ------
        ValueError
            If y has the wrong shape, holds values that are not finite, or cannot be served.
        """
        self.check(y, degradation, torch.device(device))
        run = self.estimator.start(y, degradation, seed=seed, device=device)
        for _ in run.iterate(self.steps_for(degradation)):
            pass
        return self.restored(run.estimate(), y, degradation, seed=seed)

    def check(self, y: Tensor, degradation: Degradation, device: torch.device) -> None:
        """Check, before anything is computed, that an LR image (1, C, h, w) can be served.

        Raises
        ------
        ValueError
            If not.
        """
        size, (h, w) = degradation.kernel_size, (degradation.scale * n for n in y.shape[-2:])
        if size > min(h, w):
            raise ValueError(f"a kernel of {size} pixels is larger than the result ({w}x{h})")
        self.estimator.check(y, degradation, device)

    def restored(self, found: Estimate, y: Tensor, degradation: Degradation, *, seed: int = 0) -> Estimate:
        """Return an estimate of y (1, C, h, w) with the restorer's image, or as it is where there is no restorer."""
        restorer = self.restorer_for(seed)
        if restorer is None:
            return found
        kernel = pixel_average(degradation) if found.kernel is None else found.kernel
        noise = self.restoration_noise(found, y, degradation)
        image = restore(restorer, y, kernel, degradation.for_kernel(kernel), noise)
        return replace(found, image=image, noise_std=noise if restorer.needs_noise else found.noise_std)
