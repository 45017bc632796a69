"""Random motion kernels: straight lines, which have a density, and camera-shake trajectories, which have none.

References
----------
Boracchi, Foi, "Modeling the performance of image restoration from motion blur", IEEE TIP 2012 (trajectories);
Kupyn et al., "DeblurGAN", CVPR 2018 (parameter ranges).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Uniform

from blindsr.operators.degradation import default_kernel_size
from blindsr.priors.base import RecordedKernels
from blindsr.priors.parametric import IndependentParameters, ParametricKernels, near, rotated_grid


def line_kernel(size: int, length: Tensor, angle: Tensor, center: Tensor, *, thickness: float = 0.5) -> Tensor:
    """Rasterise straight segments, blurred by an isotropic Gaussian of standard deviation w, in closed form.

    In coordinates (a, b) along and across a segment of length l,

        k(u) ∝ exp(-b²/2w²) [Φ((a + l/2)/w) - Φ((a - l/2)/w)].

    The length (n,) is in pixels, the angle (n,) in radians from the column axis towards the row axis, the centre (n,
    2), as (column, row), in pixels from index 0. `thickness` is w; its default of half a pixel stands for the footprint
    of a pixel. The kernels (n, 1, size, size) each sum to one.
    """
    along, across = rotated_grid(size, angle, center)
    half, r = length[:, None, None] / 2, 1 / (math.sqrt(2) * thickness)
    k = torch.exp(-0.5 * (across / thickness) ** 2) * (torch.erf((along + half) * r) - torch.erf((along - half) * r))
    k = k.clamp_min(0)
    return (k / k.sum((1, 2), keepdim=True)).unsqueeze(1)


class LineKernelPrior(ParametricKernels):
    """Straight-line motion with independent parameters θ = (length, angle, centre column, centre row).

    Parameters
    ----------
    kernel_size : int
        Side K.
    length, angle : Distribution
        Laws of the length in pixels and the angle in radians.
    center : tuple of Distribution
        Laws of the centre's column and row, in pixels from index 0; `Delta` for a fixed one.
    """

    names = ("length", "angle", "center_column", "center_row")

    def __init__(
        self, kernel_size: int, length: Distribution, angle: Distribution, center: tuple[Distribution, Distribution]
    ) -> None:
        self.kernel_size = kernel_size
        self.parameters = IndependentParameters([length, angle, *center])

    def kernel_of(self, theta: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of θ (n, 4)."""
        return line_kernel(self.kernel_size, theta[:, 0], theta[:, 1], theta[:, 2:4])

    @classmethod
    def protocol(cls, scale: int, kernel_size: int = 0, *, jitter: float = 0.0) -> LineKernelPrior:
        """Return lines at any angle, with a centre within ± `jitter` pixels of (K - s)/2 and lengths in HR pixels.

        The length is U[0.4 K, 0.6 K] in kernels of the usual size or smaller, about half the kernel's side. A larger
        kernel is asked for because the motion is long: lengths then go up to K - s - 2, the longest line that lies
        inside the kernel at any angle, with a pixel to spare at each end. At x2 that is 27 pixels for K = 31, and 31
        pixels for K = 35. Where a small kernel has no room, it is U[2/3, 1] (K - s) at most. The test protocol
        of the literature has no lines.

        Raises ValueError if the kernel is not larger than s, so that it has no room for a line.
        """
        usual = default_kernel_size(scale)
        k = kernel_size or usual
        if k <= scale:
            raise ValueError(f"a kernel of {k} pixels has no room for a line at x{scale}; choose a larger kernel")
        center = near((k - scale) / 2, jitter)
        longest = min(0.6 * k, k - scale) if k <= usual else k - scale - 2
        return cls(
            k, Uniform(min(0.4 * k, 2 / 3 * (k - scale)), float(longest)), Uniform(0.0, math.pi), (center, center)
        )


def shake_trajectories(n: int, *, generator: torch.Generator, steps: int = 2000) -> Tensor:
    """Draw camera-shake trajectories by the model of Boracchi & Foi, with the parameter ranges of Kupyn et al.

    A path of length one is made of `steps` steps of equal length. A Gaussian perturbation, a pull back towards the
    start and, rarely, a near reversal (a "big shake") change the direction v:

        v ← v + 2 v e^{i(π + U - ½)} [U < p_big ε] + ε (g (N + iN) - 60 c x),   v ← v / |v|,   x ← x + v / steps

    where U stands for independent uniform variates and ε = 0.1 U, c = 0.7 U, p_big = 0.2 U and g = 10 U are drawn once
    for each trajectory. The factor 60 converts the pull of Kupyn et al., whose paths are 60 pixels long. The positions
    (n, steps) are complex, column + i row.
    """

    def u(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    eps, pull, big, perturb = 0.1 * u(n), 60 * 0.7 * u(n), 0.2 * u(n), 10 * u(n)
    v = torch.polar(torch.ones(n), 2 * math.pi * u(n))
    kicks = torch.view_as_complex(torch.randn(steps - 1, n, 2, generator=generator)) * (eps * perturb)
    shaken = u(steps - 1, n) < big * eps
    turns = 1 + torch.polar(torch.full((steps - 1, n), 2.0), math.pi + u(steps - 1, n) - 0.5) * shaken
    x = torch.zeros(n, dtype=torch.complex64)
    drift = (-eps * pull).to(x.dtype)
    path = [x]
    for turn, kick in zip(turns.unbind(), kicks.unbind(), strict=True):
        v = torch.sgn(torch.addcmul(kick, turn, v) + drift * x)
        x = x.add(v, alpha=1 / (steps - 1))
        path.append(x)
    return torch.stack(path, dim=1)


def splat(points: Tensor, size: int) -> Tensor:
    """Accumulate points (n, m), complex as column + i row in pixels, on a size x size grid with bilinear weights.

    The points must lie in [0, size - 1]; each of the kernels (n, 1, size, size) sums to one.
    """
    col, row = points.real, points.imag
    c0, r0 = col.floor().clamp(0, size - 2), row.floor().clamp(0, size - 2)
    fc, fr = col - c0, row - r0
    base = (r0 * size + c0).long()
    out = torch.zeros(points.shape[0], size * size)
    for dr, wr in ((0, 1 - fr), (1, fr)):
        for dc, wc in ((0, 1 - fc), (1, fc)):
            out.scatter_add_(1, base + dr * size + dc, wr * wc)
    return (out / out.sum(1, keepdim=True)).view(-1, 1, size, size)


def longer_side(path: Tensor) -> Tensor:
    """Return the longer side (n,) of the bounding boxes of paths (n, m), complex, in the units of the paths."""
    return torch.stack([part.amax(1) - part.amin(1) for part in (path.real, path.imag)]).amax(0)


def path_length(path: Tensor) -> Tensor:
    """Return the lengths (n,) of paths (n, m), complex, in the units of the paths."""
    return path.diff(dim=1).abs().sum(1)


class _Trajectories(RecordedKernels):
    """Base of the camera-shake priors: kernels of random paths, rasterised about one centre of mass.

    A subclass draws the paths, in HR pixels, and says what else it drew. A path that would leave the kernel is shrunk.
    """

    def __init__(self, kernel_size: int, center: float) -> None:
        if not 0 < center < kernel_size - 1:
            raise ValueError(
                f"the centre of camera shake, {center:g}, lies outside the kernel of {kernel_size} pixels; "
                "choose a larger kernel"
            )
        self.kernel_size, self.center = kernel_size, center

    def _paths(self, n: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw n paths (n, m), complex, HR pixels, and quantities (n,) by name that describe them."""
        raise NotImplementedError

    def sample_recorded(self, n: int, *, generator: torch.Generator) -> tuple[Tensor, list[dict[str, Any]]]:
        """Draw kernels as `sample` does; for each, also the extent and the length of its path, HR pixels.

        The extent is the longer side of the bounding box of the path within the kernel.
        """
        path, drawn = self._paths(n, generator)
        path = path - path.mean(1, keepdim=True)
        first, last = self.center, self.kernel_size - 1 - self.center
        reach = torch.stack([path.real.amin(1), path.imag.amin(1)]).amin(0).neg() / first
        reach = torch.maximum(reach, torch.stack([path.real.amax(1), path.imag.amax(1)]).amax(0) / last)
        path = path / reach.clamp_min(1)[:, None]
        columns = {"extent": longer_side(path), "path_length": path_length(path)} | drawn
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        kernels = splat((path + complex(self.center, self.center)).clone(), self.kernel_size)
        return kernels, [dict(zip(columns, row, strict=True)) for row in rows]


class CameraShakePrior(_Trajectories):
    """Camera-shake kernels: whole trajectories, scaled to the kernel and rasterised. They have no density.

    Parameters
    ----------
    kernel_size : int
        Side K.
    center : float
        Centre of mass on both axes, pixels from index 0.
    extent : float
        Length of the path in units of K; Kupyn et al. use 60/64. A path that would leave the kernel is shrunk to fit.

    Raises
    ------
    ValueError
        If the centre lies outside the kernel, or the extent is not above 0.
    """

    def __init__(self, kernel_size: int, center: float, extent: float = 60 / 64) -> None:
        super().__init__(kernel_size, center)
        if not extent > 0:
            raise ValueError(f"camera shake: the path is {extent} kernel sides long; a length above 0 is needed")
        self.extent = extent

    @classmethod
    def protocol(cls, scale: int, kernel_size: int = 0) -> CameraShakePrior:
        """Return camera shake of the test protocol's kernel size and centre, (K - s)/2."""
        k = kernel_size or default_kernel_size(scale)
        return cls(k, (k - scale) / 2)

    def _paths(self, n: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return shake_trajectories(n, generator=generator) * (self.extent * self.kernel_size), {}


class ExposedShakePrior(_Trajectories):
    """Camera shake of a stated extent in pixels: an exposure catches only a part of a trajectory.

    A whole trajectory of `shake_trajectories` turns so often that its kernel is a blob. Boracchi & Foi (2012, Sec. III)
    cut it at the exposure time; measured kernels (Levin et al. 2009) are such parts, with one to three turns. Here a
    part of U[0.1, 0.5] of the trajectory is scaled so that the longer side of its bounding box is U[low, high] pixels.

    Parameters
    ----------
    kernel_size : int
        Side K.
    center : float
        Centre of mass on both axes, pixels from index 0.
    extent : tuple of float
        (low, high), HR pixels. A path that would leave the kernel is shrunk to fit.

    Raises
    ------
    ValueError
        If the centre lies outside the kernel, or not 0 < low <= high.
    """

    EXPOSURE = (0.1, 0.5)
    """Share of the trajectory that is caught: from the second to the third of the four exposures, 0.01, 0.1, 0.5 and 1,
    of the PSF generator that Kupyn et al. published. `tests/test_trajectories.py` compares the kernels with four
    measured ones."""

    def __init__(self, kernel_size: int, center: float, extent: tuple[float, float] = (13.0, 27.0)) -> None:
        super().__init__(kernel_size, center)
        if not 0 < extent[0] <= extent[1]:
            raise ValueError(
                f"camera shake: the extent in pixels must be (low, high) with 0 < low <= high, not {extent}"
            )
        self.extent = extent

    @classmethod
    def protocol(cls, scale: int, kernel_size: int = 0) -> ExposedShakePrior:
        """Return shake of 13 to 27 pixels, or of 0.4 K to 0.9 K where the kernel is smaller than 31."""
        k = kernel_size or default_kernel_size(scale)
        return cls(k, (k - scale) / 2, (min(13.0, 0.4 * k), min(27.0, 0.9 * k)))

    def _paths(self, n: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        whole = shake_trajectories(n, generator=generator)
        steps, (least, most) = whole.shape[1], self.EXPOSURE
        share = least + (most - least) * torch.rand(n, generator=generator)
        first = steps // 4  # past the start, to which the pull is still weak
        inside = torch.linspace(0, 1, steps // 2)[None] * (share * steps)[:, None]  # an even pace along the part
        path = whole.gather(1, (first + inside).long().clamp_max(steps - 1))
        low, high = self.extent
        extent = low + (high - low) * torch.rand(n, generator=generator)
        return path * (extent / longer_side(path).clamp_min(1e-6))[:, None], {"exposure": share}
