"""Target (a), kernel and content given y alone: numerical references, prior draws, samplers against each other."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from blindsr.likelihood.content import PHOTOGRAPH, POWER_LAW, Term
from blindsr.likelihood.fields import degraded_field
from blindsr.likelihood.spectral import SpectralSettings
from blindsr.operators.degradation import Degradation
from blindsr.operators.kernels import covariance
from blindsr.posteriors.base import BayesTarget, KernelTarget, Target, value_and_gradient
from blindsr.posteriors.spectral import WIDER, SpectralTarget
from blindsr.posteriors.spectral_laplace import SpectralPosterior
from blindsr.priors.base import standard_normal
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.motion import LineKernelPrior
from blindsr.priors.normal import DiskShape, GaussianShape, GeneralizedGaussianShape, LineShape
from blindsr.priors.simplex import SimplexPrior
from blindsr.samplers.table import sample

D = Degradation(2)
PRIORS = {
    "truth": GaussianKernelPrior.truth(2),
    "line": LineKernelPrior.protocol(2),
    "gaussian shape": GaussianShape(11, 2),
    "generalised gaussian": GeneralizedGaussianShape(11, 2),
    "disk": DiskShape(11, 2),
    "line shape": LineShape(11, 2),
    "simplex": SimplexPrior(5, 2),
}
N_U = 1 + 5 + len(PHOTOGRAPH)
"""The content's parameters of one window: the noise, five shared terms, and every term of the window."""
FEW = {
    "level": Term(-6.0, 2.0, 0.0),
    "slope": Term(2.9, 0.35, 0.0),
    "angular_cos2": Term(0.0, 0.0, 1.0),
    "angular_sin2": Term(0.0, 0.0, 1.0),
    "bend": Term(0.2, 0.4, 0.0),
    "bend_cos2": Term(0.0, 0.25, 0.0),
}
"""A content of few coefficients, two of the three bends among them."""


def blurred_field(shape=(24, 24), seed=0, channels=1):
    """A degraded random field of the content's mean, its kernel a Gaussian."""
    theta = torch.tensor([t.mean for t in PHOTOGRAPH.values()], dtype=torch.float64)
    k = GaussianShape(11, 2).kernel(torch.tensor([[0.4, 0.2, -0.1]], dtype=torch.float64))
    y = degraded_field(theta, tuple(PHOTOGRAPH), k, 0.002, shape, D, generator=torch.Generator().manual_seed(seed))
    return y.expand(1, channels, *shape)


def target(prior="gaussian shape", shape=(24, 24), **options):
    return SpectralTarget(blurred_field(shape), D, PRIORS[prior], SpectralSettings(**options) if options else None)


def exact(t):
    """The same target, its likelihood in double precision."""
    t._fast = t.likelihood
    return t


# --- the density --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS)
def test_every_kernel_density_serves_as_prior(prior, gen):
    t = target(prior)
    assert isinstance(t, Target) and isinstance(t, BayesTarget) and isinstance(t, KernelTarget)
    assert t.n_kernel == PRIORS[prior].dim
    assert len(t.names) == len(set(t.names)) == t.n_kernel + t.likelihood.n_nuisance
    for z in (t.sample_prior(5, generator=gen), t.initial(5, generator=gen)):
        assert (z.shape, z.dtype) == ((5, len(t.names)), torch.float64)
        value, gradient = value_and_gradient(t)(z)
        assert torch.isfinite(value).all() and torch.isfinite(gradient).all()
        k = t.kernel(z)
        torch.testing.assert_close(k, PRIORS[prior].kernel(z[:, : t.n_kernel]))
        torch.testing.assert_close(k.sum((1, 2, 3)), torch.ones(5).double())
        torch.testing.assert_close(t.log_prob(z), t.log_prior(z) + t.log_likelihood(z), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("prior", PRIORS)
def test_gradient_equals_finite_differences(prior, gen):
    t = exact(target(prior, shape=(16, 16)))
    z = t.sample_prior(4, generator=gen)
    direction = torch.randn(z.shape, generator=gen, dtype=torch.float64)
    value, gradient = value_and_gradient(t)(z)
    assert not value.requires_grad and not gradient.requires_grad
    torch.testing.assert_close(value, t.log_prob(z), rtol=1e-12, atol=0)
    h = 1e-6
    slope = (t.log_prob(z + h * direction) - t.log_prob(z - h * direction)) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(1), slope, rtol=1e-4, atol=1e-3)


def test_single_precision_likelihood_is_near(gen):
    t = target()
    z = t.initial(10, generator=gen)
    value, gradient = value_and_gradient(t)(z)
    double, slope = value_and_gradient(exact(target()))(z)
    torch.testing.assert_close(value, double, rtol=0, atol=1e-3)
    torch.testing.assert_close(gradient, slope, rtol=1e-3, atol=1e-3)


# --- the shear ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS)
def test_join_undoes_split(prior, gen):
    t = target(prior)
    z, u = (
        PRIORS[prior].sample_z(5, generator=gen).double(),
        torch.randn(5, N_U, generator=gen, dtype=torch.float64),
    )
    position = t.join(z, u)
    own, kernels, back = t.split(position)
    torch.testing.assert_close(own, z, rtol=0, atol=0)
    torch.testing.assert_close(back, u, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kernels, PRIORS[prior].kernel(z))
    torch.testing.assert_close(t.join(own, back), position)


@pytest.mark.parametrize("prior", ["truth", "generalised gaussian", "simplex"])
def test_shear_has_jacobian_one(prior, gen):
    t = target(prior)
    d = t.n_kernel
    at = torch.cat([PRIORS[prior].sample_z(1, generator=gen).double()[0], torch.zeros(N_U, dtype=torch.float64)])
    h = 1e-5 * torch.eye(len(at), dtype=torch.float64)
    up, down = (t.join((at + s)[:, :d], (at + s)[:, d:]) for s in (h, -h))
    jacobian = (up - down) / 2e-5
    assert float(torch.linalg.det(jacobian)) == pytest.approx(1, abs=1e-6)
    assert float((jacobian - torch.eye(len(at))).abs().max()) > 0.1  # it does shear


def test_totals_are_bend_plus_the_kernels_own(gen):
    """total = (coefficient of the bend - its mean + π² moment / s²) / spread, and only bends move."""
    t = target()
    z, u = PRIORS["gaussian shape"].sample_z(3, generator=gen).double(), torch.zeros(3, N_U, dtype=torch.float64)
    position = t.join(z, u)[:, 3:]
    c = covariance(PRIORS["gaussian shape"].kernel(z))
    unit = math.pi**2 / 4
    expected = {
        "total_bend": unit * (c[:, 0, 0] + c[:, 1, 1]) / 2 / PHOTOGRAPH["bend"].shared,
        "total_bend_cos2": unit * (c[:, 0, 0] - c[:, 1, 1]) / 2 / PHOTOGRAPH["bend_cos2"].shared,
        "total_bend_sin2": unit * c[:, 0, 1] / PHOTOGRAPH["bend_sin2"].shared,
    }
    for j, name in enumerate(t.names[3:]):
        torch.testing.assert_close(position[:, j], expected.get(name, torch.zeros(3).double()))
    assert set(expected) < set(t.names)


def test_low_frequencies_hardly_see_a_wider_kernel_at_the_same_total(gen):
    """Along a position's kernel coordinates their spectrum stays, along z at a fixed content it does not."""
    t = target(lowest=1.0)
    z = torch.tensor([[0.2, 0.1, 0.2], [0.5, -0.1, 0.3]], dtype=torch.float64)
    u = 0.3 * torch.randn(1, N_U, generator=gen, dtype=torch.float64).repeat(2, 1)
    apart = t.join(z, u)
    together = torch.cat([z, apart[:1, 3:].repeat(2, 1)], 1)
    h, w = t.likelihood.shape
    rows = (torch.arange(h) + h // 2) % h - h // 2
    near = (rows[:, None] ** 2 + torch.arange(w // 2 + 1) ** 2 <= 4**2)[t.likelihood.keep]  # a third of Nyquist's

    def change(positions):
        log = t._expected(positions).log()[:, 0, near]
        return float((log[1] - log[0]).abs().mean())

    assert near.sum() > 10
    assert change(together) < 0.1 * change(apart)


# --- prior --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS)
def test_log_prior_is_the_change_of_variables(prior, gen):
    t = target(prior)
    z, u = (
        PRIORS[prior].sample_z(5, generator=gen).double(),
        torch.randn(5, N_U, generator=gen, dtype=torch.float64),
    )
    expected = PRIORS[prior].log_prob(z).numpy() + stats.norm.logpdf(u.numpy()).sum(1)
    np.testing.assert_allclose(t.log_prior(t.join(z, u)), expected, rtol=1e-9)
    np.testing.assert_allclose(standard_normal(u), stats.norm.logpdf(u.numpy()).sum(1), rtol=1e-12)


def test_log_prior_integrates_to_one():
    """On a grid over all three coordinates: a disk, the noise and a bend, sheared by the disk's own second moment."""
    settings = SpectralSettings(content={"level": Term(-6.0, 0.0, 0.0), "bend": Term(0.2, 0.4, 0.0)})
    t = SpectralTarget(blurred_field((12, 12)), D, DiskShape(11, 2), settings)
    assert t.names == ("log_radius", "noise", "total_bend")
    z = torch.linspace(math.log(2) - 1.8, math.log(2) + 1.8, 37, dtype=torch.float64)
    noise, total = (torch.linspace(a, b, n, dtype=torch.float64) for a, b, n in ((-5, 5, 17), (-6, 75, 136)))
    grid = torch.cartesian_prod(z, noise, total)
    cell = float((z[1] - z[0]) * (noise[1] - noise[0]) * (total[1] - total[0]))
    with torch.no_grad():
        mass = sum(float(t.log_prior(part).exp().sum()) for part in grid.split(50_000)) * cell
    assert mass == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("prior", ["gaussian shape", "truth", "disk"])
def test_prior_draws_have_the_density(prior, gen):
    """u is standard normal in every coordinate, z the kernel prior's; tests of 30 or so marginals at once."""
    t, n = target(prior), 4000
    position = t.sample_prior(n, generator=gen)
    z, _, u = t.split(position)
    p = [stats.kstest(u[:, j].numpy(), "norm").pvalue for j in range(u.shape[1])]
    other = PRIORS[prior].sample_z(n, generator=gen).numpy()
    p += [stats.ks_2samp(z[:, j].numpy(), other[:, j]).pvalue for j in range(t.n_kernel)]
    assert min(p) > 0.001 / len(p)
    correlation = np.corrcoef(torch.cat([z, u], 1).T.numpy()) - np.eye(position.shape[1])
    assert np.abs(correlation).max() < 5 / math.sqrt(n)


# --- mode, normal approximation, starts ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", [FEW, PHOTOGRAPH])
def test_normal_approximation_at_the_mode(content):
    """No gradient is left, and the covariance is about the inverse Hessian, in the units of its own deviations.

    Gauss-Newton's matrix is the Hessian's positive part, so the two differ by what the residuals curve.
    """
    t = exact(target(content=content, degrees=math.inf))
    center, cov = t.laplace()
    sd = cov.diagonal().sqrt()
    _, gradient = value_and_gradient(t)(center[None])
    assert float(gradient[0] @ cov @ gradient[0]) < 1e-4
    step = 1e-4 * torch.diag(sd)
    up, down = (value_and_gradient(t)(center + s)[1] for s in (step, -step))
    hessian = -(up - down) / 2e-4 * sd  # in units of sd
    inverse = torch.linalg.inv(0.5 * (hessian + hessian.T))
    assert float((inverse - cov / sd / sd[:, None]).abs().max()) < 0.25
    constant = -0.5 * t.likelihood.n_nuisance * math.log(2 * math.pi)  # of the content's normal prior
    assert float(t.log_prob(center[None])[0]) == pytest.approx(constant - t.mode.energy, abs=1e-6)


def test_kernel_part_of_the_approximation_is_the_spectral_priors():
    t = target()
    prior = SpectralPosterior.fit(blurred_field(), D)
    center, cov = t.laplace()
    torch.testing.assert_close(center[:3], prior.mode, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.linalg.inv(cov[:3, :3]), prior.precision, rtol=1e-4, atol=1e-4)


def test_starts_are_twice_as_wide(gen):
    t, n = target(), 20_000
    center, cov = t.laplace()
    start = t.initial(n, generator=gen)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(cov), (start - center).T, upper=False) / WIDER
    assert WIDER == 2
    assert float(white.mean(1).abs().max()) < 5 / math.sqrt(n)
    assert float((white @ white.T / n - torch.eye(len(center))).abs().max()) < 5 * math.sqrt(2 / n)


def test_same_image_same_target(gen):
    first, again = target(), target()
    assert torch.equal(first.laplace()[0], again.laplace()[0])
    made = [t.initial(3, generator=torch.Generator().manual_seed(5)) for t in (first, again)]
    assert torch.equal(*made)
    assert torch.equal(first.log_prob(made[0]), again.log_prob(made[0]))


# --- predictions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [math.inf, 3.0])
def test_predicted_periodograms_scatter_as_the_likelihood_says(degrees, gen):
    t = target(shape=(36, 24), window=24, degrees=degrees)
    z = t.sample_prior(30, generator=gen)
    drawn = t.predict(z, generator=gen)["log_periodogram"]
    _, kernels, u = t.split(z)
    expected = t.likelihood.expected(t.likelihood.power(kernels), u)
    assert drawn.shape == expected.shape == (30, 2, t.likelihood.periodogram.shape[1])
    ratio = (drawn - expected.log()).exp().flatten().numpy()
    law = stats.expon() if math.isinf(degrees) else stats.lomax(degrees, scale=degrees)
    assert stats.kstest(ratio, law.cdf).pvalue > 0.01
    wrong = stats.lomax(3, scale=3) if math.isinf(degrees) else stats.expon()
    assert stats.kstest(ratio, wrong.cdf).pvalue < 1e-6
    # The density of that law is the likelihood's own: its derivative in the log spectrum, and its value, are the score.
    value = t.likelihood.score(expected)[0]
    p = t.likelihood.periodogram
    np.testing.assert_allclose(
        -law.logpdf((p / expected).numpy()) + expected.log().numpy(), value, rtol=1e-6, atol=1e-6
    )


def test_pointwise_log_likelihood_adds_up(gen):
    t = exact(target(shape=(36, 24), window=24))
    z = t.initial(20, generator=gen)
    pointwise = t.pointwise_log_likelihood(z)["log_periodogram"]
    assert pointwise.shape == (20, 2)
    torch.testing.assert_close(pointwise.sum(1), t.log_likelihood(z), rtol=1e-9, atol=1e-9)
    assert set(t.observed()) == set(t.pointwise_log_likelihood(z)) == set(t.predict(z, generator=gen))
    torch.testing.assert_close(t.observed()["log_periodogram"].exp(), t.likelihood.periodogram)


def test_noise_level_of_one_channel(gen):
    t = SpectralTarget(blurred_field(channels=3), D, PRIORS["disk"])
    z = t.sample_prior(4, generator=gen)
    expected = math.sqrt(3) * 0.3 / 255 * torch.exp(4.0 * z[:, t.names.index("noise")] / 2)
    torch.testing.assert_close(t.noise_std(z), expected)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_posterior_is_no_prior():
    y = blurred_field()
    with pytest.raises(ValueError, match=r"SpectralPosterior is no kernel prior with a density: .* take its \.family"):
        SpectralTarget(y, D, SpectralPosterior.fit(y, D))


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="an LR image of 4x3 pixels has no frequency to learn from: give a larger one"):
        SpectralTarget(torch.rand(1, 1, 3, 4, generator=torch.Generator().manual_seed(0)), D)


def test_a_content_without_bends_is_not_sheared(gen):
    t = target(content=POWER_LAW)
    assert not [name for name in t.names if "bend" in name]
    z = t.sample_prior(3, generator=gen)
    assert torch.equal(t.split(z)[2], z[:, 3:])
    value, gradient = value_and_gradient(t)(z)
    assert torch.isfinite(value).all() and torch.isfinite(gradient).all()


# --- samplers -----------------------------------------------------------------------------------------------------


def moments_with_error(draws):
    """Means and standard deviations of draws (chains, draws), each with its standard error, and the ESS behind them."""
    from blindsr.diagnostics.arviz_io import ess_bulk

    x = draws.numpy()
    sd, square = x.std(), (x - x.mean()) ** 2
    ess, ess2 = ess_bulk(x), ess_bulk(square)
    return (x.mean(), sd / math.sqrt(ess)), (sd, square.std() / math.sqrt(ess2) / (2 * sd)), min(ess, ess2)


@pytest.mark.slow
def test_hmc_agrees_with_random_walks():
    """Kernel, noise, content: means and deviations within four standard errors, from runs of known effective size."""
    t = target(content=FEW)
    runs = {}
    for name, chains, draws, warmup, thin in (("hmc", 16, 100, 150, 1), ("rwm", 64, 140, 600, 10)):
        g = torch.Generator().manual_seed(1)
        cov = t.laplace()[1]
        runs[name] = sample(
            t, name, chains=chains, draws=draws, warmup=warmup, thin=thin, generator=g, covariance=cov
        ).draws
    for j, name in enumerate(t.names):
        a, b = (moments_with_error(runs[s][:, :, j]) for s in ("hmc", "rwm"))
        assert a[2] > 300 and b[2] > 700, (name, a[2], b[2])
        for (x, dx), (y, dy) in zip(a[:2], b[:2], strict=True):
            assert abs(x - y) < 4 * math.hypot(dx, dy), (name, x, y, dx, dy)
