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

    Parameters
    ----------
    theta : Tensor
        (terms,) coefficients θ_t of the log spectrum, float64.
    terms : tuple of str
        Names of the terms B_t, keys of `content.BASIS`.
    shape : (int, int)
        Height and width in HR pixels.
    scale : int
        s, which sets the unit of frequency: the expected periodogram of every s-th pixel is the sum of exp(Σ θ_t B_t)
        over the aliases.
    generator : torch.Generator
        Source of the white noise.
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
    """Draw y (1, 1, *shape), float64: a random field, blurred, subsampled, with noise.

    Parameters
    ----------
    theta, terms, generator
        As for `random_field`; the generator also draws the noise.
    kernel : Tensor
        (1, 1, K, K).
    noise_std : float
        Standard deviation of the noise, in units of the field.
    shape : (int, int)
        Height and width of y.
    degradation : Degradation
        Scale and alignment.
    """
    s = degradation.scale
    big = (2 * s * shape[0], 2 * s * shape[1])
    x = random_field(theta, terms, big, s, generator=generator)
    circular = Degradation(s, kernel.shape[-1], degradation.alignment, Padding.CIRCULAR)
    y = circular(x, kernel.double())[..., : shape[0], : shape[1]]
    return y + noise_std * torch.randn(y.shape, generator=generator, dtype=torch.float64)
