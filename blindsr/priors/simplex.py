"""A free kernel: a Dirichlet law over its K² pixels, in stick-breaking coordinates.

    k ~ Dirichlet(α),   α_i = c (φ + (1 - φ) exp(-½ |u_i - centre|² / w²)).

The mass is handed out from the centre outwards: pixel j takes the share v_j of what its predecessors have left,

    k_j = v_j Π_{i<j} (1 - v_i),    v_j = logistic(t_j),    t_j = z_j + log(α_j / β_j),    β_j = Σ_{i>j} α_i,

z in R^(K² - 1), and z = 0 is the mean kernel. Under the prior the v_j are independent, v_j ~ Beta(α_j, β_j), so that,
the Jacobian included,

    log p(z) = Σ_j α_j log v_j + β_j log(1 - v_j) - log B(α_j, β_j),

which is concave in z. Everything is computed from log v and log(1 - v), so that no share is rounded to 0 or 1.

Log-ratio (softmax) coordinates are as exact, but each of them moves all pixels, and Hamiltonian chains on the posterior
given a sharp image mix worse in them. Connor and Mosimann, "Concepts of independence for proportions with a
generalization of the Dirichlet distribution", JASA 1969 (independent shares).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from blindsr.operators.degradation import Degradation


@dataclass(frozen=True)
class SimplexPrior:
    """Free kernels, by default near a Gaussian envelope around the nominal centre.

    Parameters
    ----------
    kernel_size, scale : int
        K and s; the centre is (K - s)/2 on both axes, pixels from index 0.
    concentration : float
        c, the largest α. At 1 the pixels of the centre vary as much as they can without being pushed to zero; a larger
        c pulls kernels towards the envelope.
    width : float, optional
        w, HR pixels. Default: K/6.
    floor : float
        φ in (0, 1]: α far from the centre, in units of c; at 1 all pixels have the same α. A pixel with a small α is
        nearly always empty; its logarithm has a spread of about 1/α, which chains are slow to explore.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    kernel_size: int
    scale: int
    concentration: float = 1.0
    width: float | None = None
    floor: float = 0.1

    def __post_init__(self) -> None:
        if self.kernel_size < 3 or self.scale < 1:
            raise ValueError(f"simplex prior: kernel size {self.kernel_size} and scale {self.scale}: 3 and 1 or more")
        if not (0 < self.concentration < math.inf and 0 < self.envelope_width < math.inf and 0 < self.floor <= 1):
            raise ValueError("simplex prior: need concentration and width above 0, floor above 0 and at most 1")

    @classmethod
    def of(cls, degradation: Degradation) -> SimplexPrior:
        """Return the default prior for a degradation."""
        return cls(degradation.kernel_size, degradation.scale)

    @property
    def envelope_width(self) -> float:
        """Return w, HR pixels."""
        return self.kernel_size / 6 if self.width is None else self.width

    @property
    def dim(self) -> int:
        """Dimension of z, K² - 1."""
        return self.kernel_size**2 - 1

    @property
    def names(self) -> tuple[str, ...]:
        """share_0, share_1, ..., of the pixels from the centre outwards."""
        return tuple(f"share_{j}" for j in range(self.dim))

    @cached_property
    def alpha(self) -> Tensor:
        """Dirichlet parameters (K²,), rows of the kernel one after another, float64."""
        axis = torch.arange(self.kernel_size, dtype=torch.float64) - (self.kernel_size - self.scale) / 2
        envelope = torch.exp(-0.5 * (axis[:, None] ** 2 + axis**2) / self.envelope_width**2).flatten()
        return self.concentration * (self.floor + (1 - self.floor) * envelope)

    @cached_property
    def order(self) -> Tensor:
        """Pixels (K²,) in the order in which they take their shares."""
        return torch.argsort(self.alpha, descending=True, stable=True)

    @cached_property
    def _laws(self) -> Tensor:
        """Return α_j and β_j of the shares, (2, dim)."""
        alpha = self.alpha[self.order]
        return torch.stack([alpha[:-1], alpha.flip(0).cumsum(0).flip(0)[1:]])

    @cached_property
    def _constant(self) -> float:
        alpha, beta = self._laws
        return float((torch.lgamma(alpha + beta) - torch.lgamma(alpha) - torch.lgamma(beta)).sum())

    def _log_shares(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return log v and log(1 - v), (n, dim)."""
        alpha, beta = self._laws
        t = z + (alpha / beta).log().to(z)
        return logsigmoid(t), logsigmoid(-t)

    def log_kernel(self, z: Tensor) -> Tensor:
        """Logarithms (n, K²) of the kernel values of z (n, dim): finite also where a value is too small for a float."""
        taken, left = self._log_shares(z)
        before = torch.nn.functional.pad(left.cumsum(1), (1, 0))
        log_k = torch.nn.functional.pad(taken, (0, 1)) + before
        ordered: Tensor = log_k[:, self.order.argsort()]
        return ordered

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of z (n, dim), differentiable."""
        return self.log_kernel(z).exp().view(-1, 1, self.kernel_size, self.kernel_size)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (n, dim): (n,)."""
        taken, left = self._log_shares(z)
        alpha, beta = self._laws.to(z)
        total: Tensor = taken @ alpha + left @ beta
        return total + self._constant

    def sample_z(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n parameter vectors (n, dim), float64.

        Gamma variables in logarithms, exact for any α: log G(α) = log G(α + 1) + log(U) / α.
        """
        alpha, beta = (law.expand(n, -1) for law in self._laws)
        t = _log_gamma(alpha, generator) - _log_gamma(beta, generator)
        return t - torch.log(alpha / beta)

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n kernels (n, 1, K, K), float32."""
        return self.kernel(self.sample_z(n, generator=generator)).float()


def _log_gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    """Logarithms of gamma variables of these shapes."""
    uniform = torch.rand(shape.shape, generator=generator, dtype=shape.dtype).clamp_min(1e-300)
    return torch._standard_gamma(shape + 1, generator=generator).log() + uniform.log() / shape
