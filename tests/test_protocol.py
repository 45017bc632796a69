"""Synthetic LR images: what the protocol says, with separate streams for kernel and noise."""

import math

import pytest
import torch

from blindsr.operators.degradation import SCALES, Degradation, Padding
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.random import draw_seed, generator, seeded
from blindsr.simulate import Quantize, degrade, quantize

OP = Degradation(2)
PRIOR = GaussianKernelPrior.truth(2)


@pytest.fixture
def x(gen):
    return 0.2 + 0.6 * torch.rand(1, 3, 65, 66, generator=gen)


def test_without_noise_and_rounding_y_is_the_operator(x):
    image = degrade(x, OP, PRIOR, how=Quantize.NONE)
    assert torch.equal(image.x, x[..., :64, :])
    assert torch.equal(image.y, OP(image.x, image.kernel))
    assert image.y.shape == (1, 3, 32, 33)


def test_a_given_kernel_is_used(x):
    k = PRIOR.sample(1, generator=generator(9))
    image = degrade(x, OP, k, seed=1, how=Quantize.NONE)
    assert torch.equal(image.kernel, k) and torch.equal(image.y, OP(image.x, k))


def test_noise_is_gaussian_of_the_asked_level_and_keeps_the_kernel(x):
    clean, noisy = (degrade(x, OP, PRIOR, noise_std=s, seed=4, how=Quantize.NONE) for s in (0.0, 0.0392))
    assert torch.equal(clean.kernel, noisy.kernel)
    n = (noisy.y - clean.y).double()
    assert abs(float(n.mean())) < 5 * 0.0392 / math.sqrt(n.numel())
    assert float(n.std()) == pytest.approx(0.0392, rel=5 / math.sqrt(2 * n.numel()))
    assert float((n.abs() < 0.0392).double().mean()) == pytest.approx(0.6827, abs=5 * math.sqrt(0.22 / n.numel()))


def test_the_noise_does_not_depend_on_the_kernel_draw(x):
    k = PRIOR.sample(1, generator=generator(9))
    noises = [
        degrade(x, OP, kernel, noise_std=0.1, seed=4, how=Quantize.NONE).y
        - degrade(x, OP, kernel, seed=4, how=Quantize.NONE).y
        for kernel in (k, PRIOR)
    ]
    torch.testing.assert_close(*noises, rtol=0, atol=1e-6)


def test_seeds_decide(x):
    a, b, c = (degrade(x, OP, PRIOR, noise_std=0.1, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.y, b.y) and torch.equal(a.kernel, b.kernel)
    assert not torch.equal(a.kernel, c.kernel)


def test_quantisation_rules():
    y = torch.tensor([-0.2, 0.0, 10.2, 10.5001, 10.9, 11.0, 255.0, 300.0]) / 255
    assert (quantize(y, Quantize.ROUND) * 255).round().tolist() == [0, 0, 10, 11, 11, 11, 255, 255]
    assert (quantize(y, Quantize.TRUNCATE) * 255).round().tolist() == [0, 0, 10, 10, 10, 11, 255, 255]
    assert quantize(y, Quantize.NONE) is y


def test_truncation_keeps_values_that_are_8_bit_already():
    levels = torch.arange(256.0) / 255
    for how in Quantize:
        assert torch.equal((quantize(levels, how) * 255).round(), torch.arange(256.0))


def test_truncation_costs_half_a_grey_level_on_average(x):
    plain = degrade(x, OP, PRIOR, how=Quantize.NONE).y
    lost = {how: (plain - degrade(x, OP, PRIOR, how=how).y) * 255 for how in (Quantize.ROUND, Quantize.TRUNCATE)}
    error = 5 / math.sqrt(12 * plain.numel())
    assert abs(float(lost[Quantize.ROUND].mean())) < error
    assert float(lost[Quantize.TRUNCATE].mean()) == pytest.approx(0.5, abs=error)


@pytest.mark.parametrize("scale", SCALES)
def test_under_valid_padding_the_truth_is_the_picture_that_y_shows(scale, gen):
    op = Degradation(scale, padding=Padding.VALID)
    image = degrade(torch.rand(1, 1, 64, 71, generator=gen), op, GaussianKernelPrior.truth(scale))
    h, w = image.y.shape[-2:]
    assert abs(image.x.shape[-2] - scale * h) < scale and abs(image.x.shape[-1] - scale * w) < scale


@pytest.mark.parametrize("level", [-0.1, float("nan"), float("inf")])
def test_impossible_noise_levels_are_refused(level, x):
    with pytest.raises(ValueError, match="noise level"):
        degrade(x, OP, PRIOR, noise_std=level)


def test_images_smaller_than_the_scale_are_refused():
    with pytest.raises(ValueError, match="too small for scale 8"):
        degrade(torch.zeros(1, 1, 7, 20), Degradation(8), GaussianKernelPrior.truth(8))


def test_seeded_puts_the_global_state_back():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    with seeded(7):
        inside = torch.rand(4)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(7)
    assert torch.equal(inside, torch.rand(4))


def test_seeded_puts_the_global_state_back_after_an_error():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError), seeded(7):
        torch.rand(4)
        raise RuntimeError
    assert torch.equal(before, torch.random.get_rng_state())


def test_generators_and_drawn_seeds_are_reproducible_and_differ():
    assert draw_seed(generator(1)) == draw_seed(generator(1)) != draw_seed(generator(2))
    source = generator(1)
    assert len({draw_seed(source) for _ in range(20)}) == 20


def test_kernel_and_noise_have_streams_of_their_own():
    """torch keeps the low 32 bits of a seed only: an offset of 2^32 would give both the same numbers."""
    x, seed = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)), 4
    kernel = PRIOR.sample(1, generator=generator(seed))
    clean, noisy = (degrade(x, OP, kernel, noise_std=s, seed=seed, how=Quantize.NONE).y for s in (0.0, 1.0))
    own = torch.randn(clean.shape, generator=generator(seed))
    assert abs(float(torch.corrcoef(torch.stack([(noisy - clean).flatten(), own.flatten()]))[0, 1])) < 5 / 1024**0.5


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_torch_would_cut_are_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        generator(seed)


def test_valid_padding_cuts_the_truth_to_what_the_operator_explains():
    op = Degradation(4, padding=Padding.VALID)
    test = degrade(
        torch.rand(1, 1, 100, 90, generator=torch.Generator().manual_seed(0)), op, GaussianKernelPrior.truth(4)
    )
    assert test.x.shape[-2:] == tuple(4 * n for n in test.y.shape[-2:])
    with pytest.raises(ValueError, match="smaller than the kernel"):
        degrade(torch.rand(1, 1, 12, 40), op, GaussianKernelPrior.truth(4))
