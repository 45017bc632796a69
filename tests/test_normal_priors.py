"""Kernel families with normal priors: covariances against scipy, kernels against formulas and brute force."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg, stats

from blindsr.operators.degradation import SCALES, Degradation
from blindsr.operators.kernels import center_of_mass, covariance
from blindsr.priors.base import KernelDensity
from blindsr.priors.families import kernel_family, smooth_families
from blindsr.priors.gaussian import gaussian_kernel
from blindsr.priors.motion import line_kernel
from blindsr.priors.normal import (
    DiskShape,
    GaussianShape,
    GeneralizedGaussianShape,
    LineShape,
    covariance_of,
    log_covariance,
)
from blindsr.testing import check_kernel_density, check_kernel_prior

SHAPES = smooth_families()

SMALL = {
    "gaussian": (0.0, 0.2, -0.1),
    "generalized-gaussian": (0.0, 0.2, -0.1, 0.3),
    "disk": (math.log(2.0),),
    "line": (math.log(4.0), 0.7),
}
"""Kernels so small that nothing of them is cut off."""


def shape(name, degradation):
    return kernel_family(name).density(degradation)


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


# --- covariance coordinates ---------------------------------------------------------------------------------------


def matrix(z):
    """The formula of the module, by scipy."""
    return math.exp(z[0]) * linalg.expm(np.array([[z[1], z[2]], [z[2], -z[1]]]))


coordinates = st.tuples(st.floats(-3, 4), st.floats(-2.5, 2.5), st.floats(-2.5, 2.5))


@given(coordinates)
def test_covariance_is_the_matrix_exponential(z):
    expected = matrix(z)
    np.testing.assert_allclose(covariance_of(row(*z))[0], expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@given(coordinates)
def test_coordinates_are_the_matrix_logarithm(z):
    c = matrix(z)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an error of 1e-12, far below the tolerance here
        log = np.real(linalg.logm(c))
    expected = [np.trace(log) / 2, (log[0, 0] - log[1, 1]) / 2, log[0, 1]]
    np.testing.assert_allclose(log_covariance(torch.from_numpy(c)[None])[0], expected, atol=1e-6)


@given(st.lists(coordinates, min_size=1, max_size=4))
def test_coordinates_and_covariance_are_each_others_inverse(many):
    z = torch.tensor(many, dtype=torch.float64)
    c = covariance_of(z)
    torch.testing.assert_close(log_covariance(c), z, rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(covariance_of(log_covariance(c)), c, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(c, c.transpose(1, 2))
    torch.testing.assert_close(torch.linalg.det(c).log() / 2, z[:, 0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("z", [(0.3, 0.5, -0.4), (-1.0, 0.0, 0.7), (1.5, 1e-3, 0.0), (0.0, -1.5, 1.0)])
def test_covariance_coordinates_have_right_gradients(z):
    z = row(*z).requires_grad_()
    assert torch.autograd.gradcheck(covariance_of, (z,))
    c = covariance_of(z.detach())
    free = torch.stack([c[:, 0, 0], c[:, 0, 1], c[:, 1, 1]], 1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: log_covariance(torch.stack([v[:, 0], v[:, 1], v[:, 1], v[:, 2]], 1).view(-1, 2, 2)), (free,)
    )


def test_gradients_are_finite_where_the_kernel_is_round():
    z = row(0.4, 0.0, 0.0).requires_grad_()
    jacobian = torch.autograd.functional.jacobian(covariance_of, z)[0, :, :, 0]
    expected = math.exp(0.4) * np.array([[[1, 1, 0], [0, 0, 1]], [[0, 0, 1], [1, -1, 0]]])
    np.testing.assert_allclose(jacobian, expected, atol=1e-9)
    back = torch.autograd.functional.jacobian(log_covariance, covariance_of(z.detach()))
    assert torch.isfinite(back).all()


# --- what every family keeps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SHAPES)
def test_families_keep_the_contract(name, scale):
    d = Degradation(scale)
    family = shape(name, d)
    assert isinstance(family, KernelDensity)
    assert (family.kernel_size, family.scale) == (d.kernel_size, scale)
    assert family.dim == len(family.names) == len(family.mean) == len(family.std)
    check_kernel_prior(family, d)
    check_kernel_density(family, d)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SHAPES)
def test_kernels_are_centred_at_the_nominal_centre(name, scale):
    d = Degradation(scale)
    k = shape(name, d).kernel(row(*SMALL[name]))
    np.testing.assert_allclose(center_of_mass(k)[0], [d.center, d.center], atol=2e-3)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SHAPES)
def test_starts_are_within_four_standard_deviations(name, scale):
    family = shape(name, Degradation(scale))
    starts = family.starts()
    assert starts.dtype == torch.float64
    assert starts.shape[1:] == (family.dim,)
    gap = (starts - torch.tensor(family.mean)) / torch.tensor(family.std)
    assert gap.abs().max() < 4
    assert torch.isfinite(family.kernel(starts)).all()


@pytest.mark.parametrize("name", SHAPES)
def test_density_is_a_product_of_normals(name, gen):
    family = shape(name, Degradation(4))
    z = torch.randn(20, family.dim, generator=gen, dtype=torch.float64)
    expected = stats.norm(family.mean, family.std).logpdf(z.numpy()).sum(1)
    np.testing.assert_allclose(family.log_prob(z), expected, rtol=1e-12)


@pytest.mark.parametrize("name", SHAPES)
def test_draws_follow_the_density(name, gen):
    family = shape(name, Degradation(3))
    z = family.sample_z(5000, generator=gen).double().numpy()
    for i in range(family.dim):
        assert stats.kstest(z[:, i], stats.norm(family.mean[i], family.std[i]).cdf).pvalue > 1e-5
    if family.dim > 1:
        correlation = np.corrcoef(z.T) - np.eye(family.dim)
        assert np.abs(correlation).max() < 5 / math.sqrt(5000)


@pytest.mark.parametrize("name", SHAPES)
def test_kernels_have_right_gradients(name, gen):
    family = shape(name, Degradation(2))
    z = torch.cat([row(*SMALL[name]), row(*family.mean) + 0.1]).requires_grad_()
    target = torch.rand(family.kernel_size, family.kernel_size, generator=gen, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: (family.kernel(v) * target).sum((1, 2, 3)), (z,))
    assert torch.autograd.gradcheck(family.log_prob, (z,))


# --- each family --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@given(z=st.tuples(st.floats(-0.8, 1.5), st.floats(-1, 1), st.floats(-1, 1)))
def test_gaussian_equals_the_gaussian_kernel_of_its_covariance(scale, z):
    family = shape("gaussian", Degradation(scale))
    values, vectors = np.linalg.eigh(matrix(z))
    angle = math.atan2(vectors[1, 1], vectors[0, 1])
    mid = torch.full((1, 2), (family.kernel_size - scale) / 2, dtype=torch.float64)
    expected = gaussian_kernel(family.kernel_size, row(values[1])[0], row(values[0])[0], row(angle)[0], mid)
    torch.testing.assert_close(family.kernel(row(*z)), expected, rtol=1e-6, atol=1e-12)


def test_gaussian_has_its_covariance_where_it_fits():
    z = (math.log(4.0), 0.5, 0.3)
    k = GaussianShape(41, 3).kernel(row(*z))
    np.testing.assert_allclose(covariance(k)[0], matrix(z), atol=1e-6)
    np.testing.assert_allclose(log_covariance(covariance(k))[0], z, atol=1e-6)


def test_generalised_gaussian_of_exponent_two_is_the_gaussian(gen):
    z = GaussianShape(15, 3).sample_z(10, generator=gen).double()
    found = GeneralizedGaussianShape(15, 3).kernel(torch.cat([z, torch.zeros(10, 1)], 1))
    torch.testing.assert_close(found, GaussianShape(15, 3).kernel(z), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("beta", [0.8, 1.0, 3.0, 5.0])
def test_generalised_gaussian_is_its_formula(beta):
    z, size, s = (0.9, 0.4, -0.3), 15, 3
    inverse, expected = np.linalg.inv(matrix(z)), np.empty((size, size))
    for r in range(size):
        for c in range(size):
            u = np.array([c, r]) - (size - s) / 2
            expected[r, c] = math.exp(-0.5 * math.sqrt(u @ inverse @ u) ** beta)
    found = GeneralizedGaussianShape(size, s).kernel(row(*z, math.log(beta / 2)))
    np.testing.assert_allclose(found[0, 0], expected / expected.sum(), rtol=1e-5)


@pytest.mark.parametrize(("size", "scale"), [(15, 3), (19, 4)])
@pytest.mark.parametrize("radius", [1.5, 2.3, 3.6, 5.0])
def test_disk_is_the_share_of_each_pixel_inside(size, scale, radius):
    n, mid = 40, (size - scale) / 2
    fine = (np.arange(size * n) + 0.5) / n - 0.5 - mid
    inside = np.hypot(fine[:, None], fine[None]) < radius
    share = inside.reshape(size, n, size, n).mean((1, 3))
    found = DiskShape(size, scale).kernel(row(math.log(radius)))[0, 0].numpy()
    peak = 1 / share.sum()
    assert np.abs(found - share * peak).max() < 0.12 * peak  # its edge is a logistic curve, not a straight one
    assert np.abs(found - share * peak).sum() < 0.12
    assert found.max() == pytest.approx(peak, rel=0.08)


def test_disk_has_the_variance_of_a_disk():
    k = DiskShape(31, 1).kernel(row(math.log(8.0)))
    np.testing.assert_allclose(covariance(k)[0], np.eye(2) * 8.0**2 / 4, rtol=0.02, atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_line_is_the_line_kernel(scale):
    family = LineShape(Degradation(scale).kernel_size, scale)
    z = torch.stack([torch.linspace(0.5, 2.0, 6), torch.linspace(-3, 3, 6)], 1).double()
    mid = torch.full((6, 2), (family.kernel_size - scale) / 2, dtype=torch.float64)
    expected = line_kernel(family.kernel_size, z[:, 0].exp(), z[:, 1], mid)
    torch.testing.assert_close(family.kernel(z), expected, rtol=0, atol=0)


def test_line_turns_from_columns_to_rows():
    flat, steep = LineShape(15, 3).kernel(torch.tensor([[1.5, 0.0], [1.5, math.pi / 2]], dtype=torch.float64))
    assert float(covariance(flat[None])[0, 0, 0]) > 4 * float(covariance(flat[None])[0, 1, 1])
    torch.testing.assert_close(steep[0], flat[0].T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SHAPES)
def test_single_precision_gives_the_same_kernels(name, gen):
    family = shape(name, Degradation(4))
    z = family.sample_z(20, generator=gen)
    assert family.kernel(z).dtype == torch.float32
    torch.testing.assert_close(family.kernel(z).double(), family.kernel(z.double()), rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SHAPES)
def test_positions_far_from_the_prior_have_kernels_and_gradients(name, dtype, gen):
    """Six prior standard deviations away, where long trajectories of chains may lead."""
    family = shape(name, Degradation(4))
    mean, std = (torch.tensor(v, dtype=dtype) for v in (family.mean, family.std))
    z = (mean + 6 * std * torch.randn(100, family.dim, generator=gen).sign()).requires_grad_()
    value, k = family.log_prob(z), family.kernel(z)
    expected = stats.norm(0, 1).logpdf(6) * family.dim - float(std.log().sum())
    np.testing.assert_allclose(value.detach(), expected, rtol=1e-9 if dtype == torch.float64 else 1e-5)
    assert float((k.detach().sum((1, 2, 3)) - 1).abs().max()) < 1e-5
    for out in (value.sum(), k.square().sum()):
        (gradient,) = torch.autograd.grad(out, z, retain_graph=True)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["gaussian", "generalized-gaussian"])
def test_long_thin_kernels_are_exact_in_single_precision(name):
    """Variances 30,000 to one: ab - c² of the covariance cancels all but a few digits of its determinant."""
    family = shape(name, Degradation(4))
    z = torch.tensor([[4.0, 3.6, 3.6, 0.0]])[:, : family.dim]
    single, double = family._radius2(z).double(), family._radius2(z.double())
    c = covariance_of(z.double())[0].numpy()
    axis = np.arange(family.kernel_size) - (family.kernel_size - family.scale) / 2
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    exact = np.einsum("ni,ij,nj->n", points, np.linalg.inv(c), points).reshape(double[0].shape)
    np.testing.assert_allclose(double[0], exact, rtol=1e-6, atol=1e-6)
    far = double > 0.1 * double.max()  # elsewhere the sum over axes cancels
    torch.testing.assert_close(single[far], double[far], rtol=5e-6, atol=0)
