"""Calibration tools, on models whose posterior is known exactly, and on posteriors that are wrong in a known way."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import run_script
from scipy import stats
from scipy.signal import lfilter

from blindsr.diagnostics.calibration import (
    Simulations,
    effective_size,
    rank,
    sbc,
    simulate_posteriors,
    thin,
)
from blindsr.diagnostics.calibration_plots import (
    coverage_bars,
    coverage_curves,
    ecdf_differences,
    predictive_histograms,
    rank_histograms,
)
from blindsr.diagnostics.coverage import central_interval, coverage, expected_coverage, predictive_check, tarp
from blindsr.diagnostics.uniformity import (
    EcdfTest,
    binomial_band,
    chi_square,
    clopper_pearson,
    histogram,
    histogram_bins,
    holm,
)
from blindsr.random import generator

DESIGN = torch.tensor([[1.0, 0.5], [0.2, 1.0], [1.0, 1.0]], dtype=torch.float64)
NOISE = 0.7
PRECISION = torch.eye(2, dtype=torch.float64) + DESIGN.T @ DESIGN / NOISE**2
COVARIANCE = torch.linalg.inv(PRECISION)


def draw_prior(g):
    return torch.randn(2, generator=g, dtype=torch.float64)


def simulate(theta, g):
    return DESIGN @ theta + NOISE * torch.randn(3, generator=g, dtype=torch.float64)


def posterior(scale=1.0, shift=0.0, correlated=True, m=99):
    """The conjugate posterior, or one that is wrong."""
    cov = COVARIANCE if correlated else COVARIANCE.diagonal().diag()
    factor = torch.linalg.cholesky(cov)

    def infer(y, g):
        mean = COVARIANCE @ (DESIGN.T @ y) / NOISE**2
        white = torch.randn(m, 2, generator=g, dtype=torch.float64)
        return mean + shift * cov.diagonal().sqrt() + scale * white @ factor.T

    return infer


def log_likelihood(theta, y):
    return {"log_likelihood": -0.5 * ((y - theta @ DESIGN.T) / NOISE).square().sum(1)}


def run(infer, seed=1, n=300, **options):
    return sbc(draw_prior, simulate, infer, n, generator=generator(seed), names=("a", "b"), **options)


def test_exact_posterior_is_uniform():
    found = run(posterior(), summaries=log_likelihood)
    assert found.names == ("a", "b", "log_likelihood")
    assert found.uniform(0.01) and found.dependent < 30
    assert tarp(found.simulations, generator=generator(2)).uniform(0.01)
    covered = expected_coverage(found.simulations)
    assert bool(((covered.rates >= covered.low[:, None]) & (covered.rates <= covered.high[:, None])).all())


@pytest.mark.parametrize("wrong", [{"scale": 0.7}, {"scale": 1.5}, {"shift": 0.4}], ids=str)
def test_wrong_marginals_are_rejected(wrong):
    found = run(posterior(**wrong))
    for verdict in found.tests():
        assert verdict.chi_square < 0.01 or verdict.ecdf < 0.01, verdict
    assert not found.uniform(0.01)


def test_wrong_correlation_is_seen_by_the_likelihood_alone():
    found = run(posterior(correlated=False), summaries=log_likelihood)
    a, b, whole = found.tests()
    assert min(a.chi_square, a.ecdf, b.chi_square, b.ecdf) > 0.01
    assert whole.ecdf < 1e-6


def test_tarp_sees_a_posterior_too_narrow():
    assert not tarp(run(posterior(scale=0.7)).simulations, generator=generator(3)).uniform(0.01)


def test_prior_in_place_of_the_posterior_passes_parameters_and_fails_the_likelihood():
    """Ranks of the parameters cannot see that the data went unused (Modrák et al. 2023)."""
    found = run(lambda y, g: torch.randn(99, 2, generator=g, dtype=torch.float64), summaries=log_likelihood)
    a, b, whole = found.tests()
    assert min(a.chi_square, a.ecdf, b.chi_square, b.ecdf) > 0.01 and whole.ecdf < 1e-6


def test_rejection_rate_is_the_level():
    """Of 400 sets of uniform ranks, about 5 % are rejected at 5 %, by either test."""
    g = np.random.default_rng(5)
    test, low, high = EcdfTest(60, 19), *stats.binom.interval(0.999, 400, 0.05)
    p = np.array([(test.p_value(r), chi_square(r, 19)) for r in g.integers(0, 20, (400, 60))])
    rejected = (p <= 0.05).sum(0)
    assert 0 < rejected[0] <= high and low <= rejected[1] <= high  # the ECDF's statistic is discrete: at most 5 %


def test_ranks_against_brute_force(gen):
    truths, draws = torch.randn(25, 3, generator=gen), torch.randn(25, 12, 3, generator=gen)
    found = rank(Simulations.of(truths, draws, "abc"), generator=gen).ranks
    for i in range(25):
        for j in range(3):
            assert int(found[i, j]) == sum(float(d) < float(truths[i, j]) for d in draws[i, :, j])


def test_ties_are_broken_evenly(gen):
    truths = torch.zeros(4000, 1)
    draws = torch.cat([torch.zeros(4000, 6, 1), -torch.ones(4000, 2, 1), torch.ones(4000, 3, 1)], 1)
    counts = torch.bincount(rank(Simulations.of(truths, draws, "a"), generator=gen).ranks[:, 0], minlength=12)
    assert counts[:2].sum() == counts[9:].sum() == 0
    assert stats.chisquare(counts[2:9].numpy()).pvalue > 0.01


def test_effective_size_and_thinning(gen):
    phi, m = 0.9, 4000
    x = torch.zeros(4, m, dtype=torch.float64)
    for t in range(1, m):
        x[:, t] = phi * x[:, t - 1] + torch.randn(4, generator=gen, dtype=torch.float64)
    exact = 4 * m * (1 - phi) / (1 + phi)
    assert effective_size(x) == pytest.approx(exact, rel=0.2)
    assert effective_size(torch.randn(2, 500, generator=gen)) == pytest.approx(1000, rel=0.25)
    assert effective_size(torch.ones(2, 50)) == 100
    apart = torch.randn(2, 500, generator=gen) + torch.tensor([[0.0], [50.0]])
    assert effective_size(apart) < 10
    kept = thin(torch.arange(200.0).view(2, 100, 1), 10)[:, 0]
    assert kept.diff().unique().tolist() == [20.0] and len(kept) == 10


def test_chains_are_thinned_before_they_are_ranked():
    """A sticky chain around the exact posterior: raw draws fail, thinned ones pass; what is dependent is counted."""

    def sticky(y, g):
        mean = COVARIANCE @ (DESIGN.T @ y) / NOISE**2
        fresh = torch.randn(4000, 2, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(COVARIANCE).T
        steps = lfilter([math.sqrt(1 - 0.95**2)], [1, -0.95], fresh.numpy(), axis=0)
        return mean + torch.from_numpy(steps[100:])

    def short(y, g):
        return sticky(y, g)[:99]

    found = run(sticky)
    assert found.dependent < 30 and found.uniform(0.01)
    found = run(short)
    assert found.dependent == 300 and not found.uniform(0.01)


def test_holm_against_its_definition():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.9])).max() <= 1


def test_binomial_intervals_against_scipy():
    hits = np.array([0, 3, 17, 20])
    low, high = clopper_pearson(hits, 20, 0.9)
    for h, a, b in zip(hits, low, high, strict=True):
        exact = stats.binomtest(int(h), 20).proportion_ci(0.9, method="exact")
        assert (a, b) == pytest.approx((exact.low, exact.high), abs=1e-9)
    low, high = binomial_band(200, np.array([0.5, 0.9]), 0.95)
    expected = [stats.binom.interval(0.95, 200, q) for q in (0.5, 0.9)]
    np.testing.assert_allclose(np.stack([low, high], 1) * 200, expected, atol=1)
    for q, a, b in zip((0.5, 0.9), low, high, strict=True):
        assert stats.binom.cdf(round(b * 200), 200, q) - stats.binom.cdf(round(a * 200) - 1, 200, q) >= 0.95


def test_ecdf_band_holds_what_it_says():
    g = np.random.default_rng(3)
    test = EcdfTest(100, 49)
    low, high = test.band(0.9)
    ecdf = np.stack([test.counts(g.integers(0, 50, 100)) for _ in range(3000)]) / 100
    share = ((ecdf >= low - 1e-12) & (ecdf <= high + 1e-12)).all(1).mean()
    # the exact probability is at least 0.9, and not far above: the statistic is discrete
    assert 0.9 - 4 * math.sqrt(0.09 / 3000) < share < 0.94


def test_ecdf_p_value_against_simulation():
    g = np.random.default_rng(4)
    test = EcdfTest(50, 19)
    ranks = np.sort(g.integers(0, 20, 50))[:50] * 19 // 22  # somewhat low
    tails = test._tails()

    def least(r):
        return tails[np.arange(len(tails)), test.counts(r)].min()

    seen = np.mean([least(g.integers(0, 20, 50)) <= least(ranks) * (1 + 1e-9) for _ in range(4000)])
    assert test.p_value(ranks) == pytest.approx(seen, abs=4 * math.sqrt(seen * (1 - seen) / 4000) + 1e-3)


def test_bins_of_unequal_size_expect_their_share():
    assert histogram_bins(200, 99) == 20 and histogram_bins(300, 63) == 16
    counts, expected = histogram(np.repeat(np.arange(11), 7), 10, 4)
    np.testing.assert_allclose(counts, expected)
    assert chi_square(np.repeat(np.arange(11), 7), 10, 4) == pytest.approx(1)


def test_central_interval_covers_with_few_draws(gen):
    """With 19 draws, the interval from the 1st to the 19th holds the truth with 90 %, for any distribution."""
    draws, truths = (torch.randn(20000, n, 1, generator=gen).exp() for n in (19, 1))
    low, high = central_interval(draws, 0.9)
    assert torch.equal(low, draws.amin(1)) and torch.equal(high, draws.amax(1))
    rate = coverage(truths[:, 0], draws, 0.9).rate
    assert float(rate) == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / 20000))


def test_coverage_of_groups(gen):
    """Cases that fail together make a wider interval than the binomial one; counts are those of a loop."""
    groups = [f"image {i // 10}" for i in range(200)]
    bad = torch.tensor([i // 10 in (3, 7, 8) for i in range(200)])
    truths = torch.where(bad, 5.0, 0.0)[:, None]
    ends = -torch.ones(200, 1), torch.ones(200, 1)
    alone = coverage(truths, ends, 0.9)
    grouped = coverage(truths, ends, 0.9, groups=groups, generator=gen)
    assert float(grouped.rate) == 0.85
    assert grouped.by_group()["image 3"][0].tolist() == [0] and grouped.by_group()["image 0"][0].tolist() == [10]
    assert grouped.by_group()["image 3"][1] == 10 and len(grouped.by_group()) == 20
    assert float(grouped.high - grouped.low) > 2 * float(alone.high - alone.low)
    deviation = math.sqrt(0.85 * 0.15 / 20)  # of the mean of 20 groups that fail or hold as wholes
    assert float(grouped.high - grouped.low) == pytest.approx(2 * 1.96 * deviation, rel=0.2)


def test_predictive_check(gen):
    """A normal model for data with heavy tails: the mean fits, the largest value does not."""
    y = torch.from_numpy(stats.t(2).rvs(200, random_state=1))
    m, sd = float(y.mean()), float(y.std())
    draws = m + sd / math.sqrt(200) * torch.randn(400, 1, generator=gen, dtype=torch.float64)

    def normal(theta, g):
        return theta + sd * torch.randn(200, generator=g, dtype=torch.float64)

    tests = {"mean": torch.mean, "kurtosis": lambda v: ((v - v.mean()) / v.std()).pow(4).mean()}
    found = predictive_check(y, draws, normal, tests, generator=gen)
    p = found.p_values
    assert 0.2 < float(p[0]) < 0.8 and float(p[1]) < 0.01
    assert found.replicated.shape == (400, 2)
    ties = predictive_check(y, draws, normal, {"one": lambda v: torch.ones(())}, generator=gen)
    assert float(ties.p_values) == 0.5


def test_interrupted_run_keeps_what_there_is():
    left = [25]

    def enough():
        left[0] -= 1
        return left[0] == 0

    assert len(run(posterior(), n=100, interrupt=enough).ranks) == 25


def test_figures_say_what_they_show():
    found = run(posterior(scale=0.7), n=60, summaries=log_likelihood)
    covered = coverage(found.simulations.truths, found.simulations.draws, 0.9, names=found.names)
    check = predictive_check(
        torch.zeros(3), found.simulations.draws[0, :, :2], simulate, {"mean": torch.mean}, generator=generator(0)
    )
    figures = [
        (rank_histograms(found), "rank of the truth among 99 draws"),
        (ecdf_differences(found), "rank / (L + 1)"),
        (coverage_curves(expected_coverage(found.simulations)), "nominal coverage"),
        (predictive_histograms(check), "statistic of the data"),
    ]
    for figure, text in figures:
        assert figure.axes[0].get_xlabel() == text
    assert coverage_bars(covered).axes[0].get_ylabel() == "share of intervals that hold the truth"
    assert "log likelihood" in figures[0][0].axes[2].get_title()


@pytest.mark.slow
def test_example(tmp_path):
    script = Path(__file__).parents[1] / "examples" / "calibration.py"
    right = run_script(script, "--simulations", 40, "--output", tmp_path).splitlines()
    wrong = run_script(script, "--simulations", 40, "--careless").splitlines()
    assert right[-1] == "calibrated" and wrong[-1] == "NOT calibrated"
    assert {path.name for path in tmp_path.iterdir()} == {"ranks.png", "ecdf.png", "tarp.png", "coverage.png"}


def bad(infer=None, **options):
    return lambda: run(infer or posterior(), **options)


NAN = torch.tensor(float("nan"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (bad(n=10), "10 simulations are too few to judge: at least 20"),
        (bad(draws=5), "5 posterior draws are too few: at least 9"),
        (bad(draws=200), "infer gave 99 draws in simulation 0: at least 200"),
        (bad(lambda y, g: NAN.expand(99, 2)), "draws or summaries of simulation 0 are not finite"),
        (bad(lambda y, g: torch.zeros(99, 3)), r"infer gave draws \(99, 3\): \(m, 2\) or"),
        (bad(summaries=lambda t, y: {"f": torch.zeros(3)}), r"summary f has shape \(3,\)"),
        (
            lambda: simulate_posteriors(
                draw_prior, simulate, posterior(), 20, generator=generator(0), names=("only one",)
            ),
            "1 names for 2 parameters",
        ),
        (
            lambda: sbc(lambda g: torch.zeros(2, 2), simulate, posterior(), 20, generator=generator(0)),
            r"prior's draw has shape \(2, 2\)",
        ),
        (lambda: Simulations.of(torch.zeros(30, 2), torch.zeros(30, 20, 3), "ab"), "do not fit"),
        (lambda: Simulations.of(NAN.expand(30, 2), torch.zeros(30, 20, 2), "ab"), "truths of simulation 0 are not"),
        (lambda: tarp(run(posterior(), n=20).simulations, generator=generator(0), references=NAN), "references have"),
        (lambda: coverage(torch.zeros(3, 1), torch.zeros(3, 9, 1), 1.5), "level 1.5: a number between 0 and 1"),
        (lambda: coverage(torch.zeros(3, 1), torch.zeros(4, 9, 1), 0.5), "do not fit"),
        (lambda: coverage(torch.zeros(3, 1), NAN.expand(3, 9, 1), 0.5), "not finite"),
        (lambda: coverage(torch.zeros(3, 1), torch.zeros(3, 9, 1), 0.5, groups="ab"), "1 names and 3 groups"),
        (lambda: coverage(torch.zeros(3, 1), torch.zeros(3, 9, 1), 0.5, groups="aab"), "needs a generator"),
        (
            lambda: coverage(torch.zeros(3, 1), torch.zeros(3, 9, 1), 0.5, groups="aaa", generator=generator(0)),
            "one group tells nothing about",
        ),
        (
            lambda: predictive_check(torch.zeros(3), torch.zeros(3, 2), simulate, {}, generator=generator(0)),
            "at least one statistic and 9 draws",
        ),
        (
            lambda: predictive_check(
                torch.zeros(3), torch.zeros(9, 2).double(), simulate, {"t": lambda v: v}, generator=generator(0)
            ),
            "statistic t is not a finite scalar",
        ),
    ],
)
def test_errors_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
