"""Who steps when, and on what: optimizers on a stub energy whose gradients tell the terms apart."""

import pytest
import torch
from torch import nn

from blindsr.likelihood.data_term import GaussianLikelihood
from blindsr.operators.degradation import Degradation
from blindsr.optimizers.base import Energy, Optimizer, Run, adam_step
from blindsr.optimizers.meta import MetaLearned
from blindsr.optimizers.plain import Alternating, Joint
from blindsr.priors.image import NoPrior, Tikhonov


class Number(nn.Module):
    """A generator with one parameter; counts its calls."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1, 1, 1, 1, dtype=torch.float64))
        self.calls = 0

    def forward(self):
        self.calls += 1
        return self.value


class StepEnergy:
    """data = k 2^step + x; prior = 8 x. A step of plain descent on k moves it by the sum of the steps' powers."""

    def data(self, x, k, variance, step):
        return (k * 2**step + x).sum(), torch.zeros(1)

    def prior(self, x, variance):
        return 8 * x.sum()

    def weighted_kernel(self, k, variance):
        return k.new_zeros(())


def stub_run(kernel=None):
    image, kernel = Number(), kernel or Number()
    blocks = [torch.optim.SGD(m.parameters(), lr=1.0) if list(m.parameters()) else None for m in (image, kernel)]
    return Run(image, kernel, *blocks, torch.tensor(1.0), torch.tensor(1.0), torch.Generator())


def kernel_moves(optimizer, steps, outer=5):
    """{step: sum of gradients} of every step at which the kernel moved."""
    run, moves = stub_run(), {}
    for step in range(steps):
        if step % outer == 0:
            optimizer.begin_outer(run, None)
        before, x = float(run.kernel.value.detach()), float(run.image.value.detach())
        optimizer.step(run, StepEnergy())
        assert float(run.image.value.detach()) == x - 9, "the image steps once at every step, on data + prior"
        moved = before - float(run.kernel.value.detach())
        if moved:
            moves[step] = moved
        run.step += 1
    return moves


def terms(total):
    """Steps whose powers of two add up to `total`."""
    return [i for i in range(64) if int(total) >> i & 1]


def test_published_windows_hold_3_1_3_2_3_terms():
    moves = kernel_moves(MetaLearned(interval=3), 30)
    assert list(moves) == [2, 5, 8, 11, 14, 17, 20, 23, 26, 29]
    windows = [terms(m) for m in moves.values()]
    assert windows[:5] == [[0, 1, 2], [5], [6, 7, 8], [10, 11], [12, 13, 14]]
    assert [len(w) for w in windows] == [3, 1, 3, 2, 3] * 2


def test_windows_without_reset_hold_p_terms():
    windows = [terms(m) for m in kernel_moves(MetaLearned(interval=3, reset_each_outer=False), 12).values()]
    assert windows == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_interval_one_moves_the_kernel_at_every_step():
    assert kernel_moves(MetaLearned(interval=1), 7) == {i: 2.0**i for i in range(7)}


def test_window_weights_go_by_the_place_in_the_window():
    w = (0.5, 3.0, 100.0)
    moves = kernel_moves(MetaLearned(interval=3, weights=w), 12)
    expected = [
        w[0] * 2**0 + w[1] * 2**1 + w[2] * 2**2,
        w[0] * 2**5,
        w[0] * 2**6 + w[1] * 2**7 + w[2] * 2**8,
        w[0] * 2**10 + w[1] * 2**11,
    ]
    assert list(moves.values()) == expected


def test_impossible_settings_are_refused():
    for bad in ({"interval": 0}, {"interval": 3, "weights": (1.0, 1.0)}):
        with pytest.raises(ValueError, match="meta-learned optimizer"):
            MetaLearned(**bad)
    for bad in ({"image_steps": 0}, {"kernel_steps": 0}):
        with pytest.raises(ValueError, match="alternating minimisation"):
            Alternating(**bad)


def test_meta_memory_holds_numbers_never_graphs():
    run = stub_run()
    MetaLearned(interval=3).step(run, StepEnergy())
    assert run.memory["count"] == 1
    assert all(not g.requires_grad for g in run.memory["gradients"])


def test_alternating_leaves_the_kernel_while_the_image_steps():
    run, optimizer = stub_run(), Alternating(image_steps=3, kernel_steps=2)
    positions = []
    for step in range(6):
        optimizer.step(run, StepEnergy())
        positions.append((float(run.image.value.detach()), float(run.kernel.value.detach())))
        run.step += 1
        assert run.image.calls == step + 1, "steps on k need no pass through the image generator"
    assert [x for x, _ in positions] == [-9.0 * (i + 1) for i in range(6)]
    turn1, turn2 = -2 * 2.0**2, -2 * 2.0**2 - 2 * 2.0**5
    assert [k for _, k in positions] == [0, 0, turn1, turn1, turn1, turn2]


def test_alternating_defaults_to_five_and_five():
    assert list(kernel_moves(Alternating(), 15)) == [4, 9, 14]
    assert (Alternating().image_steps, Alternating().kernel_steps) == (5, 5)


def test_joint_moves_both_at_every_step():
    assert kernel_moves(Joint(), 4) == {i: 2.0**i for i in range(4)}


class NoParameters(nn.Module):
    def forward(self):
        return torch.ones(1, 1, 1, 1, dtype=torch.float64)


@pytest.mark.parametrize("optimizer", [MetaLearned(interval=2), Alternating(1, 2), Joint()], ids=repr)
def test_a_kernel_without_parameters_is_left_alone(optimizer):
    run = stub_run(NoParameters())
    for _ in range(4):
        optimizer.begin_outer(run, None)
        optimizer.step(run, StepEnergy())
        run.step += 1
    assert float(run.image.value.detach()) == -36


@pytest.mark.parametrize("optimizer", [MetaLearned(), Alternating(), Joint()], ids=repr)
def test_a_pass_holds_what_was_evaluated_before_the_step(optimizer):
    run = stub_run()
    done = optimizer.step(run, StepEnergy())
    assert isinstance(optimizer, Optimizer)
    assert (float(done.data.detach()), float(done.prior.detach())) == (0.0, 0.0)
    assert not done.x.requires_grad and not done.k.requires_grad and not done.residual.requires_grad


def test_adam_step_clears_gradients():
    run = stub_run()
    run.kernel().sum().backward()
    adam_step(run.kernel_adam, run.kernel)
    assert run.kernel.value.grad is None and float(run.kernel.value.detach()) == -1
    adam_step(None, run.kernel)


def test_energy_is_eq_39_times_two_variances_by_n(gen):
    """(1/2σ²) Σ r² + ρ Ω(x), times 2σ²/n."""
    op, rho, variance = Degradation(2, 5), 0.7, torch.tensor(0.03, dtype=torch.float64)
    x = torch.rand(1, 2, 8, 6, generator=gen, dtype=torch.float64)
    y = torch.rand(1, 2, 4, 3, generator=gen, dtype=torch.float64)
    k = torch.rand(1, 1, 5, 5, generator=gen, dtype=torch.float64)
    energy = Energy(y, op, GaussianLikelihood(), Tikhonov(), rho)
    data, residual = energy.data(x, k, variance, 0)
    r = op(x, k) - y
    eq39 = r.square().sum() / (2 * variance) + rho * Tikhonov().energy(x)[0]
    torch.testing.assert_close(data + energy.prior(x, variance), eq39 * 2 * variance / y.numel())
    assert torch.equal(residual, r)


def test_published_prior_weight(gen):
    """0.001 · 0.20 · Ω / (number of LR values), with the default fixed noise level."""
    from blindsr.likelihood.noise import FixedNoise
    from blindsr.priors.image import HyperLaplacian

    x, y = torch.rand(1, 3, 8, 8, generator=gen), torch.rand(1, 3, 4, 4, generator=gen)
    energy = Energy(y, Degradation(2), GaussianLikelihood(), HyperLaplacian(), 0.2)
    expected = 0.001 * 0.2 * HyperLaplacian().energy(x)[0] / (3 * 4 * 4)
    torch.testing.assert_close(energy.prior(x, FixedNoise().initial(y)), expected)
    assert float(Energy(y, Degradation(2), GaussianLikelihood(), NoPrior(), 0.0).prior(x, torch.tensor(1.0))) == 0
