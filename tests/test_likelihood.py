"""Data terms against brute force and scikit-image; noise models."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from skimage.metrics import structural_similarity

from blindsr.likelihood.data_term import DataTerm, GaussianLikelihood, SsimThenMse, gaussian_window, ssim
from blindsr.likelihood.noise import FixedNoise, IidNoise, NoiseModel, finest_detail_std


def pair(seed, shape=(1, 2, 20, 17)):
    rng = np.random.default_rng(seed)
    a = rng.random(shape)
    return a, np.clip(a + 0.2 * rng.standard_normal(shape), 0, 1)


def ssim_map(a, b):
    """Wang et al. 2004, zero padding, one plane, with a full 2-D window."""
    u = np.arange(11) - 5
    w = np.exp(-(u[:, None] ** 2 + u[None, :] ** 2) / (2 * 1.5**2))
    w /= w.sum()

    def mean(p):
        return convolve2d(p, w, mode="same")

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))


def test_ssim_equals_brute_force_with_zero_padding():
    a, b = pair(0)
    expected = np.mean([ssim_map(a[0, c], b[0, c]) for c in range(2)])
    assert float(ssim(torch.from_numpy(a), torch.from_numpy(b))) == pytest.approx(expected, rel=1e-6)


def test_ssim_agrees_with_scikit_image_inside():
    """The two differ in padding only: their maps agree half a window away from the border."""
    a, b = (v[0, 0] for v in pair(1))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    _, full = structural_similarity(a, b, full=True, **options)
    np.testing.assert_allclose(ssim_map(a, b)[5:-5, 5:-5], full[5:-5, 5:-5], rtol=1e-6)


def test_ssim_of_equal_images_is_one_and_symmetric():
    a, b = (torch.from_numpy(v) for v in pair(2))
    assert float(ssim(a, a)) == pytest.approx(1, abs=1e-12)
    assert float(ssim(a, b)) == pytest.approx(float(ssim(b, a)), abs=1e-12)
    assert float(ssim(a, b)) < 0.99


def test_ssim_gradient_by_finite_differences():
    a, b = (torch.from_numpy(v) for v in pair(3, (1, 1, 7, 6)))
    assert torch.autograd.gradcheck(lambda v: ssim(v, b), (a.requires_grad_(),))


def test_window_is_a_normalised_gaussian():
    w = gaussian_window(11, 1.5)
    assert float(w.sum()) == pytest.approx(1, abs=1e-6)
    assert float(w[7] / w[5]) == pytest.approx(math.exp(-(2**2) / (2 * 1.5**2)), rel=1e-5)


def test_gaussian_likelihood_is_the_mean_squared_error_for_one_variance():
    a, b = (torch.from_numpy(v) for v in pair(4))
    for variance in (1e-4, 1.0):
        loss = GaussianLikelihood().loss(a, b, torch.tensor(variance, dtype=torch.float64), 0)
        assert float(loss) == pytest.approx(float(((a - b) ** 2).mean()), rel=1e-12)


def test_a_variance_map_weighs_pixels_by_its_inverse():
    """Up to one factor the loss is Σ r²/2σ²(u): loss = (2 σ̄²/n) Σ r²/2σ²."""
    a, b = (torch.from_numpy(v) for v in pair(5))
    variance = torch.rand(1, 1, 20, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    negative_log = ((a - b) ** 2 / (2 * variance)).sum()
    expected = 2 * variance.mean() / a.numel() * negative_log
    torch.testing.assert_close(GaussianLikelihood().loss(a, b, variance, 0), expected)


@pytest.mark.parametrize("switch", [0, 3])
@pytest.mark.parametrize("std", [0.02, 0.05])
def test_ssim_gives_way_to_the_squared_error_after_the_switch_where_there_is_noise(switch, std):
    a, b = (torch.from_numpy(v) for v in pair(6))
    term, variance = SsimThenMse(switch, ssim_below=0.03), torch.tensor(std**2)
    for step in range(5):
        expected = 1 - ssim(a, b) if step < switch or std < 0.03 else ((a - b) ** 2).mean()
        torch.testing.assert_close(term.loss(a, b, variance, step), expected)
    assert isinstance(term, DataTerm) and isinstance(GaussianLikelihood(), DataTerm)


def test_no_noise_at_all_does_not_keep_ssim_where_the_switch_is_unconditional():
    a, b = (torch.from_numpy(v) for v in pair(6))
    torch.testing.assert_close(SsimThenMse(3).loss(a, b, torch.tensor(0.0), 3), ((a - b) ** 2).mean())


def test_published_switch_is_81_outer_iterations():
    assert (SsimThenMse().switch, SsimThenMse().ssim_below) == (81 * 5, 0)


def test_fixed_noise_never_changes():
    noise, y = FixedNoise(0.04), torch.rand(1, 3, 4, 4)
    start = noise.initial(y)
    assert float(start) == pytest.approx(0.0016)
    assert noise.update(start, torch.ones_like(y), start) is start
    assert 2 * float(FixedNoise().initial(y)) == pytest.approx(1e-3)
    assert isinstance(noise, NoiseModel) and isinstance(IidNoise(), NoiseModel)


@pytest.mark.parametrize("std", [-0.1, float("inf"), float("nan")])
def test_impossible_noise_levels_are_refused(std):
    with pytest.raises(ValueError, match="noise level"):
        FixedNoise(std)


def test_iid_noise_is_an_exponential_mean_of_squared_residuals(gen):
    noise, variance = IidNoise(smoothing=0.8, ceiling=100), torch.tensor(0.09, dtype=torch.float64)
    residuals = [torch.randn(1, 3, 5, 5, generator=gen, dtype=torch.float64) * s for s in (0.1, 0.2, 0.3)]
    expected = 0.8**3 * 0.09 + sum(0.2 * 0.8 ** (2 - i) * float((r**2).mean()) for i, r in enumerate(residuals))
    for r in residuals:
        variance = noise.update(variance, r, torch.tensor(1e-4, dtype=torch.float64))
    assert float(variance) == pytest.approx(expected, rel=1e-12)


def test_iid_noise_finds_the_level(gen):
    noise, variance = IidNoise(), torch.tensor(0.07**2)
    for _ in range(100):
        variance = noise.update(variance, 0.08 * torch.randn(1, 1, 32, 32, generator=gen), torch.tensor(0.07**2))
    # Relative standard error of a smoothed variance: sqrt(2/n) sqrt((1-a)/(1+a)) = 0.0101; five of them.
    assert float(variance) == pytest.approx(0.08**2, rel=5 * 0.0102)


def test_iid_noise_stays_between_its_bounds():
    noise, flat = IidNoise(floor_std=0.02), torch.full((1, 1, 8, 8), 0.5)
    floor = noise.initial(flat)
    assert float(floor.sqrt()) == pytest.approx(0.02)
    variance = torch.tensor(0.01)
    for _ in range(200):
        variance = noise.update(variance, torch.zeros_like(flat), floor)
    assert float(variance.sqrt()) == pytest.approx(0.02)
    for _ in range(200):
        variance = noise.update(variance, torch.ones_like(flat), floor)
    assert float(variance.sqrt()) == pytest.approx(1.25 * 0.02)


def test_finest_detail_of_an_image_shows_its_noise(gen):
    ramp = torch.linspace(0, 1, 64)[:, None] * torch.linspace(0.2, 1, 64)[None, :]  # bilinear: the mask removes it
    noisy = ramp.double() + 0.05 * torch.randn(1, 3, 64, 64, generator=gen, dtype=torch.float64)
    assert float(finest_detail_std(ramp.double()[None, None])) < 1e-6
    # A median of N dependent values: 1.17 / sqrt(N) relative error if independent; neighbours share 9-tap masks.
    assert float(finest_detail_std(noisy)) == pytest.approx(0.05, rel=5 * 1.17 * 3 / (3 * 62 * 62) ** 0.5)
    assert float(IidNoise().initial(noisy).sqrt()) == pytest.approx(float(finest_detail_std(noisy)))


@pytest.mark.parametrize("bad", [{"floor_std": 0}, {"smoothing": 1}, {"smoothing": -0.1}, {"ceiling": 0.9}])
def test_impossible_iid_settings_are_refused(bad):
    with pytest.raises(ValueError, match="iid noise"):
        IidNoise(**bad)
