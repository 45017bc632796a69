"""Non-local self-similarity of an image as a prior: sparse deviations of similar patches from their mean.

The N patches that are most similar to each reference patch form a group. Their deviations from the mean patch, an
(N, p²) matrix D, are rotated by the eigenvectors U of D Dᵀ, and the coefficients C = Uᵀ D are assumed to be sparse.
This is the group sparsity of BM3D (Dabov et al. 2007), but with a basis across the patches that is learned from the
group (as in NCSR, Dong et al. 2013); within a patch the basis is the pixels themselves, in which a moving edge is
sparse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 4096
"""Number of groups processed at a time, which bounds the memory."""


@dataclass(frozen=True)
class PatchGroups:
    """Prior on groups of similar patches, channel by channel.

    With the noise level a and the threshold t,

        Ω(x) = Σ_groups Σ min(C², t² a²) / (2 a² m),

    where m is the mean number of patches that cover a pixel. It is the Moreau envelope, for noise of variance a², of
    the penalty t²/2 on each non-zero coefficient, so a gradient step of length a² on a group's term sets coefficients
    below t a to zero and leaves the others unchanged. `prox` makes that step for all groups, with a² = step, and
    averages the patches, where groups with fewer non-zero coefficients have larger weights. It is a denoiser in place
    of a proximal map, for plug-and-play splitting, and not the exact minimiser. Groups and bases are computed from the
    given image, and are held fixed in the gradient.

    Parameters
    ----------
    patch, stride : int
        Side p of a patch, and distance between reference patches, in HR pixels; 1 ≤ stride ≤ patch.
    radius : int
        Similar patches are searched for within this many pixels on each axis, at least 1.
    members : int
        Number N of patches in a group, from 2 to (radius + 1)².
    threshold : float
        Threshold t, at least 0, in units of the noise level.
    level : float
        Noise level a of the energy, in units of 0..1; `prox` derives its own from its step. The default is that of the
        last step of the MAP image at scale 4.

    Raises
    ------
    ValueError
        If a value lies outside its range.
    """

    patch: int = 8
    stride: int = 4
    radius: int = 15
    members: int = 24
    threshold: float = 2.5
    level: float = 3 / 255
    rho: ClassVar[float] = 0.4
    """As `map_weight`; not tuned in the joint loop."""
    map_weight: ClassVar[float] = 0.4
    """Denoisers of Zhang et al. (2021, DPIR) take 0.23. Checked by `benchmarks/map_weights.py`."""

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.patch:
            raise ValueError(f"patch groups: stride {self.stride}: from 1 to the patch's {self.patch} pixels is needed")
        if self.radius < 1 or not 2 <= self.members <= (self.radius + 1) ** 2:
            raise ValueError(
                f"patch groups: {self.members} patches within {self.radius} pixels: need a radius of at least 1, and "
                "from 2 members to (radius + 1)²"
            )
        if not (self.threshold >= 0 and 0 < self.level < math.inf):
            raise ValueError("patch groups: need a threshold of at least 0 and a noise level above 0")

    def at(self, x: Tensor) -> GroupedPrior:
        """Return the prior with the groups and bases of images x (B, C, H, W), for use on similar images."""
        return GroupedPrior([Groups(plane, self) for plane in x.detach().flatten(0, 1)], self.level)

    def energy(self, x: Tensor) -> Tensor:
        """Energy of images (B, C, H, W): (B,)."""
        return self.at(x).energy(x)

    def prox(self, x: Tensor, step: float) -> Tensor:
        """Shrink the groups' coefficients as for noise of variance `step`, see the class."""
        return self.at(x).prox(x, step)


@dataclass(frozen=True)
class GroupedPrior:
    """`PatchGroups` with the groups of one image, plane by plane."""

    groups: list[Groups]
    level: float

    def energy(self, x: Tensor) -> Tensor:
        """Energy of images (B, C, H, W), as many planes as there are groups: (B,)."""
        parts = [g.energy(plane, self.level) for g, plane in zip(self.groups, x.flatten(0, 1), strict=True)]
        return torch.stack(parts).view(x.shape[:2]).sum(1)

    @torch.no_grad()
    def prox(self, x: Tensor, step: float) -> Tensor:
        """Shrink the groups' coefficients as for noise of variance `step`."""
        planes = [g.denoise(plane, math.sqrt(step)) for g, plane in zip(self.groups, x.flatten(0, 1), strict=True)]
        return torch.stack(planes).view_as(x)


def similar(image: Tensor, prior: PatchGroups) -> Tensor:
    """Find the patches that are nearest, in squared difference, to each reference patch of an image (H, W).

    H − p and W − p must be multiples of the stride. The result (n, N) holds the indices of the top left pixels in
    the flattened image, that of the reference first; if fewer than N patches are within reach, it holds those.
    """
    (h, w), p, r = image.shape, prior.patch, prior.radius
    padded = F.pad(image[None, None], (r, r, r, r), value=1e3)[0, 0]
    offsets = [(i, j) for i in range(-r, r + 1) for j in range(-r, r + 1)]
    n_rows, n_cols = (h - p) // prior.stride + 1, (w - p) // prior.stride + 1
    distance = image.new_empty(len(offsets), n_rows, n_cols)
    for t, (i, j) in enumerate(offsets):
        if i == j == 0:
            distance[t] = -1
            continue
        d = (padded[r + i : r + i + h, r + j : r + j + w] - image).square_()
        distance[t] = F.avg_pool2d(d[None, None], p, prior.stride)[0, 0]
    in_reach = min(r, h - p) + 1, min(r, w - p) + 1  # of a reference in a corner
    members = min(prior.members, in_reach[0] * in_reach[1])
    nearest = distance.flatten(1).T.contiguous().topk(members, dim=1, largest=False).indices
    shift = torch.tensor([i * w + j for i, j in offsets], device=image.device)
    rows = torch.arange(n_rows, device=image.device) * prior.stride
    cols = torch.arange(n_cols, device=image.device) * prior.stride
    return (rows[:, None] * w + cols).reshape(-1, 1) + shift[nearest]


class Groups:
    """Groups of similar patches of one plane (H, W), with their bases, under the settings of `PatchGroups`."""

    def __init__(self, image: Tensor, prior: PatchGroups) -> None:
        self.prior, self.shape = prior, image.shape
        padded = self._pad(image)
        self.width = padded.shape[1]
        axis = torch.arange(prior.patch, device=image.device)
        self.inside = (axis[:, None] * self.width + axis).reshape(-1)
        self.index = similar(padded, prior)
        self.basis = torch.cat([self._basis(padded, part) for part in self.index.split(_CHUNK)])

    def _pad(self, image: Tensor) -> Tensor:
        """Repeat the last row and column until the reference patches cover the image."""
        p, t = self.prior.patch, self.prior.stride
        extra = [max(p - n, 0) or (p - n) % t for n in image.shape]
        return F.pad(image[None, None], (0, extra[1], 0, extra[0]), mode="replicate")[0, 0]

    def _deviations(self, image: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixel indices (n, N, p²), mean patches (n, 1, p²), deviations from them (n, N, p²)."""
        pixels = index[..., None] + self.inside
        patches = image.reshape(-1)[pixels.reshape(-1)].view(pixels.shape)
        mean = patches.mean(1, keepdim=True)
        return pixels, mean, patches - mean

    def _basis(self, image: Tensor, index: Tensor) -> Tensor:
        d = self._deviations(image, index)[2]
        basis: Tensor = torch.linalg.eigh(d @ d.transpose(1, 2)).eigenvectors
        return basis

    def energy(self, image: Tensor, noise_std: float) -> Tensor:
        """Ω of a plane (H, W) as large as the one that the groups were formed on, see `PatchGroups`: a scalar."""
        padded, parts = self._pad(image), []
        for index, basis in zip(self.index.split(_CHUNK), self.basis.split(_CHUNK), strict=True):
            c = basis.transpose(1, 2) @ self._deviations(padded, index)[2]
            parts.append(c.square().clamp_max((self.prior.threshold * noise_std) ** 2).sum())
        cover = self.index.numel() * len(self.inside) / padded.numel()
        return torch.stack(parts).sum() / (2 * noise_std**2 * cover)

    def denoise(self, image: Tensor, noise_std: float) -> Tensor:
        """Set coefficients below the threshold for a noise level to zero and average the patches: (H, W)."""

        def cleaned(mean: Tensor, d: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
            c = basis.transpose(1, 2) @ d
            kept = (c.abs() > self.prior.threshold * noise_std).to(c)
            return basis @ (c * kept) + mean, 1 / (1 + kept.sum((1, 2)) / d.shape[2])

        return self._averaged(image, cleaned)

    def std(self, image: Tensor) -> Tensor:
        """Standard deviation within the groups, pixel by pixel of the patch, averaged over the patches: (H, W)."""

        def variances(mean: Tensor, d: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
            return d.square().mean(1, keepdim=True).expand_as(d), torch.ones_like(d[:, 0, 0])

        return self._averaged(image, variances).sqrt()

    def _averaged(self, image: Tensor, per_group: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """Apply a function to each group, and average the patches (n, N, p²) that it returns with its weights (n,)."""
        padded = self._pad(image)
        total, weight = torch.zeros_like(padded).reshape(-1), torch.zeros_like(padded).reshape(-1)
        for index, basis in zip(self.index.split(_CHUNK), self.basis.split(_CHUNK), strict=True):
            pixels, mean, d = self._deviations(padded, index)
            patches, w = per_group(mean, d, basis)
            w = w[:, None, None]
            total.index_add_(0, pixels.reshape(-1), (patches * w).reshape(-1))
            weight.index_add_(0, pixels.reshape(-1), w.expand_as(patches).reshape(-1))
        return (total / weight).view_as(padded)[: self.shape[0], : self.shape[1]]
