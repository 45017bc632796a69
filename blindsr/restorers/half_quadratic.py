"""MAP restoration under a gradient prior by half-quadratic splitting: total variation, hyper-Laplacian."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from blindsr.operators.degradation import Degradation
from blindsr.restorers.bicubic import bicubic
from blindsr.restorers.canvas import Canvas

QUANTISATION_STD = 0.3 / 255
"""Standard deviation of rounding to 8 bits, 1/sqrt(12) grey levels: the smallest noise that a restorer counts with."""

_NEWTON_STEPS = 6
_ANCHOR = 1e-6


class Solution(NamedTuple):
    """A restored image, and what a next call may start from.

    Attributes
    ----------
    image : Tensor
        The picture (1, C, s h, s w), not clipped.
    canvas : Tensor
        The picture with the border that was solved for (the picture itself under circular padding), to be given as
        `start`.
    """

    image: Tensor
    canvas: Tensor


def check_noise(noise_std: float) -> None:
    """Raise ValueError unless the noise level is a finite number of 0 or more."""
    if not 0 <= noise_std < math.inf:
        raise ValueError(f"noise level {noise_std}: a standard deviation of 0 or more, in units of 0..1, is needed")


def shrink(magnitude: Tensor, weight: float, exponent: float) -> Tensor:
    """Minimise t w^γ + (w − v)²/2 over w ≥ 0 (Krishnan & Fergus 2009), by Newton's method from the right.

    For γ < 1 the minimum jumps from 0 to w* = (2 t (1 − γ))^(1/(2−γ)) at v* = w* + t γ w*^(γ−1); above it the
    derivative is convex and increasing, so Newton's steps from v converge from one side.

    Parameters
    ----------
    magnitude : Tensor
        v ≥ 0, any shape.
    weight, exponent : float
        t ≥ 0 and γ in (0, 1].
    """
    if exponent == 1 or weight == 0:
        return (magnitude - weight).clamp_min(0)
    g = exponent
    jump = (2 * weight * (1 - g)) ** (1 / (2 - g))
    threshold = jump + weight * g * jump ** (g - 1)
    v = magnitude.clamp_min(threshold)
    w = v
    for _ in range(_NEWTON_STEPS):
        w = w - (w - v + weight * g * w ** (g - 1)) / (1 + weight * g * (g - 1) * w ** (g - 2))
    return torch.where(magnitude > threshold, w, torch.zeros_like(w))


@dataclass(frozen=True)
class GradientPrior:
    """Ω(x) = λ Σ_u |∇x(u)|^γ, |∇x|² = Σ over both differences and over the channels (isotropic, coupled).

    Parameters
    ----------
    weight : float
        λ > 0, the prior's energy being −log p(x) with x in 0..1.
    exponent : float
        γ in (0, 1]: 1 is total variation, 0.67 to 0.8 a hyper-Laplacian.
    first, growth, steps : float, float, int
        Continuation: β starts at `first` λ and grows by `growth` at each of `steps` steps.

    Raises
    ------
    ValueError
        If a value lies outside its range.
    """

    weight: float = 5.0
    exponent: float = 1.0
    first: float = 4.0
    growth: float = 1.5
    steps: int = 25

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"prior weight {self.weight}: a positive number is needed")
        if not 0 < self.exponent <= 1:
            raise ValueError(f"gradient exponent {self.exponent}: a number in (0, 1] is needed")
        if not self.first > 0 or not self.growth >= 1 or self.steps < 1:
            raise ValueError("half-quadratic splitting: need first > 0, growth of at least 1 and at least one step")


def difference_filters(shape: tuple[int, ...]) -> list[Tensor]:
    """Spectra of the circular differences x(u+1) − x(u), vertical and horizontal, on a canvas (H, W)."""
    out = []
    for axis in (0, 1):
        d = torch.zeros(shape, dtype=torch.float64)
        d[0, 0] = -1
        d[(-1, 0) if axis == 0 else (0, -1)] += 1
        out.append(torch.fft.fft2(d))
    return out


def half_quadratic(
    y: Tensor,
    kernel: Tensor,
    degradation: Degradation,
    noise_std: float,
    *,
    prior: GradientPrior | None = None,
    start: Tensor | None = None,
) -> Solution:
    """Minimise ‖y − (x ⊗ k)↓s‖²/(2σ²) + Ω(x) by half-quadratic splitting.

    With w_i for the gradients f_i ⊗ x and β growing, alternately: w by shrinkage of the gradients (`shrink` with λ/β),
    x by the closed form of `Canvas.solve`. At a fixed β both steps lower
    ‖y − A x‖²/(2σ²) + λ Σ|w|^γ + (β/2) Σ_i ‖f_i ⊗ x − w_i‖².

    Parameters
    ----------
    y : Tensor
        LR image (1, C, h, w).
    kernel : Tensor
        (1, 1, K, K).
    degradation : Degradation
        Scale, kernel size, alignment, padding.
    noise_std : float
        σ, units of 0..1; counted as at least `QUANTISATION_STD`.
    prior : GradientPrior, optional
        Default: total variation.
    start : Tensor, optional
        Image or canvas to start from. Default: bicubic enlargement.

    Raises
    ------
    ValueError
        If a shape or the noise level is bad, see `Canvas`.
    """
    check_noise(noise_std)
    prior = prior or GradientPrior()
    canvas = Canvas(y, kernel, degradation)
    x = canvas.fill(bicubic(y, degradation.scale, degradation.alignment) if start is None else start).double()
    filters = [f.to(y.device) for f in difference_filters(canvas.shape)]
    power = torch.stack([f.abs().square() for f in filters]).sum(0) + _ANCHOR
    variance, beta = max(noise_std, QUANTISATION_STD) ** 2, prior.first * prior.weight
    for _ in range(prior.steps):
        x = _step(canvas, x, filters, power, beta, prior, variance)
        beta *= prior.growth
    return Solution(canvas.crop(x).to(y.dtype), x.to(y.dtype))


def _step(
    canvas: Canvas, x: Tensor, filters: list[Tensor], power: Tensor, beta: float, prior: GradientPrior, variance: float
) -> Tensor:
    """One shrinkage of the gradients and one quadratic step (with `_ANCHOR` β ‖x − x_old‖², which fixes the mean)."""
    spectrum = torch.fft.fft2(x)
    g = torch.stack([torch.fft.ifft2(f * spectrum).real for f in filters])
    size = g.square().sum((0, 2), keepdim=True).sqrt()
    w = torch.fft.fft2(g * (shrink(size, prior.weight / beta, prior.exponent) / size.clamp_min(1e-12)))
    target = sum((f.conj() * v for f, v in zip(filters, w, strict=True)), _ANCHOR * spectrum)
    return canvas.solve(beta * power, beta * target, variance)
