"""The quadratic form of the LR error against convolution with each kernel."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blindsr.likelihood import patches, quadratic
from blindsr.likelihood.quadratic import FEWEST, LARGEST, LrErrorForm, lr_errors
from blindsr.operators.degradation import SCALES, Alignment, Degradation, Padding
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.samplers.mcka import WEIGHTS, MonteCarloKernelApproximation

WAYS = {"patches": (0.0, 1.0), "fft": (1.0, 0.0)}
"""Costs that make `build` take one way."""

WEIGHT_SHAPES = {"none": None, "map": "bchw", "grey map": "hw", "planes": "c", "one": ""}


def weight_of(rng, kind, shape):
    b, c, h, w = shape
    sizes = {"bchw": shape, "hw": (1, 1, h, w), "c": (c, 1, 1), "": ()}
    return None if kind == "none" else torch.from_numpy(np.asarray(rng.uniform(0, 2, sizes[WEIGHT_SHAPES[kind]])))


def case(op, shape, seed=0, n=4, sums=(1.0, 1.0, 0.6, -1.5)):
    """Random x, y, and kernels of given sums."""
    rng = np.random.default_rng(seed)
    b, c, h, w = shape
    x = torch.from_numpy(rng.random((b, c, *op.hr_shape(h, w))))
    y = torch.from_numpy(rng.random(shape))
    k = torch.from_numpy(rng.random((n, 1, op.kernel_size, op.kernel_size)))
    k = k / k.sum((2, 3), keepdim=True)
    return x, y, k * torch.tensor([sums[i % len(sums)] for i in range(n)], dtype=k.dtype).view(-1, 1, 1, 1)


def smooth_case(scale, side, *, weight=False):
    """An x, its y under a kernel of the prior with a little noise, and a noise map; float32."""
    gen, op = torch.Generator().manual_seed(scale), Degradation(scale)
    x = torch.rand(1, 3, side * scale, side * scale, generator=gen)
    k = GaussianKernelPrior.truth(scale).sample(1, generator=gen)
    y = op(x, k) + 0.01 * torch.randn(1, 3, side, side, generator=gen)
    return op, x, y, 0.5 + torch.rand(1, 1, side, side, generator=gen) if weight else None


@pytest.fixture
def take(monkeypatch):
    """Make `build` take one way, whatever it costs; a weight map leaves only one."""

    found = quadratic._build_costs

    def choose(way):
        def costs(degradation, y, weight):
            free = found(degradation, y, weight)
            return free if math.isinf(free[1]) else WAYS[way]

        monkeypatch.setattr(quadratic, "_build_costs", costs)

    return choose


def test_form_equals_brute_force_at_the_usual_kernel_size(take):
    """Every scale, alignment, border rule, kind of weight and way to build A, at the kernel size of the protocol."""
    shape = (1, 2, 5, 7)
    for scale, alignment, padding, way in itertools.product(SCALES, Alignment, Padding, WAYS):
        op = Degradation(scale, alignment=alignment, padding=padding)
        x, y, k = case(op, shape, seed=scale)
        take(way)
        for weight in WEIGHT_SHAPES:
            w = weight_of(np.random.default_rng(1), weight, shape)
            found, expected = LrErrorForm.build(op, x, y, w)(k), op.lr_error(x, y, k, weight=w)
            np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=f"{op}, {weight}, {way}")


@st.composite
def operators(draw):
    scale, padding = draw(st.sampled_from(SCALES)), draw(st.sampled_from(list(Padding)))
    size = 2 * draw(st.integers(0, 7)) + 1
    if padding is Padding.VALID:  # smaller kernels are refused there
        size = max(size, 2 * scale - 1)
    return Degradation(scale, size, draw(st.sampled_from(list(Alignment))), padding)


shapes = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 12), st.integers(1, 12))


@given(operators(), shapes, st.sampled_from(list(WEIGHT_SHAPES)), st.sampled_from(list(WAYS)), st.integers(0, 2**31))
def test_any_sizes_any_weights_any_kernels(op, shape, weight, way, seed):
    x, y, k = case(op, shape, seed)
    w = weight_of(np.random.default_rng(seed), weight, shape)
    with pytest.MonkeyPatch.context() as patch:
        found = quadratic._build_costs(op, y, w)
        patch.setattr(quadratic, "_build_costs", lambda *_: found if math.isinf(found[1]) else WAYS[way])
        form = LrErrorForm.build(op, x, y, w)
    torch.testing.assert_close(form(k), op.lr_error(x, y, k, weight=w), rtol=1e-11, atol=1e-15)
    assert torch.equal(form.A, form.A.T) or torch.allclose(form.A, form.A.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("more", [(1, 0), (2, 3)])
@pytest.mark.parametrize("way", WAYS)
def test_valid_images_of_any_size(more, way, take):
    take(way)
    op = Degradation(4, 9, padding=Padding.VALID)
    x = torch.rand(1, 2, 29 + more[0], 33 + more[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(1, 2, *op.lr_shape(*x.shape[-2:]), dtype=torch.float64)
    k = case(op, (1, 1, 1, 1))[2]
    torch.testing.assert_close(LrErrorForm.build(op, x, y)(k), op.lr_error(x, y, k), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (64, 64), (68, 68), (89, 90), (133, 135)])
def test_fft_sizes_have_small_prime_factors(n, expected):
    assert patches._fft_size(n) == expected


@pytest.mark.parametrize("weight", ["none", "map"])
def test_gradient_in_three_ways(weight):
    op, shape = Degradation(2, 5, Alignment.CENTERED, Padding.REFLECT), (1, 2, 4, 6)
    x, y, k = case(op, shape)
    w = weight_of(np.random.default_rng(1), weight, shape)
    form = LrErrorForm.build(op, x, y, w)
    assert torch.autograd.gradcheck(form, (k.clone().requires_grad_(),))
    for errors in (form, lambda kernels: op.lr_error(x, y, kernels, weight=w)):
        leaf = k.clone().requires_grad_()
        errors(leaf).sum().backward()
        torch.testing.assert_close(form.gradient(k), leaf.grad, rtol=1e-11, atol=1e-13)
    step = 1e-3  # central differences of a quadratic are exact
    for t in (0, 7, 24):
        d = torch.zeros_like(k).flatten(1)
        d[:, t] = step
        d = d.reshape(k.shape)
        slope = (op.lr_error(x, y, k + d, weight=w) - op.lr_error(x, y, k - d, weight=w)) / (2 * step)
        torch.testing.assert_close(form.gradient(k).flatten(1)[:, t], slope, rtol=1e-9, atol=1e-11)


def test_results_have_the_dtype_of_the_kernels_and_no_gradient_reaches_the_image():
    op = Degradation(2, 5)
    x, y, k = (t.float() for t in case(op, (1, 1, 4, 4)))
    form = LrErrorForm.build(op, x.requires_grad_(), y)
    assert form.A.dtype == torch.float64 and not form.A.requires_grad and form.n == 16
    assert form(k).dtype == form.gradient(k).dtype == torch.float32
    assert form.gradient(k).shape == k.shape


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("padding", [Padding.CIRCULAR, Padding.REPLICATE])
def test_tiny_errors_of_a_bright_flat_image_keep_their_digits(padding, way, take):
    """Sums of squares are 0.8 a pixel, errors 1e-10: float32, and float64 without the means taken off, lose them."""
    take(way)
    op, gen = Degradation(4, padding=padding), torch.Generator().manual_seed(0)
    x = (0.9 + 1e-5 * torch.randn(1, 3, 64, 64, generator=gen, dtype=torch.float64)).float()
    prior = GaussianKernelPrior.truth(4)
    y = op(x.double(), prior.sample(1, generator=gen).double()).float()
    k = prior.sample(50, generator=gen)
    exact = op.lr_error(x.double(), y.double(), k.double())
    assert float(exact.max()) < 1e-10
    torch.testing.assert_close(LrErrorForm.build(op, x, y)(k.double()), exact, rtol=1e-8, atol=0)
    torch.testing.assert_close(LrErrorForm.build(op, x, y)(k), exact.float(), rtol=1e-6, atol=0)


def test_the_true_kernel_has_no_error_and_no_gradient():
    op = Degradation(3)
    x, _, k = case(op, (1, 3, 8, 9), n=2)
    y = op(x, k[:1])
    form = LrErrorForm.build(op, x, y)
    assert abs(float(form(k[:1]))) < 1e-15
    assert float(form.gradient(k[:1]).abs().max()) < 1e-14


def test_rounding_takes_no_error_below_zero():
    op = Degradation(2, 7)
    x, _, k = case(op, (1, 3, 64, 64), n=1)
    y = op(x, k)
    many = k + 1e-10 * torch.randn(2000, 1, 7, 7, dtype=k.dtype, generator=torch.Generator().manual_seed(0))
    assert quadratic._form_pays(op, y, 2000, None)
    found = LrErrorForm.build(op, x, y)(many)
    assert -1e-15 < float(found.min()) < 0
    assert torch.equal(lr_errors(op, x, y, many), found.clamp_min(0))


@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("scale", [2, 4])
def test_either_side_of_the_threshold_gives_the_same_numbers(scale, weight):
    op, x, y, w = smooth_case(scale, 32, weight=weight)
    n = next(n for n in range(FEWEST, 10_000) if quadratic._form_pays(op, y, n, w))
    assert n > FEWEST
    k = GaussianKernelPrior.truth(scale).sample(n, generator=torch.Generator().manual_seed(1))
    below, above = lr_errors(op, x, y, k[:-1], w), lr_errors(op, x, y, k, w)
    assert torch.equal(below, op.lr_error(x, y, k[:-1], weight=w))
    assert torch.equal(above, LrErrorForm.build(op, x, y, w)(k).clamp_min(0))
    torch.testing.assert_close(above[:-1], below, rtol=1e-4, atol=0)


def test_few_kernels_wide_kernels_and_wanted_image_gradients_are_convolved(monkeypatch):
    monkeypatch.setattr(quadratic, "_build_costs", lambda *_: (-1e30, -1e30))
    y = torch.zeros(1, 1, 8, 8)
    assert not quadratic._form_pays(Degradation(2), y, FEWEST - 1, None)
    assert quadratic._form_pays(Degradation(2), y, FEWEST, None)
    assert not quadratic._form_pays(Degradation(2, LARGEST + 2), y, 10**6, None)
    op, x, y, _ = smooth_case(2, 8)
    k = GaussianKernelPrior.truth(2).sample(FEWEST, generator=torch.Generator().manual_seed(1))
    lr_errors(op, x.requires_grad_(), y, k).sum().backward()
    assert float(x.grad.abs().max()) > 0


@pytest.mark.parametrize("n", [2, 100])
def test_kernels_can_be_learned_through_either_way(n):
    op, x, y, _ = smooth_case(2, 64)
    assert quadratic._form_pays(op, y, n, None) == (n == 100)
    k = GaussianKernelPrior.truth(2).sample(n, generator=torch.Generator().manual_seed(1)).requires_grad_()
    lr_errors(op, x, y, k).sum().backward()
    torch.testing.assert_close(k.grad, LrErrorForm.build(op, x, y).gradient(k.detach()), rtol=1e-3, atol=1e-5)


def draw(mcka, op, x, y, variance):
    kernel = torch.full((1, 1, op.kernel_size, op.kernel_size), 1 / op.kernel_size**2)
    return mcka.draw(op, x, y, kernel, variance, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("noise_map", [False, True])
def test_monte_carlo_step_with_two_thousand_kernels(noise_map, name):
    op, x, y, map_ = smooth_case(4, 32, weight=noise_map)
    variance = torch.tensor(1e-2) if map_ is None else 1e-2 * map_
    mcka = MonteCarloKernelApproximation(GaussianKernelPrior.truth(4), n_kernels=2000, weights=WEIGHTS[name])
    samples, omega = draw(mcka, op, x, y, variance)
    weight = None if map_ is None else (variance.mean() / variance).double()
    assert quadratic._form_pays(op, y, 2000, weight)
    errors = op.lr_error(x.double(), y.double(), samples.double(), weight=weight)
    expected = WEIGHTS[name](errors, variance.double(), y.numel())
    torch.testing.assert_close(omega.double(), expected, rtol=2e-3, atol=1e-3 * float(expected.max()))


@pytest.mark.parametrize("noise_map", [False, True])
def test_monte_carlo_step_with_five_kernels_convolves_bit_for_bit(noise_map):
    op, x, y, map_ = smooth_case(4, 64, weight=noise_map)
    variance = torch.tensor(1e-3) if map_ is None else 1e-3 * map_
    mcka = MonteCarloKernelApproximation(GaussianKernelPrior.sampling(4))
    samples, omega = draw(mcka, op, x, y, variance)
    weight = None if map_ is None else variance.mean() / variance
    errors = op.lr_error(x, y, samples, weight=weight)
    assert torch.equal(omega, WEIGHTS["published"](errors, variance, y.numel()))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((1, 1, 8, 8), (1, 1, 4, 5), "is needed for this HR image"),
        ((1, 1, 8, 8), (1, 3, 4, 4), "is needed for this HR image"),
        ((1, 1, 8, 9), (1, 1, 4, 4), "no multiple of scale 2"),
        ((1, 8, 8), (1, 4, 4), "four axes"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(x, y, message):
    op, k = Degradation(2, 5), torch.zeros(3, 1, 5, 5)
    with pytest.raises(ValueError, match=message):
        lr_errors(op, torch.zeros(x), torch.zeros(y), k)
    with pytest.raises(ValueError, match=message):
        LrErrorForm.build(op, torch.zeros(x), torch.zeros(y))


@pytest.mark.parametrize("shape", [(3, 1, 7, 7), (3, 5, 5), (3, 2, 5, 5)])
def test_kernels_of_another_shape_are_refused(shape):
    op = Degradation(2, 5)
    form = LrErrorForm.build(op, torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4))
    for use in (form, form.gradient):
        with pytest.raises(ValueError, match="kernels have shape"):
            use(torch.zeros(shape))
