"""The table of methods: every row runs, differs from MLMC where it says so, and holds the published numbers."""

from dataclasses import fields, replace
from functools import cache

import pytest
import torch

from blindsr.estimators.spectral import KernelEstimator
from blindsr.generators.kernel import KernelNetwork
from blindsr.generators.skip import SkipNetwork, SkipSettings
from blindsr.likelihood.data_term import SsimThenMse
from blindsr.likelihood.noise import FixedNoise
from blindsr.methods.parts import IMAGE_PRIORS, NOISES, OPTIMIZERS, PRIORS, noise_level
from blindsr.methods.presets import PRESETS
from blindsr.methods.table import METHODS, assemble
from blindsr.operators.degradation import SCALES, Alignment, Degradation, Padding
from blindsr.optimizers.meta import MetaLearned
from blindsr.optimizers.plain import Alternating, Joint
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import HyperLaplacian, NoPrior, Tikhonov, TotalVariation
from blindsr.priors.motion import CameraShakePrior
from blindsr.samplers.mcka import WEIGHTS
from blindsr.super_resolve import make_solver
from blindsr.testing import check_image_prior, check_kernel_prior, check_optimizer

TINY = replace(PRESETS["paper"], skip=SkipSettings(channels=4, skip_channels=2, levels=2), ssim_steps=3, warmup_steps=2)


@pytest.mark.parametrize("table", [PRIORS, OPTIMIZERS, IMAGE_PRIORS, NOISES, METHODS])
def test_every_part_is_listed_under_its_own_name(table):
    assert table and all(part.name == name for name, part in table.items())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_on_a_tiny_image(name):
    op = Degradation(2)
    row = METHODS[name]
    h, w = (16, 17) if row.composed or not row.iterates else (34, 35)  # KernelGAN needs some patches
    y = torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(0))
    solver = make_solver(row, op, TINY, y)
    run = solver.init(y, seed=0)
    steps = 6 if row.iterates else 0
    metrics = list(solver.iterate(run, y, steps))
    image, kernel = solver.estimate(run)
    assert len(metrics) == steps and image.shape == (1, 3, 2 * h, 2 * w) and kernel.shape == (1, 1, 11, 11)
    assert torch.isfinite(image).all() and float(kernel.sum()) == pytest.approx(1, abs=1e-5)
    energy = [m.loss + m.prior for m in metrics]
    assert not row.composed or energy[-1] < energy[3], "of the squared error, from step 4 on"


def test_rows_differ_where_their_names_say():
    def row(name):
        return assemble(METHODS[name], Degradation(4), PRESETS["paper"])

    def changed(name):
        a, b = row("mlmc"), row(name)
        return {f.name for f in fields(a) if f.name != "image" and repr_of(a, f) != repr_of(b, f)}

    def repr_of(a, f):
        value = getattr(a, f.name)
        return type(value.prior) if f.name == "monte_carlo" and value else value

    assert changed("mlmc-no-mc") == {"monte_carlo"} and row("mlmc-no-mc").monte_carlo is None
    assert changed("mlmc-no-meta") == {"optimizer"} and isinstance(row("mlmc-no-meta").optimizer, Alternating)
    assert changed("mlmc-tv") <= {"image_prior", "rho"} and isinstance(row("mlmc-tv").image_prior, TotalVariation)
    assert isinstance(row("mlmc-tikhonov").image_prior, Tikhonov)
    assert isinstance(row("mlmc-no-image-prior").image_prior, NoPrior)
    assert isinstance(row("mlmc-motion").monte_carlo.prior, CameraShakePrior)
    dip = row("double-dip")
    assert isinstance(dip.optimizer, Joint) and dip.monte_carlo is None and isinstance(dip.image_prior, NoPrior)
    assert dip.data_term == SsimThenMse(80)


@pytest.mark.parametrize("scale", SCALES)
def test_paper_preset_holds_the_published_settings(scale):
    preset, op = PRESETS["paper"], Degradation(scale)
    a = assemble(METHODS["mlmc"], op, preset)
    assert (preset.steps, a.inner_steps, Alignment.FKP.usual_padding) == (1000, 5, Padding.CIRCULAR)
    assert (a.image_lr, a.kernel_lr, a.average) == (5e-3, 1e-4, 0.0)
    assert preset.skip == SkipSettings(128, 16, 5, 3, 3, 0.1, bf16=False)
    assert a.data_term == SsimThenMse(405)
    assert (a.image_prior, a.rho, a.noise) == (HyperLaplacian(0.67), 0.2, FixedNoise(0.0005**0.5))
    assert a.optimizer == MetaLearned(interval=3, weights=None, reset_each_outer=True)
    mcka = a.monte_carlo
    assert (mcka.n_kernels, mcka.n_simulations, mcka.warmup_steps, mcka.proximity) == (5, 1, 200, None)
    assert mcka.weights is WEIGHTS["published"]
    published = GaussianKernelPrior.sampling(scale)
    draws = [p.sample(4, generator=torch.Generator().manual_seed(0)) for p in (mcka.prior, published)]
    assert torch.equal(*draws)


def test_generators_take_their_sizes_from_the_operator():
    op = Degradation(3, 9)
    a = assemble(METHODS["mlmc"], op, TINY)
    image, kernel = a.image(torch.zeros(1, 1, 16, 20), op), a.kernel(torch.zeros(1, 1, 16, 20), op)
    assert isinstance(image, SkipNetwork) and image().shape == (1, 1, 48, 60)
    assert isinstance(kernel, KernelNetwork) and kernel().shape == (1, 1, 9, 9)


def test_double_dip_never_leaves_ssim_early_under_other_presets():
    for preset in PRESETS.values():
        assert assemble(METHODS["double-dip"], Degradation(2), preset).data_term == SsimThenMse(80)


def test_presets_name_noise_models_that_exist():
    assert all(p.noise in NOISES for p in PRESETS.values())
    default = assemble(METHODS["mlmc"], Degradation(2), replace(TINY, noise="iid"))
    assert default.noise == NOISES["iid"].value
    own = replace(METHODS["mlmc"], noise=noise_level(0.04))
    assert assemble(own, Degradation(2), replace(TINY, noise="iid")).noise == FixedNoise(0.04)
    assert noise_level(0.04).name == "0.04"


@cache
def spectral_fit(op):
    """The estimate of one picture of noise that all priors of this operator are made for."""
    y = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    return KernelEstimator(rounds=0)(y, op)


@pytest.mark.parametrize("name", [n for n, p in PRIORS.items() if p.value is not None])
@pytest.mark.parametrize("scale", SCALES)
def test_every_prior_of_the_table_keeps_the_contract(name, scale):
    if name.startswith("flow") and scale == 8:
        pytest.skip("no flow comes with the package for x8")
    op = Degradation(scale, 0 if name.startswith("flow") else 13)
    check_kernel_prior(PRIORS[name].value(op, spectral_fit(op)), op)


@pytest.mark.parametrize("name", IMAGE_PRIORS)
def test_every_image_prior_of_the_table_keeps_the_contract(name):
    check_image_prior(IMAGE_PRIORS[name].value.prior)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_the_table_keeps_the_contract(name):
    check_optimizer(OPTIMIZERS[name].value)
