"""Non-local self-similarity of one image as a prior: similar patches differ from their mean in few pixels and few ways.

Around each reference patch the N patches most like it are collected. Their deviations from the mean patch, an (N, p²)
matrix D, are turned by the eigenvectors U of D Dᵀ, and entries of Uᵀ D below a threshold are set to zero: group
sparsity as in BM3D (Dabov et al. 2007), but with a basis across patches learned from the group (as in NCSR, Dong et al.
2013) and, within a patch, the pixels themselves, in which an edge that moves is sparse. The patches go back to their
places and are averaged, groups that needed few entries counting more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from blindsr.operators.degradation import Degradation
from blindsr.restorers.bicubic import bicubic
from blindsr.restorers.canvas import Canvas
from blindsr.restorers.half_quadratic import QUANTISATION_STD, Solution, check_noise

_CHUNK = 4096
"""Groups processed at a time, which bounds the memory."""


@dataclass(frozen=True)
class SelfSimilarPrior:
    """Settings of the patch groups and of the splitting.

    Parameters
    ----------
    patch, stride : int
        Side p of a patch and distance of the reference patches, in HR pixels.
    radius : int
        Similar patches are looked for up to this many pixels away, on each axis.
    members : int
        Patches in a group, N.
    threshold : float
        Entries of Uᵀ D below this many assumed noise levels are set to zero.
    first, last : float
        Assumed noise levels of the first and the last step (geometric between), in units of 0..1, for each unit of the
        scale: at scale 4, four times as much. The last one is raised to the noise level times `noise_gain` if that is
        more.
    noise_gain : float
        See `last`.
    steps, regroup : int
        Number of steps, and after how many of them the groups are formed anew.
    coupling : float
        Weight of ‖x − z‖² in units of one over the squared noise level assumed (Zhang et al. 2021, DPIR: 0.23).
    momentum : float
        Extrapolation of x between regroupings, in [0, 1).

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
    first: float = 7.5 / 255
    last: float = 0.75 / 255
    noise_gain: float = 2.0
    steps: int = 16
    regroup: int = 4
    coupling: float = 0.4
    momentum: float = 0.8

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.patch:
            raise ValueError(
                f"patches of {self.patch} pixels at a stride of {self.stride} leave gaps or overlap wholly"
            )
        if self.radius < 1 or not 2 <= self.members <= (self.radius + 1) ** 2:
            raise ValueError(f"{self.members} patches within {self.radius} pixels: at least 2 and a radius for them")
        if self.steps < 1 or self.regroup < 1:
            raise ValueError("self-similarity: at least one step, and one step between regroupings")
        if not 0 < self.last <= self.first < math.inf:
            raise ValueError(f"noise levels {self.first} to {self.last}: positive and not growing")
        if not (self.coupling > 0 and self.threshold >= 0 and self.noise_gain >= 0 and 0 <= self.momentum < 1):
            raise ValueError("self-similarity: need coupling > 0, threshold and noise gain >= 0, momentum in [0, 1)")


def similar(image: Tensor, prior: SelfSimilarPrior) -> Tensor:
    """Find the patches nearest in squared difference to each reference patch.

    Parameters
    ----------
    image : Tensor
        (H, W) with H − p and W − p multiples of the stride.

    Returns
    -------
    Tensor
        (n, N) indices of top left pixels in the flat image, the reference itself first; in an image too small for N
        patches within reach, as many as there are.
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


class PatchGroups:
    """Groups of similar patches of an image, with their bases; a denoiser for images like it.

    Parameters
    ----------
    image : Tensor
        (H, W) to form the groups on; at least p pixels each way.
    prior : SelfSimilarPrior
        Patch size, stride, radius, members, threshold.
    """

    def __init__(self, image: Tensor, prior: SelfSimilarPrior) -> None:
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

    def denoise(self, image: Tensor, noise_std: float) -> Tensor:
        """Threshold the groups' coefficients and average the patches.

        Parameters
        ----------
        image : Tensor
            (H, W), as large as the one that the groups were formed on.
        noise_std : float
            Noise level assumed, units of 0..1.
        """
        padded = self._pad(image)
        total, weight = torch.zeros_like(padded).reshape(-1), torch.zeros_like(padded).reshape(-1)
        for index, basis in zip(self.index.split(_CHUNK), self.basis.split(_CHUNK), strict=True):
            pixels, mean, d = self._deviations(padded, index)
            c = basis.transpose(1, 2) @ d
            kept = (c.abs() > self.prior.threshold * noise_std).to(c)
            w = 1 / (1 + kept.sum((1, 2)) / d.shape[2])
            patches = (basis @ (c * kept) + mean) * w[:, None, None]
            total.index_add_(0, pixels.reshape(-1), patches.reshape(-1))
            weight.index_add_(0, pixels.reshape(-1), w[:, None, None].expand_as(patches).reshape(-1))
        return (total / weight).view_as(padded)[: self.shape[0], : self.shape[1]]


def self_similar(
    y: Tensor,
    kernel: Tensor,
    degradation: Degradation,
    noise_std: float,
    *,
    prior: SelfSimilarPrior | None = None,
    start: Tensor | None = None,
) -> Solution:
    """Restore a grey image by the alternating direction method: patch groups against the data.

    With the assumed noise level a falling from `first` to `last` (times the scale), alternately

        z = D(x + m (x − x_old) + u; a)        (`PatchGroups.denoise`)
        u = x + m (x − x_old) + u − z
        x = argmin ‖y − A x‖²/σ² + (c/a²) ‖x − (z − u)‖²        (`Canvas.solve`).

    This is "plug and play" with a denoiser that knows nothing but the image; no energy is promised to fall.

    Parameters
    ----------
    y : Tensor
        LR image (1, 1, h, w).
    kernel : Tensor
        (1, 1, K, K).
    degradation : Degradation
        Scale, kernel size, alignment, padding.
    noise_std : float
        σ, units of 0..1; counted as at least `QUANTISATION_STD`.
    prior : SelfSimilarPrior, optional
        Settings.
    start : Tensor, optional
        Image or canvas to start from. Default: bicubic enlargement; a `half_quadratic` solution is better.

    Raises
    ------
    ValueError
        If y is not a single plane, or a shape or the noise level is bad, see `Canvas`.
    """
    check_noise(noise_std)
    if y.ndim != 4 or y.shape[:2] != (1, 1):
        raise ValueError(f"the image has shape {tuple(y.shape)}: a grey image (1, 1, height, width) is needed")
    prior = prior or SelfSimilarPrior()
    canvas = Canvas(y, kernel, degradation)
    x = canvas.fill(bicubic(y, degradation.scale, degradation.alignment) if start is None else start).double()
    variance = max(noise_std, QUANTISATION_STD) ** 2
    first = prior.first * degradation.scale
    last = min(max(prior.last * degradation.scale, prior.noise_gain * noise_std), first)
    old, u, z = x, torch.zeros_like(x), x
    for step in range(prior.steps):
        level = first * (last / first) ** (step / max(prior.steps - 1, 1))
        if step % prior.regroup == 0:
            groups, old = PatchGroups(x[0, 0].float(), prior), x
        v = x + prior.momentum * (x - old) + u
        z = groups.denoise(v[0, 0].float(), level)[None, None].double()
        u, old = v - z, x
        weight = torch.full((1, 1), prior.coupling / level**2, dtype=torch.float64, device=y.device)
        x = canvas.solve(weight.expand(canvas.shape), weight * torch.fft.fft2(z - u), variance)
    return Solution(canvas.crop(z).to(y.dtype), z.to(y.dtype))
