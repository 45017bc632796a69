"""The free kernel near an estimate: smooth changes of the logarithms of its pixels (a logistic-normal law).

The support of an estimate k̂ consists of the pixels above `CUT` of its peak and of their neighbours, n pixels at
positions u_i. Over the support, and with zeros elsewhere,

    k = softmax(log k̂ + B z),    z ~ N(0, I),    B Bᵀ ≈ C,    C_ij = τ² exp(-|u_i - u_j|² / s²).

Every k is positive on the support and sums to one, and z = 0 is the estimate. The softmax does not see a constant, so C
is taken without it, and B holds its leading eigenvectors, which leave out the share `LOST` of the variance.

This is a law of the kernels near an estimate, not of all kernels: what is finer than an LR pixel stays as it is in the
estimate. |K|² alone cannot tell a kernel from its mirror image or from others with another phase. A law that is wide
enough to reach those has posteriors that chains do not explore.

C is that of camera shake at the resolution of LR pixels. The logarithms of drawn kernels (`motion.ExposedShakePrior`)
over their supports were averaged by a Gaussian window of s/2 pixels. White values that are averaged so have exactly
this correlation, and τ is the standard deviation that is left. The law depends on y through k̂, its centre and its
support.

Aitchison, Shen, "Logistic-normal distributions: some properties and uses", Biometrika 1980.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from blindsr.priors.base import standard_normal

CUT = 0.02
"""Share of the peak from which on a pixel belongs to a kernel: the `threshold` of the free-form estimate."""
LEAST = 0.01
"""Share of the peak to which smaller values of the estimate are raised, since 0 has no logarithm."""
SPREAD = {2: 0.34, 3: 0.25, 4: 0.22, 8: 0.13}
"""τ by scale, measured on 200 drawn kernels each: `pytest tests/test_free_prior.py -k spread`."""
LOST = 0.01
"""Share of the variance of log k that B leaves out. It halves the dimension; what it leaves out varies faster than an
LR pixel."""


@dataclass(frozen=True, eq=False)
class FreeKernels:
    """Kernels of any shape near an estimate: a `KernelDensity`.

    Parameters
    ----------
    estimate : Tensor
        (K, K), non-negative, with a positive sum.
    scale : int
        s, one of 2, 3, 4 and 8.

    Attributes
    ----------
    names : tuple of str
        shape_0, shape_1, ..., the coordinates of z, those of the largest variance of log k first.

    Raises
    ------
    ValueError
        If the estimate has other values, or the scale is another one.
    """

    estimate: Tensor
    scale: int

    def __post_init__(self) -> None:
        k = self.estimate
        square = k.ndim == 2 and k.shape[0] == k.shape[1] > 1
        if not (square and torch.isfinite(k).all() and k.min() >= 0 and k.max() > 0):
            raise ValueError(
                f"free kernel {tuple(k.shape)}: an estimate (K, K), K > 1, of finite values of 0 or more, not all 0, "
                "is needed"
            )
        if self.scale not in SPREAD:
            raise ValueError(f"free kernel: scale {self.scale}: choose one of {', '.join(map(str, SPREAD))}")

    @property
    def kernel_size(self) -> int:
        """Side K."""
        return self.estimate.shape[-1]

    @property
    def dim(self) -> int:
        """Dimension of z."""
        return self._factor.shape[1]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates of z."""
        return tuple(f"shape_{j}" for j in range(self.dim))

    @cached_property
    def support(self) -> Tensor:
        """Indices (n,) of the pixels of the support in the flattened kernel, ascending."""
        kept = (self.estimate >= CUT * self.estimate.max()).float()
        return torch.nonzero(max_pool2d(kept[None, None], 3, stride=1, padding=1).flatten())[:, 0]

    @cached_property
    def _log_estimate(self) -> Tensor:
        """Logarithms (n,) of k̂ over the support, up to a constant, float64."""
        values = self.estimate.detach().cpu().double().flatten()[self.support]
        return values.clamp_min(LEAST * float(values.max())).log()

    @cached_property
    def _factor(self) -> Tensor:
        """B (n, dim), float64."""
        size = self.kernel_size
        u = torch.stack([self.support // size, self.support % size], 1).double()
        c = SPREAD[self.scale] ** 2 * torch.exp(-torch.cdist(u, u).square() / self.scale**2)
        c = c - c.mean(0) - c.mean(1, keepdim=True) + c.mean()
        values, vectors = torch.linalg.eigh(c)
        values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
        kept = int((values.cumsum(0) < (1 - LOST) * values.sum()).sum()) + 1
        factor: Tensor = vectors[:, :kept] * values[:kept].sqrt()
        return factor

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of z (n, dim), differentiable."""
        values = torch.softmax(self._log_estimate.to(z) + z @ self._factor.to(z).T, 1)
        flat: Tensor = values.new_zeros(len(z), self.kernel_size**2).index_copy(1, self.support, values)
        return flat.view(-1, 1, self.kernel_size, self.kernel_size)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (n, dim): (n,)."""
        return standard_normal(z)

    def sample_z(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n parameter vectors (n, dim), float64."""
        return torch.randn(n, self.dim, generator=generator, dtype=torch.float64)

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n kernels (n, 1, K, K), float32."""
        return self.kernel(self.sample_z(n, generator=generator)).float()
