"""Random fields that follow the spectral model exactly, on which its calibration is tested.

    x = F⁻¹(sqrt(s² S_x) F(white noise)),      y = (x ⊗ k)↓s + n,

on a torus of twice the height and width of y; a quarter of it is kept, so that y has borders like any picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blindsr.likelihood.content import design
from blindsr.operators.degradation import Degradation, Padding


def random_field(
    theta: Tensor, terms: tuple[str, ...], shape: tuple[int, int], scale: int, *, generator: torch.Generator
) -> Tensor:
    """Draw a stationary Gaussian field on a torus: (1, 1, *shape), float64, mean zero.

    `theta` holds the coefficients of the log spectrum, whose terms are named as in `content.BASIS`. The scale s sets
    the unit of frequency; values are such that the periodogram of every s-th pixel is the sum over the aliases of exp(Σ
    θ_t B_t).
    """
    rows, cols = (torch.fft.fftfreq(n, dtype=torch.float64) for n in shape)
    fy, fx = torch.broadcast_tensors(rows[:, None], cols[None, :])
    spectrum = torch.zeros(shape, dtype=torch.float64)
    seen = (fy != 0) | (fx != 0)
    spectrum[seen] = (design(terms, fy[seen], fx[seen], scale) @ theta).exp()
    white = torch.randn(shape, generator=generator, dtype=torch.float64)
    field: Tensor = torch.fft.ifft2(torch.fft.fft2(white) * (scale * spectrum.sqrt())).real
    return field[None, None]


def degraded_field(
    theta: Tensor,
    terms: tuple[str, ...],
    kernel: Tensor,
    noise_std: float,
    shape: tuple[int, int],
    degradation: Degradation,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Draw y (1, 1, *shape), float64: a random field, blurred by kernel (1, 1, K, K), subsampled, with noise."""
    s = degradation.scale
    big = (2 * s * shape[0], 2 * s * shape[1])
    x = random_field(theta, terms, big, s, generator=generator)
    circular = Degradation(s, kernel.shape[-1], degradation.alignment, Padding.CIRCULAR)
    y = circular(x, kernel.double())[..., : shape[0], : shape[1]]
    return y + noise_std * torch.randn(y.shape, generator=generator, dtype=torch.float64)
