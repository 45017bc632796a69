"""Kernel priors: formulas against numpy and quadrature, draws against their distributions, densities against Pyro."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Beta, LogNormal, Normal, TransformedDistribution, Uniform, biject_to

from blindsr.operators.degradation import SCALES, Degradation
from blindsr.operators.kernels import center_of_mass, covariance, width
from blindsr.priors.base import KernelDensity, KernelPrior
from blindsr.priors.gaussian import GaussianKernelPrior, gaussian_kernel
from blindsr.priors.motion import CameraShakePrior, LineKernelPrior, line_kernel, shake_trajectories, splat
from blindsr.priors.parametric import Delta
from blindsr.testing import check_kernel_density, check_kernel_prior

PRIORS = {
    "truth": lambda s: GaussianKernelPrior.truth(s),
    "sampling": lambda s: GaussianKernelPrior.sampling(s),
    "isotropic": lambda s: GaussianKernelPrior.truth(s, isotropic=True),
    "free centre": lambda s: GaussianKernelPrior.truth(s, jitter=1.0),
    "line": lambda s: LineKernelPrior.protocol(s),
    "line, free centre": lambda s: LineKernelPrior.protocol(s, jitter=0.5),
    "camera shake": lambda s: CameraShakePrior.protocol(s),
}


def column(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


@pytest.fixture(scope="module")
def pyro():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pyro
        import pyro.infer.mcmc.util
        import pyro.poutine
    return pyro


# --- what a kernel is like ---------------------------------------------------------------------------------------


def test_moments_equal_plain_sums():
    k = torch.rand(3, 1, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k = k / k.sum((2, 3), keepdim=True)
    for i in range(3):
        weights = k[i, 0].numpy()
        points = [(c, r, weights[r, c]) for r in range(9) for c in range(9)]
        mean = sum(w * np.array([c, r]) for c, r, w in points)
        cov = sum(w * np.outer([c - mean[0], r - mean[1]], [c - mean[0], r - mean[1]]) for c, r, w in points)
        np.testing.assert_allclose(center_of_mass(k)[i], mean, rtol=1e-12)
        np.testing.assert_allclose(covariance(k)[i], cov, rtol=1e-10)
        assert float(width(k)[i]) == pytest.approx(math.sqrt(np.trace(cov) / 2))


def test_gaussian_kernel_is_eq_21():
    lam1, lam2, theta, c = 6.0, 1.5, 0.4, np.array([4.2, 5.7])
    rotation = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    inverse = np.linalg.inv(rotation @ np.diag([lam1, lam2]) @ rotation.T)
    expected = np.empty((11, 11))
    for row in range(11):
        for col in range(11):
            u = np.array([col, row]) - c
            expected[row, col] = math.exp(-0.5 * u @ inverse @ u)
    found = gaussian_kernel(11, column(lam1), column(lam2), column(theta), torch.from_numpy(c)[None])
    np.testing.assert_allclose(found[0, 0], expected / expected.sum(), rtol=1e-12)


def test_gaussian_kernel_has_the_asked_covariance_where_it_fits():
    k = gaussian_kernel(41, column(9.0), column(2.0), column(0.6), torch.full((1, 2), 20.3, dtype=torch.float64))
    rotation = np.array([[math.cos(0.6), -math.sin(0.6)], [math.sin(0.6), math.cos(0.6)]])
    np.testing.assert_allclose(covariance(k)[0], rotation @ np.diag([9.0, 2.0]) @ rotation.T, atol=1e-5)
    np.testing.assert_allclose(center_of_mass(k)[0], [20.3, 20.3], atol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 0.5, 2.0])
def test_line_kernel_equals_numeric_integration(angle):
    """A point of light moves along the segment: the sum of its Gaussian footprints."""
    length, w, size, c = 6.0, 0.5, 13, (5.5, 6.25)
    t = np.linspace(-length / 2, length / 2, 4001)
    rows, cols = np.mgrid[:size, :size]
    dx = cols[..., None] - c[0] - t * math.cos(angle)
    dy = rows[..., None] - c[1] - t * math.sin(angle)
    expected = integrate.trapezoid(np.exp(-(dx**2 + dy**2) / (2 * w**2)), t, axis=2)
    found = line_kernel(size, column(length), column(angle), column(*c)[None])
    np.testing.assert_allclose(found[0, 0], expected / expected.sum(), atol=1e-7)


def test_line_kernel_has_the_variance_of_a_segment_along_it():
    k = line_kernel(41, column(12.0), column(math.pi / 2), column(20.0, 20.0)[None], thickness=1.0)
    np.testing.assert_allclose(covariance(k)[0], np.diag([1.0, 12.0**2 / 12 + 1.0]), atol=1e-5)


# --- draws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", PRIORS)
def test_kernels_are_non_negative_and_sum_to_one(name, scale, gen):
    prior = PRIORS[name](scale)
    k = prior.sample(50, generator=gen)
    assert isinstance(prior, KernelPrior)
    assert k.shape == (50, 1, prior.kernel_size, prior.kernel_size)
    assert prior.kernel_size == Degradation(scale).kernel_size
    assert k.min() >= -1e-6
    torch.testing.assert_close(k.sum((1, 2, 3)), torch.ones(50), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PRIORS)
def test_priors_keep_their_own_contract(name):
    check_kernel_prior(PRIORS[name](4), Degradation(4))
    if name != "camera shake":
        assert isinstance(PRIORS[name](4), KernelDensity)
        check_kernel_density(PRIORS[name](4), Degradation(4))


def test_camera_shake_has_no_density():
    assert not isinstance(CameraShakePrior.protocol(4), KernelDensity)


@pytest.mark.parametrize("name", PRIORS)
def test_same_generator_state_same_draws_other_state_others(name):
    prior = PRIORS[name](2)
    first, again, other = (prior.sample(3, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, other)


RANGES = {
    "truth": {2: (0.35, 5.0), 3: (0.525, 7.5), 4: (0.7, 10.0), 8: (1.4, 10.0)},
    "sampling": {2: (1.35, 13.0), 3: (2.525, 16.5), 4: (3.7, 20.0), 8: (8.4, 24.0)},
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", RANGES)
def test_gaussian_parameters_follow_the_protocols_uniform_laws(name, scale, gen):
    low, high = RANGES[name][scale]
    theta = PRIORS[name](scale).sample_theta(4000, generator=gen).double().numpy()
    laws = [stats.uniform(low, high - low), stats.uniform(low, high - low), stats.uniform(0, math.pi)]
    for values, law in zip(theta.T[:3], laws, strict=True):
        assert stats.kstest(values, law.cdf).pvalue > 1e-5
        assert law.support()[0] - 1e-5 <= values.min() and values.max() <= law.support()[1] + 1e-5
    correlations = np.corrcoef(theta.T[:3])[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 4.5 / math.sqrt(4000)
    center = (Degradation(scale).kernel_size - scale) / 2
    assert np.all(theta[:, 3:] == center)


def test_jitter_frees_the_centre_by_so_much(gen):
    theta = GaussianKernelPrior.truth(4, jitter=1.5).sample_theta(4000, generator=gen).double().numpy()
    for values in theta.T[3:]:
        assert stats.kstest(values, stats.uniform(7.5 - 1.5, 3.0).cdf).pvalue > 1e-5
    assert abs(np.corrcoef(theta[:, 3], theta[:, 4])[0, 1]) < 4.5 / math.sqrt(4000)


@pytest.mark.parametrize("scale", SCALES)
def test_true_gaussian_kernels_sit_near_the_protocols_centre_with_widths_in_range(scale, gen):
    prior = GaussianKernelPrior.truth(scale)
    k = prior.sample(200, generator=gen)
    low, high = RANGES["truth"][scale]
    # Neither truncation by the frame nor sampling adds variance beyond a twelfth of a pixel (a box's variance).
    assert float(width(k).square().max()) <= high + 1 / 12
    narrow = prior.kernel_of(torch.tensor([[low, low, 0.0, prior.kernel_size / 2, prior.kernel_size / 2]]))
    assert float(width(k).min()) >= float(width(narrow)) - 0.15
    # The frame reaches s pixels less on one side of the centre than on the other: wide kernels lose a tail there.
    off = (center_of_mass(k) - (prior.kernel_size - scale) / 2).abs()
    assert float(off.max()) < 0.5


def test_isotropic_kernels_equal_their_transpose(gen):
    k = GaussianKernelPrior.sampling(4, isotropic=True).sample(5, generator=gen)
    torch.testing.assert_close(k, k.transpose(2, 3), rtol=0, atol=1e-7)
    assert GaussianKernelPrior.sampling(4, isotropic=True).dim == 1


def test_dimension_counts_what_is_free():
    assert GaussianKernelPrior.truth(4).dim == 3
    assert GaussianKernelPrior.truth(4, jitter=1).dim == 5
    assert GaussianKernelPrior.truth(4, isotropic=True, jitter=1).dim == 3
    assert LineKernelPrior.protocol(4).dim == 2


@pytest.mark.parametrize(("low", "high", "jitter"), [(0, 1, 0), (2, 1, 0), (1, 1, 0), (-1, 2, 0), (1, 2, -0.1)])
def test_impossible_gaussian_ranges_are_refused(low, high, jitter):
    with pytest.raises(ValueError, match="need 0 < low < high and jitter >= 0"):
        GaussianKernelPrior.uniform(11, low, high, 5, jitter=jitter)


def test_line_parameters_follow_their_laws(gen):
    theta = LineKernelPrior.protocol(4).sample_theta(4000, generator=gen).double().numpy()
    assert stats.kstest(theta[:, 0], stats.uniform(0.4 * 19, 0.2 * 19).cdf).pvalue > 1e-5
    assert stats.kstest(theta[:, 1], stats.uniform(0, math.pi).cdf).pvalue > 1e-5
    assert np.all(theta[:, 2:] == 7.5)


@pytest.mark.parametrize("scale", SCALES)
def test_camera_shake_kernels_are_centred_and_fit(scale, gen):
    prior = CameraShakePrior.protocol(scale)
    k = prior.sample(100, generator=gen)
    torch.testing.assert_close(center_of_mass(k), torch.full((100, 2), prior.center), rtol=0, atol=2e-3)
    spread = covariance(k).diagonal(dim1=1, dim2=2).sum(1)
    reach = max(prior.center, prior.kernel_size - 1 - prior.center)
    assert float(spread.max()) <= 2 * reach**2
    # A path of length 60/64 K whose centre is fixed stays within half its length of it.
    assert float(spread.max()) <= (prior.extent * prior.kernel_size / 2) ** 2 + 0.5
    assert float(spread.min()) > 0.1


@pytest.mark.parametrize(("center", "extent"), [(0.0, 1.0), (10.0, 1.0), (-1.0, 1.0), (5.0, 0.0)])
def test_impossible_camera_shakes_are_refused(center, extent):
    with pytest.raises(ValueError, match="camera shake"):
        CameraShakePrior(11, center, extent)


def test_trajectories_have_unit_length_and_equal_steps(gen):
    path = shake_trajectories(20, generator=gen, steps=500)
    step = (path[:, 1:] - path[:, :-1]).abs()
    torch.testing.assert_close(step, torch.full_like(step, 1 / 499), rtol=0, atol=1e-6)
    assert torch.all(path[:, 0] == 0)


def test_splat_is_bilinear():
    points = torch.tensor([[1.25 + 2.5j, 4.0 + 0.0j]])
    expected = torch.zeros(5, 5)
    expected[2, 1], expected[3, 1], expected[2, 2], expected[3, 2] = 0.375, 0.375, 0.125, 0.125
    expected[0, 4] += 1
    torch.testing.assert_close(splat(points, 5)[0, 0], expected / 2)


# --- densities ----------------------------------------------------------------------------------------------------


def test_one_dimensional_density_integrates_to_one():
    prior = GaussianKernelPrior.sampling(4, isotropic=True)
    total, _ = integrate.quad(lambda z: float(prior.log_prob(column(z)[None].T).exp()), -30, 30, points=[0])
    assert total == pytest.approx(1, abs=1e-6)


def test_two_dimensional_density_integrates_to_one():
    z = torch.linspace(-25, 25, 501, dtype=torch.float64)
    grid = torch.cartesian_prod(z, z)
    total = LineKernelPrior.protocol(4).log_prob(grid).exp().sum() * float(z[1] - z[0]) ** 2
    assert float(total) == pytest.approx(1, abs=1e-6)


def mixed_prior():
    """Laws with another support each: positive, an interval, the line; one fixed."""
    return GaussianKernelPrior(11, LogNormal(1.0, 0.4), Beta(2.0, 1.0), Uniform(0.0, math.pi), (Normal(5, 1), Delta(5)))


class _BetaByUniform(Uniform):
    """A square-root law on (0, 1), with an inverse distribution function that Beta(2, 1) lacks in torch."""

    def __init__(self):
        super().__init__(0.0, 1.0)

    def icdf(self, value):
        return value.sqrt()

    def log_prob(self, value):
        return Beta(2.0, 1.0).log_prob(value)


@pytest.mark.parametrize("prior", [GaussianKernelPrior.truth(4, jitter=1.0), LineKernelPrior.protocol(3, jitter=0.5)])
def test_density_matches_torch_transformed_distributions(prior):
    z = torch.randn(40, prior.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    free = [p for p in prior.parameters.parts if not isinstance(p, Delta)]
    expected = sum(TransformedDistribution(p, [biject_to(p.support).inv]).log_prob(z[:, i]) for i, p in enumerate(free))
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-6, atol=1e-6)


def test_density_handles_other_supports():
    prior = mixed_prior()
    z = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    v, half, turn, c = z.numpy().T
    one, part = (1 / (1 + np.exp(-t)) for t in (half, turn))
    expected = (
        stats.norm(1.0, 0.4).logpdf(v)  # log λ
        + np.log(2 * one * one * (1 - one))  # Beta(2, 1) and the logistic's Jacobian
        + np.log(part * (1 - part))  # uniform angle
        + stats.norm(5, 1).logpdf(c)
    )
    np.testing.assert_allclose(prior.log_prob(z), expected, rtol=1e-6, atol=1e-6)


def test_draws_of_z_follow_the_density():
    prior = GaussianKernelPrior(11, LogNormal(1.0, 0.4), None, Delta(0.0), (_BetaByUniform(), Delta(5.0)))
    z = prior.sample_z(20000, generator=torch.Generator().manual_seed(2)).double().numpy()
    assert z.shape == (20000, 2)
    assert stats.kstest(z[:, 0], stats.norm(1.0, 0.4).cdf).pvalue > 1e-5
    assert stats.kstest(z[:, 1], lambda v: (1 / (1 + np.exp(-v))) ** 2).pvalue > 1e-5


DENSITIES = [n for n in PRIORS if n != "camera shake"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", DENSITIES)
def test_far_positions_have_the_logistic_law_and_a_kernel(name, scale, dtype, gen):
    """Uniform laws are logistic in z, whose density never vanishes, wherever rounding puts θ."""
    prior = PRIORS[name](scale)
    far = torch.tensor([-300.0, -60.0, -37.0, -30.0, -17.0, 17.0, 30.0, 37.0, 60.0, 300.0], dtype=dtype)
    z = far[torch.randint(len(far), (200, prior.dim), generator=gen)].requires_grad_()
    value, k = prior.log_prob(z), prior.kernel(z)
    at = z.detach().double().numpy()
    np.testing.assert_allclose(value.detach(), stats.logistic.logpdf(at).sum(1), rtol=1e-5)
    assert value.dtype == k.dtype == dtype
    assert torch.isfinite(k).all() and float((k.detach().sum((1, 2, 3)) - 1).abs().max()) < 1e-5
    for out in (value.sum(), k.square().sum()):
        (gradient,) = torch.autograd.grad(out, z, retain_graph=True)
        assert torch.isfinite(gradient).all()
    theta = prior.parameters.theta(z.detach())
    for j in prior.parameters.free:
        part = prior.parameters.parts[j]
        assert torch.isfinite(part.log_prob(theta[:, j])).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_positions_of_other_laws_are_finite(dtype):
    far = torch.tensor([-60.0, -30.0, 30.0, 60.0], dtype=dtype)
    z = torch.cartesian_prod(*[far] * 4).requires_grad_()
    value = mixed_prior().log_prob(z)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert torch.isfinite(value).all() and torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", DENSITIES)
def test_what_is_no_position_has_density_zero(name):
    prior = PRIORS[name](4)
    z = torch.zeros(4, prior.dim, dtype=torch.float64)
    z[0, 0], z[1, -1], z[2, 0] = math.nan, math.inf, -math.inf
    value = prior.log_prob(z)
    assert torch.equal(value[:3], torch.full((3,), -math.inf, dtype=torch.float64))
    assert torch.isfinite(value[3])


@pytest.mark.parametrize("name", DENSITIES)
def test_draws_of_z_are_no_coarser_than_single_precision(name):
    """z is made from θ in double precision: near a bound, a θ of single precision would take few values."""
    prior = PRIORS[name](4)
    z = prior.sample_z(20000, generator=torch.Generator().manual_seed(4)).double().numpy()
    for column in z.T:
        extreme = column[np.abs(column) > 7]
        assert len(extreme) > 5 and len(np.unique(extreme)) == len(extreme)
        assert stats.kstest(column, stats.logistic.cdf).pvalue > 1e-5


@pytest.mark.parametrize("name", DENSITIES)
def test_z_and_theta_are_each_others_inverse(name, gen):
    prior = PRIORS[name](4)
    theta = prior.sample_theta(30, generator=gen).double()
    torch.testing.assert_close(prior.parameters.theta(prior.parameters.z(theta)), theta, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(prior.kernel(prior.parameters.z(theta)), prior.kernel_of(theta), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("prior", [GaussianKernelPrior.truth(2, jitter=0.5), LineKernelPrior.protocol(2, jitter=0.5)])
def test_kernel_and_density_have_right_gradients(prior, gen):
    z = prior.sample_z(2, generator=gen).double().requires_grad_()
    target = torch.rand(prior.kernel_size, prior.kernel_size, generator=gen, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: (prior.kernel(v) * target).sum((1, 2, 3)), (z,))
    assert torch.autograd.gradcheck(prior.log_prob, (z,))


def test_density_equals_pyros_potential_in_unconstrained_space(pyro):
    """Pyro's own samplers work on -log density of the unconstrained sites of this model; so does the prior."""
    import pyro.distributions as dist

    low, high = RANGES["truth"][4]

    def model():
        pyro.sample("lambda1", dist.Uniform(low, high))
        pyro.sample("lambda2", dist.Uniform(low, high))
        pyro.sample("angle", dist.Uniform(0.0, math.pi))

    _, potential, _, _ = pyro.infer.mcmc.util.initialize_model(model)
    prior = GaussianKernelPrior.truth(4)
    for z in prior.sample_z(5, generator=torch.Generator().manual_seed(3)):
        sites = dict(zip(("lambda1", "lambda2", "angle"), z, strict=True))
        torch.testing.assert_close(prior.log_prob(z[None])[0], -potential(sites), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prior", [GaussianKernelPrior.truth(4), LineKernelPrior.protocol(4)])
def test_prior_is_a_term_of_a_pyro_model(pyro, prior):
    """A model with the prior as a factor: Pyro's log density and its gradient are those of prior + likelihood."""
    import pyro.distributions as dist

    seen = prior.sample(1, generator=torch.Generator().manual_seed(4))

    def model():
        z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real_vector, (), (prior.dim,)))
        pyro.factor("prior", prior.log_prob(z[None])[0])
        pyro.sample("kernel", dist.Normal(prior.kernel(z[None]), 0.01).to_event(4), obs=seen)

    z = prior.sample_z(1, generator=torch.Generator().manual_seed(5))[0].requires_grad_()
    expected = prior.log_prob(z[None])[0] + Normal(prior.kernel(z[None]), 0.01).log_prob(seen).sum()
    found = pyro.poutine.trace(pyro.poutine.condition(model, {"z": z})).get_trace().log_prob_sum()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)
    (a,), (b,) = torch.autograd.grad(found, z), torch.autograd.grad(expected, z)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
