"""What a kernel prior and an image prior must offer."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class KernelPrior(Protocol):
    """Anything that draws kernels: the least that the Monte Carlo step needs."""

    @property
    def kernel_size(self) -> int:
        """Side K."""
        ...

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n kernels (n, 1, K, K), each non-negative and summing to one."""
        ...


class RecordedKernels:
    """Base of the kernel priors that also say what they drew, for the record of a simulated test image.

    A subclass sets `kernel_size` and implements `sample_recorded`.
    """

    kernel_size: int
    """Side K."""

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n kernels (n, 1, K, K), non-negative, each summing to one."""
        return self.sample_recorded(n, generator=generator)[0]

    def sample_recorded(self, n: int, *, generator: torch.Generator) -> tuple[Tensor, list[dict[str, Any]]]:
        """Draw the kernels (n, 1, K, K) that `sample` draws, and for each what describes it: plain values by name."""
        raise NotImplementedError


@runtime_checkable
class KernelDensity(KernelPrior, Protocol):
    """A kernel prior with a density over an unconstrained z: what a gradient sampler needs."""

    @property
    def dim(self) -> int:
        """Dimension of z."""
        ...

    def sample_z(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n parameter vectors (n, dim) from the prior."""
        ...

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (n, dim), normalised, with respect to Lebesgue measure on R^dim: (n,)."""
        ...

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of parameters z (n, dim), differentiable."""
        ...


@runtime_checkable
class ImagePrior(Protocol):
    """An energy Ω(x), lower for likelier images, and its proximal map.

    The joint loop needs `energy` alone and minimises ρ Ω; MAP restoration needs `prox` alone and minimises λ Ω. A prior
    may state the weights that suit it as attributes, `rho` and `map_weight`; otherwise λ is 1, that of an energy
    −log p(x), and ρ is the published 0.2.
    """

    def energy(self, x: Tensor) -> Tensor:
        """Energy of images (B, C, H, W), values 0..1, differentiable: (B,)."""
        ...

    def prox(self, x: Tensor, step: float) -> Tensor:
        """Minimise energy(v) + ‖v − x‖²/(2 step) over v.

        This is the denoiser for white noise of variance `step`, so a denoiser may take its place ("plug and play").

        Parameters
        ----------
        x : Tensor
            Images (B, C, H, W); MAP restoration gives float64.
        step : float
            > 0, squared units of x.

        Returns
        -------
        Tensor
            Images of the shape and type of x.
        """
        ...


@runtime_checkable
class KernelEnergy(Protocol):
    """Φ(k) of Eq. 3: an energy of kernels, lower for likelier ones."""

    def energy(self, kernel: Tensor) -> Tensor:
        """Energy of kernels (n, 1, K, K): (n,)."""
        ...


def standard_normal(z: Tensor) -> Tensor:
    """Log density of N(0, I) at z (n, d): (n,)."""
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)
