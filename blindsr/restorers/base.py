"""The interface of restorers: non-blind super-resolution with a known kernel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from torch import Tensor, nn

from blindsr.operators.degradation import Degradation


class Restorer(ABC):
    """Non-blind super-resolution: solves y = (x ⊗ k)↓s + n for x, with k and the level of n given.

    A function with the arguments and the result of `__call__` becomes one by `external.CallableRestorer`.
    """

    @property
    def needs_kernel(self) -> bool:
        """Whether it requires the kernel."""
        return True

    @property
    def needs_noise(self) -> bool:
        """Whether it uses the noise level."""
        return True

    @property
    def parameters(self) -> int | None:
        """Number of trained weights; None if it is unknown."""
        return 0

    def with_seed(self, seed: int) -> Self:
        """Return the same restorer with another seed, or the restorer itself if it draws no random numbers."""
        return self

    @abstractmethod
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


def count_parameters(network: nn.Module) -> int:
    """Number of weights of a network."""
    return sum(p.numel() for p in network.parameters())
