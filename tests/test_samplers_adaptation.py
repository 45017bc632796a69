"""What warm-up learns, against closed forms; and the parts of tempering and smc that adapt."""

import math

import numpy as np
import pytest
import torch
from targets import CorrelatedGaussian

from blindsr.posteriors.base import value_and_gradient
from blindsr.samplers.adaptation import DualAveraging, Moments, harmonic_mean
from blindsr.samplers.exchange import TemperingTransition
from blindsr.samplers.hmc import HmcTransition
from blindsr.samplers.metric import Metric, metric_of
from blindsr.samplers.smc import next_beta, systematic
from blindsr.samplers.table import sample
from blindsr.samplers.tempering import even_ladder, first_metrics
from blindsr.samplers.warmup import warm_up

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def condition(metric, covariance):
    """Condition number of a covariance in a metric's whitened coordinates: 1 is perfect."""
    half = metric.whiten(covariance)
    return float(torch.linalg.cond(metric.whiten(half.mT.contiguous())))


def warmed(target, *, frame, steps, chains, given=False):
    hmc = HmcTransition(value_and_gradient(target), frame, torch.tensor(0.5, dtype=F64))
    state = hmc.init(target.initial(chains, generator=gen(1)))
    return warm_up(hmc, state, steps=steps, generator=gen(2), acceptance=0.651, given=given)


def test_warm_up_learns_the_covariance_and_a_quarter_period():
    target = CorrelatedGaussian()
    before = condition(Metric(torch.ones(10, dtype=F64)), target.covariance)
    warm = warmed(target, frame=Metric(torch.ones(10, dtype=F64)), steps=400, chains=16)
    assert before > 30 and condition(warm.transition.metric, target.covariance) < 2.5
    assert 1.0 < warm.transition.length < 2.2
    state, acceptance = warm.state, []
    for i in range(100):
        state, info = warm.transition.step(state, gen(100 + i))
        acceptance.append(float(harmonic_mean(info.acceptance)))
    assert np.mean(acceptance) == pytest.approx(0.651, abs=0.15)


def test_wrong_units_are_found_out():
    """A first guess a million times too wide, without a covariance given."""
    target = CorrelatedGaussian()
    warm = warmed(target, frame=Metric(torch.full((10,), 1e6, dtype=F64)), steps=400, chains=16)
    assert condition(warm.transition.metric, target.covariance) < 3


def test_a_good_covariance_is_hardly_touched():
    target = CorrelatedGaussian(dim=60)
    warm = warmed(target, frame=metric_of(target.covariance), steps=150, chains=4, given=True)
    assert condition(warm.transition.metric, target.covariance) < 3


def test_moments_are_those_of_numpy():
    x = CorrelatedGaussian().exact(4000, generator=gen(3)).reshape(100, 40, 10) + 1e4
    moments = Moments.begin(x[0][None], dense=True)
    for row in x:
        moments = moments.update(row[None])
    flat = x.flatten(0, 1).numpy()
    np.testing.assert_allclose(moments.mean[0, 0], flat.mean(0))
    assert float(moments.effective_draws()) == pytest.approx(4000, rel=0.1)
    factor = moments.metric(Metric(torch.ones(10, dtype=F64))).factor
    expected = np.cov(flat.T)
    scale = np.sqrt(np.diag(expected))
    assert np.abs((factor @ factor.mT).numpy() - expected).max() < 0.05 * scale.max() ** 2
    np.testing.assert_allclose(factor.square().sum(1).sqrt(), scale, rtol=0.02)


def test_sticky_chains_count_for_fewer_draws():
    g, rho = gen(4), 0.9
    x, moments = torch.randn(1, 50, 3, generator=g, dtype=F64), None
    for _ in range(400):
        x = rho * x + math.sqrt(1 - rho**2) * torch.randn(1, 50, 3, generator=g, dtype=F64)
        moments = (moments or Moments.begin(x, dense=True)).update(x)
    assert float(moments.effective_draws()) == pytest.approx(20000 * (1 - rho**2) / (1 + rho**2), rel=0.2)


def test_few_draws_leave_the_frame_uncorrelated():
    """20 draws in 60 dimensions say nothing of correlations; the metric stays well conditioned."""
    x = torch.randn(1, 20, 60, generator=gen(5), dtype=F64)
    metric = Moments.begin(x, dense=True).update(x).metric(Metric(torch.ones(60, dtype=F64)))
    assert condition(metric, torch.eye(60, dtype=F64)) < 10


def test_diagonal_moments_of_many_dimensions():
    x = 3 * torch.randn(1, 500, 20, generator=gen(5), dtype=F64)
    metric = Moments.begin(x, dense=False).update(x).metric(Metric(torch.ones(20, dtype=F64)))
    assert metric.factor.shape == (20,)
    np.testing.assert_allclose(metric.factor, x[0].std(0), rtol=0.02)


def test_dual_averaging_finds_the_step_of_a_known_curve():
    """Acceptance exp(-step): the step that gives 0.8 is -log 0.8."""
    tuning = DualAveraging.begin(torch.tensor([5.0, 0.01], dtype=F64), 0.8)
    for _ in range(400):
        tuning = tuning.update((-tuning.log_step.exp()).exp())
    np.testing.assert_allclose(tuning.log_mean.exp(), -math.log(0.8), rtol=0.05)


@pytest.mark.parametrize("shape", [(3,), (3, 3), (2, 3, 3)])
def test_metric_maps_back_and_forth(shape):
    factor = torch.rand(shape, generator=gen(1), dtype=F64) + 0.5
    metric = Metric(factor if len(shape) == 1 else factor.tril())
    w, g = (torch.randn(8, 3, generator=gen(i), dtype=F64) for i in (2, 3))
    torch.testing.assert_close(metric.whiten(metric.outward(w)), w)
    torch.testing.assert_close((metric.outward(w) * g).sum(1), (w * metric.inward(g)).sum(1))


def test_even_ladder_evens_a_known_barrier():
    """For rejections that grow as √β the barrier is known, and the new rungs split it evenly."""
    betas = torch.cat([torch.logspace(0, -4, 30, dtype=F64), torch.zeros(1, dtype=F64)])
    total = 4.0
    barrier = total * betas.sqrt()
    laid = even_ladder(betas, barrier[:-1] - barrier[1:])
    assert len(laid) == 9 and laid[0] == 1 and laid[-1] == 0 and bool((laid.diff() < 0).all())
    np.testing.assert_allclose(total * -laid.sqrt().diff(), 0.5, rtol=0.1)


def test_rungs_stay_within_bounds():
    betas = torch.linspace(1, 0, 12, dtype=F64)
    assert len(even_ladder(betas, torch.zeros(11, dtype=F64))) == 4
    assert len(even_ladder(betas.repeat_interleave(3)[::3], torch.ones(11, dtype=F64))) == 23


def test_first_metrics_are_exact_for_gaussians():
    target = CorrelatedGaussian(dim=4)
    betas = torch.tensor([1.0, 0.3, 0.0], dtype=F64)
    factors = first_metrics(target, betas, target.covariance, gen(1)).factor
    np.testing.assert_allclose(factors[0] @ factors[0].mT, target.covariance, rtol=1e-8)
    precision = 0.3 * target.design.T @ target.design + torch.eye(4, dtype=F64) / target.prior_sd**2
    np.testing.assert_allclose(torch.linalg.inv(factors[1] @ factors[1].mT), precision, rtol=0.2, atol=0.05)


def test_exchange_swaps_by_the_likelihoods():
    """Two chains on three rungs: where the warmer rung fits better they always swap, where much worse never."""
    betas = torch.tensor([1.0, 0.5, 0.0], dtype=F64)
    tempering = TemperingTransition(CorrelatedGaussian(), betas, Metric(torch.ones(2, 1, 1)), torch.ones(2))
    fit = torch.tensor([[-900.0, 0.0], [0.0, -900.0], [-900.0, -9000.0]], dtype=F64)
    order, rejection = tempering.exchange(fit.flatten(), gen(1))
    assert order.reshape(3, 2).tolist() == [[2, 1], [0, 3], [4, 5]] or order.reshape(3, 2)[:, 1].tolist() == [1, 3, 5]
    assert float(rejection[0]) == pytest.approx(0.5)


def test_next_beta_halves_the_effective_sample_size():
    likelihood = 50 * torch.randn(1000, generator=gen(1), dtype=F64)
    beta = next_beta(likelihood, 0.2)
    w = torch.softmax((beta - 0.2) * likelihood, 0)
    assert 0.2 < beta < 1 and float(1 / w.square().sum()) == pytest.approx(500, rel=1e-6)
    assert next_beta(1e-3 * likelihood, 0.2) == 1.0
    likelihood[:700] = -torch.inf
    w = torch.softmax((next_beta(likelihood, 0.0)) * likelihood, 0)
    assert float(1 / w.square().sum()) == pytest.approx(150, rel=1e-6)


def test_systematic_resampling_rounds_the_expected_counts():
    w = torch.softmax(2 * torch.randn(200, generator=gen(1), dtype=F64), 0)
    total = torch.zeros(200, dtype=F64)
    for seed in range(400):
        counts = torch.bincount(systematic(w, gen(seed)), minlength=200)
        assert int(counts.sum()) == 200 and bool(((counts - 200 * w).abs() < 1 + 1e-9).all())
        total += counts
    np.testing.assert_allclose(total / 400, 200 * w, atol=0.12)


def test_a_given_covariance_allows_larger_steps():
    target = CorrelatedGaussian(dim=40)
    size = {"chains": 4, "draws": 50, "warmup": 60}
    given = sample(target, generator=gen(1), covariance=target.covariance, **size)
    blind = sample(target, generator=gen(1), **size)
    assert float(given.step_size[0]) > 1.3 * float(blind.step_size[0])
