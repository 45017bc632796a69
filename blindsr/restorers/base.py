"""What a restorer must offer: a known kernel in, an image out."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from blindsr.operators.degradation import Degradation


@runtime_checkable
class Restorer(Protocol):
    """Non-blind super-resolution: solves y = (x ⊗ k)↓s + n for x, with k and the level of n given."""

    def __call__(self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float) -> Tensor:
        """Restore an image.

        Parameters
        ----------
        y : Tensor
            LR image (1, C, h, w), values 0..1, float32.
        kernel : Tensor
            (1, 1, K, K), applied by correlation, as the degradation does it.
        degradation : Degradation
            Scale, kernel size, alignment, padding.
        noise_std : float
            Noise standard deviation, units of 0..1; 0 for none.

        Returns
        -------
        Tensor
            (1, C, s h, s w): the picture itself, without the border that VALID padding adds; values in 0..1.
        """
        ...


@runtime_checkable
class SeededRestorer(Restorer, Protocol):
    """A restorer that draws random numbers."""

    def with_seed(self, seed: int) -> Restorer:
        """Return the same restorer with another seed."""
        ...


def seeded_restorer(restorer: Any, seed: int) -> Any:
    """Give a restorer the seed of a run, if it draws anything."""
    return restorer.with_seed(seed) if isinstance(restorer, SeededRestorer) else restorer


def needs_kernel(restorer: Any) -> bool:
    """Whether a restorer makes use of the kernel: unless its attribute `needs_kernel` says no."""
    return bool(getattr(restorer, "needs_kernel", True))


def needs_noise(restorer: Any) -> bool:
    """Whether a restorer makes use of the noise level: unless its attribute `needs_noise` says no."""
    return bool(getattr(restorer, "needs_noise", True))
