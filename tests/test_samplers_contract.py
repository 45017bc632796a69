"""What every sampler promises: pure steps, an invariant density, shapes, one clear line for bad input."""

import dataclasses
import math

import pytest
import torch
from scipy import stats
from targets import CorrelatedGaussian, LogGamma

from blindsr.posteriors.base import value_and_gradient
from blindsr.samplers import SAMPLERS, Hmc, Mala, RandomWalk, Sgld, Smc, Tempering, metropolis, sample
from blindsr.samplers.base import State, Transition
from blindsr.samplers.exchange import TemperingTransition
from blindsr.samplers.hmc import HmcTransition
from blindsr.samplers.mala import MalaTransition
from blindsr.samplers.metric import Metric, metric_of
from blindsr.samplers.metropolis import value_only
from blindsr.samplers.rwm import RandomWalkTransition
from blindsr.testing import ContractError, check_sampler

F64 = torch.float64
GAUSSIAN, SKEWED = CorrelatedGaussian(dim=5), LogGamma(counts=(1, 3))
KERNELS = ["rwm", "rwm-diagonal", "mala", "hmc", "tempering"]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def scalar(x):
    return torch.tensor(x, dtype=F64)


def kernel(name, target):
    """A sampler with fixed tuning, at steps large enough for the acceptance rule to matter."""
    draws = target.exact(4000, generator=gen(9))
    dense, diagonal = metric_of(torch.cov(draws.T)), metric_of(draws.var(0))
    if name.startswith("rwm"):
        return RandomWalkTransition(value_only(target), diagonal if name.endswith("diagonal") else dense, scalar(0.9))
    if name == "mala":
        return MalaTransition(value_and_gradient(target), dense, scalar(1.2), reach=1.0)
    if name == "hmc":
        return HmcTransition(value_and_gradient(target), dense, scalar(1.1), length=2.0)
    blocks = Metric(torch.stack([dense.factor, dense.factor * 1.5]))
    return TemperingTransition(
        target, torch.tensor([1.0, 0.4, 0.0], dtype=F64), blocks, torch.tensor([1.1, 0.9], dtype=F64), 2.0
    )


def exact_state(name, target, n, seed=0):
    """Exact draws on every rung."""
    sampler = kernel(name, target)
    if name != "tempering":
        return sampler, sampler.init(target.exact(n, generator=gen(seed)))
    rungs = [target.tempered_exact(float(b), n, generator=gen(seed + i)) for i, b in enumerate(sampler.betas)]
    return sampler, sampler.init_rungs(torch.cat(rungs))


def smallest_p(position, target, seed=77):
    """Smallest p-value, Bonferroni-adjusted: each marginal, and the log density against that of exact draws."""
    p = [stats.kstest(position[:, j].numpy(), m.cdf).pvalue for j, m in enumerate(target.marginals())]
    exact = target.log_prob(target.exact(20000, generator=gen(seed)))
    p.append(stats.ks_2samp(target.log_prob(position).numpy(), exact.numpy()).pvalue)
    return min(p) * len(p)


def after_steps(name, target, n=4000, steps=6, seed=0):
    sampler, state = exact_state(name, target, n, seed)
    g = gen(seed + 50)
    for _ in range(steps):
        state, info = sampler.step(state, g)
    return state, info


CASES = [(n, GAUSSIAN) for n in KERNELS] + [(n, SKEWED) for n in KERNELS if n != "tempering"]
IDS = [f"{n}-{type(t).__name__}" for n, t in CASES]


@pytest.mark.parametrize(("name", "target"), CASES, ids=IDS)
def test_exact_draws_stay_exact(name, target):
    state, info = after_steps(name, target)
    n = 4000
    assert 0.2 < float(info.acceptance.mean()) < 0.97
    start = exact_state(name, target, n)[1].position[:n]
    moved = (state.position[:n] - start).square().mean() / (2 * start.var(0).mean())
    assert float(moved) > 0.2
    assert smallest_p(state.position[:n], target) > 1e-3


@pytest.mark.parametrize(("name", "target"), CASES, ids=IDS)
def test_the_same_check_catches_a_rule_that_always_accepts(name, target, monkeypatch):
    def broken(log_ratio, generator):
        return torch.ones_like(log_ratio, dtype=torch.bool), log_ratio.clamp_max(0).exp()

    monkeypatch.setattr(metropolis, "accept", broken)
    state, _ = after_steps(name, target)
    assert not smallest_p(state.position[:4000], target) > 1e-3


def test_tempered_rungs_stay_exact():
    state, _ = after_steps("tempering", GAUSSIAN)
    warm = state.position[4000:8000]
    exact = GAUSSIAN.tempered_exact(0.4, 20000, generator=gen(5))
    assert min(stats.ks_2samp(warm[:, j].numpy(), exact[:, j].numpy()).pvalue for j in range(5)) * 5 > 1e-3


def test_zero_density_beyond_an_edge_keeps_hmc_exact():
    """Gamma(3) on z > 0, not a number elsewhere."""

    class Gamma:
        names = ("z",)

        def log_prob(self, z):
            return (2 * z.log() - z)[:, 0]

    g = gen(1)
    hmc = HmcTransition(value_and_gradient(Gamma()), Metric(torch.tensor([1.7], dtype=F64)), scalar(0.9), length=2.0)
    start = torch.from_numpy(stats.gamma(3).rvs((6000, 1), random_state=1))
    state, lost = hmc.init(start), 0
    for _ in range(6):
        state, info = hmc.step(state, g)
        lost += int((info.acceptance == 0).sum())
    assert lost > 0 and float(state.position.min()) > 0
    assert stats.kstest(state.position[:, 0].numpy(), stats.gamma(3).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", KERNELS)
def test_a_step_is_pure(name):
    sampler, state = exact_state(name, GAUSSIAN, 7)
    assert isinstance(sampler, Transition)
    before = state.position.clone()
    (a, info_a), (b, info_b) = sampler.step(state, gen(3)), sampler.step(state, gen(3))
    assert torch.equal(state.position, before)
    assert torch.equal(a.position, b.position) and torch.equal(info_a.energy, info_b.energy)
    assert not torch.equal(a.position, sampler.step(state, gen(4))[0].position)
    assert a.position.dtype == F64 and not a.position.requires_grad
    for value in (info_a.acceptance, info_a.accepted, info_a.divergent, info_a.energy):
        assert value.shape == (7,)
    expected = GAUSSIAN.log_prob(a.position[:7])
    torch.testing.assert_close(a.log_prob[:7], expected)
    if a.gradient is not None:
        torch.testing.assert_close(a.gradient[:7], value_and_gradient(GAUSSIAN)(a.position[:7])[1])


def test_mala_is_one_leapfrog_step():
    mala = dataclasses.replace(kernel("mala", SKEWED), reach=math.inf)
    hmc = HmcTransition(mala.density, mala.metric, mala.step_size)
    state = mala.init(SKEWED.exact(50, generator=gen(2)))
    noise = metropolis.normal_like(state.position, gen(3))
    run = hmc.simulate(state, noise, 1)
    _, info = mala.step(state, gen(3))
    torch.testing.assert_close(info.acceptance, (run.energy[0] - run.energy[1]).clamp_max(0).exp())
    accepted = info.accepted
    torch.testing.assert_close(mala.step(state, gen(3))[0].position[accepted], run.end.position[accepted])


def test_mala_cuts_a_long_drift():
    mala = dataclasses.replace(kernel("mala", SKEWED), reach=3.0)
    long, short = torch.tensor([[50.0, -80.0]], dtype=F64), torch.tensor([[0.1, 0.2]], dtype=F64)
    assert float(mala.drift(long).norm()) == pytest.approx(math.sqrt(2) + 3)
    torch.testing.assert_close(mala.drift(short), mala.metric.inward(short))
    assert float(torch.cosine_similarity(mala.drift(long), mala.metric.inward(long))) == pytest.approx(1)


def leapfrog():
    target = SKEWED
    metric = Metric(torch.tensor([[0.8, 0.0], [0.3, 0.5]], dtype=F64))
    hmc = HmcTransition(value_and_gradient(target), metric, scalar(0.2))
    z = target.exact(40, generator=gen(3))
    return hmc, hmc.init(z), metropolis.normal_like(z, gen(4))


def test_leapfrog_is_reversible():
    hmc, state, momentum = leapfrog()
    there = hmc.simulate(state, momentum, 9)
    back = hmc.simulate(there.end, -there.momentum, 9)
    assert float((there.end.position - state.position).abs().max()) > 0.5
    torch.testing.assert_close(back.end.position, state.position, atol=1e-10, rtol=0)
    torch.testing.assert_close(back.momentum, -momentum, atol=1e-10, rtol=0)


def test_leapfrog_preserves_volume():
    hmc, state, momentum = leapfrog()
    z, p, h = state.position[:1], momentum[:1], 1e-5
    columns = []
    for j in range(4):
        ends = []
        for sign in (1, -1):
            nudge = sign * h * torch.eye(4, dtype=F64)[j : j + 1]
            run = hmc.simulate(hmc.init(z + nudge[:, :2]), p + nudge[:, 2:], 7)
            ends.append(torch.cat([run.end.position, run.momentum], 1)[0])
        columns.append((ends[0] - ends[1]) / (2 * h))
    assert float(torch.linalg.det(torch.stack(columns, 1))) == pytest.approx(1, abs=1e-7)


def test_energy_error_is_of_second_order():
    hmc, state, momentum = leapfrog()
    errors = []
    for halvings in range(3):
        step = 0.1 / 2**halvings
        run = dataclasses.replace(hmc, step_size=scalar(step)).simulate(state, momentum, round(1.0 / step))
        errors.append(float((run.energy[1] - run.energy[0]).abs().mean()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1) and errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_a_hopeless_step_is_divergent_and_rejected():
    hmc = dataclasses.replace(kernel("hmc", SKEWED), step_size=scalar(60.0), length=600.0)
    state = hmc.init(SKEWED.exact(20, generator=gen(1)))
    new, info = hmc.step(state, gen(2))
    assert bool(info.divergent.all()) and not bool(info.accepted.any())
    assert torch.equal(new.position, state.position) and bool(torch.isfinite(info.energy).all())


EXACT = [name for name, sampler in SAMPLERS.items() if sampler.valid]
SMALL = {"chains": 3, "draws": 12, "warmup": 25, "thin": 2}


@pytest.mark.parametrize("name", EXACT)
def test_chains_have_their_shapes_and_a_seed_decides(name):
    torch.manual_seed(1)
    world = torch.random.get_rng_state()
    small = SMALL | {"thin": 1, "draws": 6} if name == "pyro-nuts" else SMALL
    n, thin = small["draws"], small["thin"]
    a, b = (sample(GAUSSIAN, name, generator=gen(8), **small) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), world)
    other = sample(GAUSSIAN, name, generator=gen(9), **small)
    assert torch.equal(a.draws, b.draws) and not torch.equal(a.draws, other.draws)
    assert a.draws.shape == (3, n, 5) and a.draws.dtype == F64 and a.names == GAUSSIAN.names
    for value in (a.log_prob, a.acceptance, a.energy, a.divergent):
        assert value.shape == (3, n)
    assert a.divergent.dtype == torch.bool and a.step_size.shape == (3,) and a.sampler == name
    assert bool(((a.acceptance >= 0) & (a.acceptance <= 1)).all())
    torch.testing.assert_close(a.log_prob, GAUSSIAN.log_prob(a.draws.flatten(0, 1)).reshape(3, n))
    assert (a.warmup, a.thin) == ((0, 1) if name == "smc" else (25, thin))
    assert a.gradients > 0 and a.seconds > 0


@pytest.mark.parametrize("name", EXACT)
def test_gradients_are_counted(name):
    """Rows of every call of the density, but for searches of a first step and starts."""
    rows = 0

    class Counting(CorrelatedGaussian):
        def log_likelihood(self, z):
            nonlocal rows
            rows += len(z)
            return super().log_likelihood(z)

    size = SMALL if name == "pyro-nuts" else SMALL | {"draws": 60, "warmup": 60}
    chains = sample(Counting(dim=5), name, generator=gen(8), **size)
    assert chains.gradients == pytest.approx(rows, rel=0.25 if name != "pyro-nuts" else 0.01)


class Clock:
    """A deadline that passes at the n-th look."""

    def __init__(self, looks):
        self.looks = looks

    def __call__(self):
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize("name", ["rwm", "mala", "hmc", "tempering"])
def test_deadline_keeps_the_draws_so_far(name):
    whole = sample(GAUSSIAN, name, generator=gen(8), **SMALL)
    part = sample(GAUSSIAN, name, generator=gen(8), deadline=Clock(25 + 5), **SMALL)
    assert part.draws.shape == (3, 5, 5) and torch.equal(part.draws, whole.draws[:, :5])
    assert part.acceptance.shape == (3, 5)


@pytest.mark.parametrize("name", EXACT)
def test_deadline_before_the_first_draw_leaves_none(name):
    chains = sample(GAUSSIAN, name, generator=gen(8), deadline=Clock(1), **SMALL)
    assert chains.draws.shape == (3, 0, 5) and chains.log_prob.shape == (3, 0)


@pytest.mark.parametrize(("name", "looks"), [("pyro-nuts", 49 + 10), ("smc", 60)])
def test_deadline_leaves_out_unfinished_chains(name, looks):
    size = SMALL | {"chains": 30}
    chains = sample(GAUSSIAN, name, generator=gen(8), deadline=Clock(looks), **size)
    done = len(chains.draws)
    assert 0 < done < 30 and chains.step_size.shape == (done,)
    if name == "smc":
        whole = sample(GAUSSIAN, name, generator=gen(8), **size)
        assert torch.equal(chains.draws, whole.draws[:done])


def test_every_draw_of_a_thinned_run_is_one_of_the_whole():
    thick = sample(GAUSSIAN, "hmc", generator=gen(8), **SMALL | {"thin": 1, "draws": 24})
    thin = sample(GAUSSIAN, "hmc", generator=gen(8), **SMALL)
    assert torch.equal(thin.draws, thick.draws[:, 1::2])
    torch.testing.assert_close(thin.acceptance, thick.acceptance.reshape(3, 12, 2).mean(2))


class Bare:
    """A posterior density alone."""

    names = ("a", "b")

    def log_prob(self, z):
        return -0.5 * z.square().sum(1)

    def initial(self, n, *, generator):
        return torch.randn(n, 2, generator=generator, dtype=F64)


def test_what_is_no_sampler():
    with pytest.raises(ValueError, match="sampler 'gibbs': unknown; choose from rwm, mala, hmc, tempering, smc, pyro-"):
        sample(GAUSSIAN, "gibbs", generator=gen())
    with pytest.raises(TypeError, match=r"the class Hmc is no sampler; give an object such as Hmc\(\), or a name"):
        sample(GAUSSIAN, Hmc, generator=gen())


def test_a_sampler_and_its_name_give_the_same_draws():
    for sampler in (RandomWalk(), Mala(), Hmc(), Tempering(), Smc()):
        by_object, by_name = (sample(GAUSSIAN, s, generator=gen(8), **SMALL) for s in (sampler, sampler.name))
        assert torch.equal(by_object.draws, by_name.draws)


def test_settings_reach_the_sampler():
    """A higher acceptance wants a smaller step; max_steps bounds the trajectories."""
    size = {"chains": 8, "draws": 40, "warmup": 150, "covariance": GAUSSIAN.covariance}
    for kind in (RandomWalk, Mala, Hmc):
        low, high = (sample(GAUSSIAN, kind(acceptance=a), generator=gen(1), **size).tuning for a in (0.2, 0.8))
        assert high["step_size"] < 0.9 * low["step_size"]
    assert sample(GAUSSIAN, Hmc(max_steps=1), generator=gen(1), **size).tuning["steps_mean"] == 1.0
    for bad in (lambda: Mala(acceptance=1.0), lambda: Tempering(acceptance=0.0)):
        with pytest.raises(ValueError, match="must lie between 0 and 1"):
            bad()


def test_a_target_without_gradient():
    class Rounded(Bare):
        def log_prob(self, z):
            return super().log_prob(z).detach()

    with pytest.raises(ValueError, match=r"'hmc': Rounded.log_prob has no gradient in z; choose .* needs none: rwm$"):
        sample(Rounded(), Hmc(), generator=gen(), **SMALL)
    assert sample(Rounded(), RandomWalk(), generator=gen(), **SMALL).draws.shape == (3, 12, 2)


def test_numbers_out_of_range():
    for field, least in (("chains", 1), ("draws", 1), ("warmup", 0), ("thin", 1)):
        with pytest.raises(ValueError, match=f"{field} {least - 1}: must be at least {least}"):
            sample(GAUSSIAN, generator=gen(), **{field: least - 1})


@pytest.mark.parametrize("name", ["rwm", "mala", "hmc", "tempering", "pyro-nuts"])
@pytest.mark.parametrize("bad", [math.nan, 1e200])
def test_a_start_of_zero_density_names_its_chain(name, bad):
    start = GAUSSIAN.exact(3, generator=gen())
    start[1, 2] = bad
    with pytest.raises(ValueError, match="chain 1 starts where the log density is not finite; give it another start"):
        sample(GAUSSIAN, name, chains=3, initial=start, generator=gen())


@pytest.mark.parametrize("name", ["tempering", "smc"])
def test_a_posterior_alone_cannot_be_tempered(name):
    line = f"sampler '{name}': Bare has no log_prior, log_likelihood, sample_prior; choose a sampler that needs"
    with pytest.raises(ValueError, match=line):
        sample(Bare(), name, generator=gen())
    assert sample(Bare(), "hmc", generator=gen(), **SMALL).draws.shape == (3, 12, 2)


@pytest.mark.parametrize(
    ("covariance", "line"),
    [
        (torch.eye(4), r"covariance: shape \(4, 4\), but \(5, 5\) is needed"),
        (-torch.eye(5), "covariance: the matrix is not positive definite; add to its diagonal, or leave it out"),
        (torch.full((5, 5), math.nan), "covariance: every entry must be finite"),
        (torch.zeros(5), "covariance: every variance must be finite and above 0"),
    ],
)
def test_bad_covariance(covariance, line):
    with pytest.raises(ValueError, match=line):
        sample(GAUSSIAN, covariance=covariance, generator=gen())


def test_bad_initial():
    with pytest.raises(ValueError, match=r"initial: shape \(2, 5\), but \(3, 5\) is needed"):
        sample(GAUSSIAN, chains=3, initial=torch.zeros(2, 5), generator=gen())


def test_smc_needs_some_likelihood():
    class Impossible(CorrelatedGaussian):
        def log_likelihood(self, z):
            return super().log_likelihood(z) - torch.inf

    with pytest.raises(ValueError, match="no draw from the prior has a likelihood above zero; draw more particles"):
        sample(Impossible(), "smc", chains=1, draws=10, generator=gen())


def test_state_without_gradient_is_enough_for_a_random_walk():
    sampler = kernel("rwm", GAUSSIAN)
    z = GAUSSIAN.exact(3, generator=gen())
    state, _ = sampler.step(State(z, GAUSSIAN.log_prob(z)), gen(1))
    assert state.gradient is None


class White:
    """Eighty independent standard normals."""

    names = tuple(f"z_{j}" for j in range(80))

    def log_prob(self, z):
        return -0.5 * z.square().sum(1)

    def initial(self, n, *, generator):
        return torch.randn(n, 80, generator=generator, dtype=torch.float64)


def test_nuts_is_not_halted_by_a_dense_mass_learned_from_few_draws():
    """With a dense mass matrix after 80 draws this takes 28,000 gradients."""
    chains = sample(White(), "pyro-nuts", chains=1, draws=20, warmup=80, generator=gen(0))
    assert chains.gradients < 3000


@pytest.mark.parametrize("name", ["mala", "smc", "sgld", "psgld", "network-langevin"])
def test_samplers_pass_the_check_for_users(name):
    check_sampler(SAMPLERS[name])


def test_the_check_for_users_finds_a_biased_sampler():
    class Langevin(Sgld):
        """SGLD at a large step that claims to be valid."""

        valid = True

    with pytest.raises(ContractError, match=r"the variance of z_. is off by .* standard errors"):
        check_sampler(Langevin(0.1))
    with pytest.raises(ContractError, match="a sampler is an object"):
        check_sampler(Langevin)
