"""Restoration of an image without training data: maximum a posteriori under a known kernel (Eqs. 2, 3, 35)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from blindsr.operators.degradation import Degradation
from blindsr.restorers.half_quadratic import GradientPrior, Solution, check_noise, half_quadratic
from blindsr.restorers.selfsimilar import SelfSimilarPrior, self_similar

_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
"""Luma and colour differences of BT.601, full range, without offsets."""


def _colour(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix.to(x), x)


@dataclass(frozen=True)
class MapRestorer:
    """Restorer: gradient prior on every channel, then patch groups on the luma.

    Luma and colour differences are restored apart: the eye, and the scores, look at the luma, and the differences are
    smooth, so a gradient prior that couples both does for them. A grey image is luma alone; of an image with another
    number of channels than 1 or 3, every channel is treated as a luma.

    Parameters
    ----------
    gradient : GradientPrior
        Prior of the first solution, and of the colour differences.
    similar : SelfSimilarPrior, optional
        Prior of the luma; None leaves it at the first solution, which takes a tenth of the time.
    model_error : float
        Standard deviation of what the model leaves out (kernel error, clipping), units of 0..1, added to the noise in
        squares. At least that of rounding to 8 bits is counted anyway. One grey level (1/255) suits an estimated
        kernel: it costs some tenths of a decibel under the true one, and wins as much or more where the kernel is
        10 % too wide.

    Raises
    ------
    ValueError
        If the model error is negative or not finite.
    """

    gradient: GradientPrior = field(default_factory=GradientPrior)
    similar: SelfSimilarPrior | None = field(default_factory=SelfSimilarPrior)
    model_error: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.model_error < float("inf"):
            raise ValueError(f"model error {self.model_error}: a standard deviation of 0 or more is needed")

    def __call__(self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float) -> Tensor:
        """Restore an image, see `blindsr.restorers.base.Restorer`: (1, C, s h, s w), clipped to 0..1."""
        return self.solve(y, kernel, degradation, noise_std).image.clamp(0, 1)

    @torch.no_grad()
    def solve(
        self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float, *, start: Tensor | None = None
    ) -> Solution:
        """Restore an image, from the canvas of an earlier solution if one is given (with whatever kernel it was found).

        Parameters
        ----------
        y : Tensor
            LR image (1, C, h, w).
        kernel : Tensor
            (1, 1, K, K).
        degradation : Degradation
            Scale, kernel size, alignment, padding.
        noise_std : float
            Noise standard deviation, units of 0..1.
        start : Tensor, optional
            Picture (1, C, s h, s w) or the canvas of an earlier solution. Then the first solution is skipped for the
            luma.

        Raises
        ------
        ValueError
            If a shape or a value is bad.
        """
        if y.ndim != 4 or y.shape[0] != 1:
            raise ValueError(f"the image has shape {tuple(y.shape)}: (1, channels, height, width) is needed")
        check_noise(noise_std)
        if y.shape[1] != 3:
            starts = [None] * y.shape[1] if start is None else start.split(1, dim=1)
            pairs = zip(y.split(1, dim=1), starts, strict=True)
            planes = [self._luma(plane, kernel, degradation, noise_std, x) for plane, x in pairs]
            return Solution(*(torch.cat(part, 1) for part in zip(*planes, strict=True)))
        matrix = torch.tensor(_YCBCR, dtype=torch.float64)
        gain = matrix.norm(dim=1).tolist()  # of white noise, by channel
        luma_y, chroma_y = _colour(y, matrix).split((1, 2), dim=1)
        luma_x, chroma_x = (None, None) if start is None else _colour(start, matrix).split((1, 2), dim=1)
        luma = self._luma(luma_y, kernel, degradation, noise_std * gain[0], luma_x)
        noise = self._noise(noise_std * (gain[1] + gain[2]) / 2)
        chroma = half_quadratic(chroma_y, kernel, degradation, noise, prior=self.gradient, start=chroma_x)
        back = torch.linalg.inv(matrix)
        return Solution(*(_colour(torch.cat(pair, 1), back) for pair in zip(luma, chroma, strict=True)))

    def _noise(self, noise_std: float) -> float:
        return float((noise_std**2 + self.model_error**2) ** 0.5)

    def _luma(
        self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float, start: Tensor | None
    ) -> Solution:
        noise = self._noise(noise_std)
        if start is None or self.similar is None:
            first = half_quadratic(y, kernel, degradation, noise, prior=self.gradient, start=start)
            if self.similar is None:
                return first
            start = first.canvas
        return self_similar(y, kernel, degradation, noise, prior=self.similar, start=start)
