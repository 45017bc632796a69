"""The prior of an unknown noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class LogNoisePrior:
    """A normal prior on log σ, σ in units of 0..1.

    Parameters
    ----------
    mean, std : float
        Mean and standard deviation of log σ. With the defaults, σ lies between 0.05 and 140 grey levels of 255 within
        two standard deviations: nearly uninformative.
    """

    mean: float = math.log(0.01)
    std: float = 2.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(f"noise prior: need a finite mean and a std above 0 of log σ, got {self.mean}, {self.std}")

    def log_prob(self, log_noise: Tensor) -> Tensor:
        """Normalised log density of log σ (n,): (n,)."""
        return -0.5 * ((log_noise - self.mean) / self.std) ** 2 - math.log(self.std) - 0.5 * LOG_2PI
