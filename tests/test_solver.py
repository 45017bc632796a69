"""The loop: it lowers the error, resumes bit for bit, keeps to its own random numbers."""

import io
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from blindsr.estimators.loop import Assembly, Solver
from blindsr.generators.kernel import FixedKernel, KernelNetwork, SimplexKernel
from blindsr.generators.pixels import Pixels
from blindsr.generators.skip import SkipNetwork, SkipSettings
from blindsr.likelihood.data_term import GaussianLikelihood, SsimThenMse
from blindsr.likelihood.noise import FixedNoise, IidNoise
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.optimizers.meta import MetaLearned
from blindsr.optimizers.plain import Alternating, Joint
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import HyperLaplacian, NoPrior, TotalVariation
from blindsr.restorers.bicubic import bicubic
from blindsr.samplers.mcka import MonteCarloKernelApproximation
from blindsr.simulate import Quantize, degrade

OP = Degradation(2)


def skip_image(**settings):
    chosen = SkipSettings(**{"channels": 8, "skip_channels": 4, "levels": 2} | settings)
    return lambda y, op: SkipNetwork(y.shape[1], *op.hr_shape(*y.shape[-2:]), chosen)


def assembly(**parts):
    """A tiny MLMC; `parts` replace its own."""
    default = Assembly(
        degradation=OP,
        image=skip_image(),
        kernel=lambda y, op: KernelNetwork(op.kernel_size, (50,), 20),
        optimizer=MetaLearned(interval=3),
        data_term=SsimThenMse(7),
        image_prior=HyperLaplacian(),
        noise=FixedNoise(),
        monte_carlo=MonteCarloKernelApproximation(GaussianKernelPrior.sampling(2), 3, warmup_steps=4),
        kernel_lr=1e-3,
    )
    return replace(default, **parts)


def scene(size=32, channels=1):
    """A disc, a bar and a ramp."""
    r, c = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    x = 0.2 + 0.3 * c
    x[(r - 0.35) ** 2 + (c - 0.4) ** 2 < 0.06] = 0.9
    x[(r > 0.7) & (r < 0.8) & (c > 0.2)] = 0.05
    return torch.stack([x * (1 - 0.2 * i) for i in range(channels)])[None]


@pytest.fixture(scope="module")
def grey():
    """A 16x16 LR image, its HR image and kernel."""
    return degrade(scene(), OP, GaussianKernelPrior.truth(2), seed=3, how=Quantize.NONE)


def run_for(solver, run, y, steps):
    return [solver.step(run, y) for _ in range(steps)]


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def same(a, b):
    """Equal to the bit, all the way down."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


# --- resume -------------------------------------------------------------------------------------------------------

ROWS = {
    "mlmc": {},
    "mlmc, windows across outer iterations": {"optimizer": MetaLearned(interval=3, reset_each_outer=False)},
    "mlmc, weights in the window": {"optimizer": MetaLearned(interval=4, weights=(0.1, 0.2, 0.3, 0.4))},
    "mlmc, bf16": {"image": skip_image(bf16=True)},
    "mlmc, non-local": {"image": skip_image(non_local_from=1)},
    "mlmc, iid noise, mean image": {"noise": IidNoise(), "average": 0.9},
    "mlmc, two simulations": {
        "monte_carlo": MonteCarloKernelApproximation(GaussianKernelPrior.sampling(2), 3, 2, warmup_steps=2)
    },
    "plain alternation": {"optimizer": Alternating(2, 3)},
    "joint": {"optimizer": Joint(), "monte_carlo": None},
    "image only": {
        "optimizer": Joint(),
        "monte_carlo": None,
        "kernel": lambda y, op: FixedKernel(GaussianKernelPrior.truth(2).kernel(torch.zeros(1, 3))),
    },
    "pixels and simplex": {
        "image": lambda y, op: Pixels(bicubic(y, op.scale)),
        "kernel": lambda y, op: SimplexKernel(op.kernel_size, op.center),
        "optimizer": Alternating(3, 2),
        "monte_carlo": None,
    },
}


@pytest.mark.parametrize("name", ROWS)
def test_steps_resume_steps_equal_all_steps_at_once(name):
    solver, y = Solver(assembly(**ROWS[name])), degrade(scene(32, 3), OP, GaussianKernelPrior.truth(2)).y
    straight = solver.init(y, seed=11)
    saved, metrics = {}, []
    for step in range(13):
        if step in (0, 1, 4, 5, 10):
            saved[step] = through_a_file(solver.state_dict(straight))
        metrics.append(solver.step(straight, y))
    for step, state in saved.items():
        other = Solver(assembly(**ROWS[name]))
        run = other.load_state_dict(y, state)
        assert run.step == step
        later = run_for(other, run, y, 13 - step)
        assert list(map(str, later)) == list(map(str, metrics[step:]))
        assert same(other.state_dict(run), solver.state_dict(straight))
        assert same(other.estimate(run), solver.estimate(straight))


def test_saved_windows_were_caught_in_the_middle():
    """What makes the test above worth something: at steps 1, 4 and 10 gradients wait in the meta window."""
    solver, y = Solver(assembly()), scene(16)
    run = solver.init(y, seed=0)
    pending = {}
    for step in range(11):
        pending[step] = run.memory.get("count", 0)
        solver.step(run, y)
    assert (pending[1], pending[4], pending[10]) == (1, 1, 1)


def test_a_state_of_another_size_or_method_is_refused(grey):
    solver = Solver(assembly())
    state = solver.state_dict(solver.init(grey.y, seed=0))
    others = [
        (Solver(assembly(image=skip_image(channels=6))), grey.y),
        (Solver(assembly(kernel=lambda y, op: SimplexKernel(op.kernel_size, 4.5))), grey.y),
        (solver, torch.zeros(1, 1, 12, 16)),
        (solver, torch.zeros(1, 3, 16, 16)),
    ]
    for other, y in others:
        with pytest.raises(ValueError, match="does not fit the method and image") as caught:
            other.load_state_dict(y, state)
        assert "\n" not in str(caught.value)
    for name in state:
        with pytest.raises(ValueError, match="does not fit"):
            solver.load_state_dict(grey.y, {k: v for k, v in state.items() if k != name})


# --- random numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlmc", "plain alternation", "pixels and simplex"])
def test_the_global_random_state_is_left_alone(name, grey):
    solver = Solver(assembly(**ROWS[name]))
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    run = solver.init(grey.y, seed=5)
    run_for(solver, run, grey.y, 6)
    solver.load_state_dict(grey.y, through_a_file(solver.state_dict(run)))
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_seed_alone_decides(grey):
    def outcome(seed, world):
        torch.manual_seed(world)
        solver = Solver(assembly())
        run = solver.init(grey.y, seed)
        run_for(solver, run, grey.y, 6)
        return solver.estimate(run)

    assert same(outcome(1, world=7), outcome(1, world=8))
    assert not torch.allclose(outcome(1, world=7).image, outcome(2, world=7).image)


# --- what it achieves ---------------------------------------------------------------------------------------------


def psnr(a, b, border=4):
    inner = (..., slice(border, -border), slice(border, -border))
    return -10 * math.log10(float((a[inner] - b[inner]).square().mean()))


@pytest.mark.parametrize("name", ["mlmc", "mlmc, bf16", "plain alternation", "joint"])
def test_sixty_steps_lower_the_lr_error(name, grey):
    solver = Solver(assembly(**ROWS[name] | {"image_lr": 0.01, "data_term": SsimThenMse(20)}))
    run = solver.init(grey.y, seed=0)
    metrics = run_for(solver, run, grey.y, 60)
    assert metrics[-1].mse < 0.1 * metrics[0].mse
    assert metrics[-1].mse < 0.2 * float(grey.y.var()), "the image's mean alone would leave its variance"
    image, kernel = solver.estimate(run)
    assert image.shape == grey.x.shape and 0 <= float(image.min()) and float(image.max()) <= 1
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-5) and float(kernel.min()) >= 0


def test_with_the_true_kernel_total_variation_beats_bicubic(grey):
    parts = {
        "image": lambda y, op: Pixels(bicubic(y, op.scale)),
        "kernel": lambda y, op: FixedKernel(grey.kernel),
        "optimizer": Joint(),
        "data_term": GaussianLikelihood(),
        "image_prior": TotalVariation(),
        "monte_carlo": None,
        "image_lr": 0.02,
    }
    solver = Solver(assembly(**parts, rho=0.2))
    run = solver.init(grey.y, seed=0)
    start = solver.estimate(run).image
    torch.testing.assert_close(start, bicubic(grey.y, 2))
    run_for(solver, run, grey.y, 150)
    assert psnr(solver.estimate(run).image, grey.x) > psnr(start, grey.x) + 3


class TrueImage(nn.Module):
    def __init__(self, x):
        super().__init__()
        self.register_buffer("x", x)

    def forward(self):
        return self.x


@pytest.mark.parametrize("optimizer", [MetaLearned(), Joint()], ids=repr)
def test_with_the_true_image_the_kernel_is_found(optimizer, grey):
    parts = {
        "image": lambda y, op: TrueImage(grey.x),
        "optimizer": optimizer,
        "data_term": GaussianLikelihood(),
        "image_prior": NoPrior(),
        "monte_carlo": None,
        "kernel_lr": 0.01,
    }
    solver = Solver(assembly(**parts))
    run = solver.init(grey.y, seed=0)
    before = float((solver.estimate(run).kernel - grey.kernel).square().mean())
    run_for(solver, run, grey.y, 300)
    after = float((solver.estimate(run).kernel - grey.kernel).square().mean())
    assert after < 0.05 * before


def test_the_warm_up_pulls_the_kernel_towards_the_prior(grey):
    prior = GaussianKernelPrior.sampling(2)
    mcka = MonteCarloKernelApproximation(prior, 3, warmup_steps=100)
    mean = prior.sample(500, generator=torch.Generator().manual_seed(0)).mean(0, keepdim=True)

    def distance(monte_carlo):
        solver = Solver(assembly(monte_carlo=monte_carlo, kernel_lr=0.01))
        return float((solver.estimate(solver.init(grey.y, seed=0)).kernel - mean).square().sum())

    assert distance(mcka) < 0.2 * distance(None)


# --- bookkeeping --------------------------------------------------------------------------------------------------


def test_monte_carlo_runs_once_every_outer_iteration(grey):
    solver = Solver(assembly(inner_steps=4))
    metrics = run_for(solver, solver.init(grey.y, seed=0), grey.y, 9)
    assert [m.step for m in metrics] == list(range(1, 10))
    assert [i for i, m in enumerate(metrics) if not math.isnan(m.monte_carlo)] == [0, 4, 8]


def test_metrics_are_those_of_the_pass(grey):
    solver = Solver(assembly(data_term=SsimThenMse(0), noise=FixedNoise(0.1)))
    run = solver.init(grey.y, seed=0)
    for _ in range(3):
        m = solver.step(run, grey.y)
        mse = float((OP(run.x, run.k) - grey.y).square().mean())
        assert m.mse == pytest.approx(mse, rel=1e-4) and m.loss == pytest.approx(mse, rel=1e-4)
        assert m.noise_std == pytest.approx(0.1)
        weight = 2 * 0.1**2 * 0.2 / grey.y.numel()
        assert m.prior == pytest.approx(weight * float(HyperLaplacian().energy(run.x)), rel=1e-4)


def test_noise_is_re_estimated_from_the_residual(grey):
    noise = IidNoise(smoothing=0.5, floor_std=1e-4, ceiling=100)
    solver = Solver(assembly(noise=noise))
    run, expected = solver.init(grey.y, seed=0), float(noise.initial(grey.y))
    for _ in range(4):
        m = solver.step(run, grey.y)
        expected = max(0.5 * expected + 0.5 * m.mse, float(noise.initial(grey.y)))
        assert m.noise_std == pytest.approx(math.sqrt(expected), rel=1e-5)


def test_the_mean_image_is_a_running_mean_with_a_young_start(grey):
    solver = Solver(assembly(average=0.6))
    run, mean = solver.init(grey.y, seed=0), None
    for step in range(8):
        solver.step(run, grey.y)
        share = max(0.4, 1 / (1 + step / 4))
        mean = run.x.clone() if mean is None else mean + share * (run.x - mean)
    torch.testing.assert_close(solver.estimate(run).image, mean.clamp(0, 1), rtol=0, atol=1e-6)


def test_an_estimate_does_not_change_while_the_run_goes_on(grey):
    for name in ("mlmc", "mlmc, iid noise, mean image", "pixels and simplex"):
        solver = Solver(assembly(**ROWS[name]))
        run = solver.init(grey.y, seed=0)
        run_for(solver, run, grey.y, 5)
        estimate = solver.estimate(run)
        kept = [t.clone() for t in estimate]
        run_for(solver, run, grey.y, 5)
        assert same(list(estimate), kept), name


def test_iterate_counts_all_steps_of_a_run(grey):
    solver = Solver(assembly())
    run = solver.init(grey.y, seed=0)
    assert [m.step for m in solver.iterate(run, grey.y, 4)] == [1, 2, 3, 4]
    assert [m.step for m in solver.iterate(run, grey.y, 6)] == [5, 6]
    assert list(solver.iterate(run, grey.y, 6)) == []


def test_an_estimate_can_be_had_before_the_first_step(grey):
    solver = Solver(assembly())
    image, kernel = solver.estimate(solver.init(grey.y, seed=0))
    assert image.shape == (1, 1, 32, 32) and kernel.shape == (1, 1, 11, 11)


@pytest.mark.parametrize("padding", list(Padding))
@pytest.mark.parametrize("alignment", list(Alignment))
def test_every_padding_and_alignment_gives_the_same_picture_size(padding, alignment):
    op = Degradation(3, alignment=alignment, padding=padding)
    prior = GaussianKernelPrior.sampling(3)
    solver = Solver(assembly(degradation=op, monte_carlo=MonteCarloKernelApproximation(prior, 2, warmup_steps=1)))
    y = torch.rand(1, 3, 16, 18, generator=torch.Generator().manual_seed(0))
    run = solver.init(y, seed=0)
    run_for(solver, run, y, 3)
    assert solver.estimate(run).image.shape == (1, 3, 48, 54)


@pytest.mark.parametrize("shape", [(16, 16), (1, 16, 16), (2, 1, 16, 16)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="the LR image has shape"):
        Solver(assembly()).init(torch.zeros(shape), seed=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_refused(bad):
    y = torch.zeros(1, 1, 16, 16)
    y[0, 0, 3, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        Solver(assembly()).init(y, seed=0)


@pytest.mark.parametrize("bad", [{"inner_steps": 0}, {"average": 1.0}, {"average": -0.1}, {"rho": -1.0}])
def test_impossible_assemblies_are_refused(bad):
    with pytest.raises(ValueError, match="assembly"):
        assembly(**bad)


def test_a_state_in_memory_can_be_branched(grey):
    solver = Solver(assembly(average=0.9))
    run = solver.init(grey.y, seed=0)
    run_for(solver, run, grey.y, 4)
    state = solver.state_dict(run)
    ends = []
    for _ in range(2):
        again = solver.load_state_dict(grey.y, state)
        run_for(solver, again, grey.y, 7)
        ends.append(solver.estimate(again))
    run_for(solver, run, grey.y, 7)
    ends.append(solver.estimate(run))
    assert all(torch.equal(e.image, ends[0].image) and torch.equal(e.kernel, ends[0].kernel) for e in ends)


@pytest.mark.parametrize("part", ["exp_avg", "x", "gradients"])
def test_a_state_of_other_shapes_is_refused(grey, part):
    solver = Solver(assembly())
    run = solver.init(grey.y, seed=0)
    run_for(solver, run, grey.y, 4)
    state = solver.state_dict(run)
    if part == "exp_avg":
        state["image_adam"]["state"][0]["exp_avg"] = torch.zeros(1)
    elif part == "x":
        state["x"] = torch.zeros(1, 1, 2, 2)
    else:
        state["memory"]["gradients"] = [torch.zeros(1)]
    with pytest.raises(ValueError, match="does not fit"):
        solver.load_state_dict(grey.y, state)


def test_a_kernel_without_parameters_takes_no_monte_carlo_step(grey):
    with pytest.raises(ValueError, match="leave it out"):
        Solver(assembly(kernel=lambda y, op: FixedKernel(grey.kernel))).init(grey.y, seed=0)
