"""Gram matrices of an image's patches under the kernel, for the quadratic form of `likelihood.quadratic`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from blindsr.operators.degradation import Degradation, Padding

_PATCH_VALUES, _BLOCK = 2**17, 128
"""Number of patch values held in memory at a time (1 MiB), and of columns of the Gram matrix computed at a time."""


def _fft_size(n: int) -> int:
    """Return the smallest length from n on without a prime factor above 17, for which the FFT is much faster."""
    while True:
        rest = n
        for prime in (2, 3, 5, 7, 11, 13, 17):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def periodic_size(degradation: Degradation, h: int, w: int) -> tuple[int, int]:
    """Period (h', w') in LR pixels: (h, w) if the image is periodic, else enough for the last patch as well."""
    if degradation.padding is Padding.CIRCULAR:
        return h, w
    more = -(-degradation.kernel_size // degradation.scale) - 1
    return _fft_size(h + more), _fft_size(w + more)


def periodic_image(degradation: Degradation, x: Tensor, h: int, w: int) -> Tensor:
    """Make planes (P, H, W) periodic, (P, s h', s w'), such that their patches at u < (h, w) stay the same."""
    s, k = degradation.scale, degradation.kernel_size
    if degradation.padding is Padding.CIRCULAR:
        before = degradation.margins[0]
        return x.roll((before, before), (-2, -1))
    xe = degradation.extend(x)[..., : s * (h - 1) + k, : s * (w - 1) + k]
    rows, columns = periodic_size(degradation, h, w)
    return F.pad(xe, (0, s * columns - xe.shape[-1], 0, s * rows - xe.shape[-2]))


def _patches(degradation: Degradation, periodic: Tensor) -> Tensor:
    """All patches (P, h', w', K, K) of periodic planes, as a view of a slightly larger copy."""
    s, k = degradation.scale, degradation.kernel_size
    for axis in (-2, -1):
        n = periodic.shape[axis]
        index = torch.arange(n - s + k, device=periodic.device) % n
        periodic = periodic.index_select(axis, index)
    return periodic.unfold(-2, k, s).unfold(-2, k, s)


def gram_of(patches: Tensor, weight: Tensor) -> Tensor:
    """Σ w p pᵀ (K², K²) over patches (P, h, w, K, K) with weights (P, h, w), a few rows at a time."""
    k2 = patches.shape[-1] ** 2
    total = patches.new_zeros(k2, k2)
    rows = max(1, _PATCH_VALUES // max(1, patches.shape[2] * k2))
    for plane, w in zip(patches, weight, strict=True):
        for part, v in zip(plane.split(rows), w.split(rows), strict=True):
            p = part.reshape(-1, k2)
            left = (p * v.reshape(-1, 1)).T
            for i in range(0, k2, _BLOCK):  # the blocks below the diagonal follow by symmetry
                total[i : i + _BLOCK, i:] += left[i : i + _BLOCK] @ p[:, i:]
    whole: Tensor = total.triu() + total.triu(1).T
    return whole


def _correlations(left: Tensor, spectra: Tensor, size: tuple[int, int], reach: int) -> Tensor:
    """Periodic correlations Σ_{P, u} left(u) phase(u + d) with m phases, for all lags |d| ≤ reach on both axes.

    `left` (P, h', w'//2 + 1) and `spectra` (m, P, h', w'//2 + 1) are `rfft2` spectra of planes of `size` (h', w'). The
    result is (m, 2 reach + 1, 2 reach + 1).
    """
    conj = left.conj().resolve_conj()
    cross = conj[0] * spectra[:, 0]
    for p in range(1, len(conj)):
        cross.addcmul_(conj[p], spectra[:, p])
    lags = torch.arange(-reach, reach + 1, device=spectra.device)
    full: Tensor = torch.fft.irfft2(cross, s=size)
    return full.index_select(-2, lags % size[0]).index_select(-1, lags % size[1])


def _spread(table: Tensor, scale: int, size: int) -> Tensor:
    """A[t, t'] = table[r, r', q' - q] for t = s q + r: from (s², s², 2Q - 1, 2Q - 1) to (K², K²)."""
    q = (table.shape[-1] + 1) // 2
    t = table.unfold(-2, q, 1).unfold(-2, q, 1).flip(2, 3)  # (r, r', q1, q2, q1', q2')
    t = t.reshape(scale, scale, scale, scale, q, q, q, q).permute(4, 0, 5, 1, 6, 2, 7, 3)
    t = t.reshape(q * scale, q * scale, q * scale, q * scale)[:size, :size, :size, :size]
    return t.reshape(size**2, size**2)


@dataclass(frozen=True, eq=False)
class Patches:
    """The patches p'(u) of an image, and sums over them.

    Parameters
    ----------
    degradation : Degradation
        Scale s, kernel size K, alignment, padding.
    periodic : Tensor
        Centred planes (P, s h', s w') from `periodic_image`; P is the batch size times the number of channels.
    shape : (int, int)
        LR size (h, w) in pixels.
    """

    degradation: Degradation
    periodic: Tensor
    shape: tuple[int, int]

    @cached_property
    def size(self) -> tuple[int, int]:
        """Period (h', w') in LR pixels."""
        s = self.degradation.scale
        return self.periodic.shape[-2] // s, self.periodic.shape[-1] // s

    @cached_property
    def reach(self) -> int:
        """Largest offset q of a kernel pixel s q + r."""
        return -(-self.degradation.kernel_size // self.degradation.scale) - 1

    @cached_property
    def spectra(self) -> Tensor:
        """Spectra of the phase images (s², P, h', w'//2 + 1)."""
        phases = F.pixel_unshuffle(self.periodic.unsqueeze(1), self.degradation.scale)
        spectra: Tensor = torch.fft.rfft2(phases.transpose(0, 1))
        return spectra

    def against(self, image: Tensor) -> Tensor:
        """Σ_u f(u) p'(u) (K²,) for LR planes f (P, h, w)."""
        s, k, q = self.degradation.scale, self.degradation.kernel_size, self.reach + 1
        spectrum = torch.fft.rfft2(image, s=self.size)  # padded with zeros, so that no other patch counts
        found = _correlations(spectrum, self.spectra, self.size, self.reach)[:, self.reach :, self.reach :]
        return F.pixel_shuffle(found.reshape(s * s, q, q), s)[0, :k, :k].reshape(k * k)

    def gram(self, weight: Tensor) -> Tensor:
        """Σ_u w(u) p' p'ᵀ (K², K²) for any weights (P, h, w)."""
        h, w = self.shape
        return gram_of(_patches(self.degradation, self.periodic)[:, :h, :w], weight)

    def stationary_gram(self, weight: Tensor) -> Tensor:
        """The same for one weight per plane (P,): the sum over all patches by FFT, minus the patches outside (h, w)."""
        spectra, d, (h, w) = self.spectra, self.degradation, self.shape
        m, lags = len(spectra), 2 * self.reach + 1
        table = self.periodic.new_empty(m, m, lags, lags)
        for i in range(m):
            row = _correlations(spectra[i] * weight[:, None, None], spectra[i:], self.size, self.reach)
            table[i, i:] = row
            table[i:, i] = row.flip(-2, -1)
        total = _spread(table, d.scale, d.kernel_size)
        if self.size != self.shape:
            patches = _patches(d, self.periodic)
            for outside in (patches[:, h:], patches[:, :h, w:]):
                total = total - gram_of(outside, weight[:, None, None].expand(outside.shape[:3]))
        return total
