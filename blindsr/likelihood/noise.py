"""Models of the noise variance σ² in y = (x ⊗ k)↓s + n, n ~ N(0, σ²) (Eqs. 35 and 40 of the MLMC paper)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from blindsr.operators.degradation import Padding, border_index


def check_noise(std: float) -> None:
    """Raise ValueError unless a noise level is a finite number of 0 or more."""
    if not 0 <= std < math.inf:
        raise ValueError(f"noise level {std}: a standard deviation of 0 or more, in units of 0..1, is needed")


@runtime_checkable
class NoiseModel(Protocol):
    """A rule for the noise variance. It keeps no state: the solver holds all that changes."""

    def initial(self, y: Tensor) -> Tensor:
        """Variance before the first step, broadcastable to y (1, C, h, w), in squared units of y."""
        ...

    def update(self, variance: Tensor, residual: Tensor, initial: Tensor) -> Tensor:
        """Variance after seeing an LR residual (1, C, h, w); `initial` is what `initial(y)` gave."""
        ...


@dataclass(frozen=True)
class FixedNoise:
    """A known noise level.

    Parameters
    ----------
    std : float
        Standard deviation, in units of y (0..1). The published settings use no estimate; their fixed image-prior
        weight 1e-3 equals 2 σ² at σ = 0.0224 (5.7 grey levels), which is this class's default.

    Raises
    ------
    ValueError
        If the standard deviation is negative or not finite.
    """

    std: float = 0.0005**0.5

    def __post_init__(self) -> None:
        check_noise(self.std)

    def initial(self, y: Tensor) -> Tensor:
        """σ² as a scalar tensor."""
        return y.new_tensor(self.std**2)

    def update(self, variance: Tensor, residual: Tensor, initial: Tensor) -> Tensor:
        """Return the variance unchanged."""
        return variance


def finest_detail_std(y: Tensor) -> Tensor:
    """Noise level from the finest detail of an image alone (Immerkær 1996), by the median, a scalar.

    The mask [[1, -2, 1], [-2, 4, -2], [1, -2, 1]] / 6 preserves the standard deviation of white noise and removes
    whatever is locally linear. A blurred LR image has little else at that frequency, so the result is close to σ; image
    detail raises it, and clipping to 0..1 lowers it. y is (B, C, h, w), h and w at least 3.
    """
    d = y[..., 2:] - 2 * y[..., 1:-1] + y[..., :-2]
    d = d[..., 2:, :] - 2 * d[..., 1:-1, :] + d[..., :-2, :]
    return (d / 6).abs().median() / 0.6745


@dataclass(frozen=True)
class IidNoise:
    """Eq. 40: σ² is the mean squared LR residual, re-estimated and smoothed during the run, between two bounds.

    A network that overfits drives the residual, and with it Eq. 40, to 0; σ is therefore never estimated below the
    level of the finest detail of y, nor below `floor_std`. Early in a run the residual is misfit rather than noise, and
    taking it for noise would let the prior outweigh the data; σ is therefore never above `ceiling` times that floor.

    Parameters
    ----------
    floor_std : float
        Smallest σ. The default is the level implied by the published weight of the image prior, see `FixedNoise`.
    smoothing : float
        Share of the old estimate kept at each step, in [0, 1).
    ceiling : float
        Largest σ in units of the floor, at least 1.
    """

    floor_std: float = 0.0005**0.5
    smoothing: float = 0.9
    ceiling: float = 1.25

    def __post_init__(self) -> None:
        if not self.floor_std > 0 or not 0 <= self.smoothing < 1 or not self.ceiling >= 1:
            raise ValueError("iid noise: need floor_std > 0, smoothing in [0, 1) and ceiling at least 1")

    def initial(self, y: Tensor) -> Tensor:
        """Floor of σ², a scalar tensor."""
        return finest_detail_std(y).clamp_min(self.floor_std).square()

    @torch.no_grad()
    def update(self, variance: Tensor, residual: Tensor, initial: Tensor) -> Tensor:
        """One smoothed step of Eq. 40."""
        new = self.smoothing * variance + (1 - self.smoothing) * residual.square().mean()
        return torch.minimum(torch.maximum(new, initial), self.ceiling**2 * initial)


@dataclass(frozen=True)
class PatchNoise:
    """A variance for every LR pixel and channel: the mean squared residual over the patch around the pixel.

    This is the model of spatially varying noise of BSRDM (Yue et al., "Blind Image Super-Resolution with Elaborate
    Degradation Modeling on Noise and Kernel", CVPR 2022). Patches at the border are completed by reflection.

    Parameters
    ----------
    size : int
        Side of a patch, odd; published 15.
    start_std : float
        σ before the first estimate, units of y; published 0.01.
    floor_std : float
        Smallest σ, since overfitting drives the residual to 0. The default is the rounding error of 8 bits.

    Raises
    ------
    ValueError
        If the size is even or a level not positive.
    """

    size: int = 15
    start_std: float = 0.01
    floor_std: float = 1 / (255 * 12**0.5)

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 2 == 0 or not min(self.start_std, self.floor_std) > 0:
            raise ValueError("patch noise: need an odd size, start_std and floor_std above 0")

    def initial(self, y: Tensor) -> Tensor:
        """σ² for every value of y, all the same."""
        return torch.full_like(y, self.start_std**2)

    @torch.no_grad()
    def update(self, variance: Tensor, residual: Tensor, initial: Tensor) -> Tensor:
        """Mean squared residual over patches, not below the floor."""
        squared = residual.square()
        for axis in (-2, -1):
            squared = _moving_mean(squared, self.size, axis)
        return squared.clamp_min(self.floor_std**2)


def _moving_mean(a: Tensor, size: int, axis: int) -> Tensor:
    """Mean over `size` values along an axis, reflected (as often as need be) at its ends."""
    index = border_index(a.shape[axis], size // 2, size // 2, Padding.REFLECT)
    return a.index_select(axis, index.to(a.device)).unfold(axis, size, 1).mean(-1)
