"""Marginal (spectral) likelihood of a kernel: y alone, with the image integrated out as a locally stationary field.

In a window w of the image, x is a stationary Gaussian field with the spectrum c_w |f|^(-α_w) g_w(φ), f in cycles per HR
pixel, φ its direction, g_w(φ) = exp(Σ_j a_wj cos 2jφ + b_wj sin 2jφ), j = 1, 2. Content keeps its orientation over all
scales; that of a kernel grows with |f|²: this tells them apart. The expected periodogram of y at an LR frequency is
the sum over its s² aliases f',

    S_w(f) = Σ_f' |K(f')|² c_w |f'|^(-α_w) g_w(φ') + σ²,

with K(f') the discrete Fourier transform of the kernel. The periodogram P_w of the windowed y (grey, Hann taper) enters
by the Whittle likelihood with heavy tails, (ν + 1) log(1 + P/(ν S)) + log S, whose limit ν → ∞ is P/S + log S. One
kernel and one noise level serve all windows; c, α, a, b belong to the window, with α_w near a common α.

Neighbouring frequencies of a tapered window are correlated, and windows overlap, so the sum is tempered: by
(Σw²)²/(N Σw⁴) for the taper of N pixels, and by 1.6 times the pixels of
the image over those of all windows (at most one): half-overlapping tapers see partly the same.

Power laws of natural images: Field, "Relations between the statistics of natural images and the response properties
of cortical cells", JOSA A 1987. Whittle likelihood: Whittle, "On stationary processes in the plane", Biometrika 1954.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blindsr.likelihood.noise import finest_detail_std

REFERENCE = math.exp(-2.0)
"""Frequency (cycles per HR pixel) at which the amplitude c is read."""


@dataclass(frozen=True)
class SpectralSettings:
    """What the spectral model assumes.

    Parameters
    ----------
    window : int
        Side of a window in LR pixels (a smaller image is one window).
    max_windows : int
        Windows used at most: those with the most fine detail.
    degrees : float
        ν of the heavy-tailed Whittle likelihood.
    lowest : float
        Frequencies nearer to zero than this many bins of the window are left out (leakage of the mean).
    slope, slope_std, slope_spread : float
        Prior of the common exponent α: mean and standard deviation; standard deviation of α_w around it.
    angular_std : float
        Prior standard deviation of a_wj, b_wj.
    amplitude_std : float
        Standard deviation of log c_w around its mean over windows.
    noise : float
        Noise level expected in noise-free pictures of 8 bits, units of 0..1.
    noise_log_std : float
        Prior standard deviation of log(σ²/noise²).
    """

    window: int = 32
    max_windows: int = 36
    degrees: float = 3.0
    lowest: float = 3.0
    slope: float = 2.9
    slope_std: float = 0.2
    slope_spread: float = 0.1
    angular_std: float = 1.0
    amplitude_std: float = 3.0
    noise: float = 0.3 / 255
    noise_log_std: float = 4.0


def _starts(n: int, side: int) -> list[int]:
    """Corners of half-overlapping windows along an axis."""
    if n <= side:
        return [0]
    count = math.ceil((n - side) / (side / 2)) + 1
    return [round(i * (n - side) / (count - 1)) for i in range(count)]


def windows(y: Tensor, side: int, at_most: int) -> Tensor:
    """Cut a grey image (h, w) into half-overlapping windows (n, side, side); if many, keep those of most detail."""
    h, w = y.shape
    tall, wide = min(side, h), min(side, w)
    cut = torch.stack([y[a : a + tall, b : b + wide] for a in _starts(h, side) for b in _starts(w, side)])
    if len(cut) <= at_most:
        return cut
    detail = cut.diff(dim=1).abs().mean((1, 2)) + cut.diff(dim=2).abs().mean((1, 2))
    return cut[detail.topk(at_most).indices.sort().values]


def hann(height: int, width: int) -> Tensor:
    """Two-dimensional Hann taper of mean square one, float64."""
    rows, cols = (torch.hann_window(n + 2, periodic=False, dtype=torch.float64)[1:-1] for n in (height, width))
    taper = rows[:, None] * cols
    return taper / taper.square().mean().sqrt()


class SpectralLikelihood:
    """Negative log-likelihood of a kernel and of the content's parameters, given y.

    Parameters
    ----------
    y : Tensor
        LR image (1, C, h, w), values 0..1.
    scale : int
        s.
    settings : SpectralSettings, optional
        What the model assumes.

    Notes
    -----
    The content's parameters are one vector `nuisance` of `n_nuisance` numbers: α, log(σ²/noise²), the mean of log c,
    then for each window log c_w, (a_1, b_1, a_2, b_2), α_w - α.
    """

    def __init__(self, y: Tensor, scale: int, settings: SpectralSettings | None = None) -> None:
        self.settings = settings or SpectralSettings()
        self.scale = scale
        grey = y.detach().cpu().double().mean((0, 1))
        cut = windows(grey, self.settings.window, self.settings.max_windows)
        self.n_windows, *self.shape = cut.shape
        self._frequencies()
        self.periodogram = self._periodogram(cut)
        taper = hann(*self.shape)
        own = float(taper.square().sum() ** 2 / (taper.numel() * taper.pow(4).sum()))
        share = min(1.0, 1.6 * grey.numel() / cut.numel())
        self.temper = own * share
        detail = float(finest_detail_std(grey[None, None])) if min(grey.shape) >= 3 else 0.0
        self.noise_guess = 2 * math.log(max(detail, self.settings.noise) / self.settings.noise)

    @property
    def n_nuisance(self) -> int:
        """Number of the content's parameters."""
        return 3 + 6 * self.n_windows

    def _frequencies(self) -> None:
        """Aliases of every LR frequency that is used: indices into the HR transform, log |f|, harmonics of φ."""
        (h, w), s = self.shape, self.scale
        rows, cols, m = torch.arange(h), torch.arange(w // 2 + 1), torch.arange(s)
        fy, fx = (rows + h // 2) % h - h // 2, cols
        keep = fy[:, None] ** 2 + fx**2 >= self.settings.lowest**2
        twice = torch.ones(h, w // 2 + 1, dtype=torch.float64)  # a real image's spectrum: these bins stand twice
        twice[:, 0] = 0.5
        if w % 2 == 0:
            twice[:, -1] = 0.5
        self.keep, self.weight = keep, twice[keep]
        full = (h, w // 2 + 1, s, s)
        self.rows = (rows[:, None] + m * h)[:, None, :, None].expand(full)[keep].reshape(-1, s * s)
        self.cols = (cols[:, None] + m * w)[None, :, None, :].expand(full)[keep].reshape(-1, s * s)
        hr_y, hr_x = (i / (s * n) for i, n in ((self.rows.double(), h), (self.cols.double(), w)))
        hr_y, hr_x = hr_y - hr_y.round(), hr_x - hr_x.round()
        self.log_f = 0.5 * (hr_x**2 + hr_y**2).log() - math.log(REFERENCE)
        angle = torch.atan2(hr_y, hr_x)
        self.harmonics = torch.stack([f(2 * j * angle) for j in (1, 2) for f in (torch.cos, torch.sin)], -1)

    def _periodogram(self, cut: Tensor) -> Tensor:
        taper = hann(*self.shape)
        mean = (cut * taper.square()).sum((1, 2), keepdim=True) / taper.square().sum()
        transform = torch.fft.rfft2((cut - mean) * taper)
        power: Tensor = (transform.real**2 + transform.imag**2)[:, self.keep] / taper.numel()
        return power

    def power(self, kernel: Tensor) -> Tensor:
        """|K(f')|² of a kernel (1, 1, K, K) at the aliases of the used frequencies: (F, s²)."""
        h, w = self.shape
        k = kernel[0, 0].double()
        size = k.shape[-1]  # a kernel larger than the transform is wrapped by it, which is what sampling K(f) means
        rows, cols = (-(-size // (self.scale * n)) * self.scale * n for n in (h, w))
        transform = torch.fft.fft2(k, s=(max(rows, self.scale * h), max(cols, self.scale * w)))
        step_y, step_x = transform.shape[0] // (self.scale * h), transform.shape[1] // (self.scale * w)
        power: Tensor = (transform.real**2 + transform.imag**2)[self.rows * step_y, self.cols * step_x]
        return power

    def start(self, power: Tensor) -> Tensor:
        """First guess of the content's parameters, given |K|²."""
        z = torch.zeros(self.n_nuisance, dtype=torch.float64)
        z[0], z[1] = self.settings.slope, self.noise_guess
        if not self.keep.any():  # too small an image to say anything: the prior speaks
            return z
        shape = (power * torch.exp(-self.settings.slope * self.log_f)).sum(1)
        level = (self.periodogram.clamp_min(1e-12).log() - shape.log()).mean(1)
        z[2], z[3 : 3 + self.n_windows] = level.mean(), level
        return z

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n = self.n_windows
        return z[3 : 3 + n], z[3 + n : 3 + 5 * n].view(n, 4), z[3 + 5 * n :]

    def window_places(self) -> Tensor:
        """Places in the nuisance vector of each window's own six parameters: (6, n)."""
        n = self.n_windows
        angular = 3 + n + 4 * torch.arange(n) + torch.arange(4)[:, None]
        return torch.cat([3 + torch.arange(n)[None], angular, 3 + 5 * n + torch.arange(n)[None]])

    def expected(self, power: Tensor, z: Tensor) -> Tensor:
        """S_w(f) of every window (n, F)."""
        level, angular, extra = self._split(z)
        exponent = level[:, None, None] - (z[0] + extra)[:, None, None] * self.log_f
        exponent = exponent + (self.harmonics @ angular.T).permute(2, 0, 1)
        noise = self.settings.noise**2 * z[1].exp()
        return (power * exponent.exp()).sum(2) + noise

    def energy(self, power: Tensor, z: Tensor) -> Tensor:
        """Negative log-likelihood, tempered, plus the negative log-prior of the content's parameters; a scalar."""
        c, (level, angular, extra) = self.settings, self._split(z)
        expected = self.expected(power, z)
        tails = (c.degrees + 1) * torch.log1p(self.periodogram / (c.degrees * expected))
        data = (self.weight * (expected.log() + tails)).sum()
        prior = ((z[0] - c.slope) / c.slope_std) ** 2 + (z[1] / c.noise_log_std) ** 2
        prior = prior + (angular / c.angular_std).square().sum() + (extra / c.slope_spread).square().sum()
        prior = prior + ((level - z[2]) / c.amplitude_std).square().sum()
        return self.temper * data + 0.5 * prior

    def noise_std(self, z: Tensor, channels: int) -> float:
        """Noise level of one channel that the parameters stand for (the grey mean of C channels has σ/√C)."""
        return self.settings.noise * math.exp(float(z[1]) / 2) * math.sqrt(channels)
