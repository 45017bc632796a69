"""The LR error of any kernel for one fixed image: a quadratic form in the kernel.

For fixed x and y, with p(u) the K² values of the extended image under the kernel at LR pixel u (see `degradation`),

    n e(k) = Σ_u w(u) (y(u) - p(u)ᵀk)² = kᵀAk - 2 bᵀk + c,    A = Σ w p pᵀ,  b = Σ w y p,  c = Σ w y²,

with sums over all n values of y. This is a small difference of large numbers, so it is computed in float64, after the
mean μ of each colour plane of y is subtracted from x and y. Border rules keep constants: with p' = p - μ,
y' = y - μ and S = Σ k the residual is exactly y' - p'ᵀk + μ (1 - S), and

    n e(k) = kᵀAk - 2 bᵀk + c + 2 (1 - S) (γ - gᵀk) + (1 - S)² ν                          (A, b, c of p' and y')
    g = Σ w μ p',   γ = Σ w μ y',   ν = Σ w μ².

The last two terms vanish where kernels sum to one; with them the form holds for any k.

A has K⁴ entries, but with t = s q + r (phase r, offset q), p'(u)[t] is the value of phase image r at u + q. Where the
phase images are periodic and w is constant, A[t, t'] hence depends on (r, r', q' - q) alone: it is a correlation of
two phase images, found for all lags by FFT. Other borders are made periodic by embedding the extended image into
ceil(K/s) - 1 more LR rows and columns (or a few more, for the FFT), and the patches at these are subtracted one by one.
A weight map leaves no such structure: then A is the sum over all patches, as it is for images so small that the sum is
cheaper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blindsr.likelihood.patches import Patches, periodic_image, periodic_size
from blindsr.operators.degradation import Degradation, Padding

FEWEST = 16
"""Kernels below which `lr_errors` always convolves."""

LARGEST = 63
"""Kernel size above which `lr_errors` always convolves: A would hold more than 126 MB."""


def _check(degradation: Degradation, x: Tensor, y: Tensor) -> None:
    if x.ndim != 4 or y.ndim != 4:
        raise ValueError(f"images have shapes {tuple(x.shape)} and {tuple(y.shape)}: four axes are needed")
    s = degradation.scale
    if degradation.padding is not Padding.VALID and (x.shape[-2] % s or x.shape[-1] % s):
        raise ValueError(f"an image of {x.shape[-2]}x{x.shape[-1]} pixels is no multiple of scale {s}: crop it first")
    expected = (*x.shape[:2], *degradation.lr_shape(*x.shape[-2:]))
    if y.shape != expected:
        raise ValueError(f"an LR image has shape {tuple(y.shape)}: {expected} is needed for this HR image")


def _build_costs(degradation: Degradation, y: Tensor, weight: Tensor | None) -> tuple[float, float]:
    """Multiply-adds of A as the sum over all patches, and by FFT (infinite for a weight map); see `lr_errors`."""
    k2, m = degradation.kernel_size**2, degradation.scale**2
    h, w = y.shape[-2:]
    rows, columns = periodic_size(degradation, h, w)
    planes, each = y.numel() // (h * w), k2 * (1.5 * k2 + 200)
    by_fft = 2e7 + 5e6 * m + planes * rows * columns * (500 * m + 35 * m * (m + 1))
    by_fft += planes * (rows * columns - h * w) * each
    constant = weight is None or all(n == 1 for n in weight.shape[-2:])  # one value for each plane
    return planes * h * w * each, by_fft if constant else math.inf


@dataclass(frozen=True, eq=False)
class LrErrorForm:
    """e(k) of one image as a quadratic form (equations at the top of the module); all tensors float64.

    Parameters
    ----------
    A : Tensor
        (K², K²), symmetric.
    b, g : Tensor
        (K²,).
    c, gamma, nu : Tensor
        Scalars.
    n : int
        LR values.
    """

    A: Tensor
    b: Tensor
    c: Tensor
    g: Tensor
    gamma: Tensor
    nu: Tensor
    n: int

    @classmethod
    @torch.no_grad()
    def build(cls, degradation: Degradation, x: Tensor, y: Tensor, weight: Tensor | None = None) -> LrErrorForm:
        """Build the form for one image. No gradient reaches x or y.

        Parameters
        ----------
        degradation : Degradation
            The operator.
        x, y : Tensor
            HR (B, C, H, W) and LR (B, C, h, w).
        weight : Tensor, optional
            w, broadcastable to y. Default: one. A map costs more than one value for each plane.

        Returns
        -------
        LrErrorForm

        Raises
        ------
        ValueError
            If the shapes of x and y do not belong together, or H, W are no multiples of the scale (unless VALID).
        """
        _check(degradation, x, y)
        h, w = y.shape[-2:]
        planes = y.double().flatten(0, 1)
        mean = planes.mean((1, 2), keepdim=True)
        map_ = torch.ones_like(planes) if weight is None else weight.double().expand(y.shape).flatten(0, 1)
        y0 = planes - mean
        image = periodic_image(degradation, x.double().flatten(0, 1) - mean, h, w)
        patches = Patches(degradation, image, (h, w))
        direct, by_fft = _build_costs(degradation, y, weight)
        wy, wm = map_ * y0, map_ * mean
        return cls(
            A=patches.stationary_gram(map_[:, 0, 0]) if by_fft < direct else patches.gram(map_),
            b=patches.against(wy),
            c=(wy * y0).sum(),
            g=patches.against(wm),
            gamma=(wy * mean).sum(),
            nu=(wm * mean).sum(),
            n=y.numel(),
        )

    def _flat(self, kernels: Tensor) -> Tensor:
        side = round(len(self.b) ** 0.5)
        if kernels.ndim != 4 or kernels.shape[1:] != (1, side, side):
            raise ValueError(f"kernels have shape {tuple(kernels.shape)}: (n, 1, {side}, {side}) is needed")
        return kernels.flatten(1).double()

    def __call__(self, kernels: Tensor) -> Tensor:
        """Errors e of kernels (n, 1, K, K): (n,) in squared units of y, differentiable, in the kernels' dtype.

        An error of zero may come out as a tiny number below it, of the order of 1e-16 times the power of y'.
        """
        k = self._flat(kernels)
        off = 1 - k.sum(1)
        e = ((k @ self.A - 2 * self.b) * k).sum(1) + self.c
        e = e + 2 * off * (self.gamma - k @ self.g) + off.square() * self.nu
        return (e / self.n).to(kernels.dtype)

    @torch.no_grad()
    def gradient(self, kernels: Tensor) -> Tensor:
        """de/dk of kernels (n, 1, K, K), of their shape and dtype, in squared units of y per kernel value.

        It is 2 (Ak - b - (γ - gᵀk) - (1 - S) (g + ν)) / n, computed without autograd.
        """
        k = self._flat(kernels)
        off = 1 - k.sum(1, keepdim=True)
        d = k @ self.A - self.b - (self.gamma - k @ self.g)[:, None] - off * (self.g + self.nu)
        return (2 / self.n * d).reshape(kernels.shape).to(kernels.dtype)


def _form_pays(degradation: Degradation, y: Tensor, n: int, weight: Tensor | None) -> bool:
    if n < FEWEST or degradation.kernel_size > LARGEST:
        return False
    k2 = degradation.kernel_size**2
    return min(_build_costs(degradation, y, weight)) + 3 * n * k2**2 < n * y.numel() * k2


def lr_errors(degradation: Degradation, x: Tensor, y: Tensor, kernels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared LR error of one image under each of n kernels, the cheaper way: e_l = mean w (y - (x ⊗ k_l)↓s)².

    `Degradation.lr_error` convolves with each kernel; `LrErrorForm` is built once and then evaluated. Their costs, in
    units of one float32 multiply-add of the convolution (1/60 ns on one core of the CPU they were measured on), with N
    values in y and N' in the periodic image of the same LR resolution:

        convolution     n N K²
        evaluation      3 n K⁴                                                     (float64)
        patches         N K² (1.5 K² + 200)                                        (to build A with a weight map)
        FFT             2·10⁷ + 5·10⁶ s² + N' (500 s² + 35 s² (s² + 1)) + the cost of N' - N patches

    For a 256x256 colour image under circular padding the form is taken from about 80 kernels on at x4, 30 at x2; with a
    weight map, about 800 and 400. Always convolved are fewer than `FEWEST` kernels, kernels wider than `LARGEST`,
    images that a gradient is wanted for, and all on devices without float64.

    Parameters
    ----------
    degradation : Degradation
        The operator.
    x, y : Tensor
        HR (B, C, H, W) and LR (B, C, h, w).
    kernels : Tensor
        (n, 1, K, K).
    weight : Tensor, optional
        w >= 0, broadcastable to y. Default: one.

    Returns
    -------
    Tensor
        (n,) errors, in squared units of y, none below zero.

    Raises
    ------
    ValueError
        If the shapes do not belong together.
    """
    images = (x, y) if weight is None else (x, y, weight)
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in images)
    _check(degradation, x, y)
    if wanted or x.device.type == "mps" or not _form_pays(degradation, y, len(kernels), weight):
        return degradation.lr_error(x, y, kernels, weight=weight)
    return LrErrorForm.build(degradation, x, y, weight)(kernels).clamp_min(0)
