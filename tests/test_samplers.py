"""Exact samplers recover known targets, within Monte Carlo errors that ArviZ measures; a broken rule does not."""

import math

import numpy as np
import pytest
import torch
from targets import CorrelatedGaussian, Funnel, LogGamma, TwoModes

from blindsr.samplers import SAMPLERS, metropolis, sample

LEAST_ESS = 400


def series_error(series):
    """Standard error of the mean of series (chains, draws), and its effective sample size."""
    import arviz

    ess = float(arviz.ess(series, method="mean"))
    within = float(series.std()) / math.sqrt(ess)
    between = float(series.mean(1).std(ddof=1)) / math.sqrt(len(series))
    return max(within, between), ess


def check_recovery(chains, target, *, limit=4.5):
    """Mean, variance, third moment of every coordinate with a known marginal, in units of their standard errors."""
    draws = chains.draws.numpy()
    assert np.abs(draws).max() < 1e4, "a chain ran away: its mean says nothing"
    for j, marginal in enumerate(target.marginals()):
        mean, var = marginal.mean(), marginal.std() ** 2
        third = marginal.moment(3) - 3 * mean * marginal.moment(2) + 2 * mean**3
        centred = draws[:, :, j] - mean
        for power, truth in ((1, 0.0), (2, var), (3, third)):
            series = centred**power
            error, ess = series_error(series)
            assert ess > LEAST_ESS, f"coordinate {j}, power {power}: effective sample size {ess:.0f} says nothing"
            gap = abs(series.mean() - truth) / error
            assert gap < limit, f"coordinate {j}, power {power}: {series.mean()} for {truth}, {gap:.1f} standard errors"


SIZES = {
    "rwm": {"chains": 32, "draws": 1500, "warmup": 500, "thin": 2},
    "mala": {"chains": 32, "draws": 1000, "warmup": 400},
    "hmc": {"chains": 16, "draws": 600, "warmup": 300},
    "tempering": {"chains": 16, "draws": 250, "warmup": 150},
    "smc": {"chains": 12, "draws": 1000},
    "pyro-nuts": {"chains": 2, "draws": 900, "warmup": 150},
}
UNIMODAL = {"gaussian": CorrelatedGaussian(), "skewed": LogGamma(counts=(0, 1, 5))}


def test_every_sampler_is_tested():
    assert SIZES.keys() == {name for name, sampler in SAMPLERS.items() if sampler.valid}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("target", UNIMODAL)
def test_recovers_moments(name, target):
    chains = sample(UNIMODAL[target], name, generator=torch.Generator().manual_seed(1), **SIZES[name])
    assert chains.valid
    check_recovery(chains, UNIMODAL[target])


@pytest.mark.parametrize("name", ["rwm", "mala", "hmc"])
def test_always_accepting_fails_the_same_check(name, monkeypatch):
    true_rule = metropolis.accept

    def broken(log_ratio, generator):
        accepted, acceptance = true_rule(log_ratio, generator)
        return torch.ones_like(accepted), acceptance

    monkeypatch.setattr(metropolis, "accept", broken)
    target = UNIMODAL["gaussian"]
    size = {**SIZES[name], "chains": 8, "draws": 200, "warmup": 100}
    chains = sample(target, name, generator=torch.Generator().manual_seed(1), covariance=target.covariance, **size)
    with pytest.raises(AssertionError, match="standard errors|says nothing"):
        check_recovery(chains, target)


@pytest.mark.slow
def test_tempering_weighs_separated_modes():
    """All chains start in the smaller mode."""
    target = TwoModes()
    start = target.centres[:1].expand(12, -1)
    size = {"chains": 12, "draws": 1000, "warmup": 150, "initial": start}
    chains = sample(target, "tempering", generator=torch.Generator().manual_seed(2), **size)
    check_recovery(chains, target)
    inside = (chains.draws[:, :, 0] < 0).double().numpy()
    error, ess = series_error(inside)
    assert ess > LEAST_ESS and abs(inside.mean() - target.weight) < 4.5 * error
    assert 0.3 < chains.tuning["swap_rate_min"] and chains.tuning["beta_0"] == 1.0


def test_smc_weighs_separated_modes():
    target = TwoModes()
    chains = sample(target, "smc", chains=12, draws=800, generator=torch.Generator().manual_seed(3))
    check_recovery(chains, target)
    inside = (chains.draws[:, :, 0] < 0).double().numpy()
    assert abs(inside.mean() - target.weight) < 4.5 * series_error(inside)[0]


def test_hmc_alone_does_not_cross_between_modes():
    """What tempering and smc are for: chains that start in one mode stay there."""
    target = TwoModes()
    start = target.centres[:1].expand(8, -1)
    gen = torch.Generator().manual_seed(2)
    chains = sample(target, "hmc", chains=8, draws=200, warmup=100, initial=start, generator=gen)
    assert bool((chains.draws[:, :, 0] < 0).all())


@pytest.mark.parametrize("target", [CorrelatedGaussian(), LogGamma(), TwoModes()], ids=["gaussian", "skewed", "modes"])
def test_smc_evidence_matches_the_closed_form(target):
    n = 12
    chains = sample(target, "smc", chains=n, draws=500, generator=torch.Generator().manual_seed(4))
    mean, sd = chains.tuning["log_evidence_mean"], chains.tuning["log_evidence_sd"]
    assert sd < 0.3
    bias = -(sd**2) / 2  # of the logarithm of an unbiased estimate
    assert abs(mean - bias - target.log_evidence) < 4.5 * sd / math.sqrt(n)


def test_no_sampler_claims_the_funnel_hmc_reports_divergences():
    gen = torch.Generator().manual_seed(5)
    chains = sample(Funnel(), "hmc", chains=8, draws=80, warmup=80, generator=gen)
    assert int(chains.divergent.sum()) > 0
    with pytest.raises(AssertionError):
        check_recovery(chains, Funnel())


def test_hmc_in_80_dimensions_with_a_given_covariance():
    target = CorrelatedGaussian(dim=80)
    size = {"chains": 8, "draws": 400, "warmup": 100, "covariance": target.covariance}
    chains = sample(target, "hmc", generator=torch.Generator().manual_seed(6), **size)
    check_recovery(chains, target, limit=5.0)
