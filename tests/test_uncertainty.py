"""Image uncertainty: draws against dense algebra, moments, error-uncertainty curves, files, and a photo."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import run_script
from PIL import Image
from scipy import ndimage, stats
from torch import nn

from blindsr.errors import UserError
from blindsr.generators.skip import SkipNetwork, SkipSettings
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.operators.luma import luma
from blindsr.priors import GaussianKernelPrior
from blindsr.priors.patch_groups import Groups, PatchGroups, similar
from blindsr.random import generator
from blindsr.simulate import degrade
from blindsr.uncertainty.image_posterior import (
    FLOOR,
    Evidence,
    gather,
    restoration_uncertainty,
    smooth_rms,
)
from blindsr.uncertainty.maps import (
    UncertaintyMap,
    draw_sparsification,
    draw_uncertainty,
    save_uncertainty,
    sparsification,
    uncertainty_map,
)
from blindsr.uncertainty.network import (
    LangevinSettings,
    WeightPosterior,
    ensemble,
    langevin,
)
from blindsr.uncertainty.scale_mixture import ConditionalGaussian

CASES = [
    Degradation(2, 3),
    Degradation(3, 5, padding=Padding.VALID),
    Degradation(2, 5, alignment=Alignment.CENTERED, padding=Padding.VALID),
]


def some_kernel(d, gen):
    k = torch.rand(1, 1, d.kernel_size, d.kernel_size, generator=gen)
    return k / k.sum()


def conditional(d, gen, noise=0.05):
    y = torch.rand(1, 1, 4, 5, generator=gen)
    image = torch.rand(1, 1, 4 * d.scale, 5 * d.scale, generator=gen)
    return ConditionalGaussian(y, some_kernel(d, gen), d, noise, image)


def dense(model):
    """Precision and target of the canvas, built from the definition with differences of a rolled image."""
    h, w = model.canvas.shape
    unit = torch.eye(h * w, dtype=torch.float64).view(-1, 1, 1, h, w)
    blur = torch.stack([model.canvas.degrade(u).flatten() for u in unit], 1)
    precision = blur.T @ blur / model.variance + model.anchor * torch.eye(h * w, dtype=torch.float64)
    for axis in (-2, -1):
        differences = torch.stack([(u.roll(-1, axis) - u).flatten() for u in unit], 1)
        precision = precision + differences.T @ (model.weights.flatten()[:, None] * differences)
    target = blur.T @ model.canvas.y.flatten() / model.variance + model.anchor * model.center.flatten()
    return precision, target


@pytest.mark.parametrize("d", CASES, ids=str)
def test_conditional_mean_against_dense_algebra(d, gen):
    model = conditional(d, gen)
    precision, target = dense(model)
    exact = torch.linalg.solve(precision, target).view(1, 1, *model.canvas.shape)
    torch.testing.assert_close(model.mean(1e-10), model.canvas.crop(exact), atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("d", CASES[:2], ids=str)
def test_conditional_draws_have_the_law(d, gen):
    """Mean and variance of every pixel, and covariance of neighbours, within Monte Carlo error (5 standard errors)."""
    model, n = conditional(d, gen), 150
    precision, target = dense(model)
    cov = torch.linalg.inv(precision)
    keep = model.canvas.crop(torch.arange(len(cov)).view(model.canvas.shape)).flatten()
    cov, mean = cov[keep][:, keep], (cov @ target)[keep]
    draws = torch.stack([model.draw(gen, 1e-4).flatten() for _ in range(n)])
    z = (draws.mean(0) - mean) / (cov.diagonal() / n).sqrt()
    assert float(z.abs().max()) < 5 and 0.7 < float(z.square().mean()) < 1.4
    gap = draws - mean
    ratio = gap.square().mean(0) / cov.diagonal()
    assert float((ratio - 1).abs().max()) < 5 * math.sqrt(2 / n)
    pair = (gap[:, :-1] * gap[:, 1:]).mean(0)
    error = ((cov.diagonal()[:-1] * cov.diagonal()[1:] + cov.diagonal(1) ** 2) / n).sqrt()
    assert float(((pair - cov.diagonal(1)) / error).abs().max()) < 5
    if d.padding is Padding.CIRCULAR:  # what the data see: there the noise makes the spread
        blur = torch.stack(
            [model.canvas.degrade(u.view(1, 1, *model.canvas.shape)).flatten() for u in torch.eye(len(cov))]
        )
        low = (blur.T @ cov @ blur).diagonal()
        assert float(((gap @ blur).square().mean(0) / low - 1).abs().max()) < 5 * math.sqrt(2 / n)


def test_conditional_weights_are_those_of_the_prior(gen):
    d = Degradation(2, 3)
    flat = torch.full((1, 1, 8, 8), 0.5)
    step = flat.clone()
    step[..., 4:] = 0.9
    y, k = torch.rand(1, 1, 4, 4, generator=gen), some_kernel(d, gen)
    model = ConditionalGaussian(y, k, d, 0.02, step)
    eps = 2 / 255
    assert float(model.weights[0, 0, 0, 0]) == pytest.approx(5 / eps, rel=1e-6)
    assert float(model.weights[0, 0, 0, 3]) == pytest.approx(5 / math.hypot(0.4, eps), rel=1e-5)


def repeat(y, kernel, degradation, noise_std):
    """A linear restorer: every LR pixel becomes s x s, times the kernel's central value."""
    s = degradation.scale
    return y.repeat_interleave(s, -1).repeat_interleave(s, -2) * kernel[0, 0, 1, 1]


def test_map_of_kernel_draws(gen):
    d = Degradation(2, 3)
    y, kernels = torch.rand(1, 2, 6, 5, generator=gen), torch.cat([some_kernel(d, gen) for _ in range(5)])
    found = uncertainty_map(y, kernels, repeat, d, 0.0, generator=gen)
    exact = torch.cat([repeat(y, k[None], d, 0.0) for k in kernels])
    torch.testing.assert_close(found.std[0], exact.std(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.mean[0], exact.mean(0), atol=1e-6, rtol=1e-5)
    assert found.n == 5
    assert uncertainty_map(y, kernels, repeat, d, 0.0, generator=gen, interrupt=lambda: True).n == 2


def test_bootstrap_has_the_noise_of_a_linear_restorer(gen):
    """With one kernel, R(y) stays and the noise goes through R: its std is the noise level times R's gain."""
    d = Degradation(2, 3)
    y, k = torch.rand(1, 1, 12, 12, generator=gen), some_kernel(d, gen)
    found = uncertainty_map(y, k.expand(300, -1, -1, -1), repeat, d, 0.1, generator=gen, bootstrap=True)
    ratio = found.std[..., ::2, ::2] / (0.1 * float(k[0, 0, 1, 1]))
    assert float((ratio - 1).abs().max()) < 5 / math.sqrt(2 * 300)
    torch.testing.assert_close(found.std[..., ::2, ::2], found.std[..., 1::2, 1::2])


def test_smooth_rms_against_scipy(gen):
    v = torch.rand(20, 30, generator=gen, dtype=torch.float64)
    expected = np.sqrt(ndimage.gaussian_filter(v.numpy() ** 2, 1.5, mode="mirror", radius=4))
    np.testing.assert_allclose(smooth_rms(v, 1.5).numpy(), expected, rtol=1e-9)


def test_group_std_against_loops(gen):
    """Every patch of every group adds its group's pixel-wise variance to the place where it lies."""
    prior = PatchGroups(patch=3, stride=2, radius=2, members=4)
    image = torch.rand(9, 11, generator=gen)
    total, count = torch.zeros(9, 11), torch.zeros(9, 11)
    for corners in similar(image, prior).tolist():
        patches = torch.stack([image[c // 11 : c // 11 + 3, c % 11 : c % 11 + 3] for c in corners])
        for c in corners:
            total[c // 11 : c // 11 + 3, c % 11 : c % 11 + 3] += patches.var(0, correction=0)
            count[c // 11 : c // 11 + 3, c % 11 : c % 11 + 3] += 1
    torch.testing.assert_close(Groups(image, prior).std(image), (total / count).sqrt())


def test_std_is_a_geometric_mean_within_the_bounds_of_0_and_1():
    one = torch.full((1, 1), 0.1, dtype=torch.float64)
    std = Evidence(one, 2 * one, 0 * one, 4 * one, n=2).std(3.0)
    assert float(std) == pytest.approx(3 * (0.1 * 0.2 * FLOOR) ** (1 / 3) * 0.4, rel=1e-3)


def test_sparsification_against_loops(gen):
    std, error = torch.rand(10, 20, generator=gen), torch.randn(10, 20, generator=gen)
    found = sparsification(std, error)
    e, order = error.flatten().abs(), std.flatten().argsort(descending=True)
    for fraction, value, best in zip(
        found.fractions.tolist(), found.error.tolist(), found.oracle.tolist(), strict=True
    ):
        out = round(200 * fraction)
        assert value == pytest.approx(float(e[order[out:]].mean() / e.mean()), rel=1e-5)
        assert best == pytest.approx(float(e.sort().values[: 200 - out].mean() / e.mean()), rel=1e-5)
    assert found.spearman == pytest.approx(stats.spearmanr(std.flatten(), e).statistic)
    assert found.ause == pytest.approx(float(torch.trapezoid(found.error - found.oracle, found.fractions)))


def test_sparsification_of_perfect_useless_and_reversed_orders(gen):
    error = torch.randn(4000, generator=gen)
    perfect = sparsification(error.abs(), error)
    assert perfect.ause == pytest.approx(0, abs=1e-9) and perfect.spearman == pytest.approx(1)
    useless = sparsification(torch.rand(4000, generator=gen), error)
    assert useless.ause == pytest.approx(useless.ause_random, abs=0.05)
    assert sparsification(-error.abs(), error).ause > useless.ause_random


def small_test(scale=2, side=64, padding=Padding.CIRCULAR, colour=False):
    import skimage.data

    photo = torch.from_numpy(skimage.data.astronaut()[20 : 20 + side, 180 : 180 + side] / 255.0).float()
    photo = photo.permute(2, 0, 1)[None]
    d = Degradation(scale, padding=padding)
    test = degrade(photo if colour else luma(photo), d, GaussianKernelPrior.truth(scale), seed=3)
    draws = GaussianKernelPrior.truth(scale).sample(2, generator=generator(4))
    return test, d, torch.cat([test.kernel, 0.9 * test.kernel + 0.1 * draws])


@pytest.mark.slow
def test_map_ranks_the_errors_of_a_photo():
    test, d, draws = small_test(4, 128, colour=True)
    found = restoration_uncertainty(test.y, draws, d, 0.0, n=8, generator=generator(1), kernel=test.kernel)
    assert found.std.shape == (1, 1, 128, 128) and found.mean.shape == (1, 3, 128, 128) and found.n == 8
    error, std = luma(found.mean - test.x)[0, 0], found.std[0, 0]
    gradient = torch.hypot(*torch.gradient(luma(found.mean)[0, 0]))
    ranked = sparsification(std, error)
    assert ranked.spearman > 0.4 and ranked.spearman > sparsification(gradient, error).spearman
    assert 0.85 < float((error.abs() < 2 * std).float().mean()) < 1  # it is a standard deviation, in units of the image
    assert 0.5 < float(std.square().mean().sqrt() / error.square().mean().sqrt()) < 2


@pytest.mark.parametrize("padding", [Padding.CIRCULAR, Padding.VALID])
def test_map_is_reproducible_and_can_be_cut_short(padding):
    test, d, draws = small_test(side=48, padding=padding)
    image = test.x

    def run(**options):
        return restoration_uncertainty(
            test.y, draws, d, 0.01, n=4, generator=generator(5), image=image, kernel=test.kernel, **options
        )

    a, b = run(), run()
    assert torch.equal(a.std, b.std) and a.std.shape == image.shape and bool((a.std > 0).all())
    assert run(interrupt=lambda: True).n == 2
    assert torch.equal(a.mean, image.clamp(0, 1))


def test_kernel_uncertainty_widens_the_draws(gen):
    """The kernel's spread enters: draws of wide and narrow kernels scatter more than those of one kernel."""
    test, d, _ = small_test(side=48)
    widths = GaussianKernelPrior.uniform(d.kernel_size, 0.5, 6.0, d.center).sample(8, generator=gen)
    options = {"n": 24, "generator": generator(2)}
    one = gather(test.y, test.x, test.kernel, test.kernel.expand(2, -1, -1, -1), d, 0.0, **options)
    many = gather(test.y, test.x, test.kernel, widths, d, 0.0, **options)
    assert float(many.draws.mean()) > 1.2 * float(one.draws.mean())
    assert torch.equal(many.groups, one.groups) and torch.equal(many.disagreement, one.disagreement)


def test_saved_files(tmp_path, gen):
    found = UncertaintyMap(torch.rand(1, 3, 20, 30, generator=gen), torch.rand(1, 1, 20, 30, generator=gen) / 50, 7)
    save_uncertainty(tmp_path, found)
    array = np.load(tmp_path / "uncertainty.npy")
    np.testing.assert_array_equal(array, found.std[0, 0].numpy())
    note = json.loads((tmp_path / "uncertainty.json").read_text())
    assert note["units"] == "0..1" and note["draws"] == 7 and "luma" in note["what"]
    with Image.open(tmp_path / "uncertainty.png") as picture:
        assert picture.size[0] > 600
    colour = UncertaintyMap(found.mean, found.std.expand(1, 3, 20, 30), 7)
    save_uncertainty(tmp_path, colour)
    assert np.load(tmp_path / "uncertainty.npy").shape == (20, 30, 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_uncertainty(tmp_path / "file", found)


def test_figures_have_units(gen):
    found = UncertaintyMap(torch.rand(1, 1, 20, 30, generator=gen), torch.rand(1, 1, 20, 30, generator=gen) / 50, 7)
    figure = draw_uncertainty(found, torch.rand(1, 1, 20, 30, generator=gen))
    assert [a.get_title() for a in figure.axes[:3]] == ["Result", "Standard deviation", "Absolute error"]
    assert figure.axes[3].get_ylabel() == "grey levels of 255"
    curve = draw_sparsification({"map": sparsification(found.std, found.mean - 0.5)})
    assert "left out" in curve.axes[0].get_xlabel()


@pytest.mark.slow
def test_example(tmp_path):
    script = Path(__file__).parents[1] / "examples" / "uncertainty_map.py"
    out = run_script(script, "--side", 96, "--scale", 2, "--draws", 4, "--output", tmp_path)
    assert "two standard deviations" in out and "uncertainty map: rank correlation" in out
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"uncertainty.npy", "uncertainty.png", "uncertainty.json", "error.png", "curves.png"}


class Linear(nn.Module):
    """An image that is its own weights."""

    def __init__(self, h, w):
        super().__init__()
        self.pixels = nn.Parameter(torch.zeros(1, 1, h, w))

    def forward(self):
        return self.pixels


def make_linear(y, d):
    return Linear(*d.hr_shape(*y.shape[-2:]))


def tiny_skip(y, d):
    return SkipNetwork(
        y.shape[1], *d.hr_shape(*y.shape[-2:]), SkipSettings(channels=4, skip_channels=2, levels=2, non_local_from=None)
    )


def test_weight_gradient_against_finite_differences(gen):
    d = Degradation(2, 3)
    y = torch.rand(1, 1, 4, 4, generator=gen, dtype=torch.float64)
    target = WeightPosterior(Linear(8, 8).double(), y, some_kernel(d, gen).double(), d, 0.1, 0.7)
    z = target.initial(2, generator=gen)
    assert len(target.names) == 64 and z.shape == (2, 64)
    value, gradient = target.log_prob_and_gradient(z)
    for j in (0, 17, 63):
        step = torch.zeros(2, 64, dtype=torch.float64)
        step[:, j] = 1e-5
        slope = (target.log_prob(z + step) - target.log_prob(z - step)) / 2e-5
        torch.testing.assert_close(gradient[:, j], slope, rtol=1e-5, atol=1e-5)
    assert value.shape == (2,)


@pytest.mark.slow
def test_langevin_finds_the_posterior_of_a_linear_network(gen):
    """Gaussian posterior, known exactly. ULA's variance is too large by 1/(1 - ε/(4 s²)): 3 % in the std at most."""
    d = Degradation(2, 3)
    y, k = torch.rand(1, 1, 3, 3, generator=gen), some_kernel(d, gen)
    noise, weight, step = 0.25, 0.5, 0.02
    unit = torch.eye(36).view(36, 1, 6, 6)
    blur = torch.stack([d(u[None], k).flatten() for u in unit], 1).double()
    cov = torch.linalg.inv(blur.T @ blur / noise**2 + torch.eye(36) / weight**2)
    mean = cov @ blur.T @ y.flatten().double() / noise**2
    assert step / (4 * float(torch.linalg.eigvalsh(cov)[0])) < 0.06
    settings = LangevinSettings(
        warmup=0, burn=200, steps=5000, thin=10, step_size=step, preconditioned=False, weight_std=weight
    )
    found = langevin(y, k, d, noise, generator=gen, make=make_linear, settings=settings)
    assert found.n == 500
    size = 5000 * step / (4 * weight**2)  # effective draws of the slowest direction, its autocorrelation exp(-ε/2τ²)
    error = (found.mean.flatten() - mean) / (cov.diagonal() / size).sqrt()
    assert float(error.abs().max()) < 5
    ratio = found.std.flatten() / cov.diagonal().sqrt()
    assert float((ratio - 1).abs().max()) < 0.03 + 5 / math.sqrt(2 * size)


@pytest.mark.slow
def test_network_maps_at_tiny_size():
    test, d, draws = small_test(side=32)
    found = ensemble(test.y, draws, d, 0.01, generator=generator(0), make=tiny_skip, members=3, steps=20)
    assert found.n == 3 and found.std.shape == test.x.shape and float(found.std.min()) > 0
    again = ensemble(test.y, draws, d, 0.01, generator=generator(0), make=tiny_skip, members=3, steps=20)
    assert torch.equal(found.std, again.std)
    settings = LangevinSettings(warmup=50, burn=20, steps=60, thin=10)
    walk = langevin(test.y, test.kernel, d, 0.01, generator=generator(0), make=tiny_skip, settings=settings)
    assert walk.n == 6 and bool(torch.isfinite(walk.std).all()) and float(walk.std.max()) > 0
    residual = d(walk.mean, test.kernel) - test.y
    assert float(residual.square().mean()) < float((test.y - test.y.mean()).square().mean())
    options = {"generator": generator(0), "make": tiny_skip, "interrupt": lambda: True}
    assert langevin(test.y, test.kernel, d, 0.01, settings=settings, **options).n == 2
    assert ensemble(test.y, draws, d, 0.01, members=3, steps=1, **options).n == 2


Y = torch.full((1, 1, 8, 8), 0.5)
D = Degradation(2, 3)
K = torch.full((2, 1, 3, 3), 1 / 9)
NAN = torch.tensor(float("nan"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: uncertainty_map(Y[0], K, repeat, D, 0.0, generator=g), r"the image has shape \(1, 8, 8\)"),
        (lambda g: uncertainty_map(Y, K[:1], repeat, D, 0.0, generator=g), r"\(n, 1, 3, 3\) with n >= 2"),
        (lambda g: uncertainty_map(Y * NAN, K, repeat, D, 0.0, generator=g), "contain NaN"),
        (lambda g: uncertainty_map(Y, K, repeat, D, -1.0, generator=g), "noise level -1.0"),
        (lambda g: restoration_uncertainty(Y, K, D, 0.0, generator=g, image=Y), r"\(1, 1, 16, 16\) is needed"),
        (
            lambda g: gather(Y, Y.repeat(1, 1, 2, 2), K[:1], K, D, 0.0, n=1, generator=g),
            "1 draws give no standard deviation",
        ),
        (lambda g: ConditionalGaussian(Y, K[:1], D, 0.0, Y.repeat(1, 1, 2, 2)), "noise level 0.0: a standard"),
        (lambda g: sparsification(torch.zeros(60), torch.zeros(50)), "must have the same shape"),
        (lambda g: sparsification(torch.zeros(20), torch.zeros(20)), "at least 50 pixels"),
        (lambda g: sparsification(torch.zeros(60), torch.zeros(60)), "zero in every pixel"),
        (lambda g: sparsification(NAN.expand(60), torch.ones(60)), "NaN or infinite"),
        (lambda g: ensemble(Y, K, D, 0.0, generator=g, members=1), "at least 2 members"),
        (lambda g: LangevinSettings(steps=10, thin=10), "steps >= 2 thin"),
        (lambda g: WeightPosterior(nn.Identity(), Y, K, D, 0.0, 1.0), "must be above 0"),
    ],
)
def test_errors_in_one_line(call, message, gen):
    with pytest.raises(ValueError, match=message) as caught:
        call(gen)
    assert "\n" not in str(caught.value)
