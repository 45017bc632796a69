"""Marginal (spectral) likelihood of a kernel: y alone, with the image integrated out as a locally stationary field.

In a window w of the image, x is a stationary field whose log spectrum is linear in a few coefficients θ_w (`content`).
The expected periodogram of y at an LR frequency is the sum over its s² aliases f' (in cycles per HR pixel),

    S_w(f) = Σ_f' |K(f')|² exp(Σ_t θ_wt B_t(f')) + σ²,

with K(f') the discrete Fourier transform of the kernel. The periodogram P_w of the windowed y (grey, Hann taper) enters
by the Whittle likelihood with heavy tails, (ν + 1) log(1 + P/(ν S)) + log S: P is exponential with a mean that itself
scatters around S (an inverse gamma of shape ν); the limit ν → ∞, P/S + log S, is that of a Gaussian field. One kernel
and one noise level serve all windows.

A taper correlates neighbouring frequencies, and overlapping windows see partly the same pixels. With W(u) the sum of
the squared tapers over the windows that cover pixel u, a sum over all windows and frequencies has the variance of

    (Σ_u W)² / Σ_u W²          independent ordinates

(Parseval, for a spectrum that is flat over the width of the taper's transform; one large window: (Σ h²)²/Σ h⁴, 0.26 of
its pixels). The sum over the ordinates is tempered to that many, then divided by `dispersion`: real content scatters
more than its model, in runs of frequencies.

Neighbouring ordinates of a Hann taper are nearly redundant, so where both sides are even every second one is used, like
the white squares of a chessboard. The number of independent ordinates changes only by the share Σ h²(u) h²(u') / Σ h⁴,
less than one in a hundred, with u' half a window from u along both axes.

Whittle likelihood: Whittle, "On stationary processes in the plane", Biometrika 1954. Tempering a composite likelihood
to its effective number of terms: Pauli, Racugno, Ventura, "Bayesian composite marginal likelihoods", Statistica
Sinica 2011.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from blindsr.likelihood.content import PHOTOGRAPH, Term, design
from blindsr.likelihood.noise import finest_detail_std
from blindsr.likelihood.spectral_gradients import KernelPower, Whittle

LEAST_POWER = 1e-12
"""Floor of an ordinate, squared units of 0..1: without it, the likelihood of a constant y would be unbounded."""


@dataclass(frozen=True)
class SpectralSettings:
    """What the spectral model assumes.

    Parameters
    ----------
    window : int
        Side of a window in LR pixels (a smaller image is one window).
    max_windows : int
        Windows used at most: those with the most fine detail. Windows out of focus mislead, see docs/posterior.md.
    degrees : float
        ν of the heavy-tailed Whittle likelihood; infinity stands for a Gaussian field.
    lowest : float
        Frequencies nearer to zero than this many bins of the window are left out (leakage of the mean).
    content : mapping of str to Term
        Terms of the log spectrum (`content.BASIS`) and their spreads.
    dispersion : float
        Variance of sums over ordinates in units of the model's; 1 for a field that follows the model exactly.
    noise : float
        Noise level expected in noise-free pictures of 8 bits, units of 0..1.
    noise_log_std : float
        Prior standard deviation of log(σ²/noise²).
    """

    window: int = 32
    max_windows: int = 16
    degrees: float = 3.0
    lowest: float = 3.0
    content: Mapping[str, Term] = field(default_factory=lambda: PHOTOGRAPH)
    dispersion: float = 1.4
    noise: float = 0.3 / 255
    noise_log_std: float = 4.0


def _starts(n: int, side: int) -> list[int]:
    """Corners of half-overlapping windows along an axis."""
    if n <= side:
        return [0]
    count = math.ceil((n - side) / (side / 2)) + 1
    return [round(i * (n - side) / (count - 1)) for i in range(count)]


def window_corners(y: Tensor, side: int, at_most: int) -> list[tuple[int, int]]:
    """Corners (row, column) of half-overlapping windows of a grey image (h, w); if many, those of most detail."""
    h, w = y.shape
    corners = [(a, b) for a in _starts(h, side) for b in _starts(w, side)]
    if len(corners) <= at_most:
        return corners
    cut = torch.stack([y[a : a + side, b : b + side] for a, b in corners])
    detail = cut.diff(dim=1).abs().mean((1, 2)) + cut.diff(dim=2).abs().mean((1, 2))
    return [corners[i] for i in detail.topk(at_most).indices.sort().values.tolist()]


def hann(height: int, width: int) -> Tensor:
    """Two-dimensional Hann taper of mean square one, float64."""
    rows, cols = (torch.hann_window(n + 2, periodic=False, dtype=torch.float64)[1:-1] for n in (height, width))
    taper = rows[:, None] * cols
    return taper / taper.square().mean().sqrt()


class Curvature(NamedTuple):
    """Negative log-likelihood, its gradient and its Gauss-Newton matrix, over (kernel parameters, nuisance)."""

    value: float
    gradient: Tensor
    matrix: Tensor


class SpectralLikelihood:
    """Log-likelihood of kernels and of the content's parameters, given y; many of them at once.

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
    The content's parameters are one vector `u` of `n_nuisance` numbers, each N(0, 1) a priori (see `names`): first the
    noise level, log(σ²/noise²) in units of its spread, then ε_t of the terms with a shared part, then ε_wt, window by
    window.
    """

    def __init__(self, y: Tensor, scale: int, settings: SpectralSettings | None = None) -> None:
        self.settings = settings or SpectralSettings()
        self.scale = scale
        self.grey = y.detach().cpu().double().mean((0, 1))
        self._terms()
        side = self.settings.window
        self.corners = window_corners(self.grey, side, self.settings.max_windows)
        self._in_terms = self._parameters()
        self.shape = tuple(min(side, n) for n in self.grey.shape)
        self._frequencies()
        self.periodogram = self.periodograms(self.grey[None])[0].clamp_min(LEAST_POWER)
        self.temper = self._temper()
        detail = float(finest_detail_std(self.grey[None, None])) if min(self.grey.shape) >= 3 else 0.0
        self.noise_guess = 2 * math.log(max(detail, self.settings.noise) / self.settings.noise)

    def _terms(self) -> None:
        """Split the terms into those with a shared and those with a local part."""
        content = self.settings.content
        self.terms = tuple(name for name, t in content.items() if t.shared > 0 or t.local > 0)
        rows = [[content[n].mean, content[n].shared, content[n].local] for n in self.terms]
        self.mean, self.shared_std, self.local_std = torch.tensor(rows, dtype=torch.float64).unbind(1)
        self.shared = [i for i, n in enumerate(self.terms) if content[n].shared > 0]
        self.local = [i for i, n in enumerate(self.terms) if content[n].local > 0]

    def _parameters(self) -> Tensor:
        """What each of the content's parameters adds to the terms of each window: (n_nuisance, windows * terms)."""
        first, each = 1 + len(self.shared), len(self.local)
        out = torch.zeros(self.n_nuisance, self.n_windows, len(self.terms), dtype=torch.float64)
        for i, term in enumerate(self.shared):
            out[1 + i, :, term] = self.shared_std[term]
        for w in range(self.n_windows):
            for i, term in enumerate(self.local):
                out[first + w * each + i, w, term] = self.local_std[term]
        return out.flatten(1)

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return len(self.corners)

    @property
    def n_nuisance(self) -> int:
        """Number of the content's parameters."""
        return 1 + len(self.shared) + self.n_windows * len(self.local)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each of the content's parameters."""
        local = [f"{self.terms[i]}[{w}]" for w in range(self.n_windows) for i in self.local]
        return ("noise", *(self.terms[i] for i in self.shared), *local)

    def _frequencies(self) -> None:
        """Aliases of every LR frequency that is used: bins of the HR transform, and the terms' values there."""
        (h, w), s = self.shape, self.scale
        rows, cols, m = torch.arange(h), torch.arange(w // 2 + 1), torch.arange(s)
        keep = ((rows + h // 2) % h - h // 2)[:, None] ** 2 + cols**2 >= self.settings.lowest**2
        self.thinned = h % 2 == 0 and w % 2 == 0
        if self.thinned:
            keep &= (rows[:, None] + cols) % 2 == 0
        twice = torch.ones(h, w // 2 + 1, dtype=torch.float64)  # a real image's spectrum: these bins stand twice
        twice[:, 0] = 0.5
        if w % 2 == 0:
            twice[:, -1] = 0.5
        self.keep, self.weight = keep, twice[keep]
        full = (h, w // 2 + 1, s, s)
        self.rows = (rows[:, None] + m * h)[:, None, :, None].expand(full)[keep].reshape(-1, s * s)
        self.cols = (cols[:, None] + m * w)[None, :, None, :].expand(full)[keep].reshape(-1, s * s)
        hr_y, hr_x = (i.double() / (s * n) for i, n in ((self.rows, h), (self.cols, w)))
        self.basis = design(self.terms, hr_y - hr_y.round(), hr_x - hr_x.round(), s)  # (F, s², terms)
        self.wide_basis = self.basis.permute(2, 1, 0).flatten(1).contiguous()
        self._transforms: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def single(self) -> SpectralLikelihood:
        """Return a copy whose log-likelihood walks its big arrays in float32: faster, exact to about 1e-4 nats."""
        other = copy.copy(self)
        other.wide_basis, other._transforms = self.wide_basis.float(), {}
        return other

    def periodograms(self, grey: Tensor) -> Tensor:
        """Tapered periodograms of grey LR images (n, h, w), in the windows and at the frequencies used: (n, w, F)."""
        tall, wide = self.shape
        taper = hann(tall, wide)
        cut = torch.stack([grey[:, a : a + tall, b : b + wide] for a, b in self.corners], 1)
        mean = (cut * taper.square()).sum((2, 3), keepdim=True) / taper.square().sum()
        transform = torch.fft.rfft2((cut - mean) * taper)
        power: Tensor = (transform.real**2 + transform.imag**2)[:, :, self.keep] / taper.numel()
        return power

    def _temper(self) -> float:
        """Independent ordinates over ordinates, over the dispersion; see the top of the module."""
        (tall, wide), cover = self.shape, torch.zeros_like(self.grey)
        for a, b in self.corners:
            cover[a : a + tall, b : b + wide] += hann(tall, wide).square()
        independent = float(cover.sum() ** 2 / cover.square().sum())
        ordinates = self.n_windows * tall * wide / (2 if self.thinned else 1)
        return independent / ordinates / self.settings.dispersion

    def _transform(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Fourier sums along both axes for kernels of a size, and where the used bins lie in their outer product."""
        (h, w), s = self.shape, self.scale
        columns = self.cols.unique()
        u = torch.arange(size, dtype=torch.float64)
        angles = (torch.arange(s * h)[:, None] * u / (s * h), columns[:, None] * u / (s * w))
        kind = torch.complex64 if self.wide_basis.dtype is torch.float32 else torch.complex128
        along_y, along_x = (torch.polar(torch.ones_like(a), -2 * math.pi * a).to(kind) for a in angles)
        place = self.rows * len(columns) + torch.searchsorted(columns, self.cols)
        return along_y, along_x.T.contiguous(), place

    def power(self, kernels: Tensor) -> Tensor:
        """|K(f')|² of kernels (n, 1, K, K) at the aliases of the used frequencies: (n, F, s²), float64."""
        size = kernels.shape[-1]
        if size not in self._transforms:
            self._transforms[size] = self._transform(size)
        power: Tensor = KernelPower.apply(kernels[:, 0].double(), *self._transforms[size])
        return power

    def coefficients(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """θ (n, windows, terms) and σ² (n,) of the content's parameters u (n, n_nuisance)."""
        theta = self.mean + (u @ self._in_terms).unflatten(1, (self.n_windows, -1))
        return theta, self.settings.noise**2 * (self.settings.noise_log_std * u[:, 0]).exp()

    def expected(self, power: Tensor, u: Tensor) -> Tensor:
        """S_w(f) for |K|² (n, F, s²) and parameters u (n, n_nuisance): (n, windows, F)."""
        theta, variance = self.coefficients(u)
        content = torch.einsum("nwt,fat->nwfa", theta, self.basis).exp()
        return (power[:, None] * content).sum(3) + variance[:, None, None]

    def log_likelihood(self, power: Tensor, u: Tensor) -> Tensor:
        """Tempered log-likelihood of |K|² (n, F, s²) and parameters u (n, n_nuisance): (n,), differentiable once."""
        theta, variance = self.coefficients(u)
        value: Tensor = Whittle.apply(power, theta, variance, self)
        return value

    def score(self, expected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each ordinate: negative log-likelihood, its first and (kept positive) second derivative in log S."""
        nu, ratio = self.settings.degrees, self.periodogram / expected
        if math.isinf(nu):
            return expected.log() + ratio, 1 - ratio, ratio
        value = expected.log() + (nu + 1) * torch.log1p(ratio / nu)
        return value, 1 - (nu + 1) * ratio / (nu + ratio), (nu + 1) * nu * ratio / (nu + ratio) ** 2

    def curvature(self, power: Tensor, slope: Tensor, u: Tensor) -> Curvature:
        """Negative log-likelihood with gradient and Gauss-Newton matrix, at content parameters u (n_nuisance,).

        `power` is |K|² (F, s²), and `slope` holds its derivatives in the d kernel parameters, (d, F, s²).
        """
        theta, variance = (v[0] for v in self.coefficients(u[None]))
        content = torch.einsum("wt,fat->wfa", theta, self.basis).exp()
        expected = (power * content).sum(2) + variance
        value, first, second = self.score(expected)
        in_terms = torch.einsum("wfa,fat->wft", power * content, self.basis) / expected[..., None]
        in_kernel = torch.einsum("wfa,dfa->wfd", content, slope) / expected[..., None]
        in_noise = (variance * self.settings.noise_log_std / expected)[..., None]
        common = torch.cat([in_kernel, in_noise, in_terms[..., self.shared] * self.shared_std[self.shared]], -1)
        own = in_terms[..., self.local] * self.local_std[self.local]
        weight = self.temper * self.weight
        n, p, c = self.n_windows, own.shape[-1], common.shape[-1]
        gradient = torch.cat(
            [((weight * first)[..., None] * common).sum((0, 1)), ((weight * first)[..., None] * own).sum(1).flatten()]
        )
        curved = (weight * second)[..., None] * common
        matrix = torch.zeros(c + n * p, c + n * p, dtype=torch.float64)
        matrix[:c, :c] = torch.einsum("wfc,wfd->cd", curved, common)
        matrix[:c, c:] = torch.einsum("wfc,wfp->cwp", curved, own).reshape(c, -1)
        matrix[c:, :c] = matrix[:c, c:].T
        blocks = torch.einsum("wf,wfp,wfq->wpq", weight * second, own, own)
        matrix[c:, c:] = torch.block_diag(*blocks)
        return Curvature(float((weight * value).sum()), gradient, matrix)

    def start(self, power: Tensor) -> Tensor:
        """First guess of the content's parameters, given |K|² (F, s²): noise from the finest detail, fitting levels."""
        u = torch.zeros(1, self.n_nuisance, dtype=torch.float64)
        u[0, 0] = self.noise_guess / self.settings.noise_log_std
        if not self.keep.any():  # too small an image to say anything: the prior speaks
            return u[0]
        free = self.expected(power[None], u)[0] - self.coefficients(u)[1]
        gap = (self.periodogram.log() - free.clamp_min(1e-300).log()).mean(1)
        place, first = self.terms.index("level"), 1 + len(self.shared)
        shared = gap.mean() if place in self.shared else gap.new_zeros(())
        if place in self.shared:
            u[0, 1 + self.shared.index(place)] = shared / self.shared_std[place]
        if place in self.local:
            own = u[0, first:].view(self.n_windows, -1)
            own[:, self.local.index(place)] = (gap - shared) / self.local_std[place]
        return u[0].clamp(-6, 6)

    def noise_std(self, u: Tensor, channels: int) -> float:
        """Noise level of one channel that the parameters stand for (the grey mean of C channels has σ/√C)."""
        return float(self.coefficients(u[None])[1][0].sqrt()) * math.sqrt(channels)
