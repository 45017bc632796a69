"""Kernel families with a smooth density: normal priors on unconstrained parameters z.

    Gaussian:              Σ = exp(z₀) expm([[z₁, z₂], [z₂, -z₁]]),  k(u) ∝ exp(-½ r²),  r² = (u-c)ᵀ Σ⁻¹ (u-c)
    generalised Gaussian:  k(u) ∝ exp(-½ r^β),  β = 2 exp(z₃)
    disk (defocus):        k(u) ∝ logistic(6 (exp(z₀) - |u-c|)), a disk of radius exp(z₀) with an edge one pixel wide
    line (linear motion):  a segment of length exp(z₀) at the angle z₁, see `priors.motion.line_kernel`

c is fixed at the nominal centre (K - s)/2; axes are (column, row). Targets and the spectral estimate use these
families. Their means and standard deviations are weakly informative: broader than the test protocol
(`gaussian.protocol_variances`), so that the data decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

from blindsr.operators.degradation import Degradation
from blindsr.priors.motion import line_kernel


def log_covariance(covariance: Tensor) -> Tensor:
    """Coordinates (n, 3) of covariances (n, 2, 2): half the trace of the matrix logarithm, then its traceless part.

    The inverse of Σ = exp(z₀) expm([[z₁, z₂], [z₂, -z₁]]): z₀ = ½ log det Σ and, with m = ½ tr Σ / exp(z₀) = cosh r,
    (z₁, z₂) = r / sinh r · (Σ₁₁ - Σ₂₂, 2 Σ₁₂) / (2 exp z₀).
    """
    a, b, d = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    root = (a * d - b * b).clamp_min(1e-12).sqrt()
    along, across = (a - d) / (2 * root), b / root
    sinh = (along**2 + across**2 + 1e-12).sqrt()
    ratio = torch.asinh(sinh) / sinh
    return torch.stack([root.log(), ratio * along, ratio * across], 1)


def covariance_of(z: Tensor) -> Tensor:
    """Covariances (n, 2, 2) of coordinates (n, 3); the inverse of `log_covariance`."""
    r = (z[:, 1] ** 2 + z[:, 2] ** 2 + 1e-12).sqrt()
    cosh, ratio = torch.cosh(r), torch.sinh(r) / r
    rows = torch.stack([cosh + ratio * z[:, 1], ratio * z[:, 2], ratio * z[:, 2], cosh - ratio * z[:, 1]], 1)
    return z[:, 0].exp()[:, None, None] * rows.view(-1, 2, 2)


@dataclass(frozen=True)
class SmoothKernels:
    """Base of the smooth families: independent normal priors on z, kernels of side K centred at (K - s)/2.

    Parameters
    ----------
    kernel_size, scale : int
        K, in HR pixels, and s.
    """

    kernel_size: int
    scale: int
    names: ClassVar[tuple[str, ...]] = ()
    std: ClassVar[tuple[float, ...]] = ()
    """Prior standard deviations of z."""

    @classmethod
    def of(cls, degradation: Degradation) -> Self:
        """Return the family for a degradation's kernel size and scale."""
        return cls(degradation.kernel_size, degradation.scale)

    @property
    def mean(self) -> tuple[float, ...]:
        """Prior means of z."""
        raise NotImplementedError

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of z (n, dim), differentiable."""
        raise NotImplementedError

    def starts(self) -> Tensor:
        """Values of z (m, dim), float64, from which a search for a mode should start."""
        return torch.tensor([self.mean], dtype=torch.float64)

    @property
    def dim(self) -> int:
        """Dimension of z."""
        return len(self.names)

    @cached_property
    def _grid(self) -> tuple[Tensor, Tensor]:
        axis = torch.arange(self.kernel_size, dtype=torch.float64) - (self.kernel_size - self.scale) / 2
        return axis[None, None, :], axis[None, :, None]

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (n, dim): (n,)."""
        mean, std = (z.new_tensor(v) for v in (self.mean, self.std))
        return (-0.5 * ((z - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)).sum(1)

    def sample_z(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n parameter vectors (n, dim)."""
        return torch.randn(n, self.dim, generator=generator) * torch.tensor(self.std) + torch.tensor(self.mean)

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n kernels (n, 1, K, K)."""
        return self.kernel(self.sample_z(n, generator=generator))

    def _normalised(self, log_k: Tensor) -> Tensor:
        k = torch.softmax(log_k.flatten(1), 1)
        return k.view(-1, 1, self.kernel_size, self.kernel_size)

    def _radius2(self, z: Tensor) -> Tensor:
        """r² of the pixels, (n, K, K)."""
        dx, dy = (g.to(z) for g in self._grid)
        monomials = torch.stack([v.expand(1, self.kernel_size, self.kernel_size) for v in (dx**2, -2 * dx * dy, dy**2)])
        c = covariance_of(z[:, :3])
        inverse = torch.stack([c[:, 1, 1], c[:, 0, 1], c[:, 0, 0]], 1) * (-2 * z[:, :1]).exp()  # det Σ = exp(2 z₀)
        return (inverse @ monomials.flatten(1)).view(-1, self.kernel_size, self.kernel_size)


class GaussianShape(SmoothKernels):
    """Anisotropic Gaussians: z = (log √det Σ, stretch, diagonal stretch)."""

    names: ClassVar[tuple[str, ...]] = ("log_variance", "stretch", "diagonal_stretch")
    std: ClassVar[tuple[float, ...]] = (0.8, 0.6, 0.6)
    """Two standard deviations span a factor of 5 in the variance, either way."""

    @property
    def mean(self) -> tuple[float, ...]:
        """A variance of 0.7 s pixels², round."""
        return (math.log(0.7 * self.scale), 0.0, 0.0)

    def starts(self) -> Tensor:
        """Three widths, all isotropic: a wrong mode may explain sharp content by a narrow kernel, or vice versa."""
        widths = self.scale * torch.tensor([[0.25], [0.7], [2.0]], dtype=torch.float64)
        return torch.log(widths) * torch.eye(1, self.dim)

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K)."""
        return self._normalised(-0.5 * self._radius2(z))


class GeneralizedGaussianShape(GaussianShape):
    """Generalised Gaussians: the Gaussian's three coordinates and log(β/2), negative for heavy tails.

    A positive log(β/2) gives a flat top.
    """

    names = (*GaussianShape.names, "log_half_exponent")
    std = (0.8, 0.6, 0.6, 0.35)
    """Two standard deviations span β from 1 to 4."""

    @property
    def mean(self) -> tuple[float, ...]:
        """That of the Gaussian, β = 2."""
        return (math.log(0.7 * self.scale), 0.0, 0.0, 0.0)

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K)."""
        log_r2 = self._radius2(z).clamp_min(1e-12).log()
        largest = math.log(torch.finfo(z.dtype).max) - 8  # an overflow has no gradient; such a pixel is 0 anyway
        return self._normalised(-0.5 * (log_r2 * z[:, 3].exp()[:, None, None]).clamp_max(largest).exp())


class DiskShape(SmoothKernels):
    """Defocus disks: z = (log radius,)."""

    names = ("log_radius",)
    std = (0.4,)
    """Two standard deviations span a factor of 2.2 in the radius, either way."""

    @property
    def mean(self) -> tuple[float, ...]:
        """A radius of s pixels."""
        return (math.log(float(self.scale)),)

    def starts(self) -> Tensor:
        """Five radii, since the rings in the spectrum of a disk give its likelihood several modes."""
        return torch.log(self.scale * torch.tensor([[0.5], [0.75], [1.0], [1.4], [2.0]], dtype=torch.float64))

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K)."""
        dx, dy = (g.to(z) for g in self._grid)
        edge = z[:, 0].exp()[:, None, None] - (dx**2 + dy**2).sqrt()
        return self._normalised(torch.nn.functional.logsigmoid(6 * edge))


class LineShape(SmoothKernels):
    """Lines of linear motion: z = (log length, angle in radians, from the column axis towards the row axis)."""

    names = ("log_length", "angle")
    std = (0.4, math.pi)
    """A factor of 2.2 in length either way, and practically any angle (angles repeat after π)."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Half the kernel's side in length, along the columns' axis."""
        return (math.log(self.kernel_size / 2), 0.0)

    def starts(self) -> Tensor:
        """Twelve directions, 15 degrees apart."""
        angles = torch.arange(12, dtype=torch.float64) * math.pi / 12
        return torch.stack([torch.full_like(angles, math.log(0.45 * self.kernel_size)), angles], 1)

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K)."""
        center = z.new_full((len(z), 2), (self.kernel_size - self.scale) / 2)
        return line_kernel(self.kernel_size, z[:, 0].exp(), z[:, 1], center)
