"""The posterior given a fixed image: against plain loops, quadrature, finite differences and simulated data."""

import math
import re

import numpy as np
import pytest
import torch
from scipy import integrate, ndimage, stats
from torch.distributions import Uniform

from blindsr.estimators.interior import interior
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.posteriors.base import BayesTarget, KernelTarget, Target, value_and_gradient
from blindsr.posteriors.fixed_image import FixedImageTarget, LogNoisePrior
from blindsr.posteriors.spectral_laplace import SpectralPosterior
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.motion import CameraShakePrior, LineKernelPrior
from blindsr.priors.normal import DiskShape, GaussianShape, GeneralizedGaussianShape, LineShape
from blindsr.priors.parametric import Delta
from blindsr.priors.simplex import SimplexPrior

D = Degradation(2)

PRIORS = {
    "truth": GaussianKernelPrior.truth(2),
    "sampling, free centre": GaussianKernelPrior.sampling(2, jitter=0.5),
    "round": GaussianKernelPrior.truth(2, isotropic=True),
    "line": LineKernelPrior.protocol(2),
    "gaussian shape": GaussianShape(11, 2),
    "generalised gaussian": GeneralizedGaussianShape(11, 2),
    "disk": DiskShape(11, 2),
    "line shape": LineShape(11, 2),
    "simplex": SimplexPrior(11, 2),
}


def scene(channels=1, side=24, noise=0.02, seed=0, degradation=D):
    """An image, and its LR image under a Gaussian kernel with noise."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(1, channels, side, side, generator=g, dtype=torch.float64)
    k = GaussianShape(degradation.kernel_size, degradation.scale).kernel(torch.tensor([[0.5, 0.2, -0.1]]).double())
    y = degradation(x, k)
    return x, y + noise * torch.randn(y.shape, generator=g, dtype=torch.float64)


def target(prior="gaussian shape", noise_std=None, **options):
    return FixedImageTarget(*scene(), D, PRIORS[prior], noise_std, **options)


# --- the density --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise_std", "model_error"), [(0.03, 0.0), (0.0, 0.02), (0.03, 0.02), (None, 0.0), (None, 0.02)]
)
def test_density_is_the_normal_law_of_a_plain_convolution(noise_std, model_error, gen):
    x, y = scene(channels=3)
    prior = GaussianShape(11, 2)
    t = FixedImageTarget(x, y, D, prior, noise_std, model_error=model_error, noise_prior=LogNoisePrior(-4.0, 0.7))
    z = t.sample_prior(5, generator=gen)
    for row in z:
        k = prior.kernel(row[None, :3])[0, 0].numpy()
        blurred = np.stack([ndimage.correlate(p, k, mode="wrap")[::2, ::2] for p in x[0].numpy()])
        sigma = math.exp(row[3]) if noise_std is None else noise_std
        law = stats.norm(blurred, math.hypot(sigma, model_error))
        log_prior = stats.norm(prior.mean, prior.std).logpdf(row[:3].numpy()).sum()
        if noise_std is None:
            log_prior += stats.norm(-4.0, 0.7).logpdf(float(row[3]))
        points = law.logpdf(y[0].numpy())
        np.testing.assert_allclose(t.log_likelihood(row[None])[0], points.sum(), rtol=1e-9)
        np.testing.assert_allclose(t.log_prior(row[None])[0], log_prior, rtol=1e-9)
        np.testing.assert_allclose(t.log_prob(row[None])[0], log_prior + points.sum(), rtol=1e-9)
        found = t.pointwise_log_likelihood(row[None])["lr_image"]
        np.testing.assert_allclose(found[0], points.ravel(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(t.blurred(row[None])[0], blurred, atol=1e-12)
        np.testing.assert_allclose(t.noise_level(row[None])[0], math.hypot(sigma, model_error), rtol=1e-12)


@pytest.mark.parametrize("noise_std", [None, 0.03])
@pytest.mark.parametrize("prior", PRIORS)
def test_gradient_equals_autograd_and_finite_differences(prior, noise_std, gen):
    t = target(prior, noise_std, model_error=0.01)
    z = t.initial(6, generator=gen)
    value, gradient = t.log_prob_and_gradient(z)
    assert not value.requires_grad and not gradient.requires_grad
    torch.testing.assert_close(value, t.log_prob(z), rtol=1e-12, atol=0)
    at = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(t.log_prob(at).sum(), at)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-8)
    direction = torch.randn(z.shape, generator=gen, dtype=torch.float64)
    h = 1e-5
    slope = (t.log_prob(z + h * direction) - t.log_prob(z - h * direction)) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(1), slope, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("prior", PRIORS)
def test_targets_keep_the_protocols(prior, gen):
    for noise_std in (None, 0.02):
        t = target(prior, noise_std)
        assert isinstance(t, Target) and isinstance(t, BayesTarget) and isinstance(t, KernelTarget)
        assert t.dim == len(t.names) == PRIORS[prior].dim + (noise_std is None)
        z = t.initial(5, generator=gen)
        assert z.shape == t.sample_prior(5, generator=gen).shape == (5, t.dim) and z.dtype == torch.float64
        assert torch.isfinite(t.log_prob(z)).all() and t.log_prob(z).dtype == torch.float64
        torch.testing.assert_close(t.kernel(z).sum((1, 2, 3)), torch.ones(5).double())
        assert t.log_prob(z.float()).dtype == torch.float64
        torch.testing.assert_close(t.log_prob(z), t.log_prior(z) + t.log_likelihood(z))


def test_coordinates_are_named():
    assert target().names == ("log_variance", "stretch", "diagonal_stretch", "log_noise")
    assert target("truth", 0.1).names == ("variance_1", "variance_2", "angle")
    assert target("simplex").names[-2:] == ("share_119", "log_noise")


def test_what_is_no_position_has_density_zero():
    t = target("truth")
    z = torch.zeros(4, 4, dtype=torch.float64)
    z[0, 0], z[1, 3], z[2, 3] = math.nan, math.nan, 400.0
    value, gradient = value_and_gradient(t)(z)
    assert value[0] == value[1] == -math.inf and torch.isfinite(value[3])
    assert torch.isfinite(gradient).all()
    assert torch.equal(t.log_prob(z)[:2], torch.full((2,), -math.inf).double())


@pytest.mark.parametrize("prior", ["truth", "line", "sampling, free centre", "simplex"])
def test_far_positions_have_finite_values_and_gradients(prior, gen):
    t = target(prior)
    z = 30 * torch.sign(torch.randn(50, t.dim, generator=gen, dtype=torch.float64))
    z[:, -1] = z[:, -1] / 6
    value, gradient = t.log_prob_and_gradient(z)
    assert torch.isfinite(value).all() and torch.isfinite(gradient).all()


def test_small_noise_does_not_overflow():
    t = target()
    for log_noise in (-400.0, -40.0, 40.0):
        z = torch.tensor([[0.5, 0.2, -0.1, log_noise]], dtype=torch.float64)
        assert torch.isfinite(t.log_prob(z)).all()


def test_interior_of_a_photo_is_explained_without_its_border(gen):
    """The form of the inner part knows nothing of the border: other borders give the same density."""
    d = Degradation(2, alignment=Alignment.CENTERED, padding=Padding.REFLECT)
    x, y = scene(side=40, degradation=d)
    inner, xi, yi = interior(x, y, d)
    t = FixedImageTarget(xi, yi, inner, GaussianShape(11, 2), 0.02)
    z = t.sample_prior(3, generator=gen)
    m = (y.shape[-1] - yi.shape[-1]) // 2
    for padding in (Padding.REFLECT, Padding.REPLICATE, Padding.CIRCULAR):
        other = Degradation(2, alignment=Alignment.CENTERED, padding=padding)
        predicted = other.each(x, t.kernel(z))[:, 0, :, m:-m, m:-m]
        expected = stats.norm(predicted, 0.02).logpdf(yi.numpy()).sum((1, 2, 3))
        np.testing.assert_allclose(t.log_likelihood(z), expected, rtol=1e-9)


# --- mode, starts -------------------------------------------------------------------------------------------------


def test_mode_is_stationary_and_near_the_truth():
    t = target()
    mode, covariance = t.laplace()
    _, gradient = t.log_prob_and_gradient(mode[None])
    assert float((gradient @ covariance @ gradient.T).sqrt()) < 1e-2  # in units of posterior standard deviations
    truth = torch.tensor([0.5, 0.2, -0.1, math.log(0.02)], dtype=torch.float64)
    gap = (mode - truth) / covariance.diagonal().sqrt()
    assert gap.abs().max() < 4
    assert torch.equal(mode, t.mode())


@pytest.mark.parametrize("noise_std", [None, 0.02])
def test_laplace_covariance_is_the_inverse_of_a_numeric_hessian(noise_std):
    t = target("truth", noise_std)
    mode, covariance = t.laplace()
    h, n = 1e-4, t.dim
    steps = h * torch.eye(n, dtype=torch.float64)
    columns = [t.log_prob_and_gradient(torch.stack([mode + s, mode - s]))[1] for s in steps]
    hessian = -torch.stack([(up - down) / (2 * h) for up, down in columns])
    torch.testing.assert_close(covariance, torch.linalg.inv(hessian), rtol=1e-3, atol=1e-7)


def test_laplace_equals_quadrature_where_the_posterior_is_nearly_normal():
    t = target("round", 0.02)
    mode, covariance = t.laplace()
    sd = float(covariance.sqrt())
    grid = mode + sd * torch.linspace(-8, 8, 801, dtype=torch.float64)[:, None]
    p = torch.softmax(t.log_prob(grid), 0)
    mean = (p[:, None] * grid).sum(0)
    assert float((mean - mode).abs()) < 0.1 * sd
    assert float((p * (grid - mean)[:, 0] ** 2).sum().sqrt()) == pytest.approx(sd, rel=0.05)


def test_curvature_that_vanishes_is_bounded():
    """A parameter that the data and the prior hardly hold gets a standard deviation of at most sqrt(1000)."""
    flat = FixedImageTarget(torch.full((1, 1, 24, 24), 0.5), torch.full((1, 1, 12, 12), 0.5), D, LineShape(11, 2), 10.0)
    _, covariance = flat.laplace(starts=1)
    assert float(torch.linalg.eigvalsh(covariance).max()) <= 1000.001


def test_starts_are_wider_than_the_posterior_and_have_the_noise_of_their_residual(gen):
    t = target()
    z = t.initial(200, generator=gen)
    _, covariance = t.laplace()
    assert (z.std(0) > 2 * covariance.diagonal().sqrt()).all()
    residual = t.form(t.kernel(z)).sqrt()
    assert ((z[:, -1] - residual.log()).abs() <= 1).all()
    again = t.initial(200, generator=torch.Generator().manual_seed(20240610))
    assert torch.equal(z, again)


def test_prior_draws_follow_the_prior(gen):
    t = target("gaussian shape", noise_prior=LogNoisePrior(-3.0, 0.5))
    z = t.sample_prior(4000, generator=gen).numpy()
    prior = PRIORS["gaussian shape"]
    for j, (mean, std) in enumerate([*zip(prior.mean, prior.std, strict=True), (-3.0, 0.5)]):
        assert stats.kstest(z[:, j], stats.norm(mean, std).cdf).pvalue > 1e-4


def test_noise_prior_is_normalised():
    law = LogNoisePrior(-4.0, 0.7)
    total, _ = integrate.quad(lambda v: float(law.log_prob(torch.tensor([v]).double()).exp()), -12, 4)
    assert total == pytest.approx(1, abs=1e-6)


# --- data ---------------------------------------------------------------------------------------------------------


def test_predictions_have_the_blurred_image_as_mean_and_the_noise_as_spread(gen):
    t = target("gaussian shape", 0.03, model_error=0.04)
    z = torch.tensor([[0.5, 0.2, -0.1]], dtype=torch.float64)
    n = 400
    drawn = t.predict(z.expand(n, -1), gen)["lr_image"]
    assert drawn.shape == (n, 1, 12, 12)
    white = ((drawn - t.blurred(z)) / 0.05).flatten()
    assert stats.kstest(white.numpy(), stats.norm().cdf).pvalue > 1e-4
    lag = (white.view(n, -1)[:, 1:] * white.view(n, -1)[:, :-1]).mean()
    assert abs(float(lag)) < 5 / math.sqrt(n * 143)


def test_simulation_is_one_prediction_and_can_be_the_data_of_the_next_model(gen):
    t = target()
    z = t.sample_prior(1, generator=gen)
    y = t.simulate(z[0], torch.Generator().manual_seed(3))
    assert torch.equal(y, t.predict(z, torch.Generator().manual_seed(3))["lr_image"])
    other = t.given(y)
    assert torch.equal(other.observed()["lr_image"], y[0]) and other.names == t.names
    expected = FixedImageTarget(t.x, y, D, t.prior).log_prob(z)
    torch.testing.assert_close(other.log_prob(z), expected)
    assert torch.equal(t.observed()["lr_image"], scene()[1][0])


@pytest.mark.parametrize("noise_std", [None, 0.02])
def test_pointwise_rows_sum_to_the_likelihood_in_any_chunks(noise_std, gen):
    t = FixedImageTarget(*scene(channels=3), D, PRIORS["gaussian shape"], noise_std)
    z = t.initial(7, generator=gen)
    points = t.pointwise_log_likelihood(z)["lr_image"]
    assert points.shape == (7, 3 * 12 * 12) and points.dtype == torch.float32
    torch.testing.assert_close(points.double().sum(1), t.log_likelihood(z), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(t.pointwise_log_likelihood(z, chunk=2)["lr_image"], points)


def ranks(n, side, seed):
    """Posterior distribution functions at the truth, by quadrature, for data simulated from the model: (n, 2)."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 1, side, side, generator=g, dtype=torch.float64)
    model = FixedImageTarget(x, D(x, DiskShape(11, 2).kernel(torch.zeros(1, 1).double())), D, DiskShape(11, 2))
    model = FixedImageTarget(x, model.y, D, DiskShape(11, 2), noise_prior=LogNoisePrior(-2.5, 0.7))
    radius = math.log(2) + 0.4 * torch.linspace(-5, 5, 301, dtype=torch.float64)
    noise = -2.5 + 0.7 * torch.linspace(-5, 5, 201, dtype=torch.float64)
    found = []
    for _ in range(n):
        truth = model.sample_prior(1, generator=g)
        t = model.given(model.simulate(truth, g))
        e = t.form(t.prior.kernel(radius[:, None]))
        v = (2 * noise).exp()
        log_p = -0.5 * t.form.n * (e[:, None] / v + v.log()) + t.noise_prior.log_prob(noise)
        p = torch.softmax((log_p + t.prior.log_prob(radius[:, None])[:, None]).flatten(), 0).view(301, 201)
        at = [(p.sum(1), radius, truth[0, 0]), (p.sum(0), noise, truth[0, 1])]
        found.append([float(np.interp(float(v), g_, (m.cumsum(0) - m / 2).numpy())) for m, g_, v in at])
    return np.array(found)


def test_exact_posteriors_of_simulated_data_are_calibrated():
    """Ranks of the truth are uniform (Talts et al. 2018), with quadrature for a sampler."""
    found = ranks(200, 16, 4)
    for column in found.T:
        assert stats.kstest(column, "uniform").pvalue > 0.005


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_posterior_is_no_prior():
    spectral = SpectralPosterior(GaussianShape(11, 2), torch.zeros(3).double(), torch.eye(3).double(), 0.01, 0.0)
    with pytest.raises(ValueError, match=r"SpectralPosterior is no kernel prior with a density: .* take its \.family"):
        FixedImageTarget(*scene(), D, spectral)


X, Y = scene()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior": CameraShakePrior.protocol(2)}, "CameraShakePrior is no kernel prior with a density"),
        ({"prior": GaussianShape(15, 3)}, "the prior's kernels have side 15, not 11"),
        ({"noise_std": -0.1}, "noise level -0.1: a number of 0 or more, or None, is needed"),
        ({"noise_std": math.nan}, "noise level nan"),
        ({"model_error": -1.0}, "model error -1.0: a number of 0 or more is needed"),
        ({"noise_std": 0.0}, "noise_std and model_error are both 0: one must be above 0"),
        ({"x": X.expand(2, -1, -1, -1)}, "one image (1, C, H, W) of finite values is needed, got (2, 1, 24, 24)"),
        ({"x": torch.full_like(X, math.nan)}, "one image (1, C, H, W) of finite values is needed"),
        ({"y": torch.full_like(Y, math.inf)}, "one image (1, C, H, W) of finite values is needed"),
        ({"y": Y[..., :-1]}, "an LR image has shape (1, 1, 12, 11): (1, 1, 12, 12) is needed for this HR image"),
        (
            {
                "prior": GaussianKernelPrior(11, Delta(2.0), None, Delta(0.0), (Delta(4.5), Delta(4.5))),
                "noise_std": 0.1,
            },
            "the kernel and the noise level are both fixed, so there is nothing to sample",
        ),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    values = {"x": X, "y": Y, "degradation": D, "prior": PRIORS["disk"], "noise_std": None, "model_error": 0.0} | change
    extra = {"model_error": values.pop("model_error")}
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        FixedImageTarget(*values.values(), **extra)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (0.0, -1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_impossible_noise_priors_are_refused(mean, std):
    with pytest.raises(ValueError, match="need a finite mean and a std above 0 of log σ"):
        LogNoisePrior(mean, std)


def test_only_the_noise_may_be_free():
    prior = GaussianKernelPrior(11, Delta(2.0), None, Delta(0.0), (Delta(4.5), Delta(4.5)))
    t = FixedImageTarget(X, Y, D, prior)
    assert t.names == ("log_noise",)
    mode, _ = t.laplace()
    assert float(mode) == pytest.approx(0.5 * math.log(float(t.form(t.kernel(mode[None])))), abs=0.02)


def test_a_uniform_law_of_ones_own_bounds_its_parameter():
    prior = GaussianKernelPrior(11, Uniform(1.0, 3.0), None, Delta(0.0), (Delta(4.5), Delta(4.5)))
    t = FixedImageTarget(X, Y, D, prior, 0.02)
    assert 1 < float(prior.parameters.theta(t.mode()[None])[0, 0]) < 3
