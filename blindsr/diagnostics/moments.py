"""Moments of many kernels, batch by batch: a few numbers for each kernel, and mean and spread over all kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blindsr.operators.kernels import center_of_mass, covariance

Array = NDArray[np.float64]

NAMES = ("centroid_column", "centroid_row", "width_1", "width_2", "orientation")
"""Of `KernelMoments.columns`."""

BATCH = 256
"""Kernels in memory at a time."""


class RunningMoments:
    """Mean and standard deviation of arrays that come in batches, in float64; holds two arrays, not all of them.

    Chan, Golub, LeVeque, "Algorithms for computing the sample variance: analysis and recommendations", American
    Statistician 1983.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | None = None
        self._square: Tensor | None = None

    def add(self, batch: Tensor) -> None:
        """Add arrays (n, ...)."""
        n, batch = len(batch), batch.detach().double()
        if n == 0:
            return
        mean = batch.mean(0)
        square = (batch - mean).square().sum(0)
        if self._mean is None or self._square is None:
            self.count, self._mean, self._square = n, mean, square
            return
        total, gap = self.count + n, mean - self._mean
        self._mean = self._mean + gap * (n / total)
        self._square = self._square + square + gap.square() * (self.count * n / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """Mean (...) of what was added; ValueError if nothing was added."""
        if self._mean is None:
            raise ValueError("running moments: nothing was added")
        return self._mean

    def std(self, correction: int = 0) -> Tensor:
        """Return the standard deviation (...), with divisor n − correction.

        Raises ValueError if no more than `correction` arrays were added.
        """
        if self._square is None or self.count <= correction:
            raise ValueError(f"running moments: {self.count} arrays were added; at least {correction + 1} are needed")
        return (self._square / (self.count - correction)).sqrt()


@dataclass(frozen=True)
class KernelMoments:
    """Moments of n kernels, and the mean and standard deviation of their pixels.

    Attributes
    ----------
    columns : dict of str to array
        (n,) each, HR pixels: centroid_column, centroid_row (from index 0); width_1, width_2, the roots of the
        covariance's eigenvalues, the larger first; orientation of the long axis, in radians from the column axis
        towards the row axis, within π/2 of its circular mean, so that it does not jump.
    mean, std : array
        (K, K), over all n kernels.
    """

    columns: dict[str, Array]
    mean: Array
    std: Array


def principal_axes(kernels: Tensor) -> Tensor:
    """Return centroid column and row, larger and smaller width, and the direction of twice the orientation: (n, 6).

    The last two columns are proportional to cosine and sine of twice the orientation; all are float64.
    """
    k = kernels.double()
    c = covariance(k)
    half = (c[:, 0, 0] + c[:, 1, 1]) / 2
    along, across = (c[:, 0, 0] - c[:, 1, 1]) / 2, c[:, 0, 1]
    radius = torch.hypot(along, across)
    widths = [(half + radius).clamp_min(0).sqrt(), (half - radius).clamp_min(0).sqrt()]
    return torch.stack([*center_of_mass(k).unbind(1), *widths, along, across], 1)


def unwrapped(along: Array, across: Array) -> Array:
    """Return half the angle of (along, across), within π/2 of its circular mean."""
    length = np.maximum(np.hypot(along, across), 1e-300)
    middle = np.arctan2((across / length).mean(), (along / length).mean()) / 2
    turned = np.arctan2(across, along) / 2 - middle
    near: Array = middle + (turned + np.pi / 2) % np.pi - np.pi / 2
    return near


def kernel_moments(kernel: Callable[[Tensor], Tensor], z: Tensor, *, batch: int = BATCH) -> KernelMoments:
    """Moments of the kernels of parameters z (n, dim), computed `batch` at a time.

    Parameters
    ----------
    kernel : callable
        Parameters (m, dim) to kernels (m, 1, K, K).
    z : Tensor
        (n, dim), n at least 1.
    batch : int
        Kernels in memory at a time.

    Raises
    ------
    ValueError
        If there are no draws.
    """
    if not len(z):
        raise ValueError("kernel moments: no draws")
    running, rows = RunningMoments(), []
    for kernels in _batches(kernel, z, batch):
        running.add(kernels[:, 0])
        rows.append(principal_axes(kernels))
    table = torch.cat(rows).numpy()
    columns = dict(zip(NAMES, [*table[:, :4].T, unwrapped(table[:, 4], table[:, 5])], strict=True))
    return KernelMoments(columns, running.mean.numpy(), running.std().numpy())


@torch.no_grad()
def _batches(kernel: Callable[[Tensor], Tensor], z: Tensor, batch: int) -> Iterator[Tensor]:
    for part in z.split(batch):
        yield kernel(part).detach().cpu()
