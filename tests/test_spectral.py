"""Spectral likelihood: against brute-force sums over the whole plane of frequencies, and hand-written numpy."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal

from blindsr.likelihood import spectral_gradients
from blindsr.likelihood.content import BASIS, PHOTOGRAPH, POWER_LAW, Term
from blindsr.likelihood.spectral import SpectralLikelihood, SpectralSettings, hann, window_corners
from blindsr.priors.normal import GaussianShape

TINY = SpectralSettings(window=6, lowest=2.0)
SHARED = ["level", "slope", "bend", "bend_cos2", "bend_sin2"]
HARMONICS = (2, 4, 6, 8)
TURNED = {name: [f"{name}_{f}{n}" for n in HARMONICS for f in ("cos", "sin")] for name in ("angular", "slope")}
TERMS = ["level", "slope", *TURNED["angular"], *TURNED["slope"], "bend", "bend_cos2", "bend_sin2"]


def random_image(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((1, 1, *shape)))


def random_kernel(size, seed=0):
    """Any kernel: no symmetry, longer along its columns."""
    k = np.random.default_rng(seed).random((size, size)) * np.exp(-(np.linspace(-2, 2, size)[:, None] ** 2))
    return torch.from_numpy(k / k.sum())[None, None]


def some_u(likelihood, n=1, seed=0):
    """Likely parameters of the content, (n, n_nuisance), noise included."""
    return 0.5 * torch.from_numpy(np.random.default_rng(seed).standard_normal((n, likelihood.n_nuisance)))


def used(likelihood):
    """(row, column) of the LR frequencies that the likelihood uses, in its order, from the description alone."""
    h, w = likelihood.shape
    lowest = likelihood.settings.lowest
    pairs = [(r, c) for r in range(h) for c in range(w // 2 + 1) if h % 2 or w % 2 or (r + c) % 2 == 0]
    return [(r, c) for r, c in pairs if math.hypot(r if r < (h + 1) // 2 else r - h, c) >= lowest]


def aliases(row, col, shape, s):
    """HR frequencies (cycles per HR pixel, row and column axis) that fall on one LR frequency."""
    (h, w) = shape
    return [((row / h + m) / s, (col / w + n) / s) for m in range(s) for n in range(s)]


def fold(f):
    """The same frequency, nearest to zero."""
    return f - round(f)


def transform(k, fy, fx):
    """The discrete Fourier sum of a kernel at any frequency."""
    n = len(k)
    phase = np.exp(-2j * math.pi * (fy * np.arange(n)[:, None] + fx * np.arange(n)[None]))
    return (k * phase).sum()


def content(fy, fx, s, t):
    """Spectrum of the image at a frequency, of coefficients by name, as the description of the terms says."""
    fy, fx = fold(fy), fold(fx)
    rho, phi = 2 * s * math.hypot(fy, fx), math.atan2(fy, fx)
    bend = 2 * math.tanh(rho**2 / 2)

    def turned(name, harmonics):
        pairs = [(n, math.cos(n * phi), math.sin(n * phi)) for n in harmonics]
        return sum(t[f"{name}_cos{n}"] * c + t[f"{name}_sin{n}"] * s for n, c, s in pairs)

    slope, turn = t["slope"] + turned("slope", HARMONICS), turned("angular", HARMONICS)
    bent = t["bend"] + turned("bend", (2,))
    return math.exp(t["level"] + turn - bent * bend) * (2 * rho) ** -slope


def coefficients_by_hand(u, n_windows, settings):
    """Coefficients by name of each window, and the noise's variance, of u in the order the documentation gives."""
    of = settings.content
    shared = {name: u[1 + j] for j, name in enumerate(SHARED)}
    local = np.reshape(u[1 + len(SHARED) :], (n_windows, len(TERMS)))
    theta = [
        {n: of[n].mean + of[n].shared * shared.get(n, 0.0) + of[n].local * row[i] for i, n in enumerate(TERMS)}
        for row in local
    ]
    return theta, settings.noise**2 * math.exp(settings.noise_log_std * u[0])


# --- windows and tapers -------------------------------------------------------------------------------------------


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([4, 7, 16, 32]))
def test_windows_cover_the_image_and_overlap_by_half(h, w, side):
    corners = window_corners(torch.zeros(h, w, dtype=torch.float64), side, 10**6)
    tall, wide = min(h, side), min(w, side)
    seen = np.zeros((h, w), bool)
    for a, b in corners:
        assert 0 <= a <= h - tall and 0 <= b <= w - wide
        seen[a : a + tall, b : b + wide] = True
    assert seen.all()
    assert len(set(corners)) == len(corners)
    for axis in zip(*corners, strict=True):
        assert np.diff(np.unique(axis)).max(initial=0) <= math.ceil(side / 2)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (32, 32), (32, 7)])
def test_small_images_are_one_window(shape):
    assert window_corners(torch.rand(shape, generator=torch.Generator().manual_seed(0)), 32, 36) == [(0, 0)]
    assert SpectralLikelihood(random_image(*shape), 2).shape == shape


def test_the_windows_of_most_detail_are_kept():
    rng = np.random.default_rng(1)
    y = torch.from_numpy(rng.standard_normal((64, 80)) * rng.random((64, 80)).cumsum(1) ** 2)
    every = window_corners(y, 16, 10**6)
    cut = [y[a : a + 16, b : b + 16].numpy() for a, b in every]
    detail = [np.abs(np.diff(p, axis=0)).mean() + np.abs(np.diff(p, axis=1)).mean() for p in cut]
    best = np.sort(np.argsort(detail)[-10:])
    assert len(every) > 30
    assert window_corners(y, 16, 10) == [every[i] for i in best]
    assert window_corners(y, 16, len(every)) == every


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (1, 6)])
def test_taper_is_scipys_hann_window(shape):
    rows, cols = (signal.windows.hann(n + 2)[1:-1] for n in shape)
    taper = np.outer(rows, cols)
    np.testing.assert_allclose(hann(*shape), taper / math.sqrt((taper**2).mean()), rtol=1e-10)


# --- kernel's power and the aliases -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "shape", "size"),
    [
        (2, (12, 9), 7),
        (3, (7, 10), 15),
        (4, (6, 6), 19),
        (8, (5, 6), 21),
        (2, (4, 5), 11),
        (2, (5, 3), 21),
        (2, (4, 6), 9),
    ],
)
def test_power_is_the_fourier_sum_at_each_alias(scale, shape, size):
    """The last three kernels are larger than the transform, on both axes or on one."""
    likelihood = SpectralLikelihood(random_image(*shape), scale, SpectralSettings(lowest=1.0))
    k = torch.cat([random_kernel(size, seed) for seed in range(2)])
    expected = [
        [[abs(transform(one, *f)) ** 2 for f in aliases(r, c, shape, scale)] for r, c in used(likelihood)]
        for one in k[:, 0].numpy()
    ]
    np.testing.assert_allclose(likelihood.power(k), expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(likelihood.power(k.float()), expected, rtol=1e-3, atol=1e-6)
    other = random_kernel(size - 2)  # kernels of two sizes in turn
    assert likelihood.power(other).shape == likelihood.power(k[:1]).shape


def test_power_has_right_gradients():
    likelihood = SpectralLikelihood(random_image(6, 5), 2, TINY)
    k = torch.cat([random_kernel(5, seed) for seed in range(2)]).requires_grad_()
    assert torch.autograd.gradcheck(likelihood.power, (k,), rtol=1e-5)


@pytest.mark.parametrize(("scale", "shape"), [(2, (12, 9)), (3, (7, 10)), (4, (6, 8))])
def test_content_is_read_at_the_same_aliases(scale, shape):
    settings = SpectralSettings(lowest=1.5)
    likelihood = SpectralLikelihood(random_image(*shape), scale, settings)
    u = some_u(likelihood)
    theta, noise = coefficients_by_hand(u[0].numpy(), 1, settings)
    ones = torch.ones(1, len(used(likelihood)), scale**2, dtype=torch.float64)
    for i in range(0, scale**2, 3):
        single = torch.zeros_like(ones)
        single[..., i] = 1
        found = likelihood.expected(single, u)[0, 0] - noise
        f = [aliases(r, c, shape, scale)[i] for r, c in used(likelihood)]
        np.testing.assert_allclose(found, [content(*p, scale, theta[0]) for p in f], rtol=1e-6)


def test_expected_periodogram_of_one_frequency_by_hand():
    """LR frequency (1, 1) of an 8 x 6 window at s = 2, the second of two windows."""
    spread = {"level": Term(-1.0, 2.0, 1.0), "bend_cos2": Term(0.0, 0.5, 0.0), "slope": Term(2.0, 0.0, 0.5)}
    settings = SpectralSettings(window=8, lowest=1.0, noise=0.01, noise_log_std=2.0, content=spread)
    likelihood = SpectralLikelihood(random_image(12, 6), 2, settings)
    assert likelihood.names == ("noise", "level", "bend_cos2", "level[0]", "slope[0]", "level[1]", "slope[1]")
    assert likelihood.n_nuisance == 7
    k = random_kernel(5)
    u = torch.tensor([[0.2, 0.3, -0.4, 7.0, 7.0, 0.6, -0.8]], dtype=torch.float64)
    total = 0.01**2 * math.exp(0.4)
    for fy, fx in [(1 / 16, 1 / 12), (1 / 16, -5 / 12), (-7 / 16, 1 / 12), (-7 / 16, -5 / 12)]:
        rho, cos2 = 4 * math.hypot(fy, fx), (fx**2 - fy**2) / (fx**2 + fy**2)
        log = -1 + 2 * 0.3 + 0.6 - (2 - 0.5 * 0.8) * math.log(2 * rho) + 0.5 * 0.4 * 2 * math.tanh(rho**2 / 2) * cos2
        total += abs(transform(k[0, 0].numpy(), fy, fx)) ** 2 * math.exp(log)
    found = likelihood.expected(likelihood.power(k), u)[0, 1, used(likelihood).index((1, 1))]
    assert float(found) == pytest.approx(total, rel=1e-8)


def test_terms_and_names():
    assert set(PHOTOGRAPH) == set(BASIS) == set(TERMS)
    assert list(POWER_LAW) == TERMS[:6]  # up to the fourth harmonic
    likelihood = SpectralLikelihood(random_image(9, 6), 2, TINY)
    assert likelihood.names[:6] == ("noise", *SHARED)
    assert likelihood.names[6:] == tuple(f"{name}[{w}]" for w in range(2) for name in TERMS)
    assert len(likelihood.names) == likelihood.n_nuisance


def test_the_bend_is_what_a_gaussian_kernel_does_to_low_frequencies():
    """-log|K|² = 4π² σ² f² = ρ² π² σ² / s², and the bend is ρ² there, level far beyond the band."""
    rho = torch.tensor([0.05, 0.2, 1.0, 50.0], dtype=torch.float64)
    bend = -BASIS["bend"](rho, torch.zeros_like(rho))
    torch.testing.assert_close(bend[:2], rho[:2].square(), rtol=1e-3, atol=0)
    assert float(bend[2]) == pytest.approx(1.0, rel=0.1)
    assert float(bend[3]) == pytest.approx(2.0)


# --- log-likelihood -----------------------------------------------------------------------------------------------


def log_likelihood_by_hand(y, scale, settings, k, u):
    """The log-likelihood over the whole plane of frequencies, window by window, tempered."""
    h, w = y.shape
    tall, wide = min(h, settings.window), min(w, settings.window)

    def starts(n, side):
        count = 1 if n <= side else math.ceil(2 * (n - side) / settings.window) + 1
        return [0] if count == 1 else [round(i * (n - side) / (count - 1)) for i in range(count)]

    corners = list(itertools.product(starts(h, tall), starts(w, wide)))
    taper = np.outer(*(signal.windows.hann(n + 2)[1:-1] for n in (tall, wide)))
    taper /= math.sqrt((taper**2).mean())
    theta, noise = coefficients_by_hand(u, len(corners), settings)
    total, cover, nu = 0.0, np.zeros((h, w)), settings.degrees
    chessboard = tall % 2 == wide % 2 == 0
    for t, (a, b) in zip(theta, corners, strict=True):
        cover[a : a + tall, b : b + wide] += taper**2
        piece = y[a : a + tall, b : b + wide]
        piece = piece - (piece * taper**2).sum() / (taper**2).sum()
        p = np.abs(np.fft.fft2(piece * taper)) ** 2 / (tall * wide)
        for r, c in itertools.product(range(tall), range(wide)):
            if math.hypot(fold(r / tall) * tall, fold(c / wide) * wide) < settings.lowest - 1e-9:
                continue
            if chessboard and (r + c) % 2:
                continue
            half = (r, c) if c <= wide // 2 else (-r % tall, wide - c)
            power = (abs(transform(k, *f)) ** 2 * content(*f, scale, t) for f in aliases(*half, (tall, wide), scale))
            model = noise + sum(power)
            heavy = (nu + 1) * math.log1p(p[r, c] / (nu * model)) if math.isfinite(nu) else p[r, c] / model
            total -= 0.5 * (math.log(model) + heavy)
    independent = cover.sum() ** 2 / (cover**2).sum()
    ordinates = len(corners) * tall * wide / (2 if chessboard else 1)
    return total * independent / ordinates / settings.dispersion


@pytest.mark.parametrize(
    ("scale", "shape", "window", "degrees"),
    [(2, (8, 9), 6, 4.0), (3, (6, 5), 8, 4.0), (2, (7, 7), 7, math.inf), (2, (14, 6), 6, 2.0)],
)
def test_log_likelihood_equals_numpy(scale, shape, window, degrees):
    settings = SpectralSettings(window=window, lowest=1.5, degrees=degrees, noise=0.02, dispersion=1.3)
    y = random_image(*shape)
    likelihood = SpectralLikelihood(y, scale, settings)
    k, u = torch.cat([random_kernel(7, 0), random_kernel(7, 1)]), some_u(likelihood, 2)
    expected = [log_likelihood_by_hand(y[0, 0].numpy(), scale, settings, k[i, 0].numpy(), u[i].numpy()) for i in (0, 1)]
    np.testing.assert_allclose(likelihood.log_likelihood(likelihood.power(k), u), expected, rtol=1e-8)


def test_many_positions_at_once_are_each_by_itself(monkeypatch):
    likelihood = SpectralLikelihood(random_image(12, 12), 2, TINY)
    k, u = torch.cat([random_kernel(5, seed) for seed in range(7)]), some_u(likelihood, 7)
    power = likelihood.power(k)
    together = likelihood.log_likelihood(power, u)
    monkeypatch.setattr(spectral_gradients, "CHUNK", 3 * likelihood.n_windows * likelihood.wide_basis.shape[1])
    torch.testing.assert_close(likelihood.log_likelihood(power, u), together, rtol=1e-12, atol=0)
    alone = torch.cat([likelihood.log_likelihood(power[i : i + 1], u[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=0)


@pytest.mark.parametrize("degrees", [3.0, math.inf])
def test_log_likelihood_has_right_gradients(degrees, monkeypatch):
    """In the kernel, the coefficients, the noise, through the likelihood's own backward pass, in chunks of one."""
    monkeypatch.setattr(spectral_gradients, "CHUNK", 1)
    settings = SpectralSettings(window=6, lowest=2.0, degrees=degrees, noise=0.1)
    likelihood = SpectralLikelihood(random_image(7, 6), 2, settings)
    k, u = (t.requires_grad_() for t in (torch.cat([random_kernel(5, 0), random_kernel(5, 1)]), some_u(likelihood, 2)))
    assert torch.autograd.gradcheck(lambda a, b: likelihood.log_likelihood(likelihood.power(a), b), (k, u), rtol=1e-4)
    power = likelihood.power(k).detach().requires_grad_()
    theta, variance = (t.detach().requires_grad_() for t in likelihood.coefficients(u))
    assert torch.autograd.gradcheck(
        lambda *inputs: spectral_gradients.Whittle.apply(*inputs, likelihood), (power, theta, variance), rtol=1e-4
    )


@pytest.mark.parametrize("scale", [2, 4])
def test_single_precision_is_exact_to_a_thousandth_of_a_nat(scale):
    """Over the prior of the content, noise included, where spectra span many decades."""
    likelihood = SpectralLikelihood(random_image(64, 48), scale)
    family = GaussianShape(19, scale)
    generator = torch.Generator().manual_seed(0)
    z = family.sample_z(20, generator=generator).double()
    u = torch.randn(20, likelihood.n_nuisance, generator=generator, dtype=torch.float64).requires_grad_()
    power = likelihood.power(family.kernel(z))
    u.data[0] = likelihood.start(power[0])
    fast = likelihood.single()
    assert (fast.wide_basis.dtype, likelihood.wide_basis.dtype) == (torch.float32, torch.float64)
    single, double = (some.log_likelihood(power, u) for some in (fast, likelihood))
    gradients = [torch.autograd.grad(v.sum(), u)[0] for v in (single, double)]
    assert single.dtype == gradients[0].dtype == torch.float64
    torch.testing.assert_close(single, double, rtol=0, atol=1e-3)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-3)


def test_score_is_the_derivative_in_the_log_spectrum():
    h = 1e-4
    for degrees in (2.0, 5.0, math.inf):
        likelihood = SpectralLikelihood(random_image(9, 8), 2, SpectralSettings(lowest=2.0, degrees=degrees))
        expected = likelihood.periodogram * torch.logspace(-2, 2, likelihood.periodogram.shape[1]).double()
        value, first, second = likelihood.score(expected)
        up, down = (likelihood.score(expected * math.exp(d))[0] for d in (h, -h))
        torch.testing.assert_close(first, (up - down) / (2 * h), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(second, (up - 2 * value + down) / h**2, rtol=1e-3, atol=1e-5)
        assert second.min() > 0


def test_curvature_is_gauss_newtons():
    """Gradient against autograd; matrix against Jᵀ W J with J = d log S by finite differences."""
    likelihood = SpectralLikelihood(random_image(9, 6), 2, SpectralSettings(window=6, lowest=2.0, noise=0.05))
    assert likelihood.n_windows == 2
    family, d, h = GaussianShape(7, 2), 3, 1e-5
    at = torch.cat([torch.tensor([0.3, 0.2, -0.1], dtype=torch.float64), some_u(likelihood)[0]])

    def expected(points):
        return likelihood.expected(likelihood.power(family.kernel(points[:, :d])), points[:, d:])

    z = at[None, :d].clone().requires_grad_()
    u = at[None, d:].clone().requires_grad_()
    value = -likelihood.log_likelihood(likelihood.power(family.kernel(z)), u)[0]
    gradient = torch.cat([g[0] for g in torch.autograd.grad(value, (z, u))])
    slope = torch.autograd.functional.jacobian(lambda v: likelihood.power(family.kernel(v[None]))[0], at[:d])
    found = likelihood.curvature(likelihood.power(family.kernel(z.detach()))[0], slope.movedim(-1, 0), at[d:])
    assert found.value == pytest.approx(float(value.detach()), rel=1e-10)
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-8, atol=1e-8)

    step = h * torch.eye(len(at), dtype=torch.float64)
    jacobian = ((expected(at + step).log() - expected(at - step).log()) / (2 * h)).flatten(1)
    ratio, nu = likelihood.periodogram / expected(at[None])[0], likelihood.settings.degrees
    weight = likelihood.temper * likelihood.weight * (nu + 1) * nu * ratio / (nu + ratio) ** 2
    torch.testing.assert_close(found.matrix, (jacobian * weight.flatten()) @ jacobian.T, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.matrix, found.matrix.T, rtol=0, atol=1e-12)


# --- what y is taken for ------------------------------------------------------------------------------------------


def test_colours_count_by_their_mean():
    y = torch.rand(1, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    colour, grey = (SpectralLikelihood(v, 2, TINY) for v in (y, y.double().mean(1, keepdim=True)))
    torch.testing.assert_close(colour.periodogram, grey.periodogram)
    u = some_u(grey)[0]
    assert colour.noise_std(u, 3) == pytest.approx(math.sqrt(3) * 0.3 / 255 * math.exp(4.0 * float(u[0]) / 2))


def test_brightness_does_not_matter():
    y = random_image(9, 9)
    a, b = (SpectralLikelihood(v, 2, TINY) for v in (y, y + 0.3))
    torch.testing.assert_close(a.periodogram, b.periodogram)


def test_periodograms_of_many_images_are_each_its_own():
    likelihood = SpectralLikelihood(random_image(12, 15), 2, TINY)
    images = torch.cat([random_image(12, 15, seed=seed)[0] for seed in range(3)])
    assert likelihood.n_windows > 3
    for found, one in zip(likelihood.periodograms(images), images, strict=True):
        torch.testing.assert_close(found, SpectralLikelihood(one[None, None], 2, TINY).periodogram)
    assert torch.equal(likelihood.periodograms(images)[0], likelihood.periodogram)


def test_start_has_the_level_of_the_periodogram():
    """At the start, the mean log of periodogram over model is zero in every window (noise apart)."""
    likelihood = SpectralLikelihood(random_image(40, 40), 2, SpectralSettings(window=16, noise=1e-9, noise_log_std=0.1))
    power = likelihood.power(random_kernel(7))
    u = likelihood.start(power[0])
    u[0] = 0
    gap = (likelihood.periodogram.log() - likelihood.expected(power, u[None])[0].log()).mean(1)
    torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-6)
    local = [i for i, name in enumerate(likelihood.names) if name.startswith("level[")]
    assert len(local) == likelihood.n_windows
    assert float(u[local].sum()) == pytest.approx(0, abs=1e-9)


def test_start_of_an_image_without_a_usable_frequency_is_the_prior():
    likelihood = SpectralLikelihood(random_image(2, 2), 2)
    assert torch.equal(
        likelihood.start(likelihood.power(random_kernel(5))[0])[1:], torch.zeros(len(SHARED) + len(TERMS)).double()
    )
