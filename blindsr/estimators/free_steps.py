"""The two steps of blind deconvolution with a free kernel, for one grey image that is periodic: image, then kernel.

Image, for a kernel k: half-quadratic splitting of a gradient prior,

    min_x s² ‖y − (x ⊗ k)↓s‖² + λ Σ φ(∇x),      φ(g) = [g ≠ 0] (Xu, Lu, Xu, Jia 2011) or ‖g‖ (total variation),

with the x step in closed form over the s² aliases of each frequency (Zhao et al. 2016). At s = 1 this is deconvolution.
Kernel, for an image x: least squares between the differences of x at lag s and those of y at lag 1, a quadratic form.
Differences carry the edges, which tell a kernel from its blurred version; the smooth rest does not (Cho, Lee 2009).

`restorers.canvas` and `likelihood.quadratic` solve the same problems exactly, in float64 and for any border rule. Here
they are solved hundreds of times for one kernel estimate, in float32 and on a circle, and at s = 1.

References
----------
Xu, Lu, Xu, Jia, "Image smoothing via L0 gradient minimization", ACM TOG 2011;
Cho, Lee, "Fast motion deblurring", ACM TOG 2009;
Pan, Hu, Su, Yang, "Deblurring text images via L0-regularized intensity and gradient prior", CVPR 2014;
Zhao et al., "Fast single image super-resolution using a new analytical solution for l2-l2 problems", IEEE TIP 2016.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from blindsr.generators.kernel import project_simplex

_ANCHOR = 1e-6
"""Share of the penalty that ties x itself, not its differences: it fixes the mean, which differences do not see."""


def resized(image: Tensor, height: int, width: int, *, antialias: bool = True) -> Tensor:
    """Resize an image (h, w) by bicubic interpolation."""
    return F.interpolate(image[None, None], size=(height, width), mode="bicubic", antialias=antialias)[0, 0]


def differences(x: Tensor, lag: int = 1) -> Tensor:
    """Circular differences of an image (H, W) along columns and rows: (2, H, W)."""
    return torch.stack([x.roll(-lag, 1) - x, x.roll(-lag, 0) - x])


class ImageStep:
    """Sharp images of one periodic grey image y (h, w), float32, at scale s; `before` as in `Degradation.margins`."""

    def __init__(self, y: Tensor, scale: int, before: int) -> None:
        self.y, self.scale, self.before = y, scale, before
        self.shape = (scale * y.shape[0], scale * y.shape[1])
        self.spectrum = self._forward(y)
        impulse = torch.zeros(self.shape)
        impulse[0, 0] = 1.0
        self.filters = [self._forward(d) for d in differences(impulse)]
        self.penalty = torch.stack([d.abs().square() for d in self.filters]).sum(0) + _ANCHOR

    def _forward(self, x: Tensor) -> Tensor:
        """Spectrum of an image; half of it at s = 1, where no frequency needs its aliases."""
        spectrum: Tensor = torch.fft.rfft2(x) if self.scale == 1 else torch.fft.fft2(x)
        return spectrum

    def _back(self, spectrum: Tensor, shape: torch.Size | tuple[int, int]) -> Tensor:
        x: Tensor = torch.fft.irfft2(spectrum, s=shape) if self.scale == 1 else torch.fft.ifft2(spectrum).real
        return x

    def transfer(self, kernel: Tensor) -> Tensor:
        """Spectrum of the correlation with a kernel (K, K) on the HR grid."""
        size, shift = kernel.shape[-1], (-self.before, -self.before)
        out = torch.zeros(self.shape)
        out[:size, :size] = kernel
        return self._forward(out.roll(shift, (0, 1))).conj()

    def _fold(self, f: Tensor) -> Tensor:
        s, (h, w) = self.scale, self.y.shape
        return f if s == 1 else f.reshape(s, h, s, w).mean((0, 2))

    def seen(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Return (x ⊗ k)↓s (h, w) of an image (s h, s w)."""
        return self._back(self._fold(self.transfer(kernel) * self._forward(x)), self.y.shape)

    def __call__(self, kernel: Tensor, weight: float, *, sparse: bool, last: float = 1e5) -> Tensor:
        """Return the image (s h, s w) for a kernel; λ = `weight`, φ = L0 where `sparse`, else total variation.

        β doubles from 2 λ to `last`, as in Xu et al. 2011.
        """
        s, k = self.scale, self.transfer(kernel)
        power = k.abs().square()
        x = self._forward(self.y if s == 1 else resized(self.y, *self.shape))
        beta = 2 * weight
        while beta < last:
            g = [self._back(d * x, self.shape) for d in self.filters]
            length = torch.hypot(*g)
            if sparse:
                keep = (length.square() >= weight / beta).to(length)
            else:
                keep = (1 - weight / (2 * beta) / length.clamp_min(1e-12)).clamp_min(0)
            near = sum((d.conj() * self._forward(v * keep) for d, v in zip(self.filters, g, strict=True)), _ANCHOR * x)
            start, inverse = near / self.penalty, 1 / (beta * self.penalty)
            rest = (self.spectrum - self._fold(k * start)) / (self._fold(power * inverse) + 1 / s**2)
            x = start + k.conj() * inverse * (rest if s == 1 else rest.repeat(s, s))
            beta *= 2
        return self._back(x, self.shape)


def gradient_form(x: Tensor, y: Tensor, scale: int, size: int, before: int) -> tuple[Tensor, Tensor]:
    """Return A (K², K²) and b (K²,) with Σ_u (y(u) − Σ_t k(t) x(s u + t − before))² = kᵀAk − 2 bᵀk + const.

    x (planes, s h, s w) and y (planes, h, w) are periodic. A is a correlation of the s² phases of x with one another,
    found for all lags by FFT (compare `likelihood.quadratic`).
    """
    s, (h, w) = scale, y.shape[-2:]
    moved = x.roll((before, before), (1, 2))
    phases = [torch.fft.rfft2(moved[:, i::s, j::s]) for i in range(s) for j in range(s)]
    seen = torch.fft.rfft2(y).conj()
    t = torch.arange(size)
    q, r = t // s, t % s
    against = torch.stack([torch.fft.irfft2((f * seen).sum(0), s=(h, w)) for f in phases]).view(s, s, h, w)
    b = against[r[:, None], r, q[:, None], q]
    a = torch.empty(size, size, size, size)
    at = [torch.nonzero(r == i)[:, 0] for i in range(s)]
    for i1, j1, i2, j2 in np.ndindex(s, s, s, s):
        lags = torch.fft.irfft2((phases[i1 * s + j1].conj() * phases[i2 * s + j2]).sum(0), s=(h, w))
        rows, cols = (q[at[n]] - q[at[m]][:, None] for m, n in ((i1, i2), (j1, j2)))
        block = lags[(rows % h)[:, None, :, None], (cols % w)[None, :, None, :]]
        a[at[i1][:, None, None, None], at[j1][:, None, None], at[i2][:, None], at[j2]] = block
    return a.reshape(size**2, size**2), b.reshape(-1)


def least_squares_kernel(a: Tensor, b: Tensor, ridge: float, steps: int = 150) -> Tensor:
    """Minimise kᵀAk − 2 bᵀk + ridge ‖k‖² over the simplex by accelerated projected gradient (Beck, Teboulle 2009)."""
    n = len(b)
    a = a + ridge * torch.eye(n)
    v = torch.ones(n)
    for _ in range(15):  # power iteration
        v = a @ v
        v = v / v.norm()
    largest = 1.05 * float(v @ (a @ v))
    k = z = torch.full((n,), 1.0 / n)
    t = 1.0
    for _ in range(steps):
        new = project_simplex((z - (a @ z - b) / largest)[None])[0]
        grown = (1 + math.sqrt(1 + 4 * t * t)) / 2
        z, k, t = new + (t - 1) / grown * (new - k), new, grown
    return k


def connected(kernel: Tensor, threshold: float, share: float = 0.1) -> Tensor:
    """Cut values below `threshold` of the peak, and parts that hold less than `share` of the mass, of k (K, K)."""
    from scipy import ndimage  # not loaded with the package

    k = torch.where(kernel < threshold * kernel.max(), 0.0, kernel)
    parts, n = ndimage.label(k.numpy() > 0, structure=np.ones((3, 3)))
    mass = ndimage.sum_labels(k.numpy(), parts, np.arange(n + 1))
    small = (mass < share * mass.sum()) & (mass < mass.max())
    k = torch.where(torch.from_numpy(small[parts]), 0.0, k)
    return k / k.sum()


def centered(kernel: Tensor, center: float) -> Tensor:
    """Move the centre of mass of k (K, K) to `center` on both axes, by linear interpolation."""
    from scipy import ndimage

    k = kernel.double().numpy()
    for _ in range(2):  # what leaves the array moves the centre
        gap = center - np.array(ndimage.center_of_mass(k))
        k = np.clip(ndimage.shift(k, gap, order=1), 0, None)
        k /= k.sum()
    return torch.from_numpy(k).float()
