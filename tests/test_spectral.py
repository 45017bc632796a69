"""Spectral likelihood and prior: against brute-force sums, hand-written numpy, simulated fields of known kernels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, signal, stats
from skimage import data

from blindsr.degradation import Degradation, Padding
from blindsr.kernels import covariance
from blindsr.likelihood.spectral import SpectralLikelihood, SpectralSettings, hann, windows
from blindsr.priors.base import KernelDensity
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.normal import DiskShape, GaussianShape, LineShape, log_covariance
from blindsr.priors.spectral import MomentEnergy, SpectralPrior
from blindsr.testing import check_kernel_prior

TINY = SpectralSettings(window=6, lowest=2.0)


def random_image(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((1, 1, *shape)))


def random_kernel(size, seed=0):
    """Any kernel: no symmetry, longer along its columns."""
    k = np.random.default_rng(seed).random((size, size)) * np.exp(-(np.linspace(-2, 2, size)[:, None] ** 2))
    return torch.from_numpy(k / k.sum())[None, None]


def used(likelihood):
    """(row, column) of the LR frequencies that the likelihood uses, in its order, from the description alone."""
    h, w = likelihood.shape
    lowest = likelihood.settings.lowest
    pairs = [(r, c) for r in range(h) for c in range(w // 2 + 1)]
    return [(r, c) for r, c in pairs if math.hypot(r if r < (h + 1) // 2 else r - h, c) >= lowest]


def aliases(row, col, shape, s):
    """HR frequencies (cycles per HR pixel, row and column axis) that fall on one LR frequency."""
    (h, w) = shape
    return [((row / h + m) / s, (col / w + n) / s) for m in range(s) for n in range(s)]


def fold(f):
    """The same frequency, nearest to zero."""
    return f - round(f)


def one_angle(row, col, shape, s):
    """Whether no alias lies at half a cycle, ±0.5, on one axis: there a frequency has two directions."""
    return all(abs(abs(fold(f)) - 0.5) > 1e-9 for pair in aliases(row, col, shape, s) for f in pair)


def transform(k, fy, fx):
    """The discrete Fourier sum of a kernel at any frequency."""
    n = len(k)
    phase = np.exp(-2j * math.pi * (fy * np.arange(n)[:, None] + fx * np.arange(n)[None]))
    return (k * phase).sum()


def content(fy, fx, level, exponent, angular):
    """Spectrum of the image at a frequency, in the model's parameters."""
    fy, fx = fold(fy), fold(fx)
    f, phi = math.hypot(fy, fx), math.atan2(fy, fx)
    a1, b1, a2, b2 = angular
    turn = a1 * math.cos(2 * phi) + b1 * math.sin(2 * phi) + a2 * math.cos(4 * phi) + b2 * math.sin(4 * phi)
    return math.exp(level) * (f * math.exp(2)) ** -exponent * math.exp(turn)


def some_z(likelihood, seed=0):
    z = likelihood.start(likelihood.power(random_kernel(5)))
    return z + 0.2 * torch.from_numpy(np.random.default_rng(seed).standard_normal(len(z)))


# --- windows and tapers -------------------------------------------------------------------------------------------


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([4, 7, 16, 32]))
def test_windows_cover_the_image_and_overlap_by_half(h, w, side):
    index = torch.arange(h * w, dtype=torch.float64).view(h, w)
    cut = windows(index, side, 10**6)
    assert cut.shape[1:] == (min(h, side), min(w, side))
    assert torch.equal(cut.unique(), index.flatten())
    first = cut[:, 0, 0].numpy()
    for corners in (np.unique(first // w), np.unique(first % w)):
        assert np.diff(corners).max(initial=0) <= math.ceil(side / 2)
    for piece in cut:
        r, c = divmod(int(piece[0, 0]), w)
        assert torch.equal(piece, index[r : r + side, c : c + side])


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (32, 32), (32, 7)])
def test_small_images_are_one_window(shape):
    y = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cut = windows(y, 32, 36)
    assert torch.equal(cut, y[None])


def test_the_windows_of_most_detail_are_kept():
    rng = np.random.default_rng(1)
    y = torch.from_numpy(rng.standard_normal((64, 80)) * rng.random((64, 80)).cumsum(1) ** 2)
    every = windows(y, 16, 10**6).numpy()
    detail = [np.abs(np.diff(p, axis=0)).mean() + np.abs(np.diff(p, axis=1)).mean() for p in every]
    best = np.sort(np.argsort(detail)[-10:])
    assert len(every) > 30
    np.testing.assert_array_equal(windows(y, 16, 10), every[best])
    np.testing.assert_array_equal(windows(y, 16, len(every)), every)


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
    k = random_kernel(size)
    expected = [
        [abs(transform(k[0, 0].numpy(), *f)) ** 2 for f in aliases(r, c, shape, scale)] for r, c in used(likelihood)
    ]
    np.testing.assert_allclose(likelihood.power(k), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(("scale", "shape"), [(2, (12, 9)), (3, (7, 10)), (4, (6, 8))])
def test_content_is_read_at_the_same_aliases(scale, shape):
    likelihood = SpectralLikelihood(random_image(*shape), scale, SpectralSettings(lowest=1.5))
    z = some_z(likelihood)
    ones = torch.ones(len(used(likelihood)), scale**2, dtype=torch.float64)
    for i in range(0, scale**2, 3):
        single = torch.zeros_like(ones)
        single[:, i] = 1
        found = likelihood.expected(single, z)[0] - 0.3**2 / 255**2 * z[1].exp()
        f = [aliases(r, c, shape, scale)[i] for r, c in used(likelihood)]
        expected = [content(*p, float(z[3]), float(z[0] + z[8]), z[4:8].tolist()) for p in f]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_expected_periodogram_of_one_frequency_by_hand():
    """LR frequency (2, 1) of an 8 x 6 window at s = 2, the second of two windows."""
    settings = SpectralSettings(window=8, lowest=1.0, noise=0.01)
    likelihood = SpectralLikelihood(random_image(12, 8), 2, settings)
    assert likelihood.n_windows == 2
    assert likelihood.n_nuisance == 15
    k = random_kernel(5)
    z = torch.tensor([2.5, 0.4, 9.0, 9.0, -1.5, *[7.0] * 4, 0.3, -0.2, 0.1, 0.5, 7.0, 0.25], dtype=torch.float64)
    total = 0.01**2 * math.exp(0.4)
    for fy, fx in [(2 / 16, 1 / 16), (2 / 16, -7 / 16), (-6 / 16, 1 / 16), (-6 / 16, -7 / 16)]:
        weight = abs(transform(k[0, 0].numpy(), fy, fx)) ** 2
        total += weight * content(fy, fx, -1.5, 2.5 + 0.25, (0.3, -0.2, 0.1, 0.5))
    found = likelihood.expected(likelihood.power(k), z)[1, used(likelihood).index((2, 1))]
    assert float(found) == pytest.approx(total, rel=1e-8)


@pytest.mark.parametrize("scale", [2, 3])
def test_folded_spectrum_is_the_mean_periodogram_of_degraded_fields(scale):
    """Periodic fields of a known spectrum through `Degradation`: axes, aliases, the kernel's direction."""
    h, w, n, exponent, angular = 9, 11, 6000, 1.0, (0.5, -0.6, 0.2, 0.3)
    d = Degradation(scale, 7, padding=Padding.CIRCULAR)
    likelihood = SpectralLikelihood(random_image(h, w), scale, SpectralSettings(lowest=1.0, noise=1e-9))
    tall, wide = scale * h, scale * w
    spectrum = np.zeros((tall, wide))
    for r in range(tall):
        for c in range(wide):
            if r or c:
                spectrum[r, c] = content(r / tall, c / wide, -1.0, exponent, angular)
    spectrum = (spectrum + spectrum[-np.arange(tall)][:, -np.arange(wide)]) / 2  # differs at ±0.5 alone
    total = np.zeros((h, w // 2 + 1))
    rng = np.random.default_rng(scale)
    k = random_kernel(7, seed=3)
    for _ in range(4):
        x = rng.standard_normal((n // 4, tall, wide))
        x = np.fft.ifft2(np.fft.fft2(x) * np.sqrt(spectrum)).real
        y = d(torch.from_numpy(x)[:, None], k)[:, 0].numpy()
        total += (np.abs(np.fft.rfft2(y)) ** 2 / (h * w)).sum(0)
    clear = [one_angle(r, c, (h, w), scale) for r, c in used(likelihood)]
    assert sum(clear) > 20
    mean = np.array([total[r, c] for r, c in used(likelihood)])[clear] / n

    def folded(kernel):
        z = torch.tensor([exponent, 0.0, 0.0, -1.0, *angular, 0.0], dtype=torch.float64)
        return likelihood.expected(likelihood.power(kernel), z)[0].numpy()[clear] / scale**2

    # A mean of n exponential (or, at the real bins, chi-square) variables.
    assert np.abs(mean / folded(k) - 1).max() < 5 * math.sqrt(2 / n)
    assert np.abs(mean / folded(k.transpose(2, 3)) - 1).max() > 0.5
    assert np.abs(mean / folded(k.flip(3)) - 1).max() > 0.1


# --- energy -------------------------------------------------------------------------------------------------------


def energy_by_hand(y, scale, settings, k, z):
    """The energy, over the whole plane of frequencies, window by window."""
    h, w = y.shape
    tall, wide = min(h, settings.window), min(w, settings.window)

    def starts(n, side):
        count = 1 if n <= side else math.ceil(2 * (n - side) / side) + 1
        return [0] if count == 1 else [round(i * (n - side) / (count - 1)) for i in range(count)]

    corners = [(a, b) for a in starts(h, tall) for b in starts(w, wide)]
    taper = np.outer(*(signal.windows.hann(n + 2)[1:-1] for n in (tall, wide)))
    taper /= math.sqrt((taper**2).mean())
    noise = settings.noise**2 * math.exp(z[1])
    n, total = len(corners), 0.0
    for i, (a, b) in enumerate(corners):
        piece = y[a : a + tall, b : b + wide]
        piece = piece - (piece * taper**2).sum() / (taper**2).sum()
        p = np.abs(np.fft.fft2(piece * taper)) ** 2 / (tall * wide)
        angular, exponent = z[3 + n + 4 * i : 7 + n + 4 * i], z[0] + z[3 + 5 * n + i]
        for r in range(tall):
            for c in range(wide):
                if math.hypot(fold(r / tall) * tall, fold(c / wide) * wide) < settings.lowest - 1e-9:
                    continue
                half = (r, c) if c <= wide // 2 else (-r % tall, wide - c)
                model = noise + sum(
                    abs(transform(k, *f)) ** 2 * content(*f, z[3 + i], exponent, angular)
                    for f in aliases(*half, (tall, wide), scale)
                )
                nu = settings.degrees
                total += 0.5 * (math.log(model) + (nu + 1) * math.log1p(p[r, c] / (nu * model)))
    own = (taper**2).sum() ** 2 / (taper.size * (taper**4).sum())
    share = min(1.0, 1.6 * h * w / (n * tall * wide))
    prior = ((z[0] - settings.slope) / settings.slope_std) ** 2 + (z[1] / settings.noise_log_std) ** 2
    prior += sum(((v - z[2]) / settings.amplitude_std) ** 2 for v in z[3 : 3 + n])
    prior += sum((v / settings.angular_std) ** 2 for v in z[3 + n : 3 + 5 * n])
    prior += sum((v / settings.slope_spread) ** 2 for v in z[3 + 5 * n :])
    return own * share * total + 0.5 * prior


@pytest.mark.parametrize(
    ("scale", "shape", "window"), [(2, (8, 9), 6), (3, (6, 5), 8), (2, (7, 7), 7), (2, (14, 6), 6)]
)
def test_energy_equals_numpy(scale, shape, window):
    settings = SpectralSettings(window=window, lowest=1.5, degrees=4.0, angular_std=0.7, slope_spread=0.3, noise=0.02)
    y = random_image(*shape)
    likelihood = SpectralLikelihood(y, scale, settings)
    k, z = random_kernel(7), some_z(likelihood)
    expected = energy_by_hand(y[0, 0].numpy(), scale, settings, k[0, 0].numpy(), z.tolist())
    assert float(likelihood.energy(likelihood.power(k), z)) == pytest.approx(expected, rel=1e-8)


def test_colours_count_by_their_mean():
    y = torch.rand(1, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    colour, grey = (SpectralLikelihood(v, 2, TINY) for v in (y, y.double().mean(1, keepdim=True)))
    torch.testing.assert_close(colour.periodogram, grey.periodogram)
    z = some_z(grey)
    assert colour.noise_std(z, 3) == pytest.approx(math.sqrt(3) * 0.3 / 255 * math.exp(float(z[1]) / 2))


def test_energy_has_right_gradients():
    likelihood = SpectralLikelihood(random_image(7, 6), 2, TINY)
    k, z = random_kernel(5).requires_grad_(), some_z(likelihood).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: likelihood.energy(likelihood.power(a), b), (k, z), rtol=1e-4)


def test_energy_does_not_see_brightness():
    y = random_image(9, 9)
    a, b = (SpectralLikelihood(v, 2, TINY) for v in (y, y + 0.3))
    torch.testing.assert_close(a.periodogram, b.periodogram)


def test_start_has_the_level_of_the_periodogram():
    """At the start, the mean log of periodogram over model is zero in every window (noise apart)."""
    likelihood = SpectralLikelihood(random_image(40, 40), 2, SpectralSettings(window=16, noise=1e-9))
    power = likelihood.power(random_kernel(7))
    z = likelihood.start(power)
    z[1] = 0
    gap = (likelihood.periodogram.log() - likelihood.expected(power, z).log()).mean(1)
    torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-6)
    assert float(z[2]) == pytest.approx(float(z[3 : 3 + likelihood.n_windows].mean()))


# --- simulated fields ---------------------------------------------------------------------------------------------


def field(n, rng, slope, angular):
    """A random field (n, n) of a power law times an angular factor, cut from one four times as large."""
    fy, fx = np.fft.fftfreq(2 * n)[:, None], np.fft.rfftfreq(2 * n)[None]
    f, phi = np.hypot(fy, fx), np.arctan2(fy, fx)
    f[0, 0] = np.inf
    a1, b1, a2, b2 = angular
    turn = a1 * np.cos(2 * phi) + b1 * np.sin(2 * phi) + a2 * np.cos(4 * phi) + b2 * np.sin(4 * phi)
    white = np.fft.rfft2(rng.standard_normal((2 * n, 2 * n)))
    x = np.fft.irfft2(white * np.sqrt(f**-slope * np.exp(turn)), s=(2 * n, 2 * n))
    return 0.5 + 0.15 * (x / x.std())[:n, :n]


def simulate(scale, seed, lr=64, sigma=0.5 / 255, kernel=None, channels=1):
    """A degraded random field, the operator, and z of its Gaussian kernel (or the given kernel is used)."""
    rng = np.random.default_rng(seed)
    d = Degradation(scale, padding=Padding.VALID)
    z = rng.standard_normal(3) * [0.4, 0.3, 0.3] + [math.log(0.7 * scale), 0, 0]
    k = GaussianShape(d.kernel_size, scale).kernel(torch.from_numpy(z)[None]) if kernel is None else kernel
    x = field(d.hr_shape(lr, lr)[0], rng, 2.9 + 0.1 * rng.standard_normal(), 0.3 * rng.standard_normal(4))
    y = d(torch.from_numpy(x)[None, None], k).expand(1, channels, lr, lr)
    return y + sigma * torch.from_numpy(rng.standard_normal((1, channels, lr, lr))), d, z


def spread(prior):
    return torch.linalg.inv(prior.precision).diagonal().sqrt().numpy()


SEEDS = range(12)


@pytest.fixture(scope="module")
def fits():
    """Fits to simulated fields, one set for each scale, made when first asked for."""
    made = {}

    def get(scale):
        if scale not in made:
            made[scale] = []
            for seed in SEEDS:
                y, d, z = simulate(scale, seed)
                made[scale].append((SpectralPrior.fit(y, d), z))
        return made[scale]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 4])
def test_kernels_of_simulated_fields_are_recovered(scale, fits):
    error = np.array([prior.mode.numpy() - z for prior, z in fits(scale)]) * [0.5, 1, 1]  # log width, stretches
    mean, se = error.mean(0), error.std(0, ddof=1) / math.sqrt(len(error))
    rms = np.sqrt((error**2).mean(0))
    assert np.all(np.abs(mean) < 3 * se), (mean, se)
    assert np.all(rms < 0.15), rms
    truth = np.array([z for _, z in fits(scale)])
    assert np.all(rms < 0.6 * truth.std(0) * [0.5, 1, 1]), rms  # better than the mean of the truths


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 4])
def test_errors_are_of_the_size_that_the_density_says(scale, fits):
    score = np.array([(prior.mode.numpy() - z) / spread(prior) for prior, z in fits(scale)])
    rms = math.sqrt((score**2).mean())
    assert 0.5 < rms < 2.5, (rms, np.sqrt((score**2).mean(0)))
    assert np.abs(score).max() < 5


@pytest.mark.parametrize("kind", ["white noise", "constant", "constant and noise"])
def test_an_image_that_says_nothing_leaves_the_prior(kind):
    rng = np.random.default_rng(2)
    y = {"white noise": rng.random((1, 3, 40, 40)), "constant": np.full((1, 3, 40, 40), 0.4)}.get(
        kind, 0.5 + 0.02 * rng.standard_normal((1, 3, 40, 40))
    )
    d = Degradation(2)
    prior = SpectralPrior.fit(torch.from_numpy(y), d)
    sd = np.array(prior.family.std)
    assert np.all(spread(prior) > 0.5 * sd)
    assert np.all(spread(prior) < 1.2 * sd)
    assert np.all(np.abs(prior.mode.numpy() - prior.family.mean) < sd)
    if kind != "constant":
        assert prior.noise_std == pytest.approx(y.std(), rel=0.3)


@pytest.mark.parametrize("side", [1, 4])
def test_an_image_without_a_usable_frequency_leaves_the_prior(side):
    prior = SpectralPrior.fit(random_image(side, side), Degradation(4))
    np.testing.assert_allclose(prior.mode, prior.family.mean, atol=1e-6)
    np.testing.assert_allclose(spread(prior), prior.family.std, rtol=1e-6)


@pytest.mark.slow
def test_more_pixels_say_more():
    mean = {}
    for lr in (24, 48, 72):
        found = [simulate(2, seed, lr) for seed in range(3)]
        mean[lr] = np.mean([spread(SpectralPrior.fit(y, d)) for y, d, _ in found], 0)
    assert np.all(mean[48] < mean[24])
    assert np.all(mean[72] < mean[48])
    assert np.all(mean[72] < 0.25 * np.array(GaussianShape(11, 2).std))


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_noise_of_colour_channels_is_recovered(scale, seed):
    """Under a kernel so wide that aliased content does not pass for noise."""
    z = torch.tensor([[math.log(1.2 * scale), 0.2, -0.1]], dtype=torch.float64)
    k = GaussianShape(Degradation(scale).kernel_size, scale).kernel(z)
    y, d, _ = simulate(scale, seed, sigma=5 / 255, channels=3, kernel=k)
    assert SpectralPrior.fit(y, d).noise_std == pytest.approx(5 / 255, rel=0.3)


# --- the density --------------------------------------------------------------------------------------------------


def made_prior(dim=3, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((dim, dim))
    precision = torch.from_numpy(root @ root.T * 20 + 30 * np.eye(dim))
    mode = torch.tensor([1.2, 0.3, -0.2], dtype=torch.float64)
    return SpectralPrior(GaussianShape(31, 3), mode, precision, 0.01, 0.0)


def test_density_is_scipys_multivariate_normal(gen):
    prior = made_prior()
    z = torch.randn(30, 3, generator=gen, dtype=torch.float64)
    law = stats.multivariate_normal(prior.mode.numpy(), np.linalg.inv(prior.precision.numpy()))
    np.testing.assert_allclose(prior.log_prob(z), law.logpdf(z.numpy()), rtol=1e-9)
    torch.testing.assert_close(prior.log_prob(z.float()).double(), prior.log_prob(z), rtol=1e-3, atol=1e-3)


def test_draws_have_mean_and_covariance_of_the_density(gen):
    prior, n = made_prior(), 40000
    z = prior.sample_z(n, generator=gen).double().numpy()
    root = np.linalg.cholesky(prior.precision.numpy())
    white = (z - prior.mode.numpy()) @ root  # of covariance one, if that of z is the inverse of the precision
    assert np.abs(white.mean(0)).max() < 5 / math.sqrt(n)
    assert np.abs(np.cov(white.T) - np.eye(3)).max() < 5 * math.sqrt(2 / n)


@pytest.fixture(scope="module")
def small():
    y, d, z = simulate(2, 5, lr=32)
    return y, d, SpectralPrior.fit(y, d)


def test_density_keeps_the_contract(small):
    _, d, prior = small
    assert isinstance(prior, KernelDensity)
    check_kernel_prior(prior, d)
    assert (prior.kernel_size, prior.dim) == (d.kernel_size, 3)
    assert prior.mode.dtype == prior.precision.dtype == torch.float64
    assert prior.mode_kernel.dtype == torch.float32
    torch.testing.assert_close(prior.mode_kernel, prior.family.kernel(prior.mode[None]).float())
    assert torch.linalg.eigvalsh(prior.precision).min() > 0


def test_same_image_same_result(small):
    y, d, first = small
    torch.rand(3)
    again = SpectralPrior.fit(y.clone(), d)
    assert torch.equal(first.mode, again.mode)
    assert torch.equal(first.precision, again.precision)
    assert (first.noise_std, first.energy_at_mode) == (again.noise_std, again.energy_at_mode)


def test_single_and_double_precision_images_agree(small):
    y, d, double = small
    assert y.dtype == torch.float64
    single = SpectralPrior.fit(y.float(), d)
    torch.testing.assert_close(single.mode, double.mode, rtol=0, atol=2e-2)
    torch.testing.assert_close(single.precision, double.precision, rtol=0.1, atol=1.0)


def test_alignment_and_padding_do_not_matter(small):
    y, d, prior = small
    other = SpectralPrior.fit(y, Degradation(2, d.kernel_size))
    assert torch.equal(prior.mode, other.mode)


def profile(likelihood, family, z, start):
    """Energy at z with the content's parameters at their best, and those parameters."""
    power, log_p = likelihood.power(family.kernel(z[None])), float(family.log_prob(z[None])[0])

    def value(point):
        v = torch.from_numpy(point.copy()).requires_grad_()
        e = likelihood.energy(power, v)
        (g,) = torch.autograd.grad(e, v)
        return float(e.detach()), g.numpy()

    done = optimize.minimize(value, start, jac=True, method="BFGS", options={"gtol": 1e-6, "maxiter": 2000})
    return done.fun - log_p, done.x


def test_mode_and_precision_are_those_of_the_profile_energy(small):
    y, _, prior = small
    likelihood, family, step = SpectralLikelihood(y, 2), prior.family, 0.03
    middle, best = profile(
        likelihood, family, prior.mode, likelihood.start(likelihood.power(prior.mode_kernel)).numpy()
    )

    def at(offset):
        return profile(likelihood, family, prior.mode + step * torch.tensor(offset, dtype=torch.float64), best)[0]

    unit = np.eye(3)
    curvature, gradient = np.empty((3, 3)), np.empty(3)
    for i in range(3):
        up, down = at(unit[i]), at(-unit[i])
        gradient[i], curvature[i, i] = (up - down) / (2 * step), (up - 2 * middle + down) / step**2
    for i, j in ((0, 1), (0, 2), (1, 2)):
        mixed = sum(a * b * at(a * unit[i] + b * unit[j]) for a in (1, -1) for b in (1, -1)) / (4 * step**2)
        curvature[i, j] = curvature[j, i] = mixed
    size = np.sqrt(np.diag(curvature))
    assert np.abs((prior.precision.numpy() - curvature) / np.outer(size, size)).max() < 0.2
    assert np.abs(gradient / size).max() < 0.1  # the mode is off by less than a tenth of a standard deviation
    assert prior.energy_at_mode == pytest.approx(middle, abs=0.05)


def test_any_density_serves_as_the_family():
    y, d, z = simulate(2, 0, lr=48)
    family = GaussianKernelPrior.truth(2)
    prior = SpectralPrior.fit(y, d, family)
    assert prior.family is family
    check_kernel_prior(prior, d)
    truth = GaussianShape(d.kernel_size, 2).kernel(torch.from_numpy(z)[None])
    found, wanted = (log_covariance(covariance(k.double()))[0] for k in (prior.mode_kernel, truth))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.25)


@pytest.mark.slow
@pytest.mark.parametrize(("radius", "seed"), [(2.0, 0), (3.0, 1)])
def test_disks_are_recovered(radius, seed):
    family = DiskShape(11, 2)
    y, d, _ = simulate(2, seed, lr=48, kernel=family.kernel(torch.tensor([[math.log(radius)]], dtype=torch.float64)))
    prior = SpectralPrior.fit(y, d, family)
    assert float(prior.mode.exp()) == pytest.approx(radius, rel=0.07)
    assert prior.energy_at_mode < SpectralPrior.fit(y, d).energy_at_mode


@pytest.mark.slow
@pytest.mark.parametrize("angle", [0.4, 2.3])
def test_lines_are_recovered_on_a_photograph(angle):
    family = LineShape(11, 2)
    k = family.kernel(torch.tensor([[math.log(5.0), angle]], dtype=torch.float64))
    d = Degradation(2, padding=Padding.VALID)
    x = torch.from_numpy(data.camera()[100:205, 180:285] / 255.0)[None, None]
    y = (d(x, k) * 255).round() / 255
    prior = SpectralPrior.fit(y, d, family, SpectralSettings(max_windows=6))
    length, turned = math.exp(float(prior.mode[0])), float(prior.mode[1]) - angle
    assert abs(math.remainder(turned, math.pi)) < 0.15
    assert length == pytest.approx(5.0, rel=0.25)


# --- moments ------------------------------------------------------------------------------------------------------


def test_moments_of_gaussians_carry_the_density_over():
    """For Gaussians that fit their grid z are the moments; Λ is their precision, up to that of 4000 draws."""
    prior = made_prior()
    energy = MomentEnergy.of(prior, 4000)
    torch.testing.assert_close(energy.mean, prior.mode, rtol=0, atol=0.01)
    root = np.linalg.cholesky(np.linalg.inv(prior.precision.numpy()))
    assert np.abs(root.T @ energy.precision.numpy() @ root - np.eye(3)).max() < 0.15
    z = prior.sample_z(20, generator=torch.Generator().manual_seed(1)).double()
    expected = prior.log_prob(prior.mode[None]) - prior.log_prob(z)
    torch.testing.assert_close(energy.energy(prior.kernel(z)), expected, rtol=0.2, atol=0.05)


def test_moment_energy_is_zero_at_the_mode_and_positive_elsewhere(small):
    prior = small[2]
    energy = MomentEnergy.of(prior)
    assert float(energy.energy(prior.mode_kernel)[0]) == pytest.approx(0, abs=1e-9)
    other = torch.cat([random_kernel(11, seed) for seed in range(5)] + [prior.kernel(prior.mode + torch.eye(3))])
    found = energy.energy(other)
    assert found.shape == (8,)
    assert found.min() > 0.1
    centre = torch.zeros(1, 1, 11, 11)
    centre[..., 4, 4] = 1
    assert torch.isfinite(energy.energy(centre)).all()
    assert energy.energy(centre).dtype == torch.float32


def test_moment_energy_has_right_gradients(small):
    energy = MomentEnergy.of(small[2])
    k = random_kernel(11).requires_grad_()
    assert torch.autograd.gradcheck(energy.energy, (k,), rtol=1e-4)


def test_moment_energy_is_reproducible(small):
    a, b = MomentEnergy.of(small[2]), MomentEnergy.of(small[2])
    assert torch.equal(a.precision, b.precision)
    assert torch.equal(a.mean, b.mean)
