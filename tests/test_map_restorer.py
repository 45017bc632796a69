"""MAP restoration: the quadratic step and any prior's solution against dense algebra, recovery of small pictures."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import HORIZONTAL, VERTICAL, HyperLaplacian, Tikhonov, TotalVariation
from blindsr.priors.patch_groups import PatchGroups
from blindsr.restorers import Admm, BicubicRestorer, HalfQuadratic, MapRestorer, PlugAndPlay, map_solution
from blindsr.restorers.bicubic import bicubic
from blindsr.restorers.canvas import Canvas, difference_filters
from blindsr.testing import check_restorer

FAST = MapRestorer(PatchGroups(radius=6, members=8), splitting=PlugAndPlay(steps=4))
BORDERS = [(a, p) for a in Alignment for p in Padding]


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
    filters = difference_filters(canvas.shape, (VERTICAL, HORIZONTAL))
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


def test_splitting_lowers_its_objective(gen):
    """At a fixed β, after each pair of steps: misfit/(2σ²) + min over w of λ φ(w) + β/2 Σ |f_i ⊗ x − w_i|²."""
    for prior, padding in product((TotalVariation(), HyperLaplacian(0.7)), (Padding.CIRCULAR, Padding.VALID)):
        op = Degradation(2, alignment=Alignment.CENTERED, padding=padding)
        k, sigma, weight = kernel(op, gen), 0.02, 8.0
        y = Degradation(2, alignment=Alignment.CENTERED)(picture(48, 1), k)
        y = y + sigma * torch.randn(y.shape, generator=gen)
        once = HalfQuadratic(first=100.0, growth=1.0, steps=1)
        canvas, beta = Canvas(y, k, op), once.first * weight
        x, values = None, []
        for _ in range(8):
            x = map_solution(y.double(), k, op, sigma, prior=prior, weight=weight, splitting=once, start=x).canvas
            g = torch.stack([x.roll((-i, -j), (-2, -1)) - x for i, j in prior.offsets])
            w = prior.shrink(g, weight / beta)
            penalty = w.square().sum(0).sqrt() if isinstance(prior, TotalVariation) else w.abs() ** prior.gamma
            split = weight * penalty.sum() + beta / 2 * (g - w).square().sum()
            values.append(float(canvas.misfit(x) / (2 * sigma**2) + split))
        assert np.all(np.diff(values) < 1e-6 * abs(values[0])), (prior, padding)
        assert values[-1] < 0.95 * values[0], (prior, padding)


@pytest.mark.parametrize("alignment, padding", BORDERS)
def test_better_than_bicubic_on_flat_pieces(alignment, padding, gen):
    op = Degradation(2, alignment=alignment, padding=padding)
    k, n = kernel(op, gen), 64
    truth = picture(n)
    if padding is Padding.VALID:
        wide = picture(n + op.kernel_size - 2)
        y, truth = op(wide, k), op.crop(wide)
    else:
        y = op(truth, k)
    inner = (..., slice(8, -8), slice(8, -8))
    for restorer in (MapRestorer(TotalVariation()), FAST):
        x = restorer(y, k, op, 0.0)
        assert x.shape == truth.shape
        assert 0 <= float(x.min()) and float(x.max()) <= 1
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
    first = psnr(MapRestorer(TotalVariation())(y, k, op, 0.0), truth)
    assert first > psnr(bicubic(y, scale), truth) + 2
    assert psnr(MapRestorer()(y, k, op, 0.0), truth) > first


def test_noise_is_smoothed(gen):
    op = Degradation(2)
    truth, k = picture(64), kernel(op, gen)
    y = op(truth, k) + 0.04 * torch.randn(1, 3, 32, 32, generator=gen)
    for restorer in (MapRestorer(TotalVariation()), FAST):
        x = restorer(y, k, op, 0.04)
        assert psnr(x, truth) > psnr(bicubic(y, 2), truth) + 1


def test_grey_and_colour_agree(gen):
    """A grey picture given as RGB has the same result, in all its channels, but for rounding at a threshold."""
    op = Degradation(2)
    k = kernel(op, gen)
    y = op(picture(32, 1), k)
    restore = FAST
    grey, colour = restore(y, k, op, 0.0), restore(y.expand(1, 3, -1, -1), k, op, 0.0)
    assert grey.shape == (1, 1, 32, 32)
    torch.testing.assert_close(colour, grey.expand_as(colour), rtol=0, atol=0.01)
    torch.testing.assert_close(colour[:, 0], colour[:, 2], rtol=0, atol=1e-5)
    assert restore(y.expand(1, 2, -1, -1), k, op, 0.0).shape == (1, 2, 32, 32)


@pytest.mark.parametrize("padding", [Padding.CIRCULAR, Padding.VALID])
def test_warm_start_with_another_kernel(padding, gen):
    """From the canvas of a first solution with a wrong kernel, few steps with the right one come near a full solve."""
    op = Degradation(2, padding=padding)
    k, other = kernel(op, gen), kernel(op, gen)
    y = Degradation(2)(picture(64, 1), k)
    full = map_solution(y, k, op, 0.0)
    short = HalfQuadratic(first=50.0, steps=8, growth=2.0)
    cold = map_solution(y, k, op, 0.0, splitting=short).image
    warm = map_solution(y, k, op, 0.0, splitting=short, start=full.canvas).image
    assert (warm - full.image).norm() < (cold - full.image).norm()
    state = FAST.solve(y, other, op, 0.0)
    again = FAST.solve(y, k, op, 0.0, start=state.canvas)
    assert again.image.shape == (1, 1, 64, 64) and again.canvas.shape == state.canvas.shape
    from_picture = FAST.solve(y, k, op, 0.0, start=state.image)
    assert psnr(again.image, from_picture.image) > 20


class Ridge:
    """A user's own: Ω(x) = Σ (x − ½)²/2 with a weight of its own; `prox` alone, which is all that MAP needs."""

    map_weight = 40.0

    def prox(self, x, step):
        return (x + step / 2) / (1 + step)


@pytest.mark.parametrize("padding", [Padding.CIRCULAR, Padding.VALID])
def test_a_quadratic_prior_of_the_users_against_the_exact_solution(padding, gen):
    """(AᵀA/σ² + λ) x = Aᵀy/σ² + λ/2 for several λ; for Tikhonov its Hessian, on the canvas, is in the place of 1."""
    op = Degradation(2, 5, padding=padding)
    k, y, sigma = kernel(op, gen).double(), torch.rand(1, 1, 6, 7, generator=gen, dtype=torch.float64), 0.05
    canvas = Canvas(y, k, op)
    a = dense(canvas.degrade, canvas.shape)
    eye = torch.eye(a.shape[1], dtype=torch.float64)
    zero = torch.zeros(1, 1, *canvas.shape, dtype=torch.float64)
    rough = torch.autograd.functional.hessian(lambda v: Tikhonov().energy(v).sum(), zero).view(a.shape[1], -1)

    def exact(quadratic, centre):
        right = a.T @ y.flatten() / sigma**2 + quadratic @ torch.full((a.shape[1],), centre, dtype=torch.float64)
        return torch.linalg.solve(a.T @ a / sigma**2 + quadratic, right)

    precise = Admm(tolerance=1e-6, steps=1000)
    for prior, weight, quadratic, centre, how, error in (
        (Ridge(), None, 40.0 * eye, 0.5, precise, 1e-4),
        (Ridge(), 2000.0, 2000.0 * eye, 0.5, precise, 1e-4),
        (Ridge(), 0.5, 0.5 * eye, 0.5, precise, 1e-4),
        (Tikhonov(), 30.0, 30.0 * rough, 0.0, precise, 1e-4),
        (Ridge(), None, 40.0 * eye, 0.5, None, 2e-3),
        (Tikhonov(), 30.0, 30.0 * rough, 0.0, None, 2e-3),
    ):
        found = map_solution(y, k, op, sigma, prior=prior, weight=weight, splitting=how)
        torch.testing.assert_close(found.canvas.flatten(), exact(quadratic, centre), rtol=0, atol=error)


def test_total_variation_by_either_splitting(gen):
    """ADMM with the proximal map finds the minimum; half-quadratic splitting nears it as its continuation slows."""
    op, prior = Degradation(2), TotalVariation()
    k = kernel(op, gen)
    y = op(picture(32, 1), k).double() + 0.02 * torch.randn(1, 1, 16, 16, generator=gen)
    canvas = Canvas(y, k, op)
    ways = (HalfQuadratic(), HalfQuadratic(growth=1.1, steps=120), Admm())
    fast, slow, exact = (map_solution(y, k, op, 0.02, prior=prior, splitting=s).canvas for s in ways)
    energies = [float(canvas.misfit(x) / (2 * 0.02**2) + 5 * prior.energy(x)) for x in (fast, slow, exact)]
    assert energies == sorted(energies, reverse=True)
    inner = (..., slice(4, -4), slice(4, -4))  # half-quadratic differences wrap round at the border
    assert psnr(slow[inner], exact[inner]) > psnr(fast[inner], exact[inner]) + 3


def test_a_denoiser_is_plugged_in(gen):
    """A Gaussian filter whose width grows with the noise level that it is told: plug and play calls it at each step."""
    told = []

    class Filter:
        def prox(self, x, step):
            told.append(step**0.5)
            return torch.from_numpy(gaussian_filter(x.numpy(), (0, 0, 8 * told[-1], 8 * told[-1])))

    op = Degradation(2)
    k = kernel(op, gen)
    y = op(picture(32, 1), k)
    x = MapRestorer(Filter(), splitting=PlugAndPlay(steps=5))(y, k, op, 0.0)
    np.testing.assert_allclose(told, np.geomspace(15 / 255, 1.5 / 255, 5))
    assert psnr(x, picture(32, 1)) > psnr(bicubic(y, 2), picture(32, 1)) + 2


def test_the_restorers_here_keep_the_contract():
    for restorer in (MapRestorer(TotalVariation()), MapRestorer(Ridge()), FAST, BicubicRestorer()):
        check_restorer(restorer)


@pytest.mark.parametrize(
    "build",
    [
        lambda: MapRestorer(weight=0),
        lambda: MapRestorer(weight=float("nan")),
        lambda: MapRestorer(prior=object()),
        lambda: HalfQuadratic(steps=0),
        lambda: Admm(tolerance=0.0),
        lambda: PlugAndPlay(last=0.0),
        lambda: PlugAndPlay(momentum=1.0),
        lambda: PlugAndPlay(steps=0),
        lambda: MapRestorer(model_error=-1.0),
    ],
)
def test_bad_settings(build):
    with pytest.raises(ValueError, match="needed|need|prox"):
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
        FAST(given["y"], given["kernel"], Degradation(2), given["noise_std"])


def test_bad_start():
    k = torch.ones(1, 1, 11, 11) / 121
    with pytest.raises(ValueError, match=r"the start has shape \(1, 1, 30, 32\)"):
        map_solution(torch.zeros(1, 1, 16, 16), k, Degradation(2), 0.0, start=torch.zeros(1, 1, 30, 32))
