"""Monte Carlo kernel approximation: weights in closed form, one simulation step by step."""

import math

import numpy as np
import pytest
import torch

from blindsr.operators.degradation import Degradation
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.samplers.mcka import WEIGHTS, MonteCarloKernelApproximation

ERRORS = [0.01, 0.004, 0.02, 0.004001, 0.1]
VARIANCE, N = 3e-4, 48


def published(errors):
    gaps = [e - min(errors) for e in errors]
    p = [g / (sum(gaps) + 1e-5) for g in gaps]
    return [-((1 - q) ** 2) * math.log(q + 1e-3) for q in p]


def inverse(errors):
    w = [1 / (e + 1e-5) for e in errors]
    return [v / sum(w) for v in w]


def likelihood(errors):
    """n e is the sum of squares: the density of y is exp(-Σ r² / 2σ²) up to a factor."""
    w = [math.exp(-(N * (e - min(errors))) / (2 * VARIANCE)) for e in errors]
    return [v / sum(w) for v in w]


FORMS = {"published": published, "inverse": inverse, "likelihood": likelihood}


def weigh(name, errors):
    variance = torch.tensor(VARIANCE, dtype=torch.float64)
    return WEIGHTS[name](torch.tensor(errors, dtype=torch.float64), variance, N)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_in_closed_form(name):
    np.testing.assert_allclose(weigh(name, ERRORS), FORMS[name](ERRORS), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("name", WEIGHTS)
def test_smaller_errors_weigh_more(name):
    w = weigh(name, sorted(ERRORS))
    assert torch.all(w[1:] <= w[:-1])


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_equal_or_zero_errors_are_equal_and_finite(name):
    for errors in ([0.01] * 4, [0.0] * 4):
        w = weigh(name, errors)
        assert torch.isfinite(w).all() and torch.allclose(w, w[:1])


@pytest.mark.parametrize("name", ["inverse", "likelihood"])
def test_proper_weights_sum_to_one(name):
    assert float(weigh(name, ERRORS).sum()) == pytest.approx(1)


def test_likelihood_weights_use_the_mean_of_a_variance_map():
    errors = torch.tensor(ERRORS, dtype=torch.float64)
    map_ = torch.tensor([0.5, 1.5], dtype=torch.float64) * VARIANCE
    torch.testing.assert_close(WEIGHTS["likelihood"](errors, map_, N), weigh("likelihood", ERRORS))


def test_self_normalised_weights_give_the_posterior_mean():
    """Importance sampling on a toy with a known answer: u ~ U(0, 1), error (u - 0.3)²; the posterior mean is 0.3."""
    u = torch.rand(20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = WEIGHTS["likelihood"]((u - 0.3).square(), torch.tensor(0.01, dtype=torch.float64), 4)
    std = math.sqrt(0.01 / 4)
    effective = float(1 / w.square().sum())
    assert abs(float((w * u).sum()) - 0.3) < 5 * std / math.sqrt(effective)
    assert float((w * (u - 0.3).square()).sum()) == pytest.approx(std**2, rel=5 * math.sqrt(2 / effective))


def case(gen):
    op = Degradation(2, 7)
    x = torch.rand(1, 3, 12, 14, generator=gen, dtype=torch.float64)
    y = torch.rand(1, 3, 6, 7, generator=gen, dtype=torch.float64)
    kernel = torch.rand(1, 1, 7, 7, generator=gen, dtype=torch.float64)
    return op, x, y, kernel / kernel.sum()


@pytest.mark.parametrize("proximity", [None, 0.01])
@pytest.mark.parametrize("name", WEIGHTS)
def test_one_simulation_step_by_step(name, proximity, gen):
    op, x, y, kernel = case(gen)
    prior = GaussianKernelPrior.truth(2, 7)
    mcka = MonteCarloKernelApproximation(prior, n_kernels=4, weights=WEIGHTS[name], proximity=proximity)
    variance = torch.tensor(VARIANCE, dtype=torch.float64)
    samples, omega = mcka.draw(op, x, y, kernel, variance, torch.Generator().manual_seed(1))
    again = prior.sample(4, generator=torch.Generator().manual_seed(1)).double()
    assert torch.equal(samples, again)
    errors = torch.stack([(op(x, k[None]) - y).square().mean() for k in again])
    expected = WEIGHTS[name](errors, variance, y.numel())
    if proximity is not None:
        near = torch.stack([torch.exp(-(k - kernel[0]).square().sum() / proximity) for k in again])
        expected = expected * near / near.max()
    torch.testing.assert_close(omega, expected, rtol=1e-9, atol=1e-12)
    loss = sum(float(w) * float((k - kernel[0]).square().mean()) for w, k in zip(omega, samples, strict=True))
    assert float(mcka.loss(kernel, samples, omega)) == pytest.approx(loss, rel=1e-9)


def test_proximity_favours_samples_near_the_kernel(gen):
    op, x, y, _ = case(gen)
    prior = GaussianKernelPrior.truth(2, 7)
    samples = prior.sample(6, generator=torch.Generator().manual_seed(1)).double()
    mcka = MonteCarloKernelApproximation(prior, 6, proximity=1e-4)
    _, omega = mcka.draw(op, x, y, samples[2:3], torch.tensor(1e-3), torch.Generator().manual_seed(1))
    plain = MonteCarloKernelApproximation(prior, 6)
    _, free = plain.draw(op, x, y, samples[2:3], torch.tensor(1e-3), torch.Generator().manual_seed(1))
    ratio = omega / free
    assert float(ratio[2]) == pytest.approx(1)
    assert float(ratio[[0, 1, 3, 4, 5]].max()) < 0.9


def test_loss_pulls_the_kernel_towards_the_weighted_mean(gen):
    samples = GaussianKernelPrior.truth(2, 7).sample(5, generator=gen).double()
    omega = torch.tensor([0.1, 0.5, 2.0, 0.0, 0.3], dtype=torch.float64)
    mean = (omega[:, None, None, None] * samples).sum(0, keepdim=True) / omega.sum()
    kernel = mean.clone().requires_grad_()
    MonteCarloKernelApproximation.loss(kernel, samples, omega).backward()
    assert float(kernel.grad.abs().max()) < 1e-15


def test_warmup_draws_so_many_kernels(gen):
    mcka = MonteCarloKernelApproximation(GaussianKernelPrior.sampling(2), warmup_steps=3)
    assert mcka.warmup_kernels(gen).shape == (3, 1, 11, 11)


@pytest.mark.parametrize("bad", [{"n_kernels": 0}, {"n_simulations": 0}, {"warmup_steps": -1}])
def test_impossible_counts_are_refused(bad):
    with pytest.raises(ValueError, match="Monte Carlo step"):
        MonteCarloKernelApproximation(GaussianKernelPrior.truth(2), **bad)


def test_defaults_are_the_published_ones():
    mcka = MonteCarloKernelApproximation(GaussianKernelPrior.sampling(4))
    assert (mcka.n_kernels, mcka.n_simulations, mcka.warmup_steps, mcka.proximity) == (5, 1, 200, None)
    assert mcka.weights is WEIGHTS["published"]
