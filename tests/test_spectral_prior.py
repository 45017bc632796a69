"""Spectral prior: simulated fields of known kernels, the mode and its density against numerical references."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from skimage import data

from blindsr.likelihood.content import POWER_LAW
from blindsr.likelihood.spectral import SpectralLikelihood, SpectralSettings
from blindsr.operators.degradation import Degradation, Padding
from blindsr.operators.kernels import covariance
from blindsr.posteriors.laplace import minimise, spectral_mode, starts
from blindsr.posteriors.spectral_laplace import MomentEnergy, SpectralPosterior
from blindsr.priors.base import KernelDensity, KernelPrior
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.normal import DiskShape, GaussianShape, LineShape, log_covariance
from blindsr.priors.simplex import SimplexPrior

FIELD = SpectralSettings(content=POWER_LAW, dispersion=1.0)
"""What is right for the fields that are simulated here: exact power laws."""


def random_image(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((1, 1, *shape)))


def random_kernel(size, seed=0):
    """Any kernel: no symmetry, longer along its columns."""
    k = np.random.default_rng(seed).random((size, size)) * np.exp(-(np.linspace(-2, 2, size)[:, None] ** 2))
    return torch.from_numpy(k / k.sum())[None, None]


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
MANY = range(30)


@pytest.fixture(scope="module")
def fits():
    """Fits to simulated fields, one set for each scale, made when first asked for."""
    made = {}

    def get(scale):
        if scale not in made:
            made[scale] = []
            for seed in MANY:
                y, d, z = simulate(scale, seed)
                made[scale].append((SpectralPosterior.fit(y, d, settings=FIELD), z))
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
def test_errors_are_of_the_size_that_the_density_says(scale):
    """36 errors in units of their standard deviations: of size one, and about twice that if every pixel counted."""
    told, plain = [], []
    field = SpectralSettings(content=POWER_LAW, dispersion=1.0, degrees=math.inf)
    for seed in SEEDS:
        y, d, z = simulate(scale, seed, lr=48)
        untempered = replace(
            field, dispersion=SpectralLikelihood(y, scale, field).temper / 2
        )  # half the ordinates are used
        for settings, scores in ((field, told), (untempered, plain)):
            prior = SpectralPosterior.fit(y, d, settings=settings)
            scores.append((prior.mode.numpy() - z) / spread(prior))
    told_rms, plain_rms = (math.sqrt(np.square(scores).mean()) for scores in (told, plain))
    error = 1 / math.sqrt(2 * np.size(told))
    assert abs(told_rms - 1) < 3 * error, told_rms
    assert np.abs(told).max() < 4
    assert plain_rms > 1 + 4 * error, plain_rms


@pytest.mark.parametrize("settings", [FIELD, None])
@pytest.mark.parametrize("kind", ["white noise", "constant", "constant and noise"])
def test_an_image_that_says_nothing_leaves_the_prior(kind, settings):
    rng = np.random.default_rng(2)
    y = {"white noise": rng.random((1, 3, 40, 40)), "constant": np.full((1, 3, 40, 40), 0.4)}.get(
        kind, 0.5 + 0.02 * rng.standard_normal((1, 3, 40, 40))
    )
    d = Degradation(2)
    prior = SpectralPosterior.fit(torch.from_numpy(y), d, settings=settings)
    sd = np.array(prior.family.std)
    assert np.all(spread(prior) > 0.5 * sd)
    assert np.all(spread(prior) < 1.2 * sd)
    assert np.all(np.abs(prior.mode.numpy() - prior.family.mean) < sd)
    if kind == "constant":
        assert 1e-8 < prior.noise_std < 1e-4
    else:
        assert prior.noise_std == pytest.approx(y.std(), rel=0.3)


@pytest.mark.parametrize("side", [1, 4])
def test_an_image_without_a_usable_frequency_leaves_the_prior(side):
    prior = SpectralPosterior.fit(random_image(side, side), Degradation(4))
    np.testing.assert_allclose(prior.mode, prior.family.mean, atol=1e-6)
    np.testing.assert_allclose(spread(prior), prior.family.std, rtol=1e-6)


@pytest.mark.slow
def test_more_pixels_say_more():
    mean = {}
    for lr in (24, 48, 72):
        found = [simulate(2, seed, lr) for seed in range(3)]
        mean[lr] = np.mean([spread(SpectralPosterior.fit(y, d, settings=FIELD)) for y, d, _ in found], 0)
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
    assert SpectralPosterior.fit(y, d, settings=FIELD).noise_std == pytest.approx(5 / 255, rel=0.3)


# --- the density --------------------------------------------------------------------------------------------------


def made_prior(dim=3, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((dim, dim))
    precision = torch.from_numpy(root @ root.T * 20 + 30 * np.eye(dim))
    mode = torch.tensor([1.2, 0.3, -0.2], dtype=torch.float64)
    return SpectralPosterior(GaussianShape(31, 3), mode, precision, 0.01, 0.0)


def test_density_is_scipys_multivariate_normal(gen):
    prior = made_prior()
    z = torch.randn(30, 3, generator=gen, dtype=torch.float64)
    law = stats.multivariate_normal(prior.mode.numpy(), np.linalg.inv(prior.precision.numpy()))
    np.testing.assert_allclose(prior.log_density(z), law.logpdf(z.numpy()), rtol=1e-9)
    torch.testing.assert_close(prior.log_density(z.float()).double(), prior.log_density(z), rtol=1e-3, atol=1e-3)


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
    return y, d, SpectralPosterior.fit(y, d, settings=FIELD)


def test_it_draws_kernels_but_is_no_prior_density(small):
    _, d, prior = small
    assert isinstance(prior, KernelPrior) and not isinstance(prior, KernelDensity)
    kernels = prior.sample(7, generator=torch.Generator().manual_seed(3))
    assert kernels.shape == (7, 1, d.kernel_size, d.kernel_size) and kernels.min() >= 0
    torch.testing.assert_close(kernels.sum((1, 2, 3)), torch.ones(7))
    assert (prior.kernel_size, prior.dim) == (d.kernel_size, 3)
    assert prior.mode.dtype == prior.precision.dtype == torch.float64
    assert prior.mode_kernel.dtype == torch.float32
    torch.testing.assert_close(prior.mode_kernel, prior.family.kernel(prior.mode[None]).float())
    assert torch.linalg.eigvalsh(prior.precision).min() > 0


def test_same_image_same_result(small):
    y, d, first = small
    torch.rand(3)
    again = SpectralPosterior.fit(y.clone(), d, settings=FIELD)
    assert torch.equal(first.mode, again.mode)
    assert torch.equal(first.precision, again.precision)
    assert (first.noise_std, first.energy_at_mode) == (again.noise_std, again.energy_at_mode)


def test_single_and_double_precision_images_agree(small):
    y, d, double = small
    assert y.dtype == torch.float64
    single = SpectralPosterior.fit(y.float(), d, settings=FIELD)
    torch.testing.assert_close(single.mode, double.mode, rtol=0, atol=2e-2)
    torch.testing.assert_close(single.precision, double.precision, rtol=0.1, atol=1.0)


def test_alignment_and_padding_do_not_matter(small):
    y, d, prior = small
    other = SpectralPosterior.fit(y, Degradation(2, d.kernel_size), settings=FIELD)
    assert torch.equal(prior.mode, other.mode)


def energy(likelihood, family, at):
    """Negative log posterior at positions (n, dim + n_nuisance), up to a constant."""
    z, u = at[:, : family.dim], at[:, family.dim :]
    data = likelihood.log_likelihood(likelihood.power(family.kernel(z)), u)
    return 0.5 * u.square().sum(1) - data - family.log_prob(z)


def profile(likelihood, family, z, start):
    """Energy at z with the content's parameters at their best, and those parameters."""

    def value(point):
        at = torch.cat([z, torch.from_numpy(point.copy())])[None].requires_grad_()
        e = energy(likelihood, family, at)
        (g,) = torch.autograd.grad(e.sum(), at)
        return float(e.detach()), g[0, family.dim :].numpy()

    done = optimize.minimize(value, start, jac=True, method="BFGS", options={"gtol": 1e-6, "maxiter": 2000})
    return done.fun, done.x


def test_mode_and_precision_are_those_of_the_profile_energy(small):
    y, _, prior = small
    likelihood, family, step = SpectralLikelihood(y, 2, FIELD), prior.family, 0.03
    start = likelihood.start(likelihood.power(prior.mode_kernel)[0]).numpy()
    middle, best = profile(likelihood, family, prior.mode, start)

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
    assert np.abs((prior.precision.numpy() - curvature) / np.outer(size, size)).max() < 0.25
    assert np.abs(gradient / size).max() < 0.05  # the mode is off by less than a twentieth of a standard deviation
    assert prior.energy_at_mode == pytest.approx(middle, abs=0.01)


@pytest.mark.parametrize("settings", [FIELD, SpectralSettings()])
def test_no_gradient_is_left_at_the_mode(small, settings):
    """In units of the standard deviations that the curvature there gives; L-BFGS from there finds nothing better."""
    y, d, _ = small
    mode = spectral_mode(SpectralLikelihood(y, 2, settings), GaussianShape(d.kernel_size, 2))
    at = mode.position.clone()[None].requires_grad_()
    value = energy(mode.likelihood, mode.family, at)
    (gradient,) = torch.autograd.grad(value.sum(), at)
    assert float(value.detach()) == pytest.approx(mode.energy, abs=1e-9)
    assert float(gradient[0] @ torch.linalg.solve(mode.precision, gradient[0])) < 1e-4  # twice the nats to gain
    assert torch.linalg.eigvalsh(mode.precision).min() > 0.9  # no less than the prior's
    better, _ = minimise(lambda v: energy(mode.likelihood, mode.family, v[None])[0], mode.position)
    assert mode.energy - better < 1e-4


def test_the_best_of_several_starts_is_taken(small):
    y, d, _ = small
    likelihood, family = SpectralLikelihood(y, 2, FIELD), DiskShape(d.kernel_size, 2)
    every = [spectral_mode(likelihood, family, z[None]).energy for z in family.starts()]
    assert spectral_mode(likelihood, family).energy == pytest.approx(min(every), abs=1e-3)
    assert max(every) > min(every) + 0.1  # some starts do lead elsewhere


def test_families_without_starts_begin_at_the_middle_of_their_prior():
    for family in (GaussianKernelPrior.truth(2), SimplexPrior(5, 2)):
        begin = starts(family)
        assert begin.shape == (1, family.dim)
        assert torch.equal(begin, starts(family))
        drawn = family.sample_z(2000, generator=torch.Generator().manual_seed(1)).double()
        share = (drawn < begin).double().mean(0)
        assert float((share - 0.5).abs().max()) < 0.2


def test_any_density_serves_as_the_family():
    y, d, z = simulate(2, 0, lr=48)
    family = GaussianKernelPrior.truth(2)
    prior = SpectralPosterior.fit(y, d, family, FIELD)
    assert prior.family is family
    assert isinstance(prior, KernelPrior) and prior.kernel_size == d.kernel_size
    truth = GaussianShape(d.kernel_size, 2).kernel(torch.from_numpy(z)[None])
    found, wanted = (log_covariance(covariance(k.double()))[0] for k in (prior.mode_kernel, truth))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.25)


@pytest.mark.parametrize(("radius", "seed"), [(2.0, 0), (3.0, 1)])
def test_disks_are_recovered(radius, seed):
    family = DiskShape(11, 2)
    y, d, _ = simulate(2, seed, lr=48, kernel=family.kernel(torch.tensor([[math.log(radius)]], dtype=torch.float64)))
    prior = SpectralPosterior.fit(y, d, family, FIELD)
    assert float(prior.mode.exp()) == pytest.approx(radius, rel=0.07)
    assert prior.energy_at_mode < SpectralPosterior.fit(y, d, settings=FIELD).energy_at_mode


@pytest.mark.parametrize("angle", [0.4, 2.3])
def test_lines_are_recovered_on_a_photograph(angle):
    family = LineShape(11, 2)
    k = family.kernel(torch.tensor([[math.log(5.0), angle]], dtype=torch.float64))
    d = Degradation(2, padding=Padding.VALID)
    x = torch.from_numpy(data.camera()[100:205, 180:285] / 255.0)[None, None]
    y = (d(x, k) * 255).round() / 255
    prior = SpectralPosterior.fit(y, d, family, SpectralSettings(max_windows=6))
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
    expected = prior.log_density(prior.mode[None]) - prior.log_density(z)
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
