"""The flow prior: formulas, inverse and Jacobian by brute force, what it learns, its file, its place as a part."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from blindsr.errors import UserError
from blindsr.estimators.problem import MonteCarloSettings, Problem
from blindsr.generators.skip import SkipSettings
from blindsr.methods.parts import PRIORS
from blindsr.methods.presets import PRESETS
from blindsr.methods.table import METHODS
from blindsr.operators.degradation import Degradation
from blindsr.operators.kernels import center_of_mass, covariance, tilted
from blindsr.posteriors.base import KernelTarget, value_and_gradient
from blindsr.posteriors.fixed_image import FixedImageTarget
from blindsr.posteriors.spectral import SpectralTarget
from blindsr.priors.base import KernelDensity
from blindsr.priors.flow import WEIGHTS, FlowPrior, flow_bytes, flow_for, read_flow
from blindsr.priors.flow_net import FlowShape, KernelFlow, Logits
from blindsr.priors.flow_training import FlowRecipe, recipe_for, train_flow
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.motion import CameraShakePrior
from blindsr.random import seeded
from blindsr.samplers.table import sample
from blindsr.testing import check_kernel_density, check_kernel_prior

SMALL = FlowShape(5, levels=(3, 8), couplings=3, bins=4, hidden=6)
SHIPPED = [(family, scale) for family in ("gaussian", "motion") for scale in (2, 3, 4)]
TRUTHS = {"gaussian": GaussianKernelPrior.truth, "motion": CameraShakePrior.protocol}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_flow(seed=0, spread=1.0):
    """A flow with random weights that are far from an easy map, float64."""
    with seeded(seed):
        flow = KernelFlow(SMALL).double()
        for p in flow.parameters():
            p.data.add_(0.3 * spread * torch.randn_like(p))
    mixed = torch.linalg.qr(torch.randn(25, 25, generator=generator(seed), dtype=torch.float64))[0]
    flow.axes.copy_(mixed)
    flow.std.copy_(torch.linspace(2.0, 0.2, 25))
    flow.mean.copy_(torch.linspace(-3.0, 1.0, 25))
    return flow.eval().requires_grad_(False)


def small_prior(seed=0):
    flow = small_flow(seed).half().float()  # as a file holds it
    return FlowPrior(flow, Logits(0.4), 2, {"seed": seed})


@pytest.fixture(scope="module")
def trained():
    """A flow that learned round 7 x 7 Gaussians for about a minute on one core."""
    recipe = FlowRecipe(steps=1200, batch=250, pool=10000, levels=(4, 12), hidden=32)
    return train_flow(round_ones(), 2, recipe, generator=generator())


def round_ones(high=2.5):
    return GaussianKernelPrior.uniform(7, 0.5, high, 3.0, isotropic=True, jitter=0.5)


def moments(kernels):
    """Centre, covariance, its eigenvalues, peak and sum of squares, (n, 9)."""
    k = kernels.double()
    c = covariance(k)
    axes = torch.linalg.eigvalsh(c)
    flat = k.flatten(1)
    center = center_of_mass(k).T.mul(1e4).round() / 1e4  # where it never varies, no test on rounding errors
    return torch.stack(
        [*center, c[:, 0, 0], c[:, 1, 1], c[:, 0, 1], *axes.T, flat.amax(1), flat.square().sum(1)], 1
    ).numpy()


def least_p(a, b):
    """Smallest p-value of Kolmogorov-Smirnov tests on the moments, times their number (Holm's first step)."""
    return min(stats.ks_2samp(x, y).pvalue for x, y in zip(a.T, b.T, strict=True)) * a.shape[1]


# --- kernels and logits -------------------------------------------------------------------------------------------


def test_logits_are_the_formula(gen):
    k = GaussianKernelPrior.truth(2).sample(3, generator=gen).double()
    x = 1e-3 + (1 - 2e-3) * k.flatten(1).numpy() / 0.3
    np.testing.assert_allclose(Logits(0.3).encode(k), np.log(x / (1 - x)), rtol=1e-12)
    noisy = Logits(0.3, noise=0.2).encode(k, generator=generator(1)) - Logits(0.3).encode(k)
    np.testing.assert_allclose(noisy, 0.2 * torch.randn(3, 121, generator=generator(1), dtype=torch.float64))


@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_decoding_undoes_encoding_but_for_what_the_floor_takes(noise, gen):
    """The way back is a soft threshold, two standard deviations of the noise above the floor."""
    k = GaussianKernelPrior.truth(4).sample(20, generator=gen).double()
    logits = Logits(0.17, 1e-3, noise)
    back = logits.decode(logits.encode(k))
    quiet = 1 / (1 + math.exp(-(math.log(1e-3 / (1 - 1e-3)) + 2 * noise)))
    expected = (k - 0.17 * (quiet - 1e-3) / (1 - 2e-3)).clamp_min(0)
    torch.testing.assert_close(back, expected / expected.sum((1, 2, 3), keepdim=True), rtol=1e-4, atol=1e-8)
    variances = [covariance(v).diagonal(dim1=1, dim2=2) for v in (back, k)]
    torch.testing.assert_close(*variances, rtol=0.06, atol=0)


def test_noise_leaves_hardly_anything_in_empty_pixels(gen):
    """FKP's noise of one size leaves some per cent of a wide kernel's mass there."""
    k = (
        GaussianKernelPrior.truth(4)
        .kernel_of(torch.tensor([[6.0, 6.0, 0.0, 7.5, 7.5]]))
        .double()
        .expand(200, -1, -1, -1)
    )
    logits = Logits(0.16)
    seen = logits.decode(logits.encode(k, generator=gen))
    far = k < 1e-2 * k.max()
    assert abs(float((seen - k)[far].sum() / 200)) < 4e-3
    flat = k / 0.16 + torch.rand(k.shape, generator=gen, dtype=torch.float64) / 720
    flat = flat / flat.sum((1, 2, 3), keepdim=True)
    assert float((flat - k)[far].sum() / 200) > 0.015


def test_a_tilt_moves_the_centre_and_stays_nearest(gen):
    """Against scipy: of all kernels with that centre, the one of least relative entropy."""
    k = GaussianKernelPrior.uniform(5, 0.8, 2.0, 2.0, jitter=0.3).sample(3, generator=gen).double()
    k[0, 0, :1] = 0
    k = k / k.sum((1, 2, 3), keepdim=True)
    found = tilted(k, 2.0)
    torch.testing.assert_close(center_of_mass(found), torch.full((3, 2), 2.0, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(tilted(found, 2.0), found)
    assert torch.equal(found == 0, k == 0)
    u = np.stack(np.meshgrid(range(5), range(5)), -1).reshape(-1, 2)
    for old, new in zip(k.flatten(1).numpy(), found.flatten(1).numpy(), strict=True):
        best = optimize.minimize(lambda a, p=old: np.log((p * np.exp((u - 2) @ a)).sum()), [0.0, 0.0], tol=1e-12).x
        expected = old * np.exp((u - 2) @ best)
        np.testing.assert_allclose(new, expected / expected.sum(), atol=1e-6)
    k.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: tilted(v / v.sum((1, 2, 3), keepdim=True), 2.0), (k[1:].detach().requires_grad_(),)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_kernel_of_one_pixel_cannot_be_tilted_and_survives(dtype):
    k = torch.zeros(1, 1, 5, 5, dtype=dtype)
    k[0, 0, 4, 0] = 1
    assert torch.equal(tilted(k, 2.0), k)


def test_a_common_centre_is_kept(gen):
    logits = Logits(0.4, 0.03, 0.2, 4.5)
    k = CameraShakePrior.protocol(2).sample(50, generator=gen)
    seen = logits.decode(logits.encode(k, generator=gen))
    assert float((center_of_mass(seen) - 4.5).abs().max()) < 1e-4
    loose = Logits(0.4, 0.03, 0.2).decode(logits.encode(k, generator=gen))
    assert float((center_of_mass(loose) - 4.5).abs().max()) > 0.02


@pytest.mark.parametrize("value", [-1e4, -40.0, 0.0, 40.0, 1e4])
def test_any_logits_make_a_kernel(value):
    v = torch.full((2, 49), value).requires_grad_()
    k = Logits(0.3).decode(v)
    assert torch.isfinite(k).all() and k.min() >= 0
    torch.testing.assert_close(k.sum((1, 2, 3)), torch.ones(2))
    k.square().sum().backward()
    assert torch.isfinite(v.grad).all()


@pytest.mark.parametrize(
    "numbers", [(0.0, 1e-3, 0.1), (1.5, 1e-3, 0.1), (0.3, 0.0, 0.1), (0.3, 0.2, 0.1), (0.3, 1e-3, 0)]
)
def test_impossible_logits_are_refused(numbers):
    with pytest.raises(ValueError, match="flow: peak"):
        Logits(*numbers)


# --- the map ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_inverse_undoes_the_map(seed):
    flow = small_flow(seed)
    z = 2 * torch.randn(50, 25, generator=generator(seed), dtype=torch.float64)
    back, log_det = flow.inverse(flow(z))
    torch.testing.assert_close(back, z, rtol=1e-6, atol=1e-6)
    assert log_det.shape == (50,)


@pytest.mark.parametrize("seed", range(3))
def test_density_is_the_change_of_variables(seed):
    """log p(v) = log N(z) - log |det dv/dz|, the determinant by autograd and dense algebra."""
    flow = small_flow(seed)
    z = torch.randn(4, 25, generator=generator(seed), dtype=torch.float64)
    found = flow.log_prob(flow(z))
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda a: flow(a[None])[0], z[i])
        expected = stats.norm.logpdf(z[i]).sum() - np.linalg.slogdet(jacobian.numpy())[1]
        assert float(found[i]) == pytest.approx(expected, abs=1e-6)


def test_coarse_coordinates_do_not_depend_on_fine_ones():
    flow = small_flow()
    z = torch.randn(1, 25, generator=generator(), dtype=torch.float64)
    other = z.clone()
    other[:, 8:] += 1.0
    a, b = (((flow(v) - flow.mean) @ flow.axes) / flow.std for v in (z, other))
    torch.testing.assert_close(a[:, :8], b[:, :8])
    assert float((a - b)[:, 8:].abs().min()) > 1e-3


def test_whitening_is_by_principal_axes():
    v = torch.randn(400, 25, generator=generator(), dtype=torch.float64) @ torch.diag(
        torch.linspace(0.1, 3, 25).double()
    )
    flow = KernelFlow(SMALL).double()
    flow.whiten(v, 0.2)
    cov = np.cov(v.numpy().T, bias=True) + 0.04 * np.eye(25)
    axes = flow.axes.numpy() / flow.std.numpy()
    np.testing.assert_allclose(axes.T @ cov @ axes, np.eye(25), atol=1e-8)
    assert np.all(np.diff(flow.std.numpy()) <= 0)


@pytest.mark.parametrize(
    "numbers", [{"levels": (1, 4)}, {"levels": (4, 4)}, {"levels": (4, 25)}, {"levels": ()}, {"bins": 1}, {"hidden": 0}]
)
def test_impossible_shapes_are_refused(numbers):
    with pytest.raises(ValueError, match="flow: "):
        FlowShape(5, **{"levels": (3, 8)} | numbers)


# --- the prior ----------------------------------------------------------------------------------------------------


def test_it_is_a_density_over_white_noise():
    prior, op = small_prior(), Degradation(2, 5)
    assert isinstance(prior, KernelDensity) and (prior.kernel_size, prior.dim) == (5, 25)
    check_kernel_prior(prior, op)
    check_kernel_density(prior, op)
    z = torch.randn(6, 25, generator=generator(), dtype=torch.float64)
    np.testing.assert_allclose(prior.log_prob(z), stats.norm.logpdf(z).sum(1), rtol=1e-12)
    torch.testing.assert_close(prior.kernel(z).float(), prior.kernel(z.float()), rtol=1e-3, atol=1e-5)
    assert prior.kernel(z).dtype == torch.float64 and prior.kernel(z.float()).dtype == torch.float32


def test_kernels_far_out_in_z_are_kernels():
    prior = small_prior()
    z = 300 * torch.randn(20, 25, generator=generator())
    k = prior.kernel(z.requires_grad_())
    assert torch.isfinite(k).all() and k.min() >= 0
    torch.testing.assert_close(k.sum((1, 2, 3)), torch.ones(20), rtol=0, atol=1e-5)
    k.square().sum().backward()
    assert torch.isfinite(z.grad).all()


def test_gradients_equal_finite_differences():
    prior = small_prior()
    z = torch.randn(1, 25, generator=generator(3), dtype=torch.float64).requires_grad_()

    def score(at):
        return (prior.kernel(at)[0, 0] * torch.arange(25.0).view(5, 5)).sum()

    (gradient,) = torch.autograd.grad(score(z), z)
    for j in range(0, 25, 4):
        h = torch.zeros_like(z)
        h[0, j] = 1e-6
        slope = float((score(z.detach() + h) - score(z.detach() - h)) / 2e-6)
        assert float(gradient[0, j]) == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_kernels_of_another_size_have_no_density():
    with pytest.raises(ValueError, match=r"shape \(2, 1, 7, 7\); \(n, 1, 5, 5\) is needed"):
        small_prior().log_prob_kernels(torch.rand(2, 1, 7, 7), generator=generator())


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_flow_learns_kernels_in_seconds(trained):
    """Draws pass as the (dequantised) kernels; wider ones would not."""
    n, gen = 1000, generator(5)
    true = round_ones().sample(n, generator=gen).double()
    seen = moments(trained.logits.decode(trained.logits.encode(true, generator=gen)))
    drawn = moments(trained.sample(n, generator=gen))
    assert least_p(seen, drawn) > 0.01
    wider = round_ones(high=3.0).sample(n, generator=gen)
    assert least_p(seen, moments(wider)) < 1e-4
    assert least_p(drawn, moments(wider)) < 1e-4


@pytest.mark.slow
def test_held_out_likelihood_beats_one_gaussian_on_the_same_logits(trained):
    gen = generator(6)
    train, test = (
        trained.logits.encode(round_ones().sample(n, generator=gen).double(), generator=gen) for n in (8000, 1000)
    )
    gaussian = stats.multivariate_normal(train.mean(0), np.cov(train.numpy().T))
    flow = trained.log_prob_logits(test).numpy()
    assert flow.mean() > gaussian.logpdf(test.numpy()).mean() + 4
    assert abs(flow.mean() - trained.recipe["log_prob_held_out"]) < 1


def test_density_of_a_known_law_is_found():
    """Where kernels are all alike but for the noise, the logits are normal: their entropy is known."""

    class Nearly:
        kernel_size = 5

        def sample(self, n, *, generator):
            return GaussianKernelPrior.uniform(5, 1.0, 1.0 + 1e-6, 2.0).sample(n, generator=generator)

    recipe = FlowRecipe(steps=60, batch=200, pool=2000, levels=(4,), hidden=4, noise=0.1, lr=1e-3)
    flow = train_flow(Nearly(), 2, recipe, generator=generator())
    entropy = 25 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.1))
    assert flow.recipe["log_prob_held_out"] == pytest.approx(-entropy, abs=0.4)


def test_same_seed_same_bits():
    recipe = FlowRecipe(steps=4, batch=50, pool=100, levels=(4,), hidden=4, held_out=20)
    before = torch.random.get_rng_state()
    a, b, c = (flow_bytes(train_flow(round_ones(), 2, recipe, generator=generator(s))) for s in (0, 0, 1))
    assert a == b != c
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_prior_of_one_kernel_teaches_nothing():
    class One:
        kernel_size = 5

        def sample(self, n, *, generator):
            return torch.full((n, 1, 5, 5), 1 / 25)

    with pytest.raises(ValueError, match="one and the same kernel"):
        train_flow(One(), 2, recipe_for("gaussian", 3), generator=generator())


def test_a_common_centre_must_be_there():
    recipe = FlowRecipe(steps=1, batch=5, pool=50, held_out=5, levels=(4,), hidden=4, one_center=True)
    with pytest.raises(ValueError, match="different centres of mass"):
        train_flow(round_ones(), 2, recipe, generator=generator())
    assert train_flow(CameraShakePrior.protocol(2, 7), 2, recipe, generator=generator()).logits.center == 2.5


@pytest.mark.parametrize(
    "numbers", [{"steps": 0}, {"batch": 0}, {"pool": 10}, {"lr": 0.0}, {"held_out": 0}, {"uses": 0}]
)
def test_impossible_recipes_are_refused(numbers):
    with pytest.raises(ValueError, match="flow: need steps"):
        FlowRecipe(**numbers)


# --- files --------------------------------------------------------------------------------------------------------


def test_a_file_gives_the_same_flow_back(tmp_path):
    prior = small_prior()
    path = tmp_path / "small.safetensors"
    path.write_bytes(flow_bytes(prior))
    back = read_flow(path)
    z = prior.sample_z(5, generator=generator())
    assert torch.equal(prior.kernel(z), back.kernel(z))
    assert (back.logits, back.scale, back.recipe, back.flow.shape) == (prior.logits, 2, {"seed": 0}, SMALL)


def changed(**entries):
    """A flow's file with other metadata."""
    from safetensors.torch import load, save

    content = flow_bytes(small_prior())
    about = json.loads(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["about"])
    return save(load(content), {"format": "blindsr-flow-1", "about": json.dumps(about | entries)})


def other_tensors():
    from safetensors.torch import save

    return save({"weight": torch.zeros(3)})


def not_finite():
    prior = small_prior()
    prior.flow.mean[0] = torch.nan
    return flow_bytes(prior)


DAMAGED = {
    "not a safetensors file, or damaged": lambda: b"some bytes that are no weights",
    "not a safetensors file, or damage": lambda: flow_bytes(small_prior())[:-100],
    "not a flow of this version": other_tensors,
    "the weights are not all finite": not_finite,
    "the weights do not fit their description": lambda: changed(shape={"kernel_size": 5}),
    "the weights do not fit their descriptio": lambda: changed(shape=small_dict(kernel_size=7)),
    "the weights do not fit their descripti": lambda: changed(shape=small_dict(hidden=7)),
    "the weights do not fit their descript": lambda: changed(shape=small_dict(kernel_size=10**6)),
    "the weights do not fit their descrip": lambda: changed(logits={"peak": 7.0}),
    "the weights do not fit their descri": lambda: changed(shape=None),
}


def small_dict(**entries):
    return {"kernel_size": 5, "levels": [3, 8], "couplings": 3, "bins": 4, "hidden": 6} | entries


@pytest.mark.parametrize("message", DAMAGED)
def test_damaged_files_are_told(message, tmp_path):
    path = tmp_path / "f.safetensors"
    path.write_bytes(DAMAGED[message]())
    with pytest.raises(UserError, match=message) as caught:
        read_flow(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match=r"none\.safetensors: no such file"):
        read_flow(tmp_path / "none.safetensors")


@pytest.mark.parametrize(("scale", "size"), [(8, 0), (4, 13)])
def test_a_size_without_a_flow_says_how_to_train_one(scale, size):
    op = Degradation(scale, size)
    with pytest.raises(UserError, match=f"train-flow --prior gaussian --scale {scale} --kernel-size {op.kernel_size} "):
        PRIORS["flow"].value(Problem(torch.zeros(1, 1, 16, 16), op))


# --- what comes with the package ----------------------------------------------------------------------------------


def test_shipped_flows_are_small_and_say_how_they_were_made():
    files = sorted(WEIGHTS.glob("*.safetensors"))
    assert [f.stem for f in files] == sorted(f"{family}-x{scale}" for family, scale in SHIPPED)
    assert sum(f.stat().st_size for f in files) < 6e6
    for family, scale in SHIPPED:
        recipe = flow_for(Degradation(scale), family).recipe
        assert (recipe["prior"], recipe["scale"], recipe["seed"]) == (family, scale, 0)
        assert recipe["settings"]["steps"] == recipe_for(family).steps


@pytest.mark.parametrize(("family", "scale"), SHIPPED)
def test_shipped_flows_pass_as_the_kernels_they_learned(family, scale):
    """2,000 kernels a side, moments by Kolmogorov-Smirnov with Holm's correction (`benchmarks/flow.py`: 20 repeats).

    Camera shake is learned less well (its peak and its short axis), so there the distance itself is bounded.
    """
    flow, prior, gen, n = flow_for(Degradation(scale), family), TRUTHS[family](scale), generator(20 + scale), 2000
    check_kernel_prior(flow, Degradation(scale))
    true = prior.sample(n, generator=gen).double()
    seen, drawn = flow.logits.decode(flow.logits.encode(true, generator=gen)), flow.sample(n, generator=gen)
    if family == "motion":
        a, b = moments(seen), moments(drawn)
        assert max(stats.ks_2samp(x, y).statistic for x, y in zip(a.T, b.T, strict=True)) < 0.1
    else:
        assert least_p(moments(seen), moments(drawn)) > 0.05


# --- as a part ----------------------------------------------------------------------------------------------------


def scene(scale=2, side=20, noise=0.01, seed=3):
    """A picture of random blobs, its LR image under a protocol kernel, and that kernel."""
    op = Degradation(scale)
    k = GaussianKernelPrior.truth(scale).sample(1, generator=generator(seed)).double()
    x = torch.rand(1, 1, side * scale, side * scale, generator=generator(seed), dtype=torch.float64)
    y = op(x, k)
    return op, x, y + noise * torch.randn(y.shape, generator=generator(seed), dtype=torch.float64), k


@pytest.mark.slow
def test_posterior_given_an_image_finds_the_kernel():
    """Target (b): short chains from the flow's latent end nearer to the truth than the prior's draws."""
    op, x, y, k = scene()
    prior = flow_for(op)
    target = FixedImageTarget(x, y, op, prior, noise_std=0.05)
    assert isinstance(target, KernelTarget) and len(target.names) == 121
    value, gradient = value_and_gradient(target)(target.sample_prior(3, generator=generator(1)))
    assert torch.isfinite(value).all() and float(gradient.abs().max()) > 0
    start = target.sample_prior(50, generator=generator(2))
    chains = sample(target, "mala", chains=2, draws=60, warmup=120, generator=generator(4))
    mean = prior.kernel(chains.draws.flatten(0, 1)).mean(0, keepdim=True)
    off, before = (float((v - k).square().mean()) for v in (mean, prior.kernel(start).mean(0, keepdim=True)))
    assert off < before / 10


def test_posterior_given_y_alone_has_a_finite_density_and_gradient():
    """Target (a)."""
    op, _, y, _ = scene(side=24)
    target = SpectralTarget(y, op, flow_for(op))
    z = torch.cat([torch.zeros(1, 121), torch.randn(1, 121, generator=generator())]).double()
    u = torch.zeros(2, len(target.names) - 121, dtype=torch.float64)
    position = target.join(z, u)
    value, gradient = value_and_gradient(target)(position)
    assert torch.isfinite(value).all() and torch.isfinite(gradient).all()
    h = torch.zeros_like(position)
    h[:, 0] = 0.01  # parts of the density are in single precision
    slope = (target.log_prob(position + h) - target.log_prob(position - h)) / 0.02
    torch.testing.assert_close(gradient[:, 0], slope, rtol=0.02, atol=0.02)


TINY = replace(
    PRESETS["paper"],
    skip=SkipSettings(channels=4, skip_channels=2, levels=2),
    monte_carlo=MonteCarloSettings(warmup_steps=3),
)


def test_the_monte_carlo_step_draws_from_it():
    op, _, y, _ = scene(side=16)
    loop = replace(METHODS["mlmc"], prior=PRIORS["flow"]).loop(TINY)
    run = loop.start(y.float(), op, seed=0, device="cpu")
    assert isinstance(run.mcka.prior, FlowPrior)
    metrics = list(run.iterate(6))
    assert math.isfinite(metrics[0].monte_carlo) and math.isfinite(metrics[5].monte_carlo)
