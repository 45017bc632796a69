"""The joint loop: it lowers the error, resumes to the bit, keeps to its own random numbers."""

import io
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from blindsr.estimators.loop import JointLoop
from blindsr.estimators.problem import KernelBlock, MonteCarloSettings, free_kernel
from blindsr.generators.kernel import FixedKernel, KernelNetwork, SimplexKernel
from blindsr.generators.pixels import Pixels
from blindsr.generators.skip import SkipSettings
from blindsr.likelihood.data_term import GaussianLikelihood, SsimThenMse
from blindsr.likelihood.noise import FixedNoise, IidNoise
from blindsr.methods.parts import PRIORS, SkipImage
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.optimizers.meta import MetaLearned
from blindsr.optimizers.plain import Alternating, Joint
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import HyperLaplacian, NoPrior, TotalVariation
from blindsr.restorers.bicubic import bicubic
from blindsr.simulate import Quantize, degrade

OP = Degradation(2)


def skip_image(**settings):
    return SkipImage(SkipSettings(**{"channels": 8, "skip_channels": 4, "levels": 2} | settings))


def bicubic_pixels(problem):
    return Pixels(bicubic(problem.y, problem.degradation.scale))


def fixed(kernel):
    """The kernel's side of a loop that is given the kernel."""
    return lambda problem, prior: KernelBlock(FixedKernel(kernel), draws=prior)


def joint_loop(**parts):
    """A tiny MLMC; `parts` replace its own."""
    default = JointLoop(
        image=skip_image(),
        kernel=free_kernel(lambda d: KernelNetwork(d.kernel_size, (50,), 20)),
        optimizer=MetaLearned(interval=3),
        data_term=SsimThenMse(7),
        image_prior=HyperLaplacian(),
        noise=FixedNoise(),
        prior=PRIORS["gaussian"].value,
        monte_carlo=MonteCarloSettings(3, warmup_steps=4),
        kernel_lr=1e-3,
    )
    return replace(default, **parts)


def begin(loop, y, seed=0, op=OP):
    return loop.start(y, op, seed=seed, device="cpu")


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


def advance(run, steps):
    return [run.advance() for _ in range(steps)]


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


def same_estimate(a, b):
    return same([a.image, a.kernel, a.noise_std], [b.image, b.kernel, b.noise_std])


def check_resume(estimator, y, op, steps, stops):
    """Check that a run resumed, through a file, at any of the stops ends with the bits of the unbroken one."""
    straight = estimator.start(y, op, seed=11, device="cpu")
    saved, metrics = {}, []
    for step in range(steps):
        if straight.settled is not None:
            break
        if step in stops:
            saved[step] = through_a_file(straight.state_dict())
        metrics += map(str, advance(straight, 1))
    for step, state in saved.items():
        resumed = estimator.resume(y, op, state, device="cpu")
        assert resumed.step == step
        assert list(map(str, resumed.iterate(steps))) == metrics[step:]
        assert same(resumed.state_dict(), straight.state_dict())
        assert same_estimate(resumed.estimate(), straight.estimate())


# --- resume (test_methods.py resumes every method of the table) ----------------------------------------------------

VARIANTS = {
    "mlmc": {},
    "windows across outer iterations": {"optimizer": MetaLearned(interval=3, reset_each_outer=False)},
    "weights in the window": {"optimizer": MetaLearned(interval=4, weights=(0.1, 0.2, 0.3, 0.4))},
    "bf16": {"image": skip_image(bf16=True)},
    "non-local": {"image": skip_image(non_local_from=1)},
    "iid noise, mean image": {"noise": IidNoise(), "average": 0.9},
    "two simulations": {"monte_carlo": MonteCarloSettings(3, {2: 2}, 2)},
    "plain alternation": {"optimizer": Alternating(2, 3)},
    "joint": {"optimizer": Joint(), "prior": None},
    "pixels and simplex": {
        "image": bicubic_pixels,
        "kernel": free_kernel(lambda d: SimplexKernel(d.kernel_size, d.center)),
        "optimizer": Alternating(3, 2),
        "prior": None,
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_resumed_run_gives_the_bits_of_an_unbroken_one(name):
    y = degrade(scene(32, 3), OP, GaussianKernelPrior.truth(2)).y
    check_resume(joint_loop(**VARIANTS[name]), y, OP, 13, (0, 1, 4, 5, 10))


def test_saved_windows_were_caught_in_the_middle():
    """What makes the test above worth something: at steps 1, 4 and 10 gradients wait in the meta window."""
    estimation = begin(joint_loop(), scene(16))
    pending = {}
    for step in range(11):
        pending[step] = estimation.run.memory.get("count", 0)
        estimation.advance()
    assert (pending[1], pending[4], pending[10]) == (1, 1, 1)


def test_a_state_of_another_size_or_method_is_refused(grey):
    loop = joint_loop()
    run = begin(loop, grey.y)
    advance(run, 4)
    state = run.state_dict()
    others = [
        (joint_loop(image=skip_image(channels=6)), grey.y, state),
        (joint_loop(kernel=free_kernel(lambda d: SimplexKernel(d.kernel_size, 4.5))), grey.y, state),
        (loop, torch.zeros(1, 1, 12, 16), state),
        (loop, torch.zeros(1, 3, 16, 16), state),
        (loop, grey.y, state | {"x": torch.zeros(1, 1, 2, 2)}),
        (loop, grey.y, state | {"memory": state["memory"] | {"gradients": [torch.zeros(1)]}}),
        *((loop, grey.y, {k: v for k, v in state.items() if k != name}) for name in state),
    ]
    damaged = through_a_file(state)
    damaged["image_adam"]["state"][0]["exp_avg"] = torch.zeros(1)
    for other, y, wrong in [*others, (loop, grey.y, damaged)]:
        with pytest.raises(ValueError, match="does not fit the method and image") as caught:
            other.resume(y, OP, wrong, device="cpu")
        assert "\n" not in str(caught.value)


def test_a_state_in_memory_can_be_branched(grey):
    loop = joint_loop(average=0.9)
    run = begin(loop, grey.y)
    advance(run, 4)
    state = run.state_dict()
    branches = [loop.resume(grey.y, OP, state, device="cpu"), loop.resume(grey.y, OP, state, device="cpu"), run]
    ends = []
    for branch in branches:
        advance(branch, 7)
        ends.append(branch.estimate())
    assert same_estimate(ends[0], ends[1]) and same_estimate(ends[0], ends[2])


# --- random numbers -----------------------------------------------------------------------------------------------


def test_the_seed_alone_decides_and_the_global_random_state_is_left_alone(grey):
    def outcome(seed, world):
        torch.manual_seed(world)
        before = torch.random.get_rng_state()
        run = begin(joint_loop(), grey.y, seed)
        advance(run, 6)
        run = joint_loop().resume(grey.y, OP, run.state_dict(), device="cpu")
        assert torch.equal(before, torch.random.get_rng_state())
        return run.estimate()

    assert same_estimate(outcome(1, world=7), outcome(1, world=8))
    assert not torch.allclose(outcome(1, world=7).image, outcome(2, world=7).image)


# --- what it achieves ---------------------------------------------------------------------------------------------


def psnr(a, b, border=4):
    inner = (..., slice(border, -border), slice(border, -border))
    return -10 * math.log10(float((a[inner] - b[inner]).square().mean()))


@pytest.mark.parametrize("name", ["mlmc", "bf16", "plain alternation", "joint"])
def test_sixty_steps_lower_the_lr_error(name, grey):
    run = begin(joint_loop(**VARIANTS[name] | {"image_lr": 0.01, "data_term": SsimThenMse(20)}), grey.y)
    metrics = advance(run, 60)
    assert metrics[-1].mse < 0.1 * metrics[0].mse
    assert metrics[-1].mse < 0.2 * float(grey.y.var()), "the image's mean alone would leave its variance"
    found = run.estimate()
    assert found.image.shape == grey.x.shape and 0 <= float(found.image.min()) and float(found.image.max()) <= 1
    assert float(found.kernel.sum()) == pytest.approx(1, abs=1e-5) and float(found.kernel.min()) >= 0


def test_with_the_true_kernel_total_variation_beats_bicubic(grey):
    loop = joint_loop(
        image=bicubic_pixels,
        kernel=fixed(grey.kernel),
        optimizer=Joint(),
        data_term=GaussianLikelihood(),
        image_prior=TotalVariation(),
        prior=None,
        image_lr=0.02,
    )
    run = begin(loop, grey.y)
    start = run.estimate().image
    torch.testing.assert_close(start, bicubic(grey.y, 2))
    advance(run, 150)
    assert psnr(run.estimate().image, grey.x) > psnr(start, grey.x) + 3


class TrueImage(nn.Module):
    def __init__(self, x):
        super().__init__()
        self.register_buffer("x", x)

    def forward(self):
        return self.x


@pytest.mark.parametrize("optimizer", [MetaLearned(), Joint()], ids=repr)
def test_with_the_true_image_the_kernel_is_found(optimizer, grey):
    parts = {"data_term": GaussianLikelihood(), "image_prior": NoPrior(), "prior": None, "kernel_lr": 0.01}
    run = begin(joint_loop(image=lambda problem: TrueImage(grey.x), optimizer=optimizer, **parts), grey.y)
    before = float((run.estimate().kernel - grey.kernel).square().mean())
    advance(run, 300)
    assert float((run.estimate().kernel - grey.kernel).square().mean()) < 0.05 * before


def test_the_warm_up_pulls_the_kernel_towards_the_prior(grey):
    prior = GaussianKernelPrior.sampling(2)
    mean = prior.sample(500, generator=torch.Generator().manual_seed(0)).mean(0, keepdim=True)

    def distance(steps):
        loop = joint_loop(monte_carlo=MonteCarloSettings(3, warmup_steps=steps), kernel_lr=0.01)
        return float((begin(loop, grey.y).estimate().kernel - mean).square().sum())

    assert distance(100) < 0.2 * distance(0)


# --- bookkeeping --------------------------------------------------------------------------------------------------


def test_monte_carlo_runs_once_every_outer_iteration(grey):
    metrics = advance(begin(joint_loop(inner_steps=4), grey.y), 9)
    assert [m.step for m in metrics] == list(range(1, 10))
    assert [i for i, m in enumerate(metrics) if not math.isnan(m.monte_carlo)] == [0, 4, 8]


def test_metrics_are_those_of_the_pass(grey):
    estimation = begin(joint_loop(data_term=SsimThenMse(0), noise=FixedNoise(0.1)), grey.y)
    for _ in range(3):
        m, run = estimation.advance(), estimation.run
        mse = float((OP(run.x, run.k) - grey.y).square().mean())
        assert m.mse == pytest.approx(mse, rel=1e-4) and m.loss == pytest.approx(mse, rel=1e-4)
        assert m.noise_std == pytest.approx(0.1)
        weight = 2 * 0.1**2 * 0.2 / grey.y.numel()
        assert m.prior == pytest.approx(weight * float(HyperLaplacian().energy(run.x)), rel=1e-4)


def test_noise_is_re_estimated_from_the_residual(grey):
    noise = IidNoise(smoothing=0.5, floor_std=1e-4, ceiling=100)
    run, expected = begin(joint_loop(noise=noise), grey.y), float(noise.initial(grey.y))
    for m in advance(run, 4):
        expected = max(0.5 * expected + 0.5 * m.mse, float(noise.initial(grey.y)))
        assert m.noise_std == pytest.approx(math.sqrt(expected), rel=1e-5)


def test_the_mean_image_is_a_running_mean_with_a_young_start(grey):
    estimation, mean = begin(joint_loop(average=0.6), grey.y), None
    for step in range(8):
        estimation.advance()
        x, share = estimation.run.x, max(0.4, 1 / (1 + step / 4))
        mean = x.clone() if mean is None else mean + share * (x - mean)
    torch.testing.assert_close(estimation.estimate().image, mean.clamp(0, 1), rtol=0, atol=1e-6)


def test_an_estimate_does_not_change_while_the_run_goes_on(grey):
    for name in ("mlmc", "iid noise, mean image", "pixels and simplex"):
        run = begin(joint_loop(**VARIANTS[name]), grey.y)
        advance(run, 5)
        found = run.estimate()
        kept = found.image.clone(), found.kernel.clone()
        advance(run, 5)
        assert same((found.image, found.kernel), kept), name


def test_iterate_counts_all_steps_of_a_run(grey):
    run = begin(joint_loop(), grey.y)
    first = run.estimate()
    assert first.image.shape == (1, 1, 32, 32) and first.kernel.shape == (1, 1, 11, 11), "before the first step"
    assert [m.step for m in run.iterate(4)] == [1, 2, 3, 4]
    assert [m.step for m in run.iterate(6)] == [5, 6]
    assert list(run.iterate(6)) == []


def test_every_padding_and_alignment_gives_the_same_picture_size():
    y = torch.rand(1, 3, 16, 18, generator=torch.Generator().manual_seed(0))
    for padding in Padding:
        for alignment in Alignment:
            op = Degradation(3, alignment=alignment, padding=padding)
            run = begin(joint_loop(monte_carlo=MonteCarloSettings(2, warmup_steps=1)), y, op=op)
            advance(run, 3)
            assert run.estimate().image.shape == (1, 3, 48, 54), (padding, alignment)


def test_bad_input_is_refused(grey):
    for shape in ((16, 16), (1, 16, 16), (2, 1, 16, 16)):
        with pytest.raises(ValueError, match="the LR image has shape"):
            begin(joint_loop(), torch.zeros(shape))
    for bad in (float("nan"), float("inf")):
        y = torch.zeros(1, 1, 16, 16)
        y[0, 0, 3, 3] = bad
        with pytest.raises(ValueError, match="NaN or infinite"):
            begin(joint_loop(), y)
    for numbers in ({"inner_steps": 0}, {"average": 1.0}, {"average": -0.1}, {"rho": -1.0}, {"noise_steps": 0}):
        with pytest.raises(ValueError, match="joint loop: need"):
            joint_loop(**numbers)
    with pytest.raises(ValueError, match="a kernel without parameters learns nothing from the Monte Carlo step"):
        begin(joint_loop(kernel=fixed(grey.kernel)), grey.y)
