"""The kernel from y alone: its pieces against hand-made references, the whole on photographs with known kernels."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from blindsr.estimators import spectral as kernel_estimate
from blindsr.estimators.interior import contrast, detailed_crop, interior
from blindsr.estimators.problem import MonteCarloSettings, Problem
from blindsr.estimators.spectral import KernelEstimator, refit
from blindsr.generators.kernel import KernelNetwork
from blindsr.likelihood.content import PHOTOGRAPH
from blindsr.likelihood.quadratic import LrErrorForm
from blindsr.likelihood.spectral import SpectralSettings
from blindsr.methods.parts import PRIORS
from blindsr.methods.rows import Choice
from blindsr.methods.table import compose
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.operators.kernels import width
from blindsr.operators.luma import luma, luma_gain
from blindsr.posteriors.spectral_laplace import SpectralPosterior
from blindsr.priors.normal import GaussianShape
from blindsr.simulate import degrade

TRUTH = torch.tensor([0.9, 0.4, -0.3], dtype=torch.float64)
"""An oblique Gaussian of 1.6 pixels, for scale 2."""
WIDE = (1.9, 0.3, 0.2)
"""Another of 2.6 pixels, for scale 4."""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_kernel(size, seed=0):
    k = torch.rand(1, 1, size, size, generator=generator(seed), dtype=torch.float64)
    return k / k.sum()


# --- interior -----------------------------------------------------------------------------------------------------


def inside(n, d):
    """LR indices along an axis of n whose kernel lies wholly on the picture, from the definition of the operator."""
    first = d.offset - d.kernel_size // 2
    seen = [d.scale * u + first for u in range(n)]
    return [u for u, t in enumerate(seen) if t >= 0 and t + d.kernel_size <= d.scale * n]


def test_interior_degrades_to_the_very_part_of_y():
    for scale, alignment, padding, size in itertools.product((2, 3, 4), Alignment, Padding, (0, 9)):
        check_interior(scale, alignment, padding, size)


def check_interior(scale, alignment, padding, size):
    d, (h, w) = Degradation(scale, size, alignment, padding), (9, 11)
    x = torch.rand(1, 2, *d.hr_shape(h, w), generator=generator(scale), dtype=torch.float64)
    k = random_kernel(d.kernel_size)
    y = d(x, k)
    part, x_in, y_in = interior(d.crop(x), y, d)
    torch.testing.assert_close(part(x_in, k), y_in, rtol=0, atol=1e-12)
    if padding is Padding.CIRCULAR:
        assert part == d and torch.equal(y_in, y)
        return
    assert part == replace(d, padding=Padding.VALID)
    cut = (h - y_in.shape[-2]) // 2
    assert cut == (w - y_in.shape[-1]) // 2 > 0
    assert torch.equal(y_in, y[..., cut : h - cut, cut : w - cut])
    rows = inside(h, d)
    assert cut == max(rows[0], h - 1 - rows[-1]), "no more than must be"


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("padding", [Padding.REFLECT, Padding.REPLICATE, Padding.VALID])
def test_an_image_without_interior_is_refused(scale, padding):
    d = Degradation(scale, padding=padding)
    n = next(n for n in range(1, 20) if (i := inside(n, d)) and max(i[0], n - 1 - i[-1]) * 2 < n)
    y, x = torch.zeros(1, 1, 20, n), torch.zeros(1, 1, 20 * scale, n * scale)
    assert interior(x, y, d)[2].shape[-1] in (1, 2)
    x, y = x[..., : scale * (n - 1)], y[..., : n - 1]
    for a, b in ((x, y), (x.mT, y.mT)):
        with pytest.raises(ValueError, match=rf"{b.shape[-1]}x{b.shape[-2]} pixels has no interior for this kernel"):
            interior(a, b, d)


# --- the part with most detail ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("top", "left"), [(0, 0), (13, 31), (36, 44), (36, 0), (7, 44)])
def test_detailed_crop_is_the_textured_square(top, left):
    y = torch.full((1, 1, 60, 68), 0.5)
    texture = torch.rand(24, 24, generator=generator())
    y[0, 0, top : top + 24, left : left + 24] = texture
    d = Degradation(2, 9, Alignment.CENTERED, Padding.REFLECT)
    crop, made = detailed_crop(y, d, 24)
    assert torch.equal(crop[0, 0], texture)
    assert made == replace(d, padding=Padding.VALID)


def test_detailed_crop_of_a_flat_strip_keeps_its_height():
    y = torch.full((1, 1, 10, 90), 0.2)
    y[..., 50:74] = torch.rand(10, 24, generator=generator())
    crop, d = detailed_crop(y, Degradation(2), 24)
    assert torch.equal(crop, y[..., 50:74]) and d.padding is Padding.VALID


@pytest.mark.parametrize("shape", [(24, 24), (5, 24), (24, 7)])
def test_a_small_image_is_not_cut(shape):
    y, d = torch.rand(1, 1, *shape, generator=generator()), Degradation(2)
    crop, same = detailed_crop(y, d, 24)
    assert crop is y and same is d


# --- contrast and luma --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("std", [0.01, 0.05])
def test_contrast_of_noise_less_the_noise_is_about_zero(std):
    found = [contrast(std * torch.randn(1, 1, 256, 256, generator=generator(s)), std) for s in range(6)]
    assert max(found) < 0.6 * std
    whole = contrast(std * torch.randn(1, 1, 256, 256, generator=generator()), 0.0)
    assert whole == pytest.approx(math.sqrt(2) * std, rel=0.01), "detail σ², gradient 4σ²"


def sine(n=256, amplitude=0.3, turns=(40, 56)):
    i = torch.arange(n, dtype=torch.float64)
    phase = turns[0] * i[:, None] + turns[1] * i
    return (0.5 + amplitude * torch.sin(2 * math.pi * phase / n))[None, None]


def sine_contrast(n=256, amplitude=0.3, turns=(40, 56)):
    """Mean squares: a²/2 Σ (2 sin πf)² of the gradient, a²/2 (16 sin² sin² / 6)² of the mask."""
    a, b = (math.sin(math.pi * t / n) ** 2 for t in turns)
    return (amplitude**2 / 2) ** 0.5 * (4 * (a + b) * (16 * a * b / 6) ** 2) ** 0.25


def test_contrast_of_a_sine_is_the_closed_form():
    assert contrast(sine(), 0.0) == pytest.approx(sine_contrast(), rel=0.01)
    assert contrast(sine(amplitude=0.1), 0.0) == pytest.approx(contrast(sine(), 0.0) / 3, rel=1e-6)
    assert contrast(torch.full((1, 1, 9, 9), 0.3), 0.0) == pytest.approx(0, abs=1e-6)


def test_contrast_does_not_see_noise_that_is_taken_off():
    y = sine(n=512, turns=(40, 56))
    noisy = y + 0.01 * torch.randn(y.shape, generator=generator(), dtype=torch.float64)
    assert contrast(noisy, 0.01) == pytest.approx(contrast(y, 0.0), rel=0.03)


def test_luma_is_pillows_grey(gen):
    pixels = torch.randint(0, 256, (3, 20, 30), generator=gen)
    grey = np.asarray(Image.fromarray(pixels.permute(1, 2, 0).numpy().astype(np.uint8)).convert("L"))
    found = luma(pixels[None].float() / 255)
    assert found.shape == (1, 1, 20, 30)
    assert np.abs(found[0, 0].numpy() * 255 - grey).max() < 1.01


def test_luma_of_other_channels_is_their_mean():
    for channels in (1, 2, 4):
        y = torch.rand(1, channels, 5, 6, generator=generator())
        torch.testing.assert_close(luma(y), torch.stack(list(y[0])).sum(0)[None, None] / channels)


def test_luma_gain_is_the_noise_that_luma_leaves():
    for channels in (1, 2, 3, 5):
        noise = torch.randn(1, channels, 300, 300, generator=generator(channels))
        assert float(luma(noise).std()) == pytest.approx(luma_gain(channels), rel=0.02)


# --- one refit ----------------------------------------------------------------------------------------------------


def density(mode, precision):
    return SpectralPosterior(GaussianShape(11, 2), mode, precision, 0.0, 0.0)


@pytest.fixture(scope="module")
def known():
    """A random image, its LR image without noise under the true kernel, and the LR error of any kernel."""
    d = Degradation(2)
    x = torch.rand(1, 1, 40, 48, generator=generator(), dtype=torch.float64)
    y = d(x, GaussianShape(11, 2).kernel(TRUTH[None]))
    return d, x, y, LrErrorForm.build(d, x, y)


def test_refit_on_the_true_image_finds_the_true_kernel(known):
    _, _, y, form = known
    mode = TRUTH + torch.tensor([0.3, -0.2, 0.25], dtype=torch.float64)
    spectral = density(mode, 1e-6 * torch.eye(3, dtype=torch.float64))
    found = refit(spectral, mode, form, y.numel(), 1e-6)
    torch.testing.assert_close(found, TRUTH, rtol=0, atol=2e-3)
    assert found.dtype == torch.float64 and not found.requires_grad


def test_refit_with_a_worthless_image_stays_at_the_mode(known):
    _, _, y, form = known
    mode = TRUTH + torch.tensor([0.3, -0.2, 0.25], dtype=torch.float64)
    spectral = density(mode, torch.diag(torch.tensor([20.0, 10.0, 30.0], dtype=torch.float64)))
    torch.testing.assert_close(refit(spectral, TRUTH, form, y.numel(), 1e6), mode, rtol=0, atol=1e-3)


def test_refit_agrees_with_a_grid(known):
    """n e / 2σ² + ½ (z - m)ᵀ P (z - m), with e by convolution."""
    d, x, y, form = known
    mode = TRUTH + torch.tensor([0.3, -0.2, 0.25], dtype=torch.float64)
    root = torch.tensor([[6.0, 0, 0], [2.0, 5.0, 0], [-1.0, 2.0, 4.0]], dtype=torch.float64)
    precision, variance, step = root @ root.T, 3e-3, 0.02
    axis = torch.arange(-2, 23, dtype=torch.float64) * step

    def energy(z):
        e = d.lr_error(x, y, GaussianShape(11, 2).kernel(z))
        gap = (z - mode).numpy()
        return y.numel() * e.numpy() / (2 * variance) + 0.5 * np.einsum("ni,ij,nj->n", gap, precision.numpy(), gap)

    sign = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    grid = TRUTH + torch.cartesian_prod(axis, axis, axis) * sign
    values = energy(grid)
    best = grid[int(values.argmin())]
    found = refit(density(mode, precision), mode, form, y.numel(), variance)
    assert (found - best).abs().max() < 1.01 * step
    assert energy(found[None])[0] <= values.min() + 1e-6
    assert (found - TRUTH).abs().max() > 0.02 and (found - mode).abs().max() > 0.1, "a compromise"


# --- the whole ----------------------------------------------------------------------------------------------------

GAUSSIAN = ("gaussian",)
QUICK = KernelEstimator(GAUSSIAN, side=96, rounds=2)


def photo(scale, *, noise=0.0, grey=False, z=None, **how):
    """The astronaut's face, degraded; the true kernel and the operator."""
    d = Degradation(scale, **how)
    side = 192 if scale == 2 else 256
    x = torch.from_numpy(data.astronaut()[:side, 128 : 128 + side]).permute(2, 0, 1)[None].float() / 255
    x = x.mean(1, keepdim=True) if grey else x
    z = TRUTH if z is None else torch.tensor(z, dtype=torch.float64)
    k = GaussianShape(d.kernel_size, scale).kernel(z[None]).float()
    return degrade(x, d, k, noise_std=noise, seed=3).y, k, d


def check_close(found, k, d):
    family = GaussianShape(d.kernel_size, d.scale)
    mean = family.kernel(torch.tensor([family.mean], dtype=torch.float64)).float()
    assert found.kernel.shape == k.shape and found.kernel.dtype == torch.float32
    assert float(found.kernel.sum()) == pytest.approx(1, abs=1e-5) and found.kernel.min() >= 0
    error = abs(math.log(float(width(found.kernel) / width(k))))
    assert error < 0.25, error
    assert (found.kernel - k).norm() < 0.5 * (mean - k).norm()


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "z"), [(2, (0.9, 0.4, -0.3)), (4, WIDE)])
def test_kernel_of_a_photograph(scale, z):
    y, k, d = photo(scale, z=z)
    check_close(KernelEstimator()(y, d), k, d)


@pytest.mark.parametrize(
    "how",
    [{}, {"grey": True}, {"alignment": Alignment.CENTERED, "padding": Padding.VALID}, {"padding": Padding.REFLECT}],
    ids=["colour", "grey", "centred, valid", "reflect"],
)
@pytest.mark.slow
def test_kernel_of_a_photograph_in_few_rounds(monkeypatch, how):
    monkeypatch.setattr(kernel_estimate, "SETTLED", 0.0)  # else the first round, which agrees with the spectra, ends it
    y, k, d = photo(2, **how)
    before = y.clone()
    found = QUICK(y, d)
    check_close(found, k, d)
    assert torch.equal(y, before)
    assert (found.rounds, found.family) == (2, "gaussian")
    assert not torch.equal(found.z, found.spectral.mode)
    torch.testing.assert_close(found.kernel, GaussianShape(11, 2).kernel(found.z[None]).float())


@pytest.mark.slow
def test_rounds_end_where_the_image_does_not_move_the_kernel():
    y, _, d = photo(2)
    run = QUICK.start(y, d)
    assert [m.step for m in run.iterate(QUICK.steps_for(d))] == [1, 2] and "does not move" in run.settled
    step = run.z - run.spectral.mode
    assert float(step @ run.spectral.precision @ step) < (QUICK.relaxation * kernel_estimate.SETTLED) ** 2


@pytest.mark.slow
def test_the_same_image_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(kernel_estimate, "SETTLED", 0.0)
    y, _, d = photo(2)
    first = QUICK(y, d)
    torch.rand(5)
    stepwise = QUICK.start(y.clone(), d)
    assert [m.step for m in stepwise.iterate(QUICK.steps_for(d))] == [1, 2, 3], "the spectra, then the rounds"
    again = stepwise.found
    assert torch.equal(first.z, again.z) and torch.equal(first.kernel, again.kernel)
    assert first.noise_std == again.noise_std


def test_without_rounds_the_estimate_is_the_spectral_mode():
    y, _, d = photo(2)
    found, fit = KernelEstimator(GAUSSIAN, rounds=0)(y, d), SpectralPosterior.fit(y, d)
    assert torch.equal(found.z, fit.mode) and torch.equal(found.kernel, fit.mode_kernel)
    assert found.noise_std == fit.noise_std and found.rounds == 0
    assert torch.equal(found.spectral.precision, fit.precision)


def test_noise_level_of_a_noisy_photograph():
    y, k, d = photo(2, noise=10 / 255)
    found = KernelEstimator(GAUSSIAN, rounds=0)(y, d)
    assert found.noise_std == pytest.approx(10 / 255, rel=0.3)
    check_close(found, k, d)
    assert KernelEstimator(GAUSSIAN, rounds=0)(y, d, 0.05).noise_std == 0.05


@pytest.mark.parametrize(("scale", "level", "grey"), [(2, 10, False), (4, 5, True), (4, 10, False)])
def test_kernel_of_a_noisy_photograph(scale, level, grey):
    """Images of noisy data are smooth, which must not draw the kernel to a point."""
    y, k, d = photo(scale, noise=level / 255, grey=grey, z=None if scale == 2 else WIDE)
    check_close(KernelEstimator(GAUSSIAN, side=32 * scale + 32)(y, d), k, d)


def test_refinement_of_a_noisy_photograph_does_not_run_off():
    y, k, d = photo(2, noise=5 / 255)
    found = QUICK(y, d)
    assert abs(math.log(float(width(found.kernel) / width(k)))) < 0.25


@pytest.mark.parametrize(("grey", "gain"), [(False, 0.6686), (True, 1.0)])
def test_refinement_counts_with_the_noise_of_the_luma(monkeypatch, grey, gain):
    told, solve = [], kernel_estimate.map_solution

    def spy(y, kernel, degradation, noise_std, **more):
        if not more:  # the first image, under total variation
            told.append(noise_std)
        return solve(y, kernel, degradation, noise_std, **more)

    monkeypatch.setattr(kernel_estimate, "map_solution", spy)
    y, _, d = photo(2, grey=grey)
    KernelEstimator(GAUSSIAN, side=64, rounds=1)(y, d, 0.001)
    assert told == [pytest.approx(0.001 * gain, rel=1e-3)]


def test_an_image_drowned_in_noise_ends_the_refinement_and_leaves_the_kernel():
    y, _, d = photo(2)
    found = KernelEstimator(GAUSSIAN, side=64, rounds=5)(y, d, 0.5)
    gap = found.z - found.spectral.mode
    assert found.rounds == 1 and float(gap @ found.spectral.precision @ gap) < (2 * kernel_estimate.SETTLED) ** 2


def stripes(angle, n=192, seed=1):
    """Straight oblique bars of random widths and shades, with anti-aliased edges and a texture of slope 2.6."""
    rng = np.random.default_rng(seed)
    fine = (np.arange(4 * n) + 0.5) / 4
    along = fine[:, None] * math.sin(angle) + fine * math.cos(angle)
    edges = np.cumsum(rng.uniform(4, 14, 90)) - 300
    x = rng.uniform(0.1, 0.9, 91)[np.searchsorted(edges, along)].reshape(n, 4, n, 4).mean((1, 3))
    f = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)).clip(1 / n)
    texture = np.fft.ifft2(np.fft.fft2(rng.standard_normal((n, n))) * f**-1.3).real
    return torch.from_numpy(x + 0.03 * texture / texture.std()).float()[None, None]


@pytest.mark.parametrize("angle", [0.4, 1.2])
def test_stripes_do_not_bend_the_kernel(angle):
    """Their spectrum lies on one line; without the higher harmonics of the direction, the kernel has to explain it."""
    d, z = Degradation(2), torch.tensor([0.3, 0.0, 0.0], dtype=torch.float64)
    y = degrade(stripes(angle), d, GaussianShape(d.kernel_size, 2).kernel(z[None]).float()).y
    few = {name: term for name, term in PHOTOGRAPH.items() if not name.endswith(("6", "8"))}
    with_all, with_few = (
        float((SpectralPosterior.fit(y, d, settings=SpectralSettings(content=c)).mode - z).norm())
        for c in (PHOTOGRAPH, few)
    )
    assert with_all < 0.25
    assert with_all < 0.6 * with_few


@pytest.mark.slow
def test_the_family_that_explains_the_spectra_is_chosen():
    d = Degradation(2)
    fine = (np.arange(110) + 0.5) / 10 - 0.5 - d.center  # ten samples in each pixel
    disk = (np.hypot(fine[:, None], fine) < 3).reshape(11, 10, 11, 10).mean((1, 3))
    k = torch.from_numpy(disk / disk.sum()).float()[None, None]
    x = torch.from_numpy(data.camera()[100:260, 180:340] / 255.0).float()[None, None]
    estimator = KernelEstimator(families=("gaussian", "disk"), rounds=0)
    found = estimator(degrade(x, d, k).y, d)
    assert found.family == "disk"
    assert math.exp(float(found.z[0])) == pytest.approx(3, rel=0.07)
    y, _, _ = photo(2, grey=True)
    assert estimator(y, d).family == "gaussian"


def test_a_flat_image_gives_a_kernel():
    found = KernelEstimator(rounds=1)(torch.full((1, 3, 40, 40), 0.4), Degradation(2))
    assert torch.isfinite(found.kernel).all() and float(found.kernel.sum()) == pytest.approx(1, abs=1e-5)


def test_a_small_kernel_of_a_large_image():
    y = torch.rand(1, 1, 24, 24, generator=generator())
    assert KernelEstimator(rounds=1, side=64)(y, Degradation(4, 5)).kernel.shape == (1, 1, 5, 5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"families": ()}, r"kernel families \(none\): choose from gaussian, line, disk, generalized-gaussian"),
        ({"families": ("gaussian", "square", "ring")}, "kernel families square, ring: choose from gaussian"),
        ({"rounds": -1}, "kernel estimator: need rounds, model_error and noise_error of 0 or more"),
        ({"model_error": -0.1}, "kernel estimator: need rounds, model_error and noise_error of 0 or more"),
        ({"noise_error": -0.1}, "kernel estimator: need rounds, model_error and noise_error of 0 or more"),
        ({"image_error": 0.0}, "kernel estimator: need image_error above 0 and side of at least 64"),
        ({"image_error": math.nan}, "kernel estimator: need image_error above 0 and side of at least 64"),
        ({"side": 63}, "kernel estimator: need image_error above 0 and side of at least 64"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        KernelEstimator(**bad)


# --- the spectral density as what the Monte Carlo step draws from -------------------------------------------------


@pytest.fixture(scope="module")
def sampled():
    """The paper's method with spectral draws, started on a photograph."""
    y, _, d = photo(2)
    loop = compose(Choice("mlmc", prior="spectral", preset="fast"), d).estimator
    loop = replace(loop, monte_carlo=MonteCarloSettings(4, warmup_steps=300), kernel_lr=1e-3)
    return y, d, loop, loop.start(y, d, seed=0, device="cpu")


def test_monte_carlo_step_draws_from_the_spectral_density(sampled):
    y, d, _, made = sampled
    found, fit = made.problem.spectral, SpectralPosterior.fit(y, d)
    assert made.mcka.prior is found.spectral and torch.equal(found.spectral.mode, fit.mode)
    assert found.rounds == 0 and made.energy.kernel_prior is None
    x = torch.rand(1, 3, 192, 192, generator=generator())
    k = random_kernel(11).float()
    samples, omega = made.mcka.draw(d, x, y, k, torch.tensor(1e-4), generator(4))
    torch.testing.assert_close(samples, found.spectral.sample(4, generator=generator(4)).float())
    assert omega.shape == (4,) and samples.shape == (4, 1, 11, 11)


def test_warm_up_pulls_the_network_towards_the_spectral_density(sampled):
    y, d, loop, made = sampled
    target = made.problem.spectral.spectral.mode_kernel

    def gap(started):
        assert isinstance(started.run.kernel, KernelNetwork)
        return float((started.estimate().kernel - target).norm())

    def start(**parts):
        return replace(loop, **parts).start(y, d, seed=0, device="cpu")

    assert gap(made) < 0.3 * gap(start(prior=None))
    assert gap(made) < 0.5 * gap(start(prior=PRIORS["gaussian"].value))


def test_a_known_noise_level_reaches_the_estimate():
    y, _, d = photo(2, grey=True)
    made = compose(Choice("mlmc", prior="spectral", noise=0.02, preset="fast"), d).estimator
    problem = Problem(y, d, made.noise_std, made.kernel_estimator)
    assert problem.spectral.noise_std == 0.02
