"""Posteriors over network weights, and the samplers that are not exact: SGLD, preconditioned SGLD, network Langevin."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import run_script
from scipy import integrate, linalg
from torch.distributions import Normal

from blindsr.generators.kernel import KernelNetwork
from blindsr.likelihood.quadratic import LrErrorForm
from blindsr.operators.degradation import Degradation
from blindsr.operators.kernels import width
from blindsr.posteriors.base import BayesTarget, KernelTarget, Target, value_and_gradient
from blindsr.posteriors.network import FlatNetwork, NetworkTarget
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.random import generator, seeded
from blindsr.samplers import SAMPLERS, NetworkLangevin, PreconditionedSgld, Sgld, sample
from blindsr.samplers.base import Transition
from blindsr.samplers.mcka import WEIGHTS, MonteCarloKernelApproximation
from blindsr.samplers.metric import metric_of
from blindsr.samplers.network_langevin import Form, MonteCarloLoss, NetworkLangevinTransition

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


class Gaussian:
    """N(mean, covariance), as a target."""

    def __init__(self, mean, covariance):
        self.mean, self.covariance = torch.tensor(mean).double(), torch.tensor(covariance).double()
        self.precision = torch.linalg.inv(self.covariance)
        self.names = tuple(f"z_{j}" for j in range(len(self.mean)))

    def log_prob(self, z):
        d = z - self.mean
        return -0.5 * ((d @ self.precision) * d).sum(1)

    def initial(self, n, *, generator):
        return 3 * torch.randn(n, len(self.mean), generator=generator, dtype=torch.float64)


def negative_log_density(target):
    """The loss -log π of a target."""
    evaluate = value_and_gradient(target)
    return lambda position: tuple(-v for v in evaluate(position))


@dataclass(frozen=True, eq=False)
class RandomPull:
    """A random loss for targets without kernels: mean_l ‖m_l - z‖², m_l ~ N(center, diag(std²)), l = 1..n."""

    center: torch.Tensor
    std: torch.Tensor
    n: int = 1

    def __call__(self, position, generator):
        """Losses (n,) and gradients 2 (z - mean_l m_l) (n, dim)."""
        draws = self.center + self.std * torch.randn(self.n, *position.shape, generator=generator, dtype=position.dtype)
        gap = position - draws
        return gap.square().sum(2).mean(0), 2 * gap.mean(0)


def small_case(scale=2, size=20, hidden=(7, 5), inputs=4, noise_variance=1e-3):
    """A network module with its target."""
    operator = Degradation(scale)
    g = generator(1)
    x = torch.rand(1, 3, size, size, generator=g, dtype=torch.float64)
    y = operator(x, GaussianKernelPrior.sampling(scale).sample(1, generator=g).double())
    with seeded(2):
        module = KernelNetwork(operator.kernel_size, hidden, inputs, input_std=3.0)
    network = FlatNetwork.of(module)
    tau = (1.5, 2.0)[: len(hidden)] + (4.0 if hidden else 1.0,)
    form = LrErrorForm.build(operator, x, y + 0.03 * torch.randn(y.shape, generator=g, dtype=torch.float64))
    return module.double(), NetworkTarget(network, form, noise_variance, tau)


def sgld(target, step, stochastic=None):
    """SGLD in the target's own coordinates."""
    return Sgld(step, stochastic).on(value_and_gradient(target))


def psgld(target, step, **settings):
    return PreconditionedSgld(step, **settings).on(value_and_gradient(target))


def dynamics(loss, random_loss, a, b, window=1, interval=1, form=Form.GRADIENT):
    """Network-level Langevin dynamics, by plain gradients unless said otherwise."""
    return NetworkLangevinTransition(loss, random_loss, NetworkLangevin(a, b, window, interval, form))


def drawn(n_kernels=5, prior=None, **settings):
    return MonteCarloKernelApproximation(prior or GaussianKernelPrior.sampling(2), n_kernels, **settings)


def run(sampler, start, warmup, steps, seed=0):
    """Positions (steps, chains, dim) after the warm-up."""
    g, state, kept = generator(seed), sampler.init(start), []
    for i in range(warmup + steps):
        state, info = sampler.step(state, g)
        assert not info.divergent.any() and bool(info.accepted.all())
        if i >= warmup:
            kept.append(state.position)
    return torch.stack(kept)


def mean_and_error(values):
    """Mean of a statistic (steps, chains) and its standard error from the spread of independent chains' means."""
    by_chain = values.mean(0)
    return float(by_chain.mean()), float(by_chain.std() / math.sqrt(len(by_chain)))


# ------------------------------------------------------------------------------------------------ the target


def test_flat_network_is_the_module():
    module, target = small_case()
    phi = FlatNetwork.flatten(module)
    assert phi.shape == (1, target.network.dim) and len(target.names) == len(set(target.names)) == phi.shape[1]
    torch.testing.assert_close(target.kernel(phi), module())
    assert target.names[1] == "weight_1[0,1]" and target.names[-1] == f"bias_3[{module.kernel_size**2 - 1}]"
    two = torch.cat([phi, 2 * phi])
    torch.testing.assert_close(target.kernel(two)[:1], module())
    assert isinstance(target, Target) and isinstance(target, BayesTarget) and isinstance(target, KernelTarget)


def test_flat_network_without_hidden_layers():
    with seeded(0):
        module = KernelNetwork(5, (), 3).double()
    torch.testing.assert_close(FlatNetwork.of(module).kernel(FlatNetwork.flatten(module)), module())


def test_likelihood_gradient_against_autograd_on_the_module():
    """The pullback against autograd through `nn.Module`, both corners of ReLU6 included."""
    module, target = small_case()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(20)
    corners = []
    for layer in module.layers:
        if isinstance(layer, torch.nn.ReLU6):
            layer.register_forward_hook(lambda _, inputs, __: corners.append(inputs[0]))
    loss = target.form(module())
    assert any((v > 6).any() for v in corners) and any((v < 0).any() for v in corners)
    loss.sum().backward()
    reference = torch.cat([p.grad.flatten() for p in module.parameters()])
    error, gradient = target.error_and_gradient(FlatNetwork.flatten(module))
    torch.testing.assert_close(error, loss.detach())
    torch.testing.assert_close(gradient[0], reference, rtol=1e-9, atol=1e-14)


def test_gradient_of_log_density_against_finite_differences():
    _, target = small_case()
    phi = target.sample_prior(3, generator=generator(4))
    value, gradient = value_and_gradient(target)(phi)
    torch.testing.assert_close(value, target.log_prob(phi))
    autograd = torch.func.grad(lambda z: target.log_prob(z).sum())(phi)
    torch.testing.assert_close(gradient, autograd, rtol=1e-8, atol=1e-8)
    direction = torch.randn(phi.shape, generator=generator(5), dtype=torch.float64)
    h = 1e-6
    numeric = (target.log_prob(phi + h * direction) - target.log_prob(phi - h * direction)) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(1), numeric, rtol=1e-5, atol=1e-4)


def test_log_prior_is_the_product_of_normals():
    module, target = small_case()
    phi = target.sample_prior(2, generator=generator(6))
    at, total = 0, torch.zeros(2, dtype=torch.float64)
    fan_in = 0
    for i, p in enumerate(module.parameters()):
        fan_in = p.shape[1] if p.ndim == 2 else fan_in
        part = phi[:, at : at + p.numel()]
        total += Normal(0.0, target.prior_std[i // 2] / math.sqrt(fan_in)).log_prob(part).sum(1)
        at += p.numel()
    torch.testing.assert_close(target.log_prior(phi), total)
    many = target.sample_prior(4000, generator=generator(7)) / target.scales
    assert abs(float(many.square().mean()) - 1) < 5 * math.sqrt(2 / many.numel())
    torch.testing.assert_close(
        target.initial(3, generator=generator(8)), target.sample_prior(3, generator=generator(8))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_variance": 0.0}, "noise variance"),
        ({"prior_std": (1.0, -1.0, 1.0)}, "must be above 0"),
        ({"prior_std": (1.0,)}, "1 prior standard deviations for 3 layers"),
        ({"network": FlatNetwork(torch.zeros(2), (2, 3, 4, 25))}, "makes kernels of 25 pixels, .* takes 121"),
    ],
)
def test_network_target_says_what_is_wrong(change, message):
    _, target = small_case()
    parts = {"network": target.network, "form": target.form, "noise_variance": 1.0, "prior_std": target.prior_std}
    with pytest.raises(ValueError, match=message):
        NetworkTarget(**{**parts, **change})


def test_wrong_row_is_named():
    _, target = small_case()
    with pytest.raises(ValueError, match=rf"\(2, 3\): \(n, {target.network.dim}\) is needed"):
        target.log_prob(torch.zeros(2, 3))


# ------------------------------------------------------------------------------------------------ SGLD


@pytest.mark.parametrize("step", [0.02, 0.3, 1.2])
def test_sgld_variance_has_its_closed_form(step):
    """s²/(1 - ε/4s²) on each axis of a Gaussian: two widths, three steps."""
    sd = torch.tensor([1.0, 0.7], dtype=torch.float64)
    target = Gaussian([0.5, -1.0], torch.diag(sd**2).tolist())
    draws = run(sgld(target, step), target.initial(400, generator=generator(0)), int(8 / step) + 20, 1500)
    for j, s in enumerate(sd):
        mean, error = mean_and_error(draws[:, :, j])
        assert abs(mean - target.mean[j]) < 4 * error
        variance, error = mean_and_error((draws[:, :, j] - target.mean[j]).square())
        expected = s**2 / (1 - step / (4 * s**2))
        assert error < 0.02 * expected
        assert abs(variance - expected) < 4 * error, (step, s, variance, expected, error)


def test_sgld_bias_falls_with_the_step():
    target = Gaussian([0.0], [[1.0]])
    start = target.initial(400, generator=generator(0))
    bias = [float(run(sgld(target, e), start, int(8 / e), 1000).var()) - 1 for e in (2.0, 1.0, 0.5)]
    assert bias[0] > bias[1] > bias[2] > 0.08


def test_sgld_with_stochastic_gradients_has_its_closed_form():
    """Minibatches of 5 of 50 normal data, drawn with replacement: the noise of the gradient widens the draws."""
    data = torch.randn(50, generator=generator(3), dtype=torch.float64)
    s2 = 1 / len(data)  # posterior of a mean under a flat prior, unit noise
    target = Gaussian([float(data.mean())], [[s2]])

    def stochastic(z, g):
        batch = data[torch.randint(0, 50, (5, len(z)), generator=g)]
        return (len(data) * (batch - z[:, 0]).mean(0))[:, None]

    step = 0.02
    noise = len(data) ** 2 * float(data.var(correction=0)) / 5
    expected = (step + step**2 / 4 * noise) / (1 - (1 - step / (2 * s2)) ** 2)
    start = target.initial(400, generator=generator(0))
    draws = run(sgld(target, step, stochastic), start, 200, 1000)
    variance, error = mean_and_error((draws[:, :, 0] - target.mean[0]).square())
    assert error < 0.02 * expected and expected > 2 * s2
    assert abs(variance - expected) < 4 * error


def preconditioned_square(sd, step, decay, damping, steps):
    """E z²/s² of preconditioned SGLD on N(0, s²), started there, and its standard error."""
    target = Gaussian([0.0], [[sd**2]])
    start = sd * torch.randn(400, 1, generator=generator(0), dtype=torch.float64)
    draws = run(psgld(target, step, decay=decay, damping=damping), start, steps // 2, steps)
    return mean_and_error((draws / sd).square()[:, :, 0])


def test_preconditioned_sgld_takes_steps_of_each_coordinates_size():
    """With slow adaptation D is all but fixed at 1/sqrt(E g²) = s²/sqrt(E z²): SGLD of step ε D, for every width."""
    for sd in (0.1, 10.0):
        square, error = preconditioned_square(sd, 0.4 * sd, 0.999, 1e-5, 2000)
        expected = 1.0
        for _ in range(50):  # r = 1/(1 - εD/4s²), D = s/sqrt(r)
            expected = 1 / (1 - 0.4 / (4 * math.sqrt(expected)))
        assert error < 0.01 and abs(square - expected) < 4 * error + 0.005


@pytest.mark.slow
def test_preconditioned_sgld_without_gamma_stays_biased_as_the_step_falls():
    """α = 0 makes D a function of z alone, and the limit of small steps, without Γ, has the density π/D up to a factor.

    π/D = (λ + |z|) exp(-z²/2): wider than π, however small the step. A slow α hides most of that.
    """
    damping = 0.3

    def moment(power):
        return integrate.quad(lambda z: (damping + abs(z)) * z**power * math.exp(-z * z / 2), -9, 9)[0]

    limit = moment(2) / moment(0)
    assert limit > 1.6
    square, error = preconditioned_square(1.0, 0.02, 0.0, damping, 4000)
    assert error < 0.03 and abs(square - limit) < 4 * error + 0.02
    slow, error = preconditioned_square(1.0, 0.02, 0.99, damping, 4000)
    assert 1 < slow < square - 10 * error


def test_whitened_sgld_has_its_closed_form_on_a_correlated_gaussian():
    """In whitened coordinates the variance is 1/(1 - ε/4) times too large in every direction, by default 5 %."""
    target = Gaussian(MEAN, COVARIANCE)
    size = {"chains": 400, "draws": 150, "warmup": 40, "thin": 10, "covariance": target.covariance}
    draws = sample(target, Sgld(), generator=generator(1), **size).draws
    white = metric_of(target.covariance).whiten((draws - target.mean).flatten(0, 1)).view(draws.shape)
    for j, i, expected in ((0, 0, 1.05), (1, 1, 1.05), (0, 1, 0.0)):
        value, error = mean_and_error((white[..., i] * white[..., j]).T)
        assert error < 0.01 and abs(value - expected) < 4 * error


def test_step_size_and_preconditioner_are_checked():
    for make in (lambda: Sgld(0.0), lambda: PreconditionedSgld(-1.0)):
        with pytest.raises(ValueError, match="sgld: step size .* must be above 0"):
            make()
    for change in ({"decay": 1.0}, {"damping": 0.0}, {"data_size": 0.0}):
        with pytest.raises(ValueError, match="0 <= decay < 1"):
            PreconditionedSgld(0.1, **change)


def test_a_start_must_have_a_density():
    with pytest.raises(ValueError, match="chain 1 starts where the log density is not finite"):
        sgld(Gaussian([0.0], [[1.0]]), 0.1).init(torch.tensor([[0.0], [math.inf]], dtype=torch.float64))


def test_chains_of_a_biased_sampler_are_not_valid():
    target, size = Gaussian([0.5], [[1.0]]), {"chains": 3, "draws": 5, "warmup": 2, "thin": 4}
    chains = sample(target, Sgld(0.3), generator=generator(0), **size)
    assert chains.valid is False and chains.draws.shape == (3, 5, 1) and chains.names == target.names
    assert chains.gradients == 3 * (2 + 5 * 4) and float(chains.step_size[0]) == 0.3 and chains.sampler == "sgld"
    torch.testing.assert_close(chains.log_prob, target.log_prob(chains.draws.view(-1, 1)).view(3, 5))
    assert sample(target, "sgld", generator=generator(0), deadline=lambda: True, **size).draws.shape == (3, 0, 1)
    assert {name for name, s in SAMPLERS.items() if not s.valid} == {"sgld", "psgld", "network-langevin"}


@pytest.mark.slow
def test_sgld_goes_to_what_hmc_samples_as_its_step_falls():
    """A posterior over 242 weights: SGLD at ε and ε/2, extrapolated to no step, against exact draws."""
    _, target = small_case(hidden=(), inputs=1, noise_variance=0.3)
    exact = sample(target, "hmc", chains=16, draws=150, warmup=150, generator=generator(3))

    def statistics(chains):
        flat = chains.draws.flatten(0, 1)
        k = target.kernel(flat)
        values = torch.stack([target.log_likelihood(flat), width(k), k.amax((1, 2, 3)), flat.square().mean(1)], 1)
        return values.view(*chains.draws.shape[:2], -1)

    by_chain = [statistics(exact).mean(1)]
    for step in (0.08, 0.04):
        size = {"chains": 32, "draws": 100, "warmup": 50, "thin": 20, "covariance": torch.ones(len(target.names))}
        start = exact.draws[:, -40::20].flatten(0, 1)
        chains = sample(target, Sgld(step), generator=generator(4), initial=start, **size)
        by_chain.append(statistics(chains).mean(1))
    truth, coarse, fine = (v.mean(0) for v in by_chain)
    variance = [v.var(0) / len(v) for v in by_chain]
    error = (variance[0] + variance[1] + 4 * variance[2]).sqrt()
    spread = statistics(exact).flatten(0, 1).std(0)
    assert bool((error < 0.15 * spread).all()), error / spread
    assert bool(((2 * fine - coarse - truth).abs() < 4 * error).all()), (truth, coarse, fine, error)
    assert float((coarse - truth)[0].abs()) > 8 * float(variance[1][0].sqrt())  # at ε itself the bias shows


# ------------------------------------------------------------------------------------------------ network Langevin

MEAN, COVARIANCE = [1.0, -0.5], [[1.0, 0.6], [0.6, 0.8]]
CENTER, STD = torch.tensor([-1.0, 2.0], dtype=torch.float64), torch.tensor([0.5, 1.5], dtype=torch.float64)


def window_map(a, b, window, interval, draws):
    """One period of the dynamics on a Gaussian as φ' = A φ + c + noise; (A, c, covariance of the noise)."""
    h = np.linalg.inv(np.array(COVARIANCE))
    eye, n = np.eye(2), len(MEAN)
    period = math.lcm(window, interval)
    # φ and the window's sum, as affine maps of (φ at the period's start, 1, noises)
    phi = np.concatenate([eye, np.zeros((n, 1 + n * period))], 1)
    total = np.zeros_like(phi)
    for i in range(period):
        gradient = h @ phi
        gradient[:, n] -= h @ np.array(MEAN)
        total = total + gradient
        new = phi.copy()
        if i % interval == 0:
            new -= 2 * b * phi
            new[:, n] += 2 * b * CENTER.numpy()
            new[:, n + 1 + n * i : n + 1 + n * (i + 1)] += 2 * b * np.diag(STD.numpy()) / math.sqrt(draws)
        if (i + 1) % window == 0:
            new -= a * total
            total = np.zeros_like(phi)
        phi = new
    noise = phi[:, n + 1 :]
    return phi[:, :n], phi[:, n], noise @ noise.T


@pytest.mark.parametrize(("window", "interval", "draws"), [(1, 1, 1), (1, 1, 4), (3, 1, 2), (2, 4, 1)])
def test_network_langevin_on_a_gaussian_is_its_autoregression(window, interval, draws):
    a, b = 0.1, 0.05
    matrix, shift, noise = window_map(a, b, window, interval, draws)
    mean = np.linalg.solve(np.eye(2) - matrix, shift)
    covariance = linalg.solve_discrete_lyapunov(matrix, noise)
    if window == interval == 1:  # the closed form of the module's docstring
        h = np.linalg.inv(np.array(COVARIANCE))
        pulled = np.linalg.solve(a * h + 2 * b * np.eye(2), a * h @ MEAN + 2 * b * CENTER.numpy())
        np.testing.assert_allclose(mean, pulled, rtol=1e-10)
    target = Gaussian(MEAN, COVARIANCE)
    sampler = dynamics(negative_log_density(target), RandomPull(CENTER, STD, draws), a, b, window, interval)
    start = target.initial(400, generator=generator(0))
    period = math.lcm(window, interval)
    at = run(sampler, start, 40 * period, 250 * period)[period - 1 :: period].numpy()
    d = at - mean
    for j in range(2):
        m, error = mean_and_error(torch.tensor(at[:, :, j]))
        assert error < 0.02 and abs(m - mean[j]) < 4 * error
        for i in range(2):
            c, error = mean_and_error(torch.tensor(d[:, :, i] * d[:, :, j]))
            assert error < 0.05 * math.sqrt(covariance[i, i] * covariance[j, j])
            assert abs(c - covariance[i, j]) < 4 * error, (i, j, c, covariance, error)


def test_network_langevin_spread_vanishes_with_its_rates():
    """A quarter of both rates: about a quarter of the variance (Langevin's does not change), at the same mean."""
    target = Gaussian(MEAN, COVARIANCE)
    pull = RandomPull(CENTER, STD)
    large, small = (
        run(
            dynamics(negative_log_density(target), pull, r, r / 2),
            target.initial(200, generator=generator(0)),
            int(12 / r),
            800,
        ).flatten(0, 1)
        for r in (0.08, 0.02)
    )
    ratio = large.var(0) / small.var(0)
    assert bool(((3.7 < ratio) & (ratio < 4.9)).all()), ratio
    torch.testing.assert_close(large.mean(0), small.mean(0), rtol=0, atol=0.02)


def test_adam_form_is_torchs_adam():
    """A step on (b/a) L_MC every second time, every P = 3 steps one on the summed ∇L_RE, one Adam for both."""
    _, target = small_case()
    random_loss = MonteCarloLoss(target, drawn(3))
    sampler = dynamics(target.error_and_gradient, random_loss, 1e-2, 3e-2, 3, 2, Form.ADAM)
    start = target.sample_prior(2, generator=generator(0))
    p = torch.nn.Parameter(start.clone())
    adam = torch.optim.Adam([p], lr=1e-2)
    g, window = generator(5), torch.zeros_like(start)
    for i in range(7):
        at = p.detach().clone()
        window = window + target.error_and_gradient(at)[1]
        if i % 2 == 0:
            p.grad = 3 * random_loss(at, g)[1]
            adam.step()
        if i % 3 == 2:
            p.grad, window = window, torch.zeros_like(start)
            adam.step()
    g, state = generator(5), sampler.init(start)
    for _ in range(7):
        state, _ = sampler.step(state, g)
    torch.testing.assert_close(state.position, p.detach(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("proximity", [None, 0.01])
def test_monte_carlo_loss_is_that_of_mcka(name, proximity):
    """Value and gradient against MCKA on the image itself and autograd, for one chain and the same draws."""
    module, target = small_case()
    operator, prior = Degradation(2), GaussianKernelPrior.sampling(2)
    g = generator(1)
    x = torch.rand(1, 3, 20, 20, generator=g, dtype=torch.float64)
    y = operator(x, prior.sample(1, generator=g).double())
    target = NetworkTarget(target.network, LrErrorForm.build(operator, x, y), 1e-4, target.prior_std)
    mcka = MonteCarloKernelApproximation(prior, 4, weights=WEIGHTS[name], proximity=proximity)
    variance = torch.tensor(1e-4, dtype=torch.float64)
    samples, omega = mcka.draw(operator, x, y, module().detach(), variance, generator(9))
    loss = mcka.loss(module(), samples, omega)
    loss.backward()
    ours = MonteCarloLoss(target, mcka)
    value, gradient = ours(FlatNetwork.flatten(module), generator(9))
    torch.testing.assert_close(value[0], loss.detach(), rtol=1e-5, atol=1e-10)
    reference = torch.cat([p.grad.flatten() for p in module.parameters()])
    torch.testing.assert_close(gradient[0], reference, rtol=1e-4, atol=1e-9)


def test_chains_do_not_share_their_draws():
    _, target = small_case()
    loss = MonteCarloLoss(target, drawn(3))
    kernel = target.kernel(target.sample_prior(2, generator=generator(0)))
    samples, omega = loss.draw(kernel, generator(1))
    assert samples.shape == (2, 3, 1, 11, 11) and omega.shape == (2, 3)
    assert float((samples[0] - samples[1]).abs().max()) > 1e-4


def test_noise_level_has_no_say_in_network_langevin():
    """σ² scales the posterior's spread; Eq. 42 with the published weights does not see it."""
    _, target = small_case()
    start = target.sample_prior(2, generator=generator(0))
    ends = []
    for variance in (1e-3, 1e-5):
        other = NetworkTarget(target.network, target.form, variance, target.prior_std)
        sampler = dynamics(other.error_and_gradient, MonteCarloLoss(other, drawn()), 1.0, 10.0)
        ends.append(run(sampler, start, 5, 1)[-1])
    assert torch.equal(*ends) and not torch.equal(ends[0], start)


def test_without_random_loss_it_is_gradient_descent():
    _, target = small_case()
    start = target.sample_prior(1, generator=generator(0))
    sampler = dynamics(target.error_and_gradient, None, 0.5, 0.0)
    state, _ = sampler.step(sampler.init(start), generator(0))
    torch.testing.assert_close(state.position, start - 0.5 * target.error_and_gradient(start)[1])


def test_a_step_of_each_is_pure():
    target = Gaussian([0.0], [[1.0]])
    pull = RandomPull(torch.zeros(1).double(), torch.ones(1).double())
    samplers = [sgld(target, 0.1), psgld(target, 0.1), dynamics(negative_log_density(target), pull, 0.1, 0.1)]
    for sampler in samplers:
        assert isinstance(sampler, Transition)
        state = sampler.init(target.initial(3, generator=generator(0)))
        first, info = sampler.step(state, generator(1))
        second, _ = sampler.step(state, generator(1))
        assert torch.equal(first.position, second.position)
        torch.testing.assert_close(first.log_prob, target.log_prob(first.position))
        torch.testing.assert_close(info.energy, -first.log_prob)


def test_a_lost_chain_is_marked():
    target = Gaussian([0.0], [[1.0]])
    sampler = sgld(target, 10.0)  # above 4 s²: it runs away
    state, divergent = sampler.init(torch.ones(1, 1).double()), False
    for _ in range(600):
        state, info = sampler.step(state, generator(0))
        divergent = divergent or bool(info.divergent.any())
    assert divergent


def test_network_langevin_as_a_sampler():
    """A run of the settings is the transition itself, from the target's starts."""
    _, target = small_case()
    settings = NetworkLangevin(1e-2, 2e-2, mcka=drawn(3))
    size = {"chains": 2, "draws": 4, "warmup": 3}
    chains = sample(target, settings, generator=generator(1), **size)
    assert not chains.valid and chains.sampler == "network-langevin" and chains.draws.shape == (2, 4, len(target.names))
    g = generator(1)
    start = target.initial(32, generator=g)[:2]
    transition = NetworkLangevinTransition(target.error_and_gradient, MonteCarloLoss(target, drawn(3)), settings)
    state = transition.init(start)
    for _ in range(7):
        state, _ = transition.step(state, g)
    assert torch.equal(chains.draws[:, -1], state.position)
    drawing = dataclasses.replace(target, kernel_prior=GaussianKernelPrior.sampling(2))
    assert sample(drawing, "network-langevin", generator=generator(1), **size).draws.shape == chains.draws.shape


def test_network_langevin_says_what_is_wrong():
    for change, message in (
        ({"rate": -1.0}, "rates of at least 0"),
        ({"window": 0}, "window and interval of at least 1"),
        ({"interval": 0}, "window and interval of at least 1"),
        ({"rate": 0.0}, "the rate of Adam must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            NetworkLangevin(**change)
    with pytest.raises(ValueError, match="moves the weights of a kernel network, which Gaussian has not"):
        sample(Gaussian([0.0], [[1.0]]), "network-langevin", generator=generator(0))
    _, target = small_case()
    with pytest.raises(ValueError, match="give a distribution of random kernels, mcka or target.kernel_prior"):
        sample(target, "network-langevin", generator=generator(0))


def test_losses_say_what_is_wrong():
    _, target = small_case()
    with pytest.raises(ValueError, match="kernels have side 19, the network's 11"):
        MonteCarloLoss(target, drawn(prior=GaussianKernelPrior.sampling(4)))


@pytest.mark.slow
def test_study_script_runs_and_repeats_nothing(tmp_path):
    """Every part on a synthetic picture; the report reads the records and draws its figures."""
    out = tmp_path / "r.jsonl"
    script = [BENCHMARKS / "langevin.py", "--quick", "--out", out]
    first = run_script(*script).splitlines()
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(first) == len(records) == len({r["key"] for r in records})
    assert {r.get("part") for r in records} == {"truth", "posterior", "run", "fixed", "sweep", "linear", "published"}
    exact = next(r for r in records if r.get("image") == "true" and r.get("variance") == "published")
    assert 0 < exact["std"][0] < 1 and exact["least_weight"] < 1e-4
    assert run_script(*script) == ""
    tables = run_script(BENCHMARKS / "langevin_report.py", out, "--figures", tmp_path / "figures")
    assert "| HMC (exact)" in tables and "network Langevin, Adam" in tables
    assert len(list((tmp_path / "figures").glob("langevin_*.png"))) == 4
