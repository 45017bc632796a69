"""BSRDM: its Langevin steps against closed forms, its turns, its noise model against simulated noise."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from test_loop import advance, begin, check_resume, joint_loop, scene, skip_image

from blindsr.estimators.problem import Problem, free_kernel
from blindsr.generators.kernel import GaussianKernel
from blindsr.likelihood.data_term import GaussianLikelihood, ssim
from blindsr.likelihood.noise import FixedNoise, NoiseModel, PatchNoise
from blindsr.methods.parts import NOISES
from blindsr.methods.presets import PRESETS
from blindsr.methods.table import METHODS
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.optimizers.base import Energy
from blindsr.optimizers.em import MonteCarloEm, bilinear
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import HyperLaplacian
from blindsr.samplers.latent import LatentLangevin
from blindsr.simulate import Quantize, degrade

OP = Degradation(2)
LEAST_ESS = 400


# --- Langevin steps on the latent ---------------------------------------------------------------------------------


def chain(misfit, delta, *, draws=3000, dim=40):
    """Draws (dim, draws) of z: independent coordinates are chains."""
    step, g = LatentLangevin(1, delta, limit=None, noisy=None), torch.Generator().manual_seed(8)
    z, out = torch.zeros(dim, dtype=torch.float64), []
    for i in range(draws + 100):
        z = step(z, misfit, g)
        if i >= 100:
            out.append(z)
    return torch.stack(out, 1).numpy()


def check_moment(series, expected):
    """Compare the mean of series (chains, draws) with what it should be, in standard errors that ArviZ measures."""
    import arviz

    ess = float(arviz.ess(series, method="mean"))
    assert ess > LEAST_ESS, f"effective sample size {ess:.0f} says nothing"
    gap = abs(series.mean() - expected) / (series.std() / math.sqrt(ess))
    assert gap < 4.5, f"{series.mean()} for {expected}: {gap:.1f} standard errors"


@pytest.mark.parametrize("delta", [0.3, 1.0])
def test_without_data_the_steps_sample_the_prior(delta):
    """N(0, I) up to the bias of unadjusted steps, which is known: the variance is 1/(1 - δ²/4)."""
    z = chain(lambda z: 0 * z.sum(), delta)
    variance = 1 / (1 - delta**2 / 4)
    check_moment(z, 0.0)
    check_moment(z**2, variance)
    check_moment(z**4, 3 * variance**2)
    assert delta > 0.5 or abs(variance - 1) < 0.03
    pairs = z[:-1] * z[1:]
    check_moment(pairs, 0.0)


def test_with_data_the_steps_sample_the_posterior():
    """y = z + n, n of variance 1/3: a posterior of precision 4 about 3 y / 4."""
    y, delta = 2.0, 0.3
    z = chain(lambda z: 1.5 * (z - y).square().sum(), delta)
    check_moment(z, 1.5)
    check_moment((z - 1.5) ** 2, 0.25 / (1 - delta**2))


def test_a_step_is_its_formula(gen):
    z = torch.randn(2, 3, generator=gen, dtype=torch.float64)
    a = torch.randn(2, 3, generator=gen, dtype=torch.float64)
    moved = LatentLangevin(2, 0.7, limit=0.5, noisy=1)(z, lambda z: (a * z).sum(), torch.Generator().manual_seed(4))
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = z
    for i in range(2):
        gradient = a + expected
        c = 0.5 / gradient.norm()
        assert float(c) < 1
        expected = expected - 0.5 * 0.49 * c * gradient + (0.7 * c * noise if i == 0 else 0)
    torch.testing.assert_close(moved, expected)
    small = LatentLangevin(1, 0.7, limit=1e6, noisy=0)(z, lambda z: (a * z).sum(), gen)
    torch.testing.assert_close(small, z - 0.5 * 0.49 * (a + z)), "a short gradient is not lengthened"


def test_published_steps_do_not_sample_the_prior():
    """What the documentation says of the limited gradient: in d dimensions a variance near d^(-1/3), not 1."""
    step, g, d = LatentLangevin(20, noisy=None), torch.Generator().manual_seed(0), 4000
    z = torch.zeros(d, dtype=torch.float64)
    for _ in range(30):
        z = step(z, lambda z: 0 * z.sum(), g)
    assert float(z.var()) == pytest.approx(d ** (-1 / 3), rel=0.15)


def test_impossible_settings_are_refused():
    for bad in ({"steps": 0}, {"delta": 0.0}, {"limit": 0.0}):
        with pytest.raises(ValueError, match="latent Langevin"):
            LatentLangevin(**bad)
    for bad in ({"start_steps": -1}, {"clip": 0.0}):
        with pytest.raises(ValueError, match="expectation maximisation"):
            MonteCarloEm(**bad)


# --- expectation maximisation -------------------------------------------------------------------------------------


def em(**parts):
    """A tiny BSRDM."""
    return joint_loop(
        **{
            "optimizer": MonteCarloEm(start_steps=3),
            "image": skip_image(input_channels=2, input_std=1.0, normal_input=True),
            "kernel": free_kernel(lambda d: GaussianKernel(d.kernel_size, d.center, 2.0)),
            "prior": None,
            "data_term": GaussianLikelihood(),
            "noise": PatchNoise(size=5),
            "inner_steps": 4,
            "noise_steps": 4,
            "kernel_lr": 5e-3,
        }
        | parts
    )


@pytest.fixture(scope="module")
def grey():
    return degrade(scene(), OP, GaussianKernelPrior.truth(2), seed=3, how=Quantize.NONE)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_the_latent_is_standard_normal_and_no_parameter(grey):
    run = begin(em(), grey.y).run
    z = run.image.z
    assert z.shape == (1, 2, 32, 32) and not z.requires_grad and "z" in dict(run.image.named_buffers())
    assert abs(float(z.mean())) < 4.5 / math.sqrt(z.numel())
    assert abs(float(z.var()) - 1) < 4.5 * math.sqrt(2 / z.numel())


def test_steps_take_turns(grey):
    """M-steps move weights and kernel and leave z; the E-step before every fourth but the first moves z."""
    estimation = begin(em(), grey.y)
    run, moved = estimation.run, []
    for _ in range(9):
        before = run.image.z.clone(), weights(run.image), weights(run.kernel)
        estimation.advance()
        after = run.image.z, weights(run.image), weights(run.kernel)
        moved.append(tuple(not torch.equal(a, b) for a, b in zip(before, after, strict=True)))
    assert moved == [(i in (4, 8), True, True) for i in range(9)]


def test_an_e_step_moves_nothing_but_the_latent(grey):
    estimation = begin(em(), grey.y)
    advance(estimation, 2)
    run = estimation.run
    old = weights(run.image), weights(run.kernel), run.image.z.clone()
    energy = Energy(grey.y, OP, GaussianLikelihood(), HyperLaplacian(), 0.2)
    MonteCarloEm().begin_outer(run, energy)
    assert torch.equal(weights(run.image), old[0]) and torch.equal(weights(run.kernel), old[1])
    assert all(p.grad is None for m in (run.image, run.kernel) for p in m.parameters())
    assert 0.5 < float((run.image.z - old[2]).norm()) < 5, "five steps of length 1/2 and a little noise"


def test_the_e_step_descends_minus_the_log_posterior_of_the_latent(grey):
    """One step without noise, its direction by finite differences of ½ Σ r²/σ² + ρ Ω(x) + ½ ‖z‖²."""
    estimation = begin(em(image=lambda problem: Blend(OP.hr_shape(*problem.y.shape[-2:]))), grey.y)
    advance(estimation, 2)
    run = estimation.run
    run.variance = PatchNoise(5).update(run.variance, torch.randn(1, 1, 16, 16, generator=run.generator) / 9, None)

    def minus_log(z):
        x = run.image.picture(z)
        r = OP(x, run.kernel()) - grey.y
        return (0.5 * r**2 / run.variance).sum() + 0.2 * HyperLaplacian().energy(x).sum() + 0.5 * z.square().sum()

    z, h = run.image.z.clone(), 1e-4
    with torch.no_grad():
        slopes = torch.stack([(minus_log(z + e) - minus_log(z - e)) / (2 * h) for e in h * torch.eye(3).double()])
        energy = Energy(grey.y, OP, GaussianLikelihood(), HyperLaplacian(), 0.2)
    quiet = LatentLangevin(1, 0.01, limit=None, noisy=0)
    MonteCarloEm(quiet).begin_outer(run, energy)
    moved = (z - run.image.z) / (0.5 * 1e-4)
    assert float((moved - slopes).norm()) < 5e-3 * float(slopes.norm()), (moved, slopes)


class Blend(torch.nn.Module):
    """A picture from three numbers z, double precision inside, and a weight to train."""

    def __init__(self, shape):
        super().__init__()
        self.register_buffer("z", torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64))
        self.weight = torch.nn.Parameter(torch.tensor(0.4))
        r, c = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
        self.waves = torch.stack([torch.sin(r / 3), torch.cos(c / 4), torch.sin((r + c) / 5)]).double()

    def picture(self, z):
        return torch.sigmoid(self.weight + (z[:, None, None] * self.waves).sum(0))[None, None].float()

    def forward(self):
        return self.picture(self.z)


def test_the_start_brings_the_image_near_the_bilinear_one(grey):
    target, close = bilinear(grey.y, OP), []
    for steps in (0, 60):
        estimation = begin(em(optimizer=MonteCarloEm(start_steps=steps)), grey.y)
        estimation.advance()
        close.append(float(ssim(estimation.run.x, target)))
    assert close[1] > close[0] + 0.3, close


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("alignment", list(Alignment))
def test_bilinear_enlargement_lies_on_the_operators_grid(scale, alignment):
    """A ramp stays a ramp: HR pixel p shows p's place among the LR pixels, which look at s u ∓ (s - 1)/2."""
    u = torch.arange(10.0)
    y = (2 * u[:, None] + 3 * u[None, :])[None, None]
    x = bilinear(y, Degradation(scale, alignment=alignment))
    p = (torch.arange(10.0 * scale) + (scale - 1) / 2 * (1 if alignment is Alignment.FKP else -1)) / scale
    expected = 2 * p[:, None] + 3 * p[None, :]
    inner = slice(scale, 8 * scale)
    torch.testing.assert_close(x[0, 0, inner, inner], expected[inner, inner], rtol=1e-4, atol=1e-4)
    assert x.shape == (1, 1, 10 * scale, 10 * scale)


def test_the_gradient_of_the_weights_is_limited(grey):
    """In units of the published loss, which is the energy over 2σ̄²; seen by plain descent."""
    moves = []
    for clip in (None, 1e-3):
        run = begin(em(noise=FixedNoise(0.05)), grey.y).run
        run.image_adam = torch.optim.SGD(run.image.parameters(), lr=1.0)
        before = weights(run.image)
        run.step = 1  # no start
        MonteCarloEm(clip=clip).step(run, Energy(grey.y, OP, GaussianLikelihood(), HyperLaplacian(), 0.2))
        moves.append(weights(run.image) - before)
    limit = 1e-3 * 2 * 0.05**2
    assert float(moves[0].norm()) > limit and float(moves[1].norm()) == pytest.approx(limit, rel=1e-2)
    cosine = torch.nn.functional.cosine_similarity(moves[0], moves[1], dim=0)
    assert float(cosine) > 0.99


@pytest.mark.parametrize("noise", [PatchNoise(5), NOISES["iid"].value], ids=["patch", "iid"])
def test_a_resumed_run_gives_the_same_bits(grey, noise):
    check_resume(em(noise=noise), grey.y, OP, 11, (0, 2, 4, 5, 8))


def test_the_row_holds_the_published_numbers():
    problem = Problem(torch.zeros(1, 3, 12, 12), Degradation(4))
    for preset in PRESETS:
        a = METHODS["bsrdm"].method(preset).estimator
        image = a.image(problem)
        s = image.settings
        assert (s.channels, s.skip_channels, s.levels, s.non_local_from, s.bf16) == (96, 16, 3, 3, False)
        assert image.z.shape == (1, 8, 48, 48) and (a.image_lr, a.kernel_lr) == (2e-3, 5e-3)
        assert (a.inner_steps, a.noise_steps, a.steps) == (50, 50, 400)
        assert (a.image_prior, a.rho, a.data_term) == (HyperLaplacian(0.67), 0.2, GaussianLikelihood())
        assert a.optimizer == MonteCarloEm(LatentLangevin(5, 1.0, 1.0, 2), 50, 10.0)
        assert a.noise == PatchNoise(15, 0.01) and a.prior is None and a.average == 0
        kernel = a.kernel(problem, None).module
        torch.testing.assert_close(kernel.precision(), torch.eye(2) / 16)
        assert kernel.center.tolist() == [7.5, 7.5]


@pytest.mark.slow
def test_image_and_kernel_come_nearer_to_the_truth():
    start, end = [], []
    image = skip_image(channels=16, input_channels=8, input_std=1.0, normal_input=True)
    truth = degrade(scene(64), OP, GaussianKernelPrior.truth(2), seed=3)
    y = truth.y
    run = begin(em(image=image, optimizer=MonteCarloEm(), inner_steps=50, noise_steps=50, image_lr=2e-3), y)
    for metrics in run.iterate(200):
        if metrics.step in (1, 200):
            x, k = run.estimate().image, run.estimate().kernel
            (start if metrics.step == 1 else end).extend(
                [float((x - truth.x).square().mean()), float((k - truth.kernel).square().mean())]
            )
    assert end[0] < 0.7 * start[0] and end[1] < 0.25 * start[1], (start, end)


# --- noise that differs from place to place ------------------------------------------------------------------------


def test_patch_noise_is_a_mean_over_patches(gen):
    r = torch.randn(1, 3, 20, 33, generator=gen, dtype=torch.float64)
    found = PatchNoise(15).update(torch.ones(()), r, None)
    expected = uniform_filter(r.square().numpy(), (1, 1, 15, 15), mode="mirror")
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
    assert isinstance(PatchNoise(), NoiseModel)


def test_patch_noise_finds_simulated_variances(gen):
    """Four quarters with levels of their own, each channel too: means over 225 squares, standard error √(2/225)."""
    std = torch.ones(1, 2, 60, 60)
    levels = {(0, 0): 0.02, (0, 1): 0.05, (1, 0): 0.1, (1, 1): 0.01}
    for (row, column), level in levels.items():
        std[..., 30 * row : 30 * row + 30, 30 * column : 30 * column + 30] = level
    std[:, 1] *= 2
    noise = PatchNoise(15)
    y = torch.full_like(std, 0.5)
    found = noise.update(noise.initial(y), std * torch.randn(std.shape, generator=gen), noise.initial(y))
    for channel in (0, 1):
        for (row, column), level in levels.items():
            inner = found[0, channel, 30 * row + 7 : 30 * row + 23, 30 * column + 7 : 30 * column + 23]
            ratio = inner / ((1 + channel) * level) ** 2
            assert float(ratio.mean()) == pytest.approx(1, abs=4.5 * math.sqrt(2 / 225))
            assert float((ratio - 1).abs().max()) < 6 * math.sqrt(2 / 225)


def test_patch_noise_starts_alike_and_has_a_floor():
    noise, y = PatchNoise(), torch.rand(1, 3, 4, 5)
    assert torch.equal(noise.initial(y), torch.full((1, 3, 4, 5), 0.01**2))
    floor = noise.update(noise.initial(y), torch.zeros_like(y), noise.initial(y))  # smaller than a patch
    torch.testing.assert_close(floor, torch.full_like(y, 1 / (255**2 * 12)))
    for bad in ({"size": 4}, {"size": 0}, {"start_std": 0.0}, {"floor_std": 0.0}):
        with pytest.raises(ValueError, match="patch noise"):
            PatchNoise(**bad)


def test_noise_is_estimated_once_in_noise_steps(grey):
    estimation, changed = begin(em(noise_steps=3), grey.y), []
    for _ in range(7):
        before = estimation.run.variance
        estimation.advance()
        changed.append(not torch.equal(before, estimation.run.variance))
    assert changed == [False, False, True, False, False, True, False]


def test_valid_padding_serves_too(grey):
    op = replace(OP, padding=Padding.VALID, alignment=Alignment.CENTERED)
    run = begin(em(), grey.y, op=op)
    assert math.isfinite(advance(run, 5)[-1].loss)
    assert run.estimate().image.shape == (1, 1, 32, 32)
