"""Restoration of an image without training data: maximum a posteriori under a known kernel (Eqs. 2, 3, 35)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from blindsr.likelihood.noise import check_noise
from blindsr.operators.degradation import Degradation
from blindsr.priors.base import ImagePrior
from blindsr.priors.patch_groups import PatchGroups
from blindsr.restorers.base import Restorer
from blindsr.restorers.splitting import Solution, Splitting, check_prior, map_solution

_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
"""Luma and colour differences of BT.601, full range, without offsets."""


def _colour(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix.to(x), x)


@dataclass(frozen=True)
class MapRestorer(Restorer):
    """Restorer by maximum a posteriori under any `ImagePrior`.

    Luma and colour differences are restored separately: perception and image-quality scores depend mostly on the luma,
    and the differences are smooth, so coupled total variation suffices for them. A grey image is luma alone; every
    channel of an image with another number of channels than 1 or 3 is treated as a luma.

    Parameters
    ----------
    prior : ImagePrior
        Prior of the luma. `TotalVariation()` takes a tenth of the time of the default.
    weight : float, optional
        Its weight λ, see `map_solution`. Default: the prior's `map_weight`; 1, for an energy −log p(x), without one.
    splitting : Splitting, optional
        How the luma is minimised. Default: `splitting_for` the prior.
    model_error : float
        Standard deviation of what the model leaves out (kernel error, clipping), units of 0..1, added to the noise in
        squares. At least that of rounding to 8 bits is counted anyway. One grey level (1/255) suits an estimated
        kernel: it costs some tenths of a decibel under the true one, and gains as much or more where the kernel is
        10 % too wide.

    Raises
    ------
    ValueError
        If the prior has no `prox`, its weight is not positive, or the model error is negative or not finite.
    """

    prior: ImagePrior = field(default_factory=PatchGroups)
    weight: float | None = None
    splitting: Splitting | None = None
    model_error: float = 0.0

    def __post_init__(self) -> None:
        check_prior(self.prior, self.weight)
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

        Arguments are those of `Restorer`; `start` is a picture (1, C, s h, s w) or the canvas of an earlier solution,
        and by default what the splitting starts from. A bad shape or value raises ValueError.
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
        chroma = map_solution(chroma_y, kernel, degradation, noise, start=chroma_x)
        back = torch.linalg.inv(matrix)
        return Solution(*(_colour(torch.cat(pair, 1), back) for pair in zip(luma, chroma, strict=True)))

    def _noise(self, noise_std: float) -> float:
        return float((noise_std**2 + self.model_error**2) ** 0.5)

    def _luma(
        self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float, start: Tensor | None
    ) -> Solution:
        return map_solution(
            y,
            kernel,
            degradation,
            self._noise(noise_std),
            prior=self.prior,
            weight=self.weight,
            splitting=self.splitting,
            start=start,
        )
