"""The table of methods: every row runs, resumes, differs from MLMC where it says so, holds the published numbers."""

from dataclasses import fields, replace

import pytest
import torch
from test_loop import check_resume

from blindsr.errors import UserError
from blindsr.estimators.assumed import KnownKernel
from blindsr.estimators.free_form import FreeFormEstimator
from blindsr.estimators.loop import JointLoop
from blindsr.estimators.problem import MonteCarloSettings, Problem
from blindsr.estimators.spectral import KernelEstimator
from blindsr.generators.kernel import KernelNetwork
from blindsr.generators.skip import SkipNetwork, SkipSettings
from blindsr.likelihood.data_term import SsimThenMse
from blindsr.likelihood.noise import FixedNoise
from blindsr.methods.base import Method
from blindsr.methods.parts import IMAGE_PRIORS, NOISES, OPTIMIZERS, PRIORS, noise_level
from blindsr.methods.presets import BSRDM, PRESETS
from blindsr.methods.rows import Choice
from blindsr.methods.table import METHODS, compose
from blindsr.operators.degradation import SCALES, Alignment, Degradation, Padding
from blindsr.optimizers.meta import MetaLearned
from blindsr.optimizers.plain import Alternating, Joint
from blindsr.priors.base import KernelDensity
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import HyperLaplacian, NoPrior, Tikhonov, TotalVariation
from blindsr.priors.motion import CameraShakePrior
from blindsr.restorers.map import MapRestorer
from blindsr.samplers.mcka import WEIGHTS
from blindsr.testing import check_image_prior, check_optimizer

TINY = replace(
    PRESETS["paper"],
    skip=SkipSettings(channels=4, skip_channels=2, levels=2),
    ssim_steps=3,
    monte_carlo=MonteCarloSettings(warmup_steps=2),
)
OP = Degradation(2)


@pytest.fixture
def tiny(monkeypatch):
    """A preset of that name, with small networks; a small one for BSRDM, too, which has a size of its own."""
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    size = replace(BSRDM.skip, channels=8, levels=2)
    monkeypatch.setitem(METHODS, "bsrdm", replace(METHODS["bsrdm"], numbers=replace(BSRDM, skip=size)))


def small(name, **parts):
    """A method at tiny size; `external` has no restorer of its own."""
    more = {"restorer": "bicubic"} if name in ("kernelgan", "external") else {}
    return compose(Choice(name, preset="tiny", **more | parts), OP)


def picture(estimator, channels=3):
    side = 34 if not isinstance(estimator, JointLoop) else 16  # KernelGAN needs some patches
    return torch.rand(1, channels, side, side + 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("table", [PRIORS, OPTIMIZERS, IMAGE_PRIORS, NOISES, METHODS])
def test_every_part_is_listed_under_its_own_name(table):
    assert table and all(part.name == name for name, part in table.items())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_on_a_tiny_image(name, tiny):
    method = small(name)
    if method.estimator.takes_steps:
        method = replace(method, estimator=method.estimator.with_steps(6))
    y = picture(method.estimator)
    run = method.estimator.start(y, OP, seed=0, device="cpu")
    metrics = list(run.iterate(method.steps_for(OP)))
    assert [m.step for m in metrics] == list(range(1, run.step + 1))
    assert run.step == method.steps_for(OP) or run.settled is not None
    if isinstance(method.estimator, JointLoop):
        energy = [m.loss + m.prior for m in metrics]
        assert energy[-1] < energy[3], "of the squared error, from step 4 on"
    found = method.solve(y, OP)
    assert found.image.shape == (1, 3, 2 * y.shape[2], 2 * y.shape[3]) and torch.isfinite(found.image).all()
    assert (found.kernel is not None) == method.estimator.has_kernel
    if found.kernel is not None:
        assert found.kernel.shape == (1, 1, 11, 11) and float(found.kernel.sum()) == pytest.approx(1, abs=1e-5)
    assert found.assumed == (name == "dip")


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("bicubic", "external")])
def test_every_estimator_resumes_to_the_bit(name, tiny):
    estimator = small(name).estimator
    if isinstance(estimator, KernelEstimator):
        estimator = replace(estimator, families=("gaussian",), rounds=3, side=64, noise_std=1e-3)
    steps = 4 if isinstance(estimator, KernelEstimator) else 8
    if isinstance(estimator, FreeFormEstimator):
        estimator = replace(estimator, weights=(4e-3,), with_spectra=0.0, rounds=3, parametric=None)
        steps = estimator.steps_for(OP)
    check_resume(estimator, picture(estimator, 1), OP, steps, (0, 1, 3))


def test_composing_computes_nothing(monkeypatch, tiny):
    """Not even where the method starts from an estimate of the kernel."""

    def forbidden(*arguments, **more):
        raise AssertionError("computed while composing")

    for name in ("__call__", "start"):
        monkeypatch.setattr(KernelEstimator, name, forbidden)
    monkeypatch.setattr(JointLoop, "start", forbidden)
    for name in METHODS:
        small(name)
    compose(Choice(prior="spectral"), OP)
    with pytest.raises(AssertionError, match="computed while composing"):
        small("fast-map").solve(torch.rand(1, 1, 16, 16), OP)


def test_rows_differ_where_their_names_say():
    def loop(name):
        return METHODS[name].method("paper").estimator

    def changed(name):
        a, b = loop("mlmc"), loop(name)
        return {f.name for f in fields(a) if f.name != "image" and getattr(a, f.name) != getattr(b, f.name)}

    assert changed("mlmc-no-mc") == {"prior"} and loop("mlmc-no-mc").prior is None
    assert changed("mlmc-no-meta") == {"optimizer"} and isinstance(loop("mlmc-no-meta").optimizer, Alternating)
    assert changed("mlmc-tv") == {"image_prior"} and isinstance(loop("mlmc-tv").image_prior, TotalVariation)
    assert isinstance(loop("mlmc-tikhonov").image_prior, Tikhonov)
    assert isinstance(loop("mlmc-no-image-prior").image_prior, NoPrior)
    assert changed("mlmc-motion") == {"prior"}
    assert isinstance(loop("mlmc-motion").prior(Problem(torch.zeros(1, 1, 16, 16), OP)), CameraShakePrior)
    dip = loop("double-dip")
    assert isinstance(dip.optimizer, Joint) and dip.prior is None and isinstance(dip.image_prior, NoPrior)
    for preset in PRESETS:  # it never leaves SSIM early
        assert METHODS["double-dip"].method(preset).estimator.data_term == SsimThenMse(80)


@pytest.mark.parametrize("scale", SCALES)
def test_paper_preset_holds_the_published_settings(scale):
    op = Degradation(scale)
    a = METHODS["mlmc"].method("paper", op).estimator
    assert (a.steps, a.inner_steps, Alignment.FKP.usual_padding) == (1000, 5, Padding.CIRCULAR)
    assert (a.image_lr, a.kernel_lr, a.average) == (5e-3, 1e-4, 0.0)
    assert a.image.settings == SkipSettings(128, 16, 5, 3, 3, 0.1, bf16=False)
    assert a.data_term == SsimThenMse(405)
    assert (a.image_prior, a.rho, a.noise) == (HyperLaplacian(0.67), 0.2, FixedNoise(0.0005**0.5))
    assert a.optimizer == MetaLearned(interval=3, weights=None, reset_each_outer=True)
    prior = a.prior(Problem(torch.zeros(1, 1, 16, 16), op))
    mcka = a.monte_carlo(prior, scale)
    assert (mcka.n_kernels, mcka.n_simulations, mcka.warmup_steps, mcka.proximity) == (5, 1, 200, None)
    assert mcka.weights is WEIGHTS["published"]
    published = GaussianKernelPrior.sampling(scale)
    assert torch.equal(*(p.sample(4, generator=torch.Generator().manual_seed(0)) for p in (mcka.prior, published)))


def test_generators_take_their_sizes_from_the_operator(tiny):
    problem = Problem(torch.zeros(1, 1, 16, 20), Degradation(3, 9))
    a = METHODS["mlmc"].method("tiny").estimator
    image, kernel = a.image(problem), a.kernel(problem, None).module
    assert isinstance(image, SkipNetwork) and image().shape == (1, 1, 48, 60)
    assert isinstance(kernel, KernelNetwork) and kernel().shape == (1, 1, 9, 9)


def test_the_noise_model_is_the_presets_unless_named(monkeypatch):
    assert all(p.noise in NOISES for p in PRESETS.values())
    monkeypatch.setitem(PRESETS, "tiny", replace(TINY, noise="iid"))
    assert small("mlmc").estimator.noise == NOISES["iid"].value
    known = small("mlmc", noise=0.04)
    assert known.estimator.noise == FixedNoise(0.04) and known.noise_std == known.estimator.noise_std == 0.04
    assert noise_level(0.04).name == known.labels["noise"] == "0.04"


@pytest.mark.parametrize("scale", SCALES)
def test_draws_from_the_spectral_posterior_are_kernels(scale):
    """The families have tests of their own; a posterior has draws, but is no prior density."""
    y, op = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0)), Degradation(scale, 13)
    posterior = PRIORS["spectral"].value(Problem(y, op))
    k = posterior.sample(7, generator=torch.Generator().manual_seed(1))
    assert k.shape == (7, 1, 13, 13) and k.min() >= 0 and not isinstance(posterior, KernelDensity)
    torch.testing.assert_close(k.sum((1, 2, 3)), torch.ones(7))


def test_every_image_prior_and_optimizer_of_the_table_keeps_the_contract():
    for part in IMAGE_PRIORS.values():
        check_image_prior(part.value.prior)
    for optimizer in OPTIMIZERS.values():
        check_optimizer(optimizer.value)


def test_which_method_is_taken_where_none_is_named():
    op = Degradation(2)

    def name(**words):
        return compose(Choice(**words), op).name

    assert name() == name(noise=0.01) == name(restorer="tv") == "free-unfolded"
    assert name(image_prior="patch-groups") == "free-map"
    assert name(prior="mcmc", optimizer="meta") == name(prior="gaussian") == "mlmc"
    assert (name(image_prior="tv"), name(optimizer="am"), name(noise="patch")) == ("mlmc-tv", "mlmc-no-meta", "custom")


def test_a_users_part_is_loaded_and_checked_once(tmp_path):
    counter = tmp_path / "made.txt"
    (tmp_path / "own.py").write_text(
        "from blindsr.optimizers import Joint\n\n\n"
        f"def make():\n    with open({str(counter)!r}, 'a') as file:\n        file.write('x')\n    return Joint()\n"
    )
    assert compose(Choice("mlmc", optimizer=f"{tmp_path / 'own.py'}:make"), Degradation(2)).name == "custom"
    assert counter.read_text() == "x"


@pytest.mark.parametrize("name", ["fast-map", "kernelgan", "bicubic"])
def test_numbers_of_the_loop_are_refused_elsewhere(name):
    for words in ({"n_kernels": 3}, {"meta_interval": 2}):
        with pytest.raises(UserError, match=f"goes with methods of the joint loop, not with {name}"):
            compose(Choice(name, **words), Degradation(2))


def test_a_known_kernel_is_restored_with_the_noise_that_is_known():
    op = Degradation(2)
    y = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    k = GaussianKernelPrior.truth(2).sample(1, generator=torch.Generator().manual_seed(1))
    restorer = MapRestorer(TotalVariation())
    found = Method("known", KnownKernel(k, noise_std=0.02), restorer).solve(y, op)
    assert torch.equal(found.image, restorer(y, k, op, 0.02)) and found.assumed and found.noise_std == 0.02
    exact = Method("known", KnownKernel(k, noise_std=0.02), restorer, noise_std=0.0).solve(y, op)
    assert exact.noise_std == 0 and not torch.equal(exact.image, found.image)
    with pytest.raises(ValueError, match="the kernel has shape"):
        Method("known", KnownKernel(k[..., 1:-1, 1:-1]), restorer).solve(y, op)
