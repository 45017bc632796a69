"""MAP restoration: the quadratic step against dense algebra, shrinkage against a search, recovery of small pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.restorers.base import Restorer
from blindsr.restorers.bicubic import bicubic
from blindsr.restorers.canvas import Canvas
from blindsr.restorers.half_quadratic import GradientPrior, difference_filters, half_quadratic, shrink
from blindsr.restorers.map import MapRestorer
from blindsr.restorers.selfsimilar import PatchGroups, SelfSimilarPrior, self_similar, similar

QUICK = SelfSimilarPrior(radius=6, steps=4, members=8)
BORDERS = [(a, p) for a in Alignment for p in Padding]


def test_is_a_restorer():
    assert isinstance(MapRestorer(), Restorer)


def kernel(degradation, gen):
    return GaussianKernelPrior.truth(degradation.scale, kernel_size=degradation.kernel_size).sample(1, generator=gen)


def picture(n, channels=3):
    """Flat pieces with edges in several directions, (1, channels, n, n)."""
    r, c = np.mgrid[:n, :n] / n
    planes = [0.25 + 0.5 * (r + 0.4 * c > 0.6) - 0.2 * ((r - 0.6) ** 2 + (c - 0.55) ** 2 < 0.05), 0.7 - 0.4 * (c > r)]
    planes.append((planes[0] + planes[1]) / 2)
    return torch.from_numpy(np.stack(planes[:channels]))[None].float()


def psnr(a, b):
    return float(-10 * torch.log10((a - b).square().mean()))


def dense(operator, shape):
    """Matrix of a linear operator on single planes of a shape."""
    n = shape[0] * shape[1]
    return operator(torch.eye(n, dtype=torch.float64).view(n, 1, *shape)).reshape(n, -1).T


@pytest.mark.parametrize("alignment, padding", BORDERS)
def test_canvas_degrades_as_the_degradation_does(alignment, padding, gen):
    """Under circular and valid padding the very same; under the others wherever the border is not looked at."""
    op = Degradation(2, 5, alignment, padding)
    k, y = kernel(op, gen).double(), torch.rand(1, 1, 8, 9, generator=gen)
    canvas = Canvas(y, k, op)
    x = torch.rand(1, 1, *canvas.shape, generator=gen, dtype=torch.float64)
    if padding is Padding.CIRCULAR:
        torch.testing.assert_close(canvas.degrade(x), op(x, k))
    before, after = op.margins
    extended = x.roll((before, before), (-2, -1))[..., : before + 16 + after, : before + 18 + after]
    valid = replace(op, padding=Padding.VALID)
    if padding is not Padding.CIRCULAR:
        torch.testing.assert_close(canvas.degrade(x), valid(extended, k))
    inner = slice(2, -2)
    torch.testing.assert_close(canvas.degrade(x)[..., inner, inner], op(op_input(canvas, op, x), k)[..., inner, inner])


def op_input(canvas, op, x):
    """What the degradation takes where the canvas is x."""
    if op.padding is not Padding.VALID:
        return canvas.crop(x)
    before, after = op.margins
    return x.roll((before, before), (-2, -1))[..., : before + 16 + after, : before + 18 + after]


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("alignment, padding", BORDERS)
def test_quadratic_step_against_a_dense_solve(alignment, padding, scale, gen):
    """(AᵀA/σ² + β Σ FᵀF + μ) x = Aᵀy/σ² + β Σ Fᵀw + μ z."""
    op = Degradation(scale, 7, alignment, padding)
    y, k = torch.rand(1, 2, 5, 4, generator=gen, dtype=torch.float64), kernel(op, gen).double()
    canvas = Canvas(y, k, op)
    filters = difference_filters(canvas.shape)
    variance, beta, mu = 0.01, 0.7, 0.3
    w = torch.randn(2, 1, 2, *canvas.shape, generator=gen, dtype=torch.float64)
    z = torch.rand(1, 2, *canvas.shape, generator=gen, dtype=torch.float64)
    penalty = beta * sum(f.abs().square() for f in filters) + mu
    target = sum(beta * f.conj() * torch.fft.fft2(v) for f, v in zip(filters, w, strict=True)) + mu * torch.fft.fft2(z)
    x = canvas.solve(penalty, target, variance)

    one = Canvas(y[:, :1], k, op)
    a = dense(one.degrade, canvas.shape)
    d = [
        dense(lambda v: v.roll(-1, -2) - v, canvas.shape),
        dense(lambda v: v.roll(-1, -1) - v, canvas.shape),
    ]
    matrix = a.T @ a / variance + beta * sum(m.T @ m for m in d) + mu * torch.eye(a.shape[1], dtype=torch.float64)
    for c in range(2):
        right = a.T @ y[0, c].flatten() / variance + mu * z[0, c].flatten()
        right = right + beta * sum(m.T @ v[0, c].flatten() for m, v in zip(d, w, strict=True))
        torch.testing.assert_close(x[0, c].flatten(), torch.linalg.solve(matrix, right), rtol=0, atol=2e-4)


@pytest.mark.parametrize("exponent", [0.3, 0.67, 0.8, 1.0])
@pytest.mark.parametrize("weight", [0.0, 1e-3, 0.05, 0.5])
def test_shrinkage_against_a_search(weight, exponent):
    v = torch.linspace(0, 2, 41, dtype=torch.float64)
    grid = torch.linspace(0, 2, 200001, dtype=torch.float64)
    w = shrink(v, weight, exponent)
    for size, got in zip(v, w, strict=True):
        least = (weight * grid**exponent + (grid - size) ** 2 / 2).min()
        assert weight * got**exponent + (got - size) ** 2 / 2 <= least + 1e-9


@pytest.mark.parametrize("exponent", [0.7, 1.0])
@pytest.mark.parametrize("padding", [Padding.CIRCULAR, Padding.VALID])
def test_splitting_lowers_its_objective(exponent, padding, gen):
    """At a fixed β, after each pair of steps: misfit/(2σ²) + min over w of λ|w|^γ + β/2 |∇x − w|²."""
    op = Degradation(2, alignment=Alignment.CENTERED, padding=padding)
    k, sigma = kernel(op, gen), 0.02
    y = Degradation(2, alignment=Alignment.CENTERED)(picture(48, 1), k)
    y = y + sigma * torch.randn(y.shape, generator=gen)
    prior = GradientPrior(weight=8.0, exponent=exponent, first=100.0, growth=1.0, steps=1)
    canvas, beta = Canvas(y, k, op), prior.first * prior.weight
    x, values = None, []
    for _ in range(8):
        x = half_quadratic(y.double(), k, op, sigma, prior=prior, start=x).canvas
        size = ((x.roll(-1, -2) - x).square() + (x.roll(-1, -1) - x).square()).sqrt()
        w = shrink(size, prior.weight / beta, exponent)
        split = prior.weight * w**exponent + beta / 2 * (size - w).square()
        values.append(float(canvas.misfit(x) / (2 * sigma**2) + split.sum()))
    assert np.all(np.diff(values) < 1e-6 * abs(values[0]))
    assert values[-1] < 0.95 * values[0]


@pytest.mark.parametrize("alignment, padding", BORDERS)
@pytest.mark.parametrize("similarity", [None, QUICK])
def test_better_than_bicubic_on_flat_pieces(similarity, alignment, padding, gen):
    op = Degradation(2, alignment=alignment, padding=padding)
    k, n = kernel(op, gen), 64
    truth = picture(n)
    if padding is Padding.VALID:
        wide = picture(n + op.kernel_size - 2)
        y, truth = op(wide, k), op.crop(wide)
    else:
        y = op(truth, k)
    x = MapRestorer(similar=similarity)(y, k, op, 0.0)
    assert x.shape == truth.shape
    assert 0 <= float(x.min()) and float(x.max()) <= 1
    inner = (..., slice(8, -8), slice(8, -8))
    assert psnr(x[inner], truth[inner]) > psnr(bicubic(y, 2, alignment)[inner], truth[inner]) + 4.5
    assert psnr(x, truth) > psnr(bicubic(y, 2, alignment), truth) + 3


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_photograph(scale, gen):
    """Better than bicubic, and patch groups better than the gradient prior alone."""
    from skimage.data import camera

    op = Degradation(scale)
    truth = torch.from_numpy(camera()[60:252, 150:342]).float()[None, None] / 255
    k = kernel(op, gen)
    y = torch.round(op(truth, k) * 255) / 255
    first = psnr(MapRestorer(similar=None)(y, k, op, 0.0), truth)
    assert first > psnr(bicubic(y, scale), truth) + 2
    assert psnr(MapRestorer()(y, k, op, 0.0), truth) > first


def test_noise_is_smoothed(gen):
    op = Degradation(2)
    truth, k = picture(64), kernel(op, gen)
    y = op(truth, k) + 0.04 * torch.randn(1, 3, 32, 32, generator=gen)
    for similarity in (None, QUICK):
        x = MapRestorer(similar=similarity)(y, k, op, 0.04)
        assert psnr(x, truth) > psnr(bicubic(y, 2), truth) + 1


def test_grey_and_colour_agree(gen):
    """A grey picture given as RGB has the same result, in all its channels, but for rounding at a threshold."""
    op = Degradation(2)
    k = kernel(op, gen)
    y = op(picture(32, 1), k)
    restore = MapRestorer(similar=QUICK)
    grey, colour = restore(y, k, op, 0.0), restore(y.expand(1, 3, -1, -1), k, op, 0.0)
    assert grey.shape == (1, 1, 32, 32)
    torch.testing.assert_close(colour, grey.expand_as(colour), rtol=0, atol=0.01)
    torch.testing.assert_close(colour[:, 0], colour[:, 2], rtol=0, atol=1e-5)
    assert restore(y.expand(1, 2, -1, -1), k, op, 0.0).shape == (1, 2, 32, 32)


def test_deterministic_and_leaves_its_input_alone(gen):
    op = Degradation(2)
    k = kernel(op, gen)
    y = op(picture(32), k)
    keep, state = y.clone(), torch.random.get_rng_state()
    restore = MapRestorer(similar=QUICK)
    assert torch.equal(restore(y, k, op, 0.0), restore(y, k, op, 0.0))
    assert torch.equal(y, keep) and torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("padding", [Padding.CIRCULAR, Padding.VALID])
def test_warm_start_with_another_kernel(padding, gen):
    """From the canvas of a first solution with a wrong kernel, few steps with the right one come near a full solve."""
    op = Degradation(2, padding=padding)
    k, other = kernel(op, gen), kernel(op, gen)
    y = Degradation(2)(picture(64, 1), k)
    full = half_quadratic(y, k, op, 0.0)
    short = GradientPrior(first=50.0, steps=8, growth=2.0)
    cold = half_quadratic(y, k, op, 0.0, prior=short).image
    warm = half_quadratic(y, k, op, 0.0, prior=short, start=full.canvas).image
    assert (warm - full.image).norm() < (cold - full.image).norm()
    state = MapRestorer(similar=QUICK).solve(y, other, op, 0.0)
    again = MapRestorer(similar=QUICK).solve(y, k, op, 0.0, start=state.canvas)
    assert again.image.shape == (1, 1, 64, 64) and again.canvas.shape == state.canvas.shape
    from_picture = MapRestorer(similar=QUICK).solve(y, k, op, 0.0, start=state.image)
    assert psnr(again.image, from_picture.image) > 20


def test_similar_patches_are_the_nearest(gen):
    prior = SelfSimilarPrior(patch=4, stride=2, radius=3, members=5)
    image = torch.rand(12, 14, generator=gen)
    found = similar(image, prior)
    patches = image.unfold(0, 4, 1).unfold(1, 4, 1)
    assert found.shape == (5 * 6, 5)
    for n, (r, c) in enumerate((r, c) for r in range(0, 9, 2) for c in range(0, 11, 2)):
        near = {
            (i, j): float((patches[i, j] - patches[r, c]).square().sum())
            for i in range(max(r - 3, 0), min(r + 4, 9))
            for j in range(max(c - 3, 0), min(c + 4, 11))
        }
        assert found[n, 0] == r * 14 + c
        got = sorted(near[int(i) // 14, int(i) % 14] for i in found[n])
        np.testing.assert_allclose(got, sorted(near.values())[:5], atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (31, 37), (9, 8)])
def test_patch_groups_keep_a_clean_image_and_lower_noise(shape, gen):
    prior = SelfSimilarPrior(radius=8, members=8)
    clean = picture(40, 1)[0, 0, : shape[0], : shape[1]]
    torch.testing.assert_close(PatchGroups(clean, prior).denoise(clean, 0.0), clean, rtol=0, atol=1e-5)
    noisy = clean + 0.05 * torch.randn(shape, generator=gen)
    assert psnr(PatchGroups(noisy, prior).denoise(noisy, 0.05), clean) > psnr(noisy, clean) + 1


@pytest.mark.parametrize(
    "build",
    [
        lambda: GradientPrior(weight=0),
        lambda: GradientPrior(weight=float("nan")),
        lambda: GradientPrior(exponent=1.5),
        lambda: GradientPrior(steps=0),
        lambda: SelfSimilarPrior(stride=9),
        lambda: SelfSimilarPrior(members=1),
        lambda: SelfSimilarPrior(last=0.0),
        lambda: SelfSimilarPrior(momentum=1.0),
        lambda: SelfSimilarPrior(steps=0),
        lambda: MapRestorer(model_error=-1.0),
    ],
)
def test_bad_settings(build):
    with pytest.raises(ValueError, match="needed|need|negative|positive|at least|patches"):
        build()


@pytest.mark.parametrize(
    "change, match",
    [
        (dict(noise_std=-1.0), "noise level -1.0"),
        (dict(noise_std=float("nan")), "noise level nan"),
        (dict(kernel=torch.ones(1, 1, 5, 5)), r"\(1, 1, 11, 11\) is needed"),
        (dict(kernel=torch.full((1, 1, 11, 11), torch.nan)), "NaN"),
        (dict(y=torch.full((1, 1, 16, 16), torch.inf)), "NaN or infinite"),
        (dict(y=torch.zeros(16, 16)), "channels, height, width"),
        (dict(y=torch.zeros(2, 3, 16, 16)), "channels, height, width"),
        (dict(y=torch.zeros(1, 1, 4, 16)), "too small for a kernel of 11"),
    ],
)
def test_bad_input(change, match):
    given = dict(y=torch.zeros(1, 1, 16, 16), kernel=torch.ones(1, 1, 11, 11) / 121, noise_std=0.0) | change
    with pytest.raises(ValueError, match=match):
        MapRestorer(similar=QUICK)(given["y"], given["kernel"], Degradation(2), given["noise_std"])


def test_bad_start_and_colour_for_patch_groups():
    k = torch.ones(1, 1, 11, 11) / 121
    with pytest.raises(ValueError, match=r"the start has shape \(1, 1, 30, 32\)"):
        half_quadratic(torch.zeros(1, 1, 16, 16), k, Degradation(2), 0.0, start=torch.zeros(1, 1, 30, 32))
    with pytest.raises(ValueError, match="grey image"):
        self_similar(torch.zeros(1, 3, 16, 16), k, Degradation(2), 0.0)
