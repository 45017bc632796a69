"""The free kernel's Dirichlet prior: moments and density by scipy, a numeric Jacobian, far tails."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import special, stats

from blindsr.operators.degradation import SCALES, Degradation
from blindsr.priors.base import KernelDensity
from blindsr.priors.simplex import SimplexPrior
from blindsr.testing import check_kernel_density, check_kernel_prior

SMALL = SimplexPrior(5, 2, concentration=1.5, width=1.2, floor=0.1)
SPARSE = SimplexPrior(5, 2, floor=0.02)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scale", SCALES)
def test_it_keeps_the_contract(scale):
    d = Degradation(scale)
    prior = SimplexPrior.of(d)
    assert isinstance(prior, KernelDensity)
    assert prior.dim == len(prior.names) == len(set(prior.names)) == d.kernel_size**2 - 1
    check_kernel_prior(prior, d)
    check_kernel_density(prior, d)


@pytest.mark.parametrize("scale", SCALES)
def test_envelope_is_centred_where_kernels_belong(scale):
    d = Degradation(scale)
    prior = SimplexPrior(d.kernel_size, scale, concentration=2.0, width=1.5, floor=0.05)
    expected = np.empty((d.kernel_size, d.kernel_size))
    for r, c in itertools.product(range(d.kernel_size), repeat=2):
        away = (r - d.center) ** 2 + (c - d.center) ** 2
        expected[r, c] = 2.0 * (0.05 + 0.95 * math.exp(-away / (2 * 1.5**2)))
    np.testing.assert_allclose(prior.alpha.view(d.kernel_size, -1), expected, rtol=1e-12)
    assert SimplexPrior.of(d).envelope_width == d.kernel_size / 6


# --- draws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [SMALL, SPARSE])
def test_draws_have_the_moments_of_scipys_dirichlet(prior):
    n = 20000
    k = prior.kernel(prior.sample_z(n, generator=generator())).flatten(1).numpy()
    law = stats.dirichlet(prior.alpha.numpy())
    cov = law.cov()
    assert (np.abs(k.mean(0) - law.mean()) < 5 * np.sqrt(np.diag(cov) / n)).all()
    centred = k - law.mean()
    for i, j in [(0, 0), (12, 12), (12, 13), (6, 18), (0, 12)]:
        product = centred[:, i] * centred[:, j]
        assert abs(product.mean() - cov[i, j]) < 5 * product.std() / math.sqrt(n)


@pytest.mark.parametrize("pixel", [0, 7, 12, 24])
def test_each_pixel_follows_its_beta_law_down_to_the_smallest_values(pixel):
    """In logarithms, so that values far below the least float count too."""
    alpha = SPARSE.alpha.numpy()
    log_k = SPARSE.log_kernel(SPARSE.sample_z(4000, generator=generator(1)))[:, pixel].numpy()
    rest = alpha.sum() - alpha[pixel]

    def cdf(v):
        """For small k, F(k) = k^α / (α B(α, rest)) to a relative error of k."""
        small = np.exp(alpha[pixel] * v - np.log(alpha[pixel]) - special.betaln(alpha[pixel], rest))
        return np.where(v < np.log(1e-12), small, stats.beta(alpha[pixel], rest).cdf(np.exp(v)))

    assert stats.kstest(log_k, cdf).pvalue > 1e-3


def test_kernels_and_their_parameters_are_drawn_alike():
    k, z = SMALL.sample(5, generator=generator(3)), SMALL.sample_z(5, generator=generator(3))
    assert k.dtype == torch.float32 and z.dtype == torch.float64
    torch.testing.assert_close(k, SMALL.kernel(z).float())
    assert torch.equal(k, SMALL.sample(5, generator=generator(3)))
    assert not torch.equal(k, SMALL.sample(5, generator=generator(4)))


# --- density ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [SMALL, SimplexPrior(3, 2, floor=0.3), SimplexPrior(5, 3, floor=1.0)])
def test_density_is_scipys_dirichlet_times_a_numeric_jacobian(prior):
    z = 0.7 * torch.randn(4, prior.dim, generator=generator(), dtype=torch.float64)
    law = stats.dirichlet(prior.alpha.numpy())
    h = 1e-5
    for row in z:
        k = prior.kernel(row[None]).flatten().numpy()
        steps = h * torch.eye(prior.dim, dtype=torch.float64)
        up, down = (prior.kernel(row + sign * steps).flatten(1)[:, :-1].numpy() for sign in (1, -1))
        sign, logdet = np.linalg.slogdet((up - down) / (2 * h))
        assert sign != 0
        assert float(prior.log_prob(row[None])) == pytest.approx(law.logpdf(k) + logdet, abs=1e-5)


def test_density_of_the_smallest_kernel_integrates_to_one():
    """By importance sampling from a wide Student law around the origin, at five standard errors."""
    prior = SimplexPrior(3, 2, concentration=3.0, floor=0.5)
    n, dof = 200_000, 6.0
    rng = np.random.default_rng(0)
    law = stats.multivariate_t(np.zeros(prior.dim), 1.3 * np.eye(prior.dim), df=dof, seed=rng)
    draws = law.rvs(n)
    weights = np.exp(prior.log_prob(torch.from_numpy(draws)).numpy() - law.logpdf(draws))
    error = weights.std() / math.sqrt(n)
    assert error < 0.02
    assert abs(weights.mean() - 1) < 5 * error


def test_gradients_are_right():
    z = torch.randn(2, SMALL.dim, generator=generator(), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(SMALL.log_prob, (z,))
    assert torch.autograd.gradcheck(SMALL.kernel, (z,))


def test_density_is_concave():
    a, b = (3 * torch.randn(200, SPARSE.dim, generator=generator(s), dtype=torch.float64) for s in (0, 1))
    middle = SPARSE.log_prob((a + b) / 2)
    assert (middle >= (SPARSE.log_prob(a) + SPARSE.log_prob(b)) / 2 - 1e-9).all()


@pytest.mark.parametrize("far", [30.0, 3e4])
def test_far_tails_are_finite_with_finite_gradients(far):
    z = far * torch.sign(torch.randn(20, SPARSE.dim, generator=generator(), dtype=torch.float64))
    z.requires_grad_()
    value, k = SPARSE.log_prob(z), SPARSE.kernel(z)
    (gradient,) = torch.autograd.grad(value.sum(), z, retain_graph=True)
    (through,) = torch.autograd.grad(k.square().sum(), z)
    assert all(torch.isfinite(t).all() for t in (value, gradient, k, through))
    torch.testing.assert_close(k.detach().sum((1, 2, 3)), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize("far", [1.0, 30.0, 3e4])
def test_density_equals_exact_arithmetic_in_the_tails(far):
    """Dirichlet density of k times the triangular Jacobian of stick breaking, with numbers that do not underflow."""
    prior = SimplexPrior(3, 2, floor=0.02)
    z = far * torch.randn(3, prior.dim, generator=generator(), dtype=torch.float64)
    alpha = [mpmath.mpf(float(a)) for a in prior.alpha[prior.order]]
    log_norm = mpmath.loggamma(mpmath.fsum(alpha)) - mpmath.fsum(mpmath.loggamma(a) for a in alpha)
    with mpmath.workdps(60):
        for row in z:
            left, total = mpmath.mpf(1), log_norm
            for j in range(prior.dim):
                odds = mpmath.exp(mpmath.mpf(float(row[j]))) * alpha[j] / mpmath.fsum(alpha[j + 1 :])
                share, rest = odds / (1 + odds), 1 / (1 + odds)
                total += (alpha[j] - 1) * mpmath.log(share * left) + mpmath.log(share * rest * left)
                left *= rest
            total += (alpha[-1] - 1) * mpmath.log(left)
            assert float(prior.log_prob(row[None])) == pytest.approx(float(total), rel=1e-9)


def test_logarithms_are_finite_and_zero_is_the_mean_kernel():
    z = SPARSE.sample_z(50, generator=generator())
    log_k = SPARSE.log_kernel(z)
    assert float(log_k.min()) < math.log(1e-30)
    centre = SPARSE.kernel(torch.zeros(1, SPARSE.dim, dtype=torch.float64)).flatten()
    torch.testing.assert_close(centre, SPARSE.alpha / SPARSE.alpha.sum())


def test_single_precision_gives_the_same_kernels():
    z = SMALL.sample_z(20, generator=generator()).float()
    assert SMALL.kernel(z).dtype == SMALL.log_prob(z).dtype == torch.float32
    torch.testing.assert_close(SMALL.kernel(z).double(), SMALL.kernel(z.double()), rtol=0, atol=1e-5)


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"concentration": 0.0},
        {"concentration": math.inf},
        {"width": 0.0},
        {"width": math.nan},
        {"floor": 0.0},
        {"floor": 1.1},
    ],
)
def test_impossible_numbers_are_refused(options):
    with pytest.raises(ValueError, match="need concentration and width above 0, floor above 0 and at most 1"):
        SimplexPrior(11, 2, **options)


@pytest.mark.parametrize(("size", "scale"), [(1, 2), (11, 0)])
def test_impossible_sizes_are_refused(size, scale):
    with pytest.raises(ValueError, match="simplex prior: kernel size"):
        SimplexPrior(size, scale)
