"""Projected alternating minimisation: its step by finite differences, its schedule, and what its paper says it does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime
from scipy.signal import correlate2d
from torch.nn import functional as F

from blindsr.generators.kernel import ScaledKernel, SimplexKernel
from blindsr.generators.pixels import Pixels
from blindsr.likelihood.data_term import GaussianLikelihood
from blindsr.methods.presets import PRESETS
from blindsr.methods.table import METHODS
from blindsr.operators.degradation import Degradation
from blindsr.optimizers.base import Energy, Run
from blindsr.optimizers.projected import ProjectedGradient, descend_
from blindsr.priors.image import TotalVariation

VARIANCE = torch.tensor(5e-4)


def start(y, image, kernel, operator, rho):
    run = Run(image, kernel, None, None, VARIANCE, VARIANCE, torch.Generator())
    return run, Energy(y, operator, GaussianLikelihood(), TotalVariation(), rho)


def test_a_step_is_the_published_one(gen):
    """Against an energy in NumPy and SciPy (x2, wrapped round) with a gradient by finite differences."""
    op, rho, n = Degradation(2, 3), 40.0, 6
    x0, y = torch.rand(1, 1, n, n, generator=gen), torch.rand(1, 1, n // 2, n // 2, generator=gen)
    k0 = torch.rand(1, 1, 3, 3, generator=gen) + 0.2
    k0 = k0 / k0.sum()
    run, energy = start(y, Pixels(x0), ScaledKernel.at(k0), op, rho)
    ProjectedGradient(kernel_step=1e-3, first=7.0, decay=0.5).step(run, energy)

    def data(x, k):
        wrapped = np.pad(x.reshape(n, n), 1, mode="wrap")
        return ((correlate2d(wrapped, k.reshape(3, 3), mode="valid")[::2, ::2] - y[0, 0].numpy()) ** 2).mean()

    def total(x):
        image = x.reshape(n, n)
        dv, dh = (np.diff(image, axis=axis, append=image.take([-1], axis=axis)) for axis in (0, 1))
        lam = 7 * rho * float(VARIANCE)  # of ½‖·‖² + λ TV
        return data(x, k) + 2 * lam / y.numel() * np.sqrt(dv**2 + dh**2 + 1e-8).sum()

    x, k = x0.double().numpy().ravel(), k0.double().numpy().ravel()
    g = approx_fprime(x, total, 1e-7)
    x = np.clip(x - 5e-3 * x.max() / np.abs(g).max() * g, 0, 1)
    g = approx_fprime(k, lambda v: data(x, v), 1e-7)
    k = np.maximum(k - 1e-3 * k.max() / np.abs(g).max() * g, 0)
    torch.testing.assert_close(run.image().detach().double().flatten(), torch.from_numpy(x), atol=2e-5, rtol=0)
    torch.testing.assert_close(
        run.kernel().detach().double().flatten(), torch.from_numpy(k / k.sum()), atol=2e-6, rtol=0
    )


def test_the_weight_falls_geometrically_to_its_own():
    y, op = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0)), Degradation(2)
    run, energy = start(y, Pixels(torch.rand(1, 1, 12, 12)), ScaledKernel(11, 4.5), op, 0.2)
    optimizer, factors = ProjectedGradient(first=10, decay=0.5), []
    for run.step in range(6):
        own = energy.prior(run.image(), VARIANCE).detach()
        factors.append(float(optimizer.step(run, energy).prior.detach() / own))
    assert factors == pytest.approx([10, 5, 2.5, 1.25, 1, 1])


def test_scaled_kernel_clips_then_scales():
    kernel = ScaledKernel(3, 1.0)
    kernel.pixels.data = torch.tensor([[-1.0, 1, 0], [0, 2, 0], [0, 1, -3]]).view(1, 1, 3, 3)
    kernel.retract_()
    assert kernel().flatten().tolist() == [0, 0.25, 0, 0, 0.5, 0, 0, 0.25, 0]
    kernel.pixels.data.fill_(-1)
    kernel.retract_()
    assert kernel().flatten().tolist() == pytest.approx([1 / 9] * 9), "nothing positive left"


class Blur:
    """Blur without subsampling, wrapped round: the deconvolution that the paper is about."""

    def __call__(self, x, k):
        pad = k.shape[-1] // 2
        return F.conv2d(F.pad(x, (pad,) * 4, mode="circular"), k)


def blurred_step():
    """A step along columns, blurred by a lopsided kernel: (sharp, blurred, kernel's profile)."""
    x = torch.full((1, 1, 4, 24), 0.3)
    x[..., 6:18] = 0.7
    profile = torch.tensor([0.0, 0.2, 0.5, 0.3, 0.0])
    k = torch.zeros(1, 1, 5, 5)
    k[0, 0, 2] = profile
    return x, Blur()(x, k), profile


@pytest.mark.parametrize("block", [SimplexKernel, ScaledKernel])
def test_delayed_scaling_leaves_the_blurred_image_explaining_itself(block):
    """Perrone & Favaro 2014, 2016: from a delta and the blurred image, with strong TV, the constrained minimisation
    stays there; clipping and scaling in turn finds the blur and the step."""
    x, y, profile = blurred_step()
    delta = torch.zeros(1, 1, 5, 5)
    delta[..., 2, 2] = 1
    run, energy = start(y, Pixels(y), block.at(delta), Blur(), 20.0)
    optimizer = ProjectedGradient(kernel_step=1e-3, first=1.0)
    for run.step in range(1500):
        optimizer.step(run, energy)
    found = run.kernel().detach()[0, 0].sum(0)
    error, before = ((v - x).square().mean().sqrt() for v in (run.image().detach(), y))
    if block is SimplexKernel:
        assert found[2] > 0.999 and error > 0.9 * before
    else:
        assert float((found - profile).abs().max()) < 0.03 and error < 0.1 * before


def test_pam_finds_image_and_kernel_of_a_drawing_at_scale_two():
    """y = (x ⊗ k)↓s of flat shapes under a kernel narrower than the start: both come nearer to the truth."""
    op = Degradation(2)
    row, column = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    x = 0.2 + 0.5 * ((row - 20) ** 2 + (column - 26) ** 2 < 150).float()
    x[30:42, 6:20] = 0.9
    x = x[None, None]
    narrow = torch.exp(-0.5 * ((torch.arange(11.0) - 4.5) / 0.9) ** 2)
    k = torch.outer(narrow, narrow)[None, None]
    k = k / k.sum()
    y = op(x, k)
    run = METHODS["pam"].loop(PRESETS["fast"]).start(y, op, seed=0, device="cpu")
    first = run.estimate()
    list(run.iterate(800))
    last = run.estimate()
    for a, b, truth, factor in ((first.image, last.image, x, 0.7), (first.kernel, last.kernel, k, 0.5)):
        assert (b - truth).square().mean().sqrt() < factor * (a - truth).square().mean().sqrt()
    assert float(last.kernel.min()) >= 0 and float(last.kernel.sum()) == pytest.approx(1, abs=1e-5)


def test_parameters_without_a_gradient_stay():
    module = Pixels(torch.full((1, 1, 2, 2), 0.5))
    descend_(module, 0.1)
    module.pixels.grad = torch.zeros(1, 1, 2, 2)
    descend_(module, 0.1)
    assert torch.equal(module(), torch.full((1, 1, 2, 2), 0.5)) and module.pixels.grad is None


def test_numbers_out_of_range_are_refused():
    for bad in ({"image_step": 0}, {"kernel_step": -1}, {"first": 0.5}, {"decay": 0}, {"decay": 1.5}):
        with pytest.raises(ValueError, match="projected gradient: need"):
            replace(ProjectedGradient(), **bad)
