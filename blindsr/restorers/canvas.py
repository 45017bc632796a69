"""The quadratic step of MAP restoration in closed form: data misfit plus quadratic penalties, on a circular canvas.

Every restorer that splits its variables has to minimise, again and again,

    ‖y − A x‖² / σ² + xᴴ M x − 2 Re xᴴ r,        A = blur by correlation, then every s-th pixel,

with M diagonal in the Fourier domain: μ for a penalty μ‖x − z‖² (then r = μ z), β Σ_i |F_i|² for β Σ_i ‖f_i ⊗ x − w_i‖²
(then r = β Σ_i F_i^* w_i). By the Woodbury identity

    x = x0 + M⁻¹ Aᴴ q,        (A M⁻¹ Aᴴ + σ²) q = y − A x0,        x0 = M⁻¹ r,

and under circular borders A M⁻¹ Aᴴ is a convolution at low resolution whose spectrum is the mean of |K|²/M over the s²
frequencies that alias there (Zhao et al. 2016, "Fast single image super-resolution using a new analytical solution").

Under other border rules x is a part of a larger circular canvas, y is a part of its low-resolution samples, and
the system for q is solved on those by conjugate gradients, with one low-resolution convolution in each step. The pixels
beyond the border are then estimated like the rest of the image, as `Padding.VALID` requires. REFLECT and REPLICATE are
treated in the same way; their assumptions about the border are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from blindsr.operators.degradation import Degradation, Padding

CG_STEPS = 60
CG_TOLERANCE = 1e-5


def _spread(n: int, size: int) -> Tensor:
    """Index that extends an axis of n samples to a circle of `size`: edges repeated, half the way each."""
    i = torch.arange(size)
    return torch.where(i < n, i, torch.where(i - n < (size - n + 1) // 2, n - 1, 0))


def difference_filters(shape: tuple[int, ...], offsets: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """Spectra of the circular differences x(u + offset) − x(u) on a canvas (H, W)."""
    out = []
    for i, j in offsets:
        d = torch.zeros(shape, dtype=torch.float64)
        d[0, 0] = -1
        d[-i, -j] += 1
        out.append(torch.fft.fft2(d))
    return out


def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor],
    b: Tensor,
    preconditioner: Callable[[Tensor], Tensor],
    *,
    steps: int,
    tolerance: float,
) -> Tensor:
    """Solve matrix · x = b for a positive definite matrix, until the residual is `tolerance` times as long as b."""
    x, r, limit = torch.zeros_like(b), b, tolerance * b.norm()
    z = preconditioner(r)
    p, rz = z, (r * z).sum()
    for _ in range(steps):
        if r.norm() <= limit:
            break
        ap = matrix(p)
        step = rz / (p * ap).sum()
        x, r = x + step * p, r - step * ap
        z = preconditioner(r)
        rz, old = (r * z).sum(), rz
        p = z + rz / old * p
    return x


class Canvas:
    """A low-resolution image y (B, C, h, w), a kernel and the canvas on which x is solved for; all in float64.

    The kernel (1, 1, K, K) is applied by correlation; the picture is canvas[:s h, :s w].
    """

    def __init__(self, y: Tensor, kernel: Tensor, degradation: Degradation) -> None:
        k, s = degradation.kernel_size, degradation.scale
        if kernel.shape != (1, 1, k, k):
            raise ValueError(f"the kernel has shape {tuple(kernel.shape)}: (1, 1, {k}, {k}) is needed")
        if y.ndim != 4 or y.numel() == 0:
            raise ValueError(f"the image has shape {tuple(y.shape)}: (1, channels, height, width) is needed")
        if not bool(torch.isfinite(y).all()) or not bool(torch.isfinite(kernel).all()):
            raise ValueError("the image or the kernel holds NaN or infinite values")
        self.scale, self.lr = s, (int(y.shape[-2]), int(y.shape[-1]))
        before, after = degradation.margins
        border = 0 if degradation.padding is Padding.CIRCULAR else max(before, 0) + max(after, 0)
        self.lr_full = tuple(n + -(-border // s) for n in self.lr)
        self.shape = tuple(s * n for n in self.lr_full)
        if min(self.shape) < k:
            raise ValueError(f"an image of {self.lr[1]}x{self.lr[0]} pixels is too small for a kernel of {k} pixels")
        self.y = y.double()
        self.operator = replace(degradation, padding=Padding.CIRCULAR)
        impulse = torch.zeros(self.shape, dtype=torch.float64, device=y.device)
        impulse[:k, :k] = kernel[0, 0]
        self.spectrum = torch.fft.fft2(impulse.roll((-before, -before), (0, 1))).conj()

    def _fold(self, f: Tensor) -> Tensor:
        """Spectrum of the subsampled image: mean over the s² frequencies that alias."""
        (h, w), s = self.lr_full, self.scale
        return f.reshape(*f.shape[:-2], s, h, s, w).mean((-4, -2))

    def _tile(self, f: Tensor) -> Tensor:
        """Spectrum of a zero-filled enlargement, the adjoint of `_fold` for images."""
        return f.repeat(*[1] * (f.ndim - 2), self.scale, self.scale)

    def _seen(self, f: Tensor) -> Tensor:
        """Samples that y knows, from the spectrum of all of the canvas's."""
        known: Tensor = torch.fft.ifft2(f).real[..., : self.lr[0], : self.lr[1]]
        return known

    def _unseen(self, v: Tensor) -> Tensor:
        """Spectrum of the canvas's samples: v where y knows them, 0 elsewhere."""
        spectrum: Tensor = torch.fft.fft2(v, s=self.lr_full)
        return spectrum

    def fill(self, x: Tensor) -> Tensor:
        """Extend a picture (B, C, s h, s w) to the canvas, edges repeated; a canvas stays as it is."""
        planes = tuple(self.y.shape[:2])
        picture, full = (
            (*planes, *shape) for shape in ((self.scale * self.lr[0], self.scale * self.lr[1]), self.shape)
        )
        if tuple(x.shape) not in (picture, full):
            raise ValueError(f"the start has shape {tuple(x.shape)}: {picture} or {full} is needed")
        for axis in (-2, -1):
            x = x.index_select(axis, _spread(x.shape[axis], full[axis]).to(x.device))
        return x

    def crop(self, x: Tensor) -> Tensor:
        """Cut the picture (..., s h, s w) out of the canvas."""
        return x[..., : self.scale * self.lr[0], : self.scale * self.lr[1]]

    def degrade(self, x: Tensor) -> Tensor:
        """Return A x (B, C, h, w) for a canvas x."""
        return self._seen(self._fold(self.spectrum * torch.fft.fft2(x)))

    def misfit(self, x: Tensor) -> Tensor:
        """Return ‖y − A x‖², a scalar."""
        return (self.y - self.degrade(x)).square().sum()

    def solve(self, penalty: Tensor, target: Tensor, variance: float) -> Tensor:
        """Minimise ‖y − A x‖²/σ² + xᴴ M x − 2 Re xᴴ r over the canvas x (B, C, H, W), float64.

        `penalty` is M, real and positive, on the canvas's frequencies, broadcastable to (H, W); `target` is the
        spectrum of r (B, C, H, W), and `variance` is σ² > 0, in squared units of y.
        """
        start = target / penalty
        filtered = self.spectrum.conj() / penalty
        gram = self._fold((self.spectrum * filtered).real.expand(self.shape))
        rest = self.y - self._seen(self._fold(self.spectrum * start))
        if self.lr == self.lr_full:
            q = torch.fft.fft2(rest) / (gram + variance)
        else:
            inverse = 1 / (gram + variance)  # that of a circular canvas
            known = conjugate_gradients(
                lambda p: self._seen(gram * self._unseen(p)) + variance * p,
                rest,
                lambda r: self._seen(inverse * self._unseen(r)),
                steps=CG_STEPS,
                tolerance=CG_TOLERANCE,
            )
            q = self._unseen(known)
        x: Tensor = torch.fft.ifft2(start + filtered * self._tile(q)).real
        return x
