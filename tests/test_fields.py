"""Simulated fields: their spectrum is the model's, and sums over their ordinates scatter as the likelihood says."""

import math

import numpy as np
import pytest
import torch

from blindsr.likelihood.content import PHOTOGRAPH, POWER_LAW
from blindsr.likelihood.fields import degraded_field, random_field
from blindsr.likelihood.spectral import SpectralLikelihood, SpectralSettings
from blindsr.operators.degradation import Degradation, Padding
from blindsr.priors.normal import GaussianShape

TERMS = tuple(PHOTOGRAPH)
GENTLE = [
    *(-1.0, 1.0),
    *(0.5, -0.6, 0.2, 0.3, 0.1, -0.1, 0.05, 0.1),
    *(0.2, -0.3, 0.1, 0.2, -0.05, 0.1, 0.05, -0.05),
    *(0.3, -0.3, 0.2),
]
"""Coefficients of a spectrum that varies slowly, yet with direction in every term."""


def lopsided_kernel(size, seed=3):
    k = np.random.default_rng(seed).random((size, size)) * np.exp(-(np.linspace(-2, 2, size)[:, None] ** 2))
    return torch.from_numpy(k / k.sum())[None, None]


def parameters(likelihood, theta, noise_std):
    """Parameters u (1, n_nuisance) that stand for the coefficients in every window, and for the noise level."""
    content = list(likelihood.settings.content.values())
    u = torch.zeros(1, likelihood.n_nuisance, dtype=torch.float64)
    u[0, 0] = 2 * math.log(noise_std / likelihood.settings.noise) / likelihood.settings.noise_log_std
    own = [(v - t.mean) / t.local for v, t in zip(theta, content, strict=True)]
    u[0, 1 + len(likelihood.shared) :] = torch.tensor(own, dtype=torch.float64).repeat(likelihood.n_windows)
    return u


def one_angle(likelihood):
    """(F,) whether no alias lies at half a cycle, ±0.5, on one axis: there a frequency has two directions."""
    (h, w), s = likelihood.shape, likelihood.scale
    rows, cols = likelihood.rows / (s * h), likelihood.cols / (s * w)
    return ((rows - 0.5).abs() > 1e-9).all(1) & ((cols - 0.5).abs() > 1e-9).all(1)


# --- the spectrum -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3])
def test_mean_periodogram_of_periodic_degraded_fields_is_the_folded_spectrum(scale, gen):
    """On the torus, without a taper: axes, aliases, units, the kernel's direction; nothing is approximate."""
    shape, n, noise_std = (9, 11), 3000, 0.1
    d = Degradation(scale, 7, padding=Padding.CIRCULAR)
    k = lopsided_kernel(7)
    likelihood = SpectralLikelihood(torch.rand(1, 1, *shape, generator=gen), scale, SpectralSettings(lowest=1.0))
    theta = torch.tensor(GENTLE, dtype=torch.float64)
    big = (scale * shape[0], scale * shape[1])
    total = torch.zeros(likelihood.keep.shape, dtype=torch.float64)
    for _ in range(n):
        y = d(random_field(theta, TERMS, big, scale, generator=gen), k)[0, 0]
        y = y + noise_std * torch.randn(shape, generator=gen, dtype=torch.float64)
        total += torch.fft.rfft2(y).abs().square() / y.numel()
    clear = one_angle(likelihood)
    assert clear.sum() > 20
    u = parameters(likelihood, GENTLE, noise_std)

    def gap(kernel):
        """Largest relative gap: of means of n exponential variables (at the real bins, chi-square ones)."""
        expected = likelihood.expected(likelihood.power(kernel), u)[0, 0]
        return float(((total[likelihood.keep] / n / expected)[clear] - 1).abs().max())

    assert gap(k) < 5 * math.sqrt(2 / n)
    assert gap(k.transpose(2, 3)) > 0.5
    assert gap(k.flip(3)) > 0.1


def test_mean_tapered_periodogram_of_fields_with_borders(gen):
    """Cut out of the torus and tapered, the spectrum is the model's where it is flat over the taper's width."""
    d, k, n = Degradation(2), lopsided_kernel(11), 200
    theta = torch.tensor(GENTLE, dtype=torch.float64)
    fields = [degraded_field(theta, TERMS, k, 0.1, (60, 40), d, generator=gen) for _ in range(n)]
    likelihood = SpectralLikelihood(fields[0], 2, SpectralSettings(window=40, lowest=10.0))
    assert likelihood.n_windows == 2
    periodograms = likelihood.periodograms(torch.cat(fields)[:, 0])
    ratio = periodograms / likelihood.expected(likelihood.power(k), parameters(likelihood, GENTLE, 0.1))[0]
    total = (ratio * likelihood.weight).sum((1, 2)) / (2 * likelihood.weight.sum())
    assert abs(float(total.mean()) - 1) < 0.02 + 4 * float(total.std()) / math.sqrt(n)
    assert float((ratio.mean(0) - 1).abs().max()) < 5.5 * math.sqrt(2 / n) + 0.1


def test_noise_alone_is_white(gen):
    nothing = torch.tensor([-80.0, 0.0], dtype=torch.float64)
    y = degraded_field(nothing, ("level", "slope"), lopsided_kernel(5), 0.3, (80, 60), Degradation(2, 5), generator=gen)
    assert (y.shape, y.dtype) == ((1, 1, 80, 60), torch.float64)
    assert float(y.std()) == pytest.approx(0.3, rel=4 / math.sqrt(2 * y.numel()))
    assert abs(float(y.mean())) < 4 * 0.3 / math.sqrt(y.numel())


def test_same_generator_same_field():
    def made(seed):
        g = torch.Generator().manual_seed(seed)
        theta = torch.tensor([-2.0, 2.0], dtype=torch.float64)
        x = random_field(theta, ("level", "slope"), (12, 10), 2, generator=g)
        y = degraded_field(theta, ("level", "slope"), lopsided_kernel(5), 0.1, (6, 7), Degradation(2, 5), generator=g)
        return x, y

    (x, y), (x2, y2), (x3, y3) = made(1), made(1), made(2)
    assert torch.equal(x, x2) and torch.equal(y, y2)
    assert not torch.equal(x, x3) and not torch.equal(y, y3)
    assert (x.shape, x.dtype, y.shape) == ((1, 1, 12, 10), torch.float64, (1, 1, 6, 7))
    assert abs(float(x.mean())) < 1e-12  # nothing at frequency zero


# --- how far ordinates count --------------------------------------------------------------------------------------


def scatter(total):
    """Variance of values (n,) with its standard error, which the fourth moment gives."""
    gap = (total - total.mean()).square()
    return float(gap.mean()), float(gap.std() / math.sqrt(len(total)))


@pytest.mark.parametrize(
    ("shape", "windows"), [((32, 32), 1), ((20, 26), 1), ((64, 64), 9), ((36, 38), 4), ((32, 40), 2)]
)
def test_sums_over_ordinates_of_white_noise_scatter_as_the_temper_says(shape, windows, gen):
    """Var Σ w (P/S - 1) = Σ w / temper: what Σ w · temper independent ordinates of weight 1/temper would have."""
    n = 2000
    settings = SpectralSettings(dispersion=1.0)
    y = torch.randn(n, *shape, generator=gen, dtype=torch.float64)
    likelihood = SpectralLikelihood(y[None, :1], 2, settings)
    assert likelihood.n_windows == windows
    total = torch.cat([(likelihood.weight * (likelihood.periodograms(p) - 1)).sum((1, 2)) for p in y.split(250)])
    weights = windows * float(likelihood.weight.sum())
    variance, se = scatter(total)
    assert abs(variance - weights / likelihood.temper) < 4 * se
    assert variance > 1.5 * weights  # what counting every ordinate as one of its own would say
    assert variance > weights + 10 * se


def level_score(likelihood, kernel, theta, noise_std):
    """Derivative of the log-likelihood in the common level of all windows, its information by the model."""
    u = parameters(likelihood, theta, noise_std)
    power = likelihood.power(kernel)
    content = likelihood.expected(power, u)[0] - noise_std**2
    share = content / (content + noise_std**2)
    weight = likelihood.temper * likelihood.weight
    return weight * share / (content + noise_std**2), float((weight * share.square()).sum()), (weight * share).sum()


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 38])
def test_score_of_degraded_fields_scatters_by_its_information(side, gen):
    """Blurred power laws with borders: the tempered score has the variance of its information, the plain one has not.

    Var ∂ log L = E[-∂² log L] is what makes a likelihood's width that of its errors. Settings: a Gaussian field.
    """
    n, noise_std = 400, 0.01
    theta = [-2.0, 2.0, 0.3, -0.2, 0.1, 0.2]
    d = Degradation(2)
    k = GaussianShape(d.kernel_size, 2).kernel(torch.tensor([[-0.2, 0.3, -0.2]], dtype=torch.float64))
    fields = torch.cat(
        [
            degraded_field(torch.tensor(theta).double(), tuple(POWER_LAW), k, noise_std, (side, side), d, generator=gen)
            for _ in range(n)
        ]
    )[:, 0]
    settings = SpectralSettings(content=POWER_LAW, dispersion=1.0, degrees=math.inf)
    likelihood = SpectralLikelihood(fields[None, :1], 2, settings)
    weight, information, mean = level_score(likelihood, k, theta, noise_std)
    score = (weight * likelihood.periodograms(fields)).sum((1, 2)) - mean
    variance, se = scatter(score)
    assert abs(variance - information) < 4 * se
    untempered = variance / likelihood.temper**2, se / likelihood.temper**2
    assert untempered[0] > 1.5 * information / likelihood.temper
    assert untempered[0] - information / likelihood.temper > 5 * untempered[1]


def test_the_temper_is_what_it_says():
    """One window: (Σ h²)²/Σ h⁴ over half its pixels, 0.52; and overlapping windows hold less than windows apart."""
    one, dispersed = (
        SpectralLikelihood(torch.zeros(1, 1, 32, 32), 2, SpectralSettings(dispersion=v)).temper for v in (1.0, 1.4)
    )
    h2 = np.hanning(34)[1:-1] ** 2
    assert one == pytest.approx(2 * (h2.sum() ** 2 / (h2**2).sum() / 32) ** 2)
    assert one == pytest.approx(0.52, abs=0.06)
    assert dispersed == pytest.approx(one / 1.4)
    many = SpectralLikelihood(torch.zeros(1, 1, 64, 64), 2, SpectralSettings(dispersion=1.0))
    independent = many.temper * many.n_windows * 32**2 / 2
    assert 2 * 32**2 * one < independent < 64**2
