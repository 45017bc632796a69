"""The kernel prior Φ in the objective, the refit of the kernel in a run, and the kernel blocks that they work on."""

import math

import pytest
import torch
from torch import nn

from blindsr.generators.base import Generator
from blindsr.generators.kernel import FixedKernel, KernelNetwork, ParametricKernel, SimplexKernel
from blindsr.likelihood.data_term import GaussianLikelihood
from blindsr.methods.parts import OPTIMIZERS
from blindsr.operators.degradation import Degradation
from blindsr.optimizers.base import Energy, Optimizer, Run, forward
from blindsr.optimizers.meta import MetaLearned
from blindsr.optimizers.plain import Alternating, Joint
from blindsr.optimizers.refit import RefitKernel
from blindsr.posteriors.spectral_laplace import MomentEnergy, SpectralPosterior
from blindsr.priors.base import KernelEnergy
from blindsr.priors.image import NoPrior, Tikhonov
from blindsr.priors.normal import GaussianShape
from blindsr.random import seeded

D = Degradation(2, 9)
FAMILY = GaussianShape(9, 2)
TRUTH = torch.tensor([0.7, 0.4, -0.3], dtype=torch.float64)
START = torch.tensor([0.2, -0.1, 0.2], dtype=torch.float64)
BLOCKS = {
    "parametric": lambda: ParametricKernel(FAMILY, START),
    "network": lambda: KernelNetwork(9, hidden=(50,), inputs=20),
    "simplex": lambda: SimplexKernel(9, D.center),
}


def kernel_of(z):
    return FAMILY.kernel(z[None]).float()


class Picture(Generator):
    """Fixed pixels plus a number that the image block may learn."""

    def __init__(self, x):
        super().__init__()
        self.register_buffer("fixed", x)
        self.level = nn.Parameter(torch.zeros(()))

    def forward(self):
        return self.fixed + self.level


class Near:
    """Φ(k) = strength / 2 Σ (k - target)²."""

    def __init__(self, target, strength):
        self.target, self.strength = target, strength

    def energy(self, kernel):
        return 0.5 * self.strength * (kernel - self.target).square().sum((1, 2, 3))


def true_image(seed=0, channels=1):
    return torch.rand(1, channels, 32, 36, generator=torch.Generator().manual_seed(seed))


def made_energy(x, phi=None, k=None):
    return Energy(D(x, kernel_of(TRUTH) if k is None else k), D, GaussianLikelihood(), NoPrior(), 0.0, phi)


def made_run(x, kernel, *, variance=1e-4, image_lr=0.0, kernel_lr=1e-2):
    image = Picture(x)
    free = list(kernel.parameters())
    return Run(
        image,
        kernel,
        torch.optim.Adam(image.parameters(), lr=image_lr),
        torch.optim.Adam(free, lr=kernel_lr) if free else None,
        torch.as_tensor(variance),
        torch.as_tensor(variance),
        torch.Generator().manual_seed(0),
    )


def block(name):
    with seeded(1):
        return BLOCKS[name]()


def error(k):
    return float((k.detach() - kernel_of(TRUTH)).norm())


# --- Φ in the energy ----------------------------------------------------------------------------------------------


def test_energy_with_a_kernel_prior_is_eq_3_times_two_variances_by_n(gen):
    """(1/2σ²) Σ r² + ρ Ω(x) + Φ(k), times 2σ²/n; of a pass data and the two priors together."""
    rho, variance = 0.7, torch.tensor(0.03)
    x, y, k = true_image(), torch.rand(1, 1, 16, 18, generator=gen), kernel_of(START)
    phi = Near(kernel_of(TRUTH), 40.0)
    energy = Energy(y, D, GaussianLikelihood(), Tikhonov(), rho, phi)
    assert isinstance(phi, KernelEnergy)
    penalty = 20 * float((k - kernel_of(TRUTH)).square().sum())
    eq3 = float((D(x, k) - y).square().sum() / 0.06 + rho * Tikhonov().energy(x)[0]) + penalty
    assert float(energy.kernel(k)) == pytest.approx(penalty, rel=1e-5)
    assert float(energy.weighted_kernel(k, variance)) == pytest.approx(penalty * 0.06 / y.numel(), rel=1e-5)
    done = forward(made_run(x, FixedKernel(k), variance=0.03), energy)
    assert float((done.data + done.prior).detach()) == pytest.approx(eq3 * 0.06 / y.numel(), rel=1e-5)


def test_the_weight_of_phi_goes_by_the_mean_of_a_variance_map():
    k, energy = kernel_of(START), made_energy(true_image(), Near(kernel_of(TRUTH), 40.0))
    spread = torch.linspace(0.01, 0.05, 16 * 18).view(1, 1, 16, 18)
    torch.testing.assert_close(energy.weighted_kernel(k, spread), energy.weighted_kernel(k, spread.mean()))


def test_without_a_kernel_prior_phi_is_zero():
    energy = made_energy(true_image())
    k = kernel_of(START).requires_grad_()
    assert energy.kernel_prior is None
    assert float(energy.kernel(k)) == float(energy.weighted_kernel(k, torch.tensor(1.0))) == 0


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(
    "optimizer",
    [Joint(), MetaLearned(interval=3), Alternating(), RefitKernel(interval=2, first=4)],
    ids=lambda o: type(o).__name__,
)
def test_a_strong_kernel_prior_draws_the_kernel_towards_it(optimizer, name):
    """The data ask for one kernel, Φ for another; without Φ the kernel goes the data's way."""
    x, wanted = true_image(), kernel_of(torch.tensor([-0.3, -0.4, 0.5], dtype=torch.float64))
    gap = {}
    for strength in (0.0, 1e7):
        run = made_run(x, block(name), variance=1e-3, kernel_lr=1e-2)
        energy = made_energy(x, Near(wanted, strength) if strength else None)
        start = float((run.kernel().detach() - wanted).norm())
        for _ in range(100):
            if run.step % 5 == 0:
                optimizer.begin_outer(run, energy)
            optimizer.step(run, energy)
            run.step += 1
        gap[strength] = float((run.kernel().detach() - wanted).norm())
    assert gap[1e7] < 0.9 * start
    assert gap[1e7] < 0.7 * gap[0.0], gap


# --- the refit ----------------------------------------------------------------------------------------------------


def test_refit_is_an_optimizer_of_the_table():
    assert isinstance(RefitKernel(), Optimizer)
    assert isinstance(OPTIMIZERS["refit"].value, RefitKernel)


@pytest.mark.parametrize(("interval", "first"), [(1, 0), (3, 0), (3, 7), (5, 10)])
def test_kernel_is_refitted_every_interval_from_first_on(interval, first):
    x = true_image()
    run, energy = made_run(x, block("parametric"), image_lr=0.03), made_energy(x)
    optimizer, moved, levels = RefitKernel(interval, first), [], [0.0]
    for step in range(16):
        before = run.kernel.z.detach().clone()
        run.image.fixed = x + 0.1 * true_image(step + 1)  # another best kernel at every step
        optimizer.begin_outer(run, energy)
        done = optimizer.step(run, energy)
        assert torch.equal(done.k, FAMILY.kernel(before[None])) and not done.x.requires_grad
        if not torch.equal(run.kernel.z.detach(), before):
            moved.append(step)
        levels.append(float(run.image.level.detach()))
        assert all(p.grad is None for m in (run.image, run.kernel) for p in m.parameters())
        run.step += 1
    assert moved == [s for s in range(16) if s >= first and s % interval == 0]
    assert all(a != b for a, b in zip(levels, levels[1:], strict=False)), "the image steps every time"


def objective(k, x, energy, variance, optimizer):
    """n e / 2σ_e² + Φ, by convolution."""
    e = float((D(x, k) - energy.y).double().square().sum())
    phi = 0.0 if energy.kernel_prior is None else float(energy.kernel_prior.energy(k))
    return e / (2 * (optimizer.error_variance + variance)) + phi


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("prior", [False, True])
@torch.no_grad()
def test_a_refit_lowers_the_composite_objective(name, prior):
    x, wrong = true_image(), true_image(5)
    spectral = SpectralPosterior(FAMILY, TRUTH + 0.3, 50 * torch.eye(3, dtype=torch.float64), 0.0, 0.0)
    energy = made_energy(x, MomentEnergy.of(spectral) if prior else None)
    optimizer = RefitKernel(1, 0, error_variance=1e-2)
    seen = 0.7 * x + 0.3 * wrong
    run = made_run(seen, block(name), variance=2e-3)
    values = [objective(run.kernel(), seen, energy, 2e-3, optimizer)]
    for _ in range(3):
        with torch.enable_grad():
            optimizer.step(run, energy)
        run.step += 1
        values.append(objective(run.kernel(), seen, energy, 2e-3, optimizer))
    assert values[1] < 0.9 * values[0]
    slack = 0.03 if name == "simplex" else 1e-5  # projecting the pixels may cost a little
    assert all(b <= a * (1 + slack) for a, b in zip(values, values[1:], strict=False)), values


def test_the_true_image_gives_the_true_parametric_kernel():
    x = true_image(channels=3)
    run = made_run(x, block("parametric"))
    RefitKernel(1, 0, error_variance=1e-6, iterations=40).step(run, made_energy(x))
    torch.testing.assert_close(run.kernel.z.detach().double(), TRUTH, rtol=0, atol=5e-3)


@pytest.mark.parametrize(("name", "share"), [("network", 0.5), ("simplex", 0.05)])
def test_the_true_image_brings_free_kernels_to_the_truth(name, share):
    x = true_image(channels=3)
    run, energy = made_run(x, block(name)), made_energy(x)
    start = error(run.kernel())
    for _ in range(4):
        RefitKernel(1, 0, iterations=20).step(run, energy)
        k = run.kernel().detach()
        assert k.min() >= 0 and float(k.sum()) == pytest.approx(1, abs=1e-5)
        run.step += 1
    assert error(k) < share * start


def test_a_noisy_refit_stays_on_the_simplex():
    """Without the projection, noise would make a free kernel negative."""
    x = true_image()
    energy = made_energy(x)
    rough = Energy(energy.y + 0.05 * true_image(7)[..., :16, :18], D, GaussianLikelihood(), NoPrior(), 0.0)
    run = made_run(x, SimplexKernel.at(kernel_of(START)))
    RefitKernel(1, 0, error_variance=1e-6, iterations=20).step(run, rough)
    k = run.kernel().detach()
    assert k.min() == 0 and float(k.sum()) == pytest.approx(1, abs=1e-5)
    assert (k == 0).sum() > 5


def test_the_running_mean_is_what_the_kernel_is_fitted_to():
    x = true_image()
    run = made_run(true_image(9), block("parametric"))
    run.mean_x = x.clone()
    RefitKernel(1, 0, error_variance=1e-6, iterations=40).step(run, made_energy(x))
    torch.testing.assert_close(run.kernel.z.detach().double(), TRUTH, rtol=0, atol=5e-3)
    assert torch.equal(run.mean_x, x)


def test_pixels_of_great_variance_count_little():
    """Half of y is wrong, and its variance says so."""
    x = true_image()
    clean = made_energy(x).y
    wrong = clean.clone()
    wrong[..., 8:, :] = true_image(3)[..., :8, :18]
    spread = torch.full_like(clean, 1e-4)
    spread[..., 8:, :] = 1e4
    found = {}
    for name, variance in (("map", spread), ("one", 1e-4)):
        run = made_run(x, block("parametric"), variance=variance)
        energy = Energy(wrong, D, GaussianLikelihood(), NoPrior(), 0.0)
        RefitKernel(1, 0, iterations=40).step(run, energy)
        found[name] = float((run.kernel.z.detach().double() - TRUTH).abs().max())
    assert found["one"] > 0.3
    assert found["map"] < 0.1 * found["one"], found


def test_a_kernel_without_parameters_is_left_alone():
    x, k = true_image(), kernel_of(START)
    run = made_run(x, FixedKernel(k), image_lr=0.1)
    RefitKernel(1, 0).step(run, made_energy(x))
    assert torch.equal(run.kernel(), k)
    assert float(run.image.level.detach()) != 0


@pytest.mark.parametrize(
    "bad",
    [{"interval": 0}, {"iterations": 0}, {"first": -1}, {"error_variance": 0.0}, {"error_variance": math.nan}],
    ids=str,
)
def test_impossible_refit_settings_are_refused(bad):
    with pytest.raises(ValueError, match="kernel refit: need interval >= 1"):
        RefitKernel(**bad)


# --- kernel blocks ------------------------------------------------------------------------------------------------


def test_parametric_kernel_is_that_of_its_family():
    z = TRUTH.clone()
    made = ParametricKernel(FAMILY, z)
    torch.testing.assert_close(made().detach(), kernel_of(TRUTH))
    z.zero_()
    torch.testing.assert_close(made().detach(), kernel_of(TRUTH))
    assert [(n, p.shape, p.dtype) for n, p in made.named_parameters()] == [("z", (3,), torch.float32)]
    made().square().sum().backward()
    v = TRUTH.clone().requires_grad_()
    FAMILY.kernel(v[None]).square().sum().backward()
    torch.testing.assert_close(made.z.grad.double(), v.grad, rtol=1e-4, atol=1e-6)


def test_parametric_kernel_round_trips_through_its_state():
    made, other = ParametricKernel(FAMILY, TRUTH), ParametricKernel(FAMILY, START)
    other.load_state_dict(made.state_dict())
    assert torch.equal(made(), other())


@pytest.mark.parametrize("size", [1, 5, 9])
def test_simplex_kernel_starts_at_a_given_kernel(size):
    k = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(2))
    k = k / k.sum()
    given = k.clone()
    made = SimplexKernel.at(given)
    assert torch.equal(made(), k) and made().requires_grad
    made.retract_()
    torch.testing.assert_close(made().detach(), k, rtol=0, atol=1e-6)
    given.zero_()
    assert made().sum() > 0.99
