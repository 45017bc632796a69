"""The forward operator y = (x ⊗ k)↓s of Eq. 1: blur and subsample in one strided operation; its adjoint.

On an extended image xe (the image x with a border),

    y[u] = sum_t k[t] xe[s u + t],        t in {0..K-1}^2        (correlation, as torch's conv2d)

and sample u = 0 starts K//2 - offset pixels outside x. `Alignment` sets the offset, `Padding` what lies there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional as F

SCALES = (2, 3, 4, 8)


class Alignment(StrEnum):
    """Where the LR sampling grid lies on the HR grid; the nominal kernel centre is (K - s)/2 in both.

    FKP
        The protocol of FKP, BSRDM and MLMC: every s-th pixel from index 0. LR pixel u looks at HR position
        s u - (s-1)/2, so x lies s - 1 HR pixels up and left of a plain enlargement of y.
    CENTERED
        The usual grid, pixel centres aligned: every s-th pixel from index s - 1, LR pixel u at s u + (s-1)/2.
    """

    FKP = "fkp"
    CENTERED = "centered"

    @property
    def usual_padding(self) -> Padding:
        """Border rule where none is named: circular under FKP, as its images are made; VALID for anything else."""
        return Padding.CIRCULAR if self is Alignment.FKP else Padding.VALID


class Padding(StrEnum):
    """What lies beyond the border of x. With VALID nothing is assumed: x itself extends over the border."""

    CIRCULAR = "circular"
    REFLECT = "reflect"
    REPLICATE = "replicate"
    VALID = "valid"


DEFAULT_ALIGNMENT = Alignment.FKP
"""Grid where none is named, on the command line and in `super_resolve`: that of the literature's protocol."""


def default_kernel_size(scale: int) -> int:
    """Return the kernel size of the literature's protocol, min(4 s + 3, 21): 11, 15, 19, 21 for s = 2, 3, 4, 8."""
    return min(4 * scale + 3, 21)


def border_index(n: int, before: int, after: int, padding: Padding) -> Tensor:
    """Indices into an axis of n pixels that give it `before` and `after` pixels of border."""
    i = torch.arange(-before, n + after)
    match padding:
        case Padding.CIRCULAR:
            return i % n
        case Padding.REFLECT:
            period = max(2 * n - 2, 1)
            return (n - 1) - ((i % period) - (n - 1)).abs()
        case Padding.REPLICATE:
            return i.clamp(0, n - 1)
        case Padding.VALID:
            raise AssertionError("valid padding has no border")


@dataclass(frozen=True)
class Degradation:
    """Blur by a kernel, keep every s-th pixel (Eq. 1 without its noise).

    Parameters
    ----------
    scale : int
        Scale factor s: 2, 3, 4 or 8.
    kernel_size : int, optional
        Side K of the kernel, odd. Default: min(4 s + 3, 21).
    alignment : Alignment
        Where LR pixels lie on the HR grid.
    padding : Padding
        Border rule.

    Raises
    ------
    ValueError
        If the scale is not one of 2, 3, 4, 8, the kernel size is even or below 1, or below 2 s - 1 under VALID (then
        some pixels of the picture would never be seen).
    """

    scale: int
    kernel_size: int = 0
    alignment: Alignment = Alignment.FKP
    padding: Padding = Padding.CIRCULAR

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"scale {self.scale} is not supported: choose 2, 3, 4 or 8")
        if self.kernel_size == 0:
            object.__setattr__(self, "kernel_size", default_kernel_size(self.scale))
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel size {self.kernel_size}: an odd number of at least 1 is needed")
        if self.padding is Padding.VALID and min(self.margins) < 0:
            raise ValueError(
                f"valid padding at scale {self.scale} needs a kernel of {2 * self.scale - 1} pixels or more"
            )

    @property
    def offset(self) -> int:
        """HR index of the first sample, before the kernel's own half width: 0 (fkp) or s - 1 (centered)."""
        return 0 if self.alignment is Alignment.FKP else self.scale - 1

    @property
    def margins(self) -> tuple[int, int]:
        """Border (before, after) of the extended image on each axis; a negative number means pixels that go unused."""
        before = self.kernel_size // 2 - self.offset
        return before, self.kernel_size - self.scale - before

    @property
    def center(self) -> float:
        """Nominal centre of mass of a kernel on both axes, (K - s)/2, in kernel pixels from index 0."""
        return (self.kernel_size - self.scale) / 2

    def for_part(self) -> Degradation:
        """Operator for a part cut out of a picture: nothing is assumed of its border.

        VALID; REPLICATE where the kernel is too small for it (see `Padding.VALID` in the class's errors).
        """
        padding = Padding.VALID if self.kernel_size >= 2 * self.scale - 1 else Padding.REPLICATE
        return replace(self, padding=padding)

    def for_kernel(self, kernel: Tensor) -> Degradation:
        """Operator for a kernel (1, 1, K, K) of another size, centred in the same way."""
        size = int(kernel.shape[-1])
        return self if size == self.kernel_size else replace(self, kernel_size=size)

    def lr_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of y for an image x of this size (`x` is the extended image under VALID)."""
        n = self.kernel_size if self.padding is Padding.VALID else self.scale
        return (height - n) // self.scale + 1, (width - n) // self.scale + 1

    def hr_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the x that this operator takes for a y of this size."""
        extra = self.kernel_size - self.scale if self.padding is Padding.VALID else 0
        return self.scale * height + extra, self.scale * width + extra

    def crop(self, x: Tensor) -> Tensor:
        """Cut the picture (s h, s w) out of an x as the operator takes it (changes something only under VALID)."""
        return self._trim(x, *self.margins) if self.padding is Padding.VALID else x

    @staticmethod
    def _trim(x: Tensor, before: int, after: int) -> Tensor:
        h, w = x.shape[-2:]
        b, a = max(before, 0), max(after, 0)
        return x[..., b : h - a, b : w - a]

    def extend(self, x: Tensor) -> Tensor:
        """Return x with its border, (..., s(h-1) + K, s(w-1) + K)."""
        if self.padding is Padding.VALID:
            return x
        before, after = self.margins
        for axis in (-2, -1):
            index = border_index(x.shape[axis], before, after, self.padding)
            x = x.index_select(axis, index.to(x.device))
        return x

    def _extend_adjoint(self, xe: Tensor, height: int, width: int) -> Tensor:
        if self.padding is Padding.VALID:
            return xe
        before, after = self.margins
        for axis, n in ((-2, height), (-1, width)):
            index = border_index(n, before, after, self.padding).to(xe.device)
            shape = list(xe.shape)
            shape[axis] = n
            xe = xe.new_zeros(shape).index_add(axis, index, xe)
        return xe

    def _check(self, x: Tensor, kernels: Tensor) -> None:
        k = self.kernel_size
        if kernels.ndim != 4 or kernels.shape[1:] != (1, k, k):
            raise ValueError(f"kernels have shape {tuple(kernels.shape)}: (n, 1, {k}, {k}) is needed")
        if self.padding is not Padding.VALID and (x.shape[-2] % self.scale or x.shape[-1] % self.scale):
            raise ValueError(
                f"an image of {x.shape[-2]}x{x.shape[-1]} pixels is no multiple of scale {self.scale}: crop it first"
            )

    def _strided(self, xe: Tensor, kernels: Tensor) -> Tensor:
        """Correlate planes (N,1,He,We) with kernels (n,1,K,K) at every s-th position: (N,n,h,w)."""
        s = self.scale
        if s == 2:
            return F.conv2d(xe, kernels, stride=s)
        # Polyphase form of the same sum: s^2 phases at LR resolution, whose gradient is several times cheaper.
        fill = -self.kernel_size % s
        phases = F.pixel_unshuffle(F.pad(xe, (0, -xe.shape[-1] % s, 0, -xe.shape[-2] % s)), s)
        out = F.conv2d(phases, F.pixel_unshuffle(F.pad(kernels, (0, fill, 0, fill)), s))
        h, w = ((n - self.kernel_size) // s + 1 for n in xe.shape[-2:])
        return out[..., :h, :w]  # an x of no size of `hr_shape` (valid padding only) has samples that need the fill

    def __call__(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Degrade images, each with its own kernel.

        Parameters
        ----------
        x : Tensor
            HR images (B, C, H, W); H, W multiples of s (or the extended size under VALID).
        kernel : Tensor
            (B, 1, K, K) or (1, 1, K, K) for all.

        Returns
        -------
        Tensor
            LR images (B, C, h, w).
        """
        if kernel.shape[0] == 1:
            return self.each(x, kernel)[0]
        if kernel.shape[0] != x.shape[0]:
            raise ValueError(f"{kernel.shape[0]} kernels for {x.shape[0]} images: give one, or one for each")
        return torch.cat([self.each(x[i : i + 1], kernel[i : i + 1])[0] for i in range(x.shape[0])])

    def each(self, x: Tensor, kernels: Tensor) -> Tensor:
        """Degrade images (B, C, H, W) by each of n kernels (n, 1, K, K): (n, B, C, h, w), in one call."""
        self._check(x, kernels)
        b, c = x.shape[:2]
        y = self._strided(self.extend(x).flatten(0, 1).unsqueeze(1), kernels)
        return y.transpose(0, 1).reshape(kernels.shape[0], b, c, *y.shape[-2:])

    def adjoint(self, y: Tensor, kernel: Tensor) -> Tensor:
        """Apply the transpose of `__call__` for fixed kernels: LR (B, C, h, w) to HR (B, C, s h, s w)."""
        b, c, h, w = y.shape
        planes = y.transpose(0, 1)  # (C, B, h, w): one group for each image
        weight = kernel.expand(b, -1, -1, -1)
        xe = F.conv_transpose2d(planes, weight, stride=self.scale, groups=b).transpose(0, 1)
        return self._extend_adjoint(xe, *self.hr_shape(h, w))

    def lr_error(
        self, x: Tensor, y: Tensor, kernels: Tensor, *, weight: Tensor | None = None, chunk: int = 128
    ) -> Tensor:
        """Mean squared LR error of one image under each of n kernels, e_l = mean w (y - (x ⊗ k_l)↓s)^2.

        Parameters
        ----------
        x, y : Tensor
            HR (1, C, H, W) and LR (1, C, h, w).
        kernels : Tensor
            (n, 1, K, K).
        weight : Tensor, optional
            w, broadcastable to y; such as σ̄²/σ²(u) where the noise variance is a map. Default: one.
        chunk : int
            Kernels convolved at a time, which bounds the memory.

        Returns
        -------
        Tensor
            (n,) errors, in squared units of y.
        """
        w = 1.0 if weight is None else weight
        parts = [(w * (self.each(x, part) - y).square()).mean((1, 2, 3, 4)) for part in kernels.split(chunk)]
        return torch.cat(parts)
