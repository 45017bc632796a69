"""Kernels that are a formula of a few independent random parameters: the base of the Gaussian, line and disk priors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Uniform, biject_to

from blindsr.priors.base import RecordedKernels

TINY = 1e-6
"""Uniform variates are kept this far from 0 and 1, where an inverse distribution function may be infinite."""


def rotated_grid(size: int, angle: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coordinates of a pixel grid along and across a direction, in pixels, each (n, size, size).

    The angle (n,) is in radians from the column axis towards the row axis; the origin `center` (n, 2), as (column,
    row), in pixels from index 0.
    """
    axis = torch.arange(size, dtype=angle.dtype, device=angle.device)
    dx = (axis - center[:, :1])[:, None, :]
    dy = (axis - center[:, 1:])[:, :, None]
    c, s = (f(angle)[:, None, None] for f in (torch.cos, torch.sin))
    return c * dx + s * dy, c * dy - s * dx


class Delta(Distribution):
    """The law of a fixed parameter, which has no coordinate in z."""

    def __init__(self, value: float) -> None:
        super().__init__(validate_args=False)
        self.value = float(value)


def near(value: float, jitter: float) -> Distribution:
    """Return U[value - jitter, value + jitter], or a fixed value where the jitter is 0."""
    return Uniform(value - jitter, value + jitter) if jitter else Delta(value)


def _inside(theta: Tensor, part: Distribution) -> Tensor:
    """Move values (n,) that rounding has put on a bound of their distribution's support strictly inside it."""
    info = torch.finfo(theta.dtype)
    low, high = (
        torch.as_tensor(getattr(part.support, name, limit)).to(theta)
        for name, limit in (("lower_bound", info.min), ("upper_bound", info.max))
    )
    least = torch.where(low == 0, torch.full_like(low, info.tiny), torch.nextafter(low, high))
    return theta.clamp(least, torch.nextafter(high, low))


class IndependentParameters:
    """Independent scalar parameters θ_j ~ p_j and their unconstrained coordinates z.

    z_j = T_j^{-1}(θ_j), where T_j is torch's bijection from the real line to the support of p_j, so that

        log p(z) = Σ_j log p_j(T_j(z_j)) + log |T_j'(z_j)|.

    The laws p_j are univariate and have an `icdf`, by which the caller's generator is turned into draws; or are
    `Delta`.
    """

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = list(parts)
        self.free = [j for j, p in enumerate(self.parts) if not isinstance(p, Delta)]
        self.transforms = {j: biject_to(self.parts[j].support) for j in self.free}

    @property
    def dim(self) -> int:
        """Number of free parameters."""
        return len(self.free)

    def sample_theta(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n parameter vectors θ, (n, number of parameters) in float64, by inverse distribution functions."""
        u = torch.rand(n, len(self.parts), generator=generator, dtype=torch.float64).clamp(TINY, 1 - TINY)
        cols = [
            torch.full((n,), p.value, dtype=torch.float64) if isinstance(p, Delta) else p.icdf(u[:, j])
            for j, p in enumerate(self.parts)
        ]
        return torch.stack(cols, dim=1)

    def theta(self, z: Tensor) -> Tensor:
        """Map z (n, dim) to θ (n, number of parameters), which lies inside the supports for any finite z."""
        cols: list[Tensor] = []
        for j, p in enumerate(self.parts):
            if isinstance(p, Delta):
                cols.append(torch.full_like(z[:, 0] if z.shape[1] else z.sum(1), p.value))
            else:
                cols.append(_inside(self.transforms[j](z[:, self.free.index(j)]), p))
        return torch.stack(cols, dim=1)

    def z(self, theta: Tensor) -> Tensor:
        """Map θ (n, number of parameters) to z (n, dim)."""
        cols = [self.transforms[j].inv(theta[:, j]) for j in self.free]
        return torch.stack(cols, dim=1) if cols else theta[:, :0]

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density (n,) of z (n, dim), Jacobian included; -inf where z is not finite."""
        total = torch.zeros(z.shape[0], dtype=z.dtype, device=z.device)
        bad = ~torch.isfinite(z).all(1)
        z = z.masked_fill(bad[:, None], 0.0)
        for i, j in enumerate(self.free):
            t = self.transforms[j]
            theta = _inside(t(z[:, i]), self.parts[j])
            total = total + self.parts[j].log_prob(theta) + t.log_abs_det_jacobian(z[:, i], theta)
        return total.masked_fill(bad, -torch.inf)


class ParametricKernels(RecordedKernels):
    """Base of the priors whose kernels are a formula of a few independent parameters θ.

    A subclass sets `kernel_size`, `names` (of θ) and `parameters`, and implements `kernel_of`.
    """

    names: tuple[str, ...]
    parameters: IndependentParameters

    def kernel_of(self, theta: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of parameters θ (n, number of parameters)."""
        raise NotImplementedError

    @property
    def dim(self) -> int:
        """Dimension of z."""
        return self.parameters.dim

    def sample_theta(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n parameter vectors θ (n, number of parameters), in their own units, float32."""
        return self.parameters.sample_theta(n, generator=generator).float()

    def sample_z(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n unconstrained parameter vectors (n, dim)."""
        return self.parameters.z(self.parameters.sample_theta(n, generator=generator)).float()

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n kernels (n, 1, K, K), non-negative, each summing to one."""
        return self.kernel_of(self.sample_theta(n, generator=generator))

    def sample_recorded(self, n: int, *, generator: torch.Generator) -> tuple[Tensor, list[dict[str, Any]]]:
        """Draw kernels as `sample` does; for each, also its parameters by name."""
        theta = self.sample_theta(n, generator=generator)
        return self.kernel_of(theta), [dict(zip(self.names, row, strict=True)) for row in theta.tolist()]

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (n, dim): (n,)."""
        return self.parameters.log_prob(z)

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of z (n, dim), differentiable."""
        return self.kernel_of(self.parameters.theta(z))
