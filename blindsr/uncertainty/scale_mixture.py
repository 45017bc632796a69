"""Draws of an image given y, the kernel and local gradient weights: the conditional Gaussian of a scale mixture.

Total variation is a scale mixture of Gaussians. Given the weights of the mixture, computed at an image x̂,

    p(x | y, k, w) ∝ exp(−‖y − A x‖²/2σ² − ½ Σ_u w(u) |∇x(u)|² − ½ a ‖x − x̂‖²),    w = λ (|∇x̂|² + ε²)^(−1/2),

with a small a that determines the mean. A draw is the mode of the same problem with perturbed data and gradients
(Papandreou & Yuille, "Gaussian sampling by local perturbations", NeurIPS 2010), found by conjugate gradients.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from blindsr.operators.degradation import Degradation, Padding
from blindsr.priors.image import TotalVariation
from blindsr.restorers.canvas import Canvas, conjugate_gradients, difference_filters

_CG_STEPS, _CG_TOLERANCE = 200, 1e-3


class ConditionalGaussian:
    """p(x | y, k, w), see the module: its mean, and draws that are exact up to the tolerance of the solver.

    Parameters
    ----------
    y : Tensor
        Grey LR image (1, 1, h, w).
    kernel : Tensor
        (1, 1, K, K).
    degradation : Degradation
        Scale, kernel size, alignment, padding.
    noise_std : float
        σ > 0, units of 0..1.
    image : Tensor
        x̂ (1, 1, s h, s w), whose gradients give the weights.
    weight : float
        λ of total variation.
    smoothing : float
        ε, units of 0..1.
    """

    def __init__(
        self,
        y: Tensor,
        kernel: Tensor,
        degradation: Degradation,
        noise_std: float,
        image: Tensor,
        *,
        weight: float = TotalVariation.map_weight,
        smoothing: float = 2 / 255,
    ) -> None:
        if not 0 < noise_std < math.inf:
            raise ValueError(f"noise level {noise_std}: a standard deviation above 0 is needed")
        self.canvas, self.variance = Canvas(y, kernel, degradation), noise_std**2
        whole = torch.zeros(1, 1, *self.canvas.lr_full)
        self.inverse = Canvas(whole, kernel, replace(degradation, padding=Padding.CIRCULAR))
        self.filters = difference_filters(self.canvas.shape, TotalVariation.offsets)
        x = self.canvas.fill(image).double()
        size = torch.stack(self._gradients(x)).square().sum(0)
        self.weights = weight * (size + smoothing**2) ** -0.5
        typical = float(self.weights.median())
        self.anchor = 1e-3 * typical  # a weak pull towards x̂, which determines the mean
        self.center = x
        self.diagonal = typical * torch.stack([f.abs().square() for f in self.filters]).sum(0) + self.anchor

    def _gradients(self, x: Tensor) -> list[Tensor]:
        spectrum = torch.fft.fft2(x)
        return [torch.fft.ifft2(f * spectrum).real for f in self.filters]

    def _divergence(self, fields: list[Tensor]) -> Tensor:
        spectra = [f.conj() * torch.fft.fft2(v) for f, v in zip(self.filters, fields, strict=True)]
        out: Tensor = torch.fft.ifft2(torch.stack(spectra).sum(0)).real
        return out

    def _adjoint(self, v: Tensor) -> Tensor:
        """Aᵀ v for LR samples v."""
        c = self.canvas
        out: Tensor = torch.fft.ifft2(c.spectrum.conj() * c._tile(c._unseen(v))).real
        return out

    def precision(self, x: Tensor) -> Tensor:
        """Apply the posterior precision AᵀA/σ² + Σ Dᵀ w D + a to an image on the canvas."""
        smooth = self._divergence([self.weights * g for g in self._gradients(x)])
        return self._adjoint(self.canvas.degrade(x)) / self.variance + smooth + self.anchor * x

    def solve(self, b: Tensor, tolerance: float = _CG_TOLERANCE) -> Tensor:
        """Solve precision · x = b by conjugate gradients, preconditioned with the inverse for equal weights."""

        def rough(r: Tensor) -> Tensor:
            return self.inverse.solve(self.diagonal, torch.fft.fft2(r), self.variance)

        return conjugate_gradients(self.precision, b, rough, steps=_CG_STEPS, tolerance=tolerance)

    def _target(self) -> Tensor:
        return self._adjoint(self.canvas.y) / self.variance + self.anchor * self.center

    def mean(self, tolerance: float = _CG_TOLERANCE) -> Tensor:
        """Posterior mean (1, 1, s h, s w), float64."""
        return self.canvas.crop(self.solve(self._target(), tolerance))

    def draw(self, generator: torch.Generator, tolerance: float = _CG_TOLERANCE) -> Tensor:
        """Return one draw (1, 1, s h, s w), float64: the mode of a perturbed problem follows the posterior."""

        def white(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator, dtype=torch.float64)

        data = self._adjoint(white(self.canvas.y)) / math.sqrt(self.variance)
        smooth = self._divergence([self.weights.sqrt() * white(self.weights) for _ in self.filters])
        noise = data + smooth + math.sqrt(self.anchor) * white(self.center)
        return self.canvas.crop(self.solve(self._target() + noise, tolerance))
