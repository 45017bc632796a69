"""The free kernel near an estimate: its law against numpy, its scale against drawn camera shake, whole runs."""

import json
import math

import numpy as np
import pytest
import torch
from helpers import call
from PIL import Image
from scipy import ndimage

from blindsr.diagnostics import arviz_io
from blindsr.estimators.base import Estimate
from blindsr.estimators.free_form import FreeFormEstimator
from blindsr.methods import table
from blindsr.methods.parts import RESTORERS
from blindsr.methods.rows import OtherRow
from blindsr.operators.degradation import Degradation
from blindsr.posteriors.base import value_and_gradient
from blindsr.posteriors.fixed_image import FixedImageTarget
from blindsr.posteriors.spectral import SpectralTarget
from blindsr.posteriors.spectral_laplace import SpectralPosterior
from blindsr.priors.base import KernelDensity
from blindsr.priors.free import CUT, LEAST, LOST, SPREAD, FreeKernels
from blindsr.priors.motion import ExposedShakePrior
from blindsr.priors.normal import DiskShape
from blindsr.results.targets import Scene, kernel_family
from blindsr.samplers.table import sample
from blindsr.testing import check_kernel_density, check_kernel_prior

TINY = torch.tensor([[0.0, 0.1, 0.0], [0.2, 0.4, 0.004], [0.0, 0.3, 0.0]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def shake(size=15, scale=2, seed=0):
    return ExposedShakePrior(size, (size - scale) / 2, (6.0, 9.0)).sample(1, generator=generator(seed))[0, 0]


# --- the law ----------------------------------------------------------------------------------------------------------


def test_it_keeps_the_contract():
    d = Degradation(2, 15)
    prior = FreeKernels(shake(), 2)
    assert isinstance(prior, KernelDensity) and len(prior.names) == prior.dim < len(prior.support)
    check_kernel_prior(prior, d)
    check_kernel_density(prior, d)


def test_the_support_is_the_kernel_and_its_neighbours():
    k = shake()
    expected = ndimage.binary_dilation((k >= CUT * k.max()).numpy(), structure=np.ones((3, 3)))
    prior = FreeKernels(k, 2)
    assert prior.support.tolist() == np.flatnonzero(expected).tolist()
    drawn = prior.sample(20, generator=generator())[:, 0]
    assert bool(((drawn > 0) == torch.from_numpy(expected)).all())


def test_the_origin_is_the_estimate_with_its_least_values_raised():
    at = FreeKernels(TINY, 2).kernel(torch.zeros(1, FreeKernels(TINY, 2).dim, dtype=torch.float64))[0, 0]
    raised = TINY.double().clamp_min(LEAST * 0.4)
    torch.testing.assert_close(at, raised / raised.sum())


def test_logarithms_have_the_stated_covariance():
    """Of 40000 draws, against C without its constant, within the share that is left out and five standard errors."""
    prior, n = FreeKernels(TINY, 2), 40000
    log_k = prior.kernel(prior.sample_z(n, generator=generator())).flatten(1).log().numpy()
    free = log_k - log_k.mean(1, keepdims=True)
    u = np.stack(np.divmod(np.arange(9), 3), 1)
    c = SPREAD[2] ** 2 * np.exp(-((u[:, None] - u) ** 2).sum(2) / 2**2)
    p = np.eye(9) - 1 / 9
    c = p @ c @ p
    found = np.cov(free.T)
    assert np.abs(found - c).max() < LOST * np.trace(c) + 5 * c.max() * math.sqrt(2 / n)
    assert (1 - LOST) * np.trace(c) * 0.98 < np.trace(found) < np.trace(c) * 1.02


def test_gradients_are_right():
    prior = FreeKernels(shake(), 2)
    z = torch.randn(2, prior.dim, generator=generator(), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(prior.kernel, (z,)) and torch.autograd.gradcheck(prior.log_prob, (z,))


@pytest.mark.parametrize("scale", SPREAD)
def test_the_spread_is_that_of_drawn_shake(scale):
    """Logarithms over the support, averaged by a Gaussian window of s/2, have spread τ and the correlation of C."""
    size = {2: 31, 3: 33, 4: 41, 8: 61}[scale]
    squares, products = [], []
    for k in ExposedShakePrior.protocol(scale, size).sample(200, generator=generator())[:, 0].double().numpy():
        inside = k >= CUT * k.max()
        log_k = np.log(np.maximum(k, LEAST * k.max()))
        weight, total = (
            ndimage.gaussian_filter(v, scale / 2, mode="constant")
            for v in (inside.astype(float), np.where(inside, log_k, 0))
        )
        smooth = np.where(inside, total / np.maximum(weight, 1e-9), 0)
        smooth = np.where(inside, smooth - smooth[inside].mean(), 0)
        squares.append(smooth[inside] ** 2)
        both = inside[:, scale:] & inside[:, :-scale]
        products.append((smooth[:, scale:] * smooth[:, :-scale])[both])
    variance = np.concatenate(squares).mean()
    assert math.sqrt(variance) == pytest.approx(SPREAD[scale], rel=0.04)
    if scale < 8:  # a path of 27 pixels has hardly two windows of s = 8 that do not overlap
        assert np.concatenate(products).mean() / variance == pytest.approx(math.exp(-1), abs=0.15)


@pytest.mark.parametrize(
    "estimate",
    [torch.zeros(3, 3), -TINY, TINY[:2], torch.full((3, 3), math.nan), TINY[None]],
)
def test_what_is_no_estimate_is_refused(estimate):
    with pytest.raises(ValueError, match="of finite values of 0 or more, not all 0, is needed"):
        FreeKernels(estimate, 2)
    with pytest.raises(ValueError, match="scale 5: choose one of 2, 3, 4, 8"):
        FreeKernels(TINY, 5)


# --- the targets ------------------------------------------------------------------------------------------------------


def scene_of(kernel, h=20, noise=0.01, seed=1):
    """An HR image, its LR image by a kernel on a circle, and the operator."""
    d = Degradation(2, kernel.shape[-1])
    x = torch.rand(1, 1, 2 * h, 2 * h, generator=generator(seed), dtype=torch.float64)
    y = d(x, kernel[None, None].double())
    return x, y + noise * torch.randn(y.shape, generator=generator(seed + 1), dtype=torch.float64), d


def test_fixed_image_density_is_that_of_brute_force():
    """Differences of log densities, with the convolution and the softmax by numpy."""
    x, y, d = scene_of(TINY / TINY.sum(), h=8)
    prior = FreeKernels(TINY, 2)
    target = FixedImageTarget(x, y, d, prior, noise_std=0.02)
    z = prior.sample_z(3, generator=generator(5))
    u = np.stack(np.divmod(np.arange(9), 3), 1)
    c = SPREAD[2] ** 2 * np.exp(-((u[:, None] - u) ** 2).sum(2) / 2**2)
    p = np.eye(9) - 1 / 9
    values, vectors = np.linalg.eigh(p @ c @ p)
    base = np.log(np.maximum(TINY.double().numpy(), LEAST * float(TINY.max()))).ravel()
    expected = []
    for row in z.numpy():
        own = prior.kernel(torch.from_numpy(row)[None]).flatten().log().numpy() - base
        along = vectors.T @ (own - own.mean())  # coordinates of the change in the eigenvectors, independent of B
        kept = values > 1e-12
        kept[np.argsort(values)[: 9 - prior.dim]] = False
        assert np.abs(along[~kept]).max() < 1e-9
        k = np.exp(base + vectors[:, kept] @ along[kept])
        k = (k / k.sum()).reshape(3, 3)
        before = d.margins[0]
        rolled = sum(
            k[i, j] * np.roll(x[0, 0].numpy(), (before - i, before - j), (0, 1)) for i in range(3) for j in range(3)
        )
        error = ((y[0, 0].numpy() - rolled[::2, ::2]) ** 2).sum()
        expected.append(-0.5 * (along[kept] ** 2 / values[kept]).sum() - 0.5 * error / 0.02**2)
    found = target.log_prob(z).numpy()
    np.testing.assert_allclose(found - found[0], np.array(expected) - expected[0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["spectral", "image"])
def test_gradients_of_the_targets_equal_finite_differences(kind):
    k = shake()
    x, y, d = scene_of(k)
    prior = FreeKernels(k, 2)
    target = SpectralTarget(y, d, prior) if kind == "spectral" else FixedImageTarget(x, y, d, prior)
    if kind == "spectral":
        target._fast = target.likelihood  # double precision
    z = target.sample_prior(3, generator=generator())
    direction = torch.randn(z.shape, generator=generator(1), dtype=torch.float64)
    _, gradient = value_and_gradient(target)(z)
    h = 1e-6
    slope = (target.log_prob(z + h * direction) - target.log_prob(z - h * direction)) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(1), slope, rtol=1e-4, atol=1e-3)


def test_the_spectra_do_not_see_a_mirror_image():
    k = shake()
    y, d = scene_of(k)[1:]
    target = SpectralTarget(y, d, FreeKernels(k, 2))
    pair = torch.stack([k, k.flip(0, 1)])[:, None]
    power = target.likelihood.power(pair)
    torch.testing.assert_close(power[0], power[1], rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_ranks_of_the_truth_are_uniform():
    """Simulation-based calibration of the fixed-image target on the smallest kernel: 40 truths, 63 draws each."""
    prior, d = FreeKernels(TINY, 2), Degradation(2, 3)
    x = torch.rand(1, 1, 16, 16, generator=generator(3), dtype=torch.float64)
    target, gen, ranks = (
        FixedImageTarget(x, d(x, TINY[None, None].double()), d, prior, noise_std=0.05),
        generator(9),
        [],
    )
    for _ in range(40):
        z = target.sample_prior(1, generator=gen)
        given = target.given(target.simulate(z, gen))
        chains = sample(given, "hmc", chains=4, draws=32, warmup=60, generator=gen, covariance=given.laplace(1)[1])
        drawn = chains.draws[:, 1::2].reshape(-1, prior.dim)[:63]
        ranks.append((drawn[:, :3] < z[:, :3]).sum(0).numpy())
    share = (np.array(ranks) + 0.5) / 64
    for column in share.T:  # mean and variance of U(0, 1), at four standard errors
        assert abs(column.mean() - 0.5) < 4 * math.sqrt(1 / 12 / 40)
        assert abs(((column - 0.5) ** 2).mean() - 1 / 12) < 4 * math.sqrt(1 / 180 / 40)


# --- runs -------------------------------------------------------------------------------------------------------------


def test_the_family_is_that_of_the_estimate():
    k, image = shake()[None, None], torch.rand(1, 1, 40, 40)
    y, d = image[..., ::2, ::2], Degradation(2)
    free = Estimate(image, k, 0.01, False, None, {"family": "free"})
    scene = Scene.of(y, image, k, d, free, torch.ones(1, 1, 11, 11) / 121)
    found = kernel_family(False, None, scene)
    assert (
        isinstance(found, FreeKernels) and torch.equal(found.estimate, k[0, 0]) and scene.degradation.kernel_size == 15
    )
    assert scene.true_kernel.shape == (1, 1, 15, 15)
    won = Estimate(image, k, 0.01, False, SpectralPosterior.fit(y, d, DiskShape(11, 2)), {"family": "disk"})
    assert isinstance(kernel_family(False, None, Scene.of(y, image, k, d, won, None)), DiskShape)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["spectral", "image"])
def test_a_free_kernel_is_sampled(tmp_path, monkeypatch, target):
    """A whole run, its files and its diagnosis; the estimate is a quick one in which no parametric kernel competes."""
    quick = FreeFormEstimator(weights=(4e-3,), with_spectra=0.0, rounds=2, parametric=None)
    row = OtherRow("free-map", "a quick estimate", "free kernel", quick, RESTORERS["bicubic"])
    monkeypatch.setitem(table.METHODS, "free-map", row)
    x = torch.from_numpy(ndimage.zoom(np.random.default_rng(0).random((3, 16, 16)), (1, 6, 6), order=0)).float()[None]
    d = Degradation(2, 15)
    y = d(x, shake()[None, None])[0].permute(1, 2, 0)
    Image.fromarray((y.clamp(0, 1) * 255).round().byte().numpy()).save(tmp_path / "y.png")
    words = ("--scale", 2, "--method", "free-map", "--restorer", "bicubic", "--output", tmp_path / "out")
    words = (*words, "--sampler", "hmc", "--target", target, "--draws", 100, "--warmup", 60, "--chains", 2)
    result = call("run", tmp_path / "y.png", *words)
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "out" / "y"
    r = json.loads((folder / "run.json").read_text())
    assert r["kernel_found"]["family"] == "free"
    p = r["posterior"]
    assert (p["family"], p["target"], p["draws"]) == ("FreeKernels", target, 100) and p["kernel_parameters"] > 5
    assert p["verdict"][0].startswith("verdict: ")
    data = arviz_io.load(folder / "posterior.nc")
    kernels = arviz_io.group(data, "kernel")
    assert kernels["sd"].shape == np.load(folder / "kernel.npy").shape and float(kernels["sd"].max()) > 0
    looked = call("diagnose", folder)
    assert looked.exit_code == 0 and f"{p['kernel_parameters']} kernel coordinates: worst R-hat" in looked.stdout
    assert (folder / "diagnostics" / "kernel.png").exists()
