"""Kernels as an estimate may have them: a restorer that is trained with them learns to cope."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blindsr.operators.kernels import center_of_mass

WARP, WARP_STD = 2.5, 3.0
"""Largest standard deviation of the displacements, and the scale that they are smooth at, pixels."""
UNEVEN, UNEVEN_STD = 0.6, 1.5
"""Largest amplitude of the relative change of weights, and the scale that it is smooth at, pixels."""
BLUR = (0.3, 1.2)
"""Standard deviation of the blur, pixels: the least, which is hardly any, and the most that is added to it."""
MIXED = 0.35
"""Largest share of another kernel."""
THRESHOLD = 0.08
"""Largest threshold, in units of the largest pixel."""


def wrong(kernels: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return wrong versions of kernels, with their centres of mass.

    In turn, each kernel is

    1. warped by smooth random displacements, of amplitude up to 2.5 pixels: its path takes another course;
    2. multiplied by 1 + a smooth random field, clipped at zero: the exposure is spread otherwise along the path;
    3. blurred by a Gaussian of 0.3 to 1.5 pixels: an estimate is too wide;
    4. mixed with the (equally wrong) kernel of its neighbour in the batch, up to 35 %: ghosts;
    5. cut at up to 8 % of its largest pixel: faint tails get lost;
    6. moved by a fraction of a pixel to the centre of mass that it had, since a shift only shifts the image.

    Amplitudes are drawn for each kernel and step, as the largest value times u² with u uniform, so that most errors
    are small and some are gross. The sizes were set by hand and have not been tuned.

    Parameters
    ----------
    kernels : Tensor
        (n, 1, K, K), non-negative, summing to one.
    generator : torch.Generator
        Source of all randomness.

    Returns
    -------
    Tensor
        (n, 1, K, K), non-negative, summing to one.
    """
    n, _, size, _ = kernels.shape

    def amplitude(most: float) -> Tensor:
        return most * torch.rand(n, 1, 1, 1, generator=generator) ** 2

    def field(std: float) -> Tensor:
        return _smooth_noise(n, size, std, generator)

    shift = torch.cat([field(WARP_STD), field(WARP_STD)], 1).permute(0, 2, 3, 1)
    found = _moved(kernels, shift * amplitude(WARP))
    found = found * (1 + amplitude(UNEVEN) * field(UNEVEN_STD)).clamp_min(0)
    found = _normalised(_blurred(found, BLUR[0] + amplitude(BLUR[1])), kernels)
    share = amplitude(MIXED)
    found = (1 - share) * found + share * found.roll(1, 0)
    found = found * (found >= amplitude(THRESHOLD) * found.amax((2, 3), keepdim=True))
    found = _normalised(found, kernels)
    gap = center_of_mass(found) - center_of_mass(kernels)
    return _normalised(_moved(found, gap[:, None, None]), kernels)


def _normalised(kernels: Tensor, otherwise: Tensor) -> Tensor:
    """Scale kernels to sum one; one that has vanished (a single pixel may) is replaced by that of `otherwise`."""
    total = kernels.sum((2, 3), keepdim=True)
    return torch.where(total > 1e-6, kernels / total.clamp_min(1e-6), otherwise)


def _smooth_noise(n: int, size: int, std: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise (n, 1, size, size) that is smooth at `std` pixels, of variance one but near the border."""
    reach = torch.arange(-6.0, 7.0)
    weights = torch.exp(-(reach**2) / (2 * std**2))
    weights = weights / weights.norm()
    noise = torch.randn(n, 1, size, size, generator=generator)
    rows = F.conv2d(noise, weights.view(1, 1, -1, 1), padding=(6, 0))
    return F.conv2d(rows, weights.view(1, 1, 1, -1), padding=(0, 6))


def _blurred(kernels: Tensor, std: Tensor) -> Tensor:
    """Blur each kernel by a Gaussian of its own standard deviation (n, 1, 1, 1), pixels, cut at 3 pixels."""
    n = len(kernels)
    weights = torch.exp(-(torch.arange(-3.0, 4.0) ** 2) / (2 * std[:, 0, 0] ** 2))
    weights = weights / weights.sum(1, keepdim=True)
    rows = F.conv2d(kernels.transpose(0, 1), weights.view(n, 1, -1, 1), padding=(3, 0), groups=n)
    return F.conv2d(rows, weights.view(n, 1, 1, -1), padding=(0, 3), groups=n).transpose(0, 1)


def _moved(kernels: Tensor, shift: Tensor) -> Tensor:
    """Read kernels (n, 1, K, K) bilinearly at positions moved by (column, row) shifts (n, K, K, 2), pixels."""
    size = kernels.shape[-1]
    axis = torch.linspace(-1, 1, size)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)[None]
    where = (grid + shift * (2 / (size - 1))).expand(len(kernels), -1, -1, -1)
    return F.grid_sample(kernels, where, mode="bilinear", align_corners=True)
