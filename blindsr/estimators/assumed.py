"""Estimators that estimate nothing: no kernel at all, for restorers that need none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blindsr.estimators.base import Estimate, Estimation, Estimator, Finished, check_image
from blindsr.operators.degradation import Degradation


@dataclass(frozen=True)
class NoKernel(Estimator):
    """The method knows no kernel, and none is saved: interpolation, or a network that was trained for one blur."""

    stochastic = False
    has_kernel = False

    def start(self, y: Tensor, degradation: Degradation, *, seed: int, device: torch.device | str) -> Estimation:
        """Return at once."""
        check_image(y)
        return Finished(Estimate(None, None))


@dataclass(frozen=True)
class KnownKernel(Estimator):
    """A kernel that is given: non-blind super-resolution.

    Parameters
    ----------
    kernel : Tensor
        (1, 1, K, K), non-negative, summing to one.
    noise_std : float, optional
        Noise level, units of 0..1, where it is known.
    """

    kernel: Tensor
    noise_std: float | None = None
    stochastic = False

    def start(self, y: Tensor, degradation: Degradation, *, seed: int, device: torch.device | str) -> Estimation:
        """Return the kernel."""
        check_image(y)
        size = degradation.kernel_size
        if self.kernel.shape != (1, 1, size, size):
            raise ValueError(f"the kernel has shape {tuple(self.kernel.shape)}: {(1, 1, size, size)} is needed")
        return Finished(Estimate(None, self.kernel, self.noise_std, assumed=True))
