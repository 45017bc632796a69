"""FKP-DIP: a latent on a sphere, the published settings, image first; and the latent as a kernel block of its own."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import call, error_line, save_png
from test_loop import begin, check_resume

from blindsr.errors import UserError
from blindsr.estimators.problem import Problem
from blindsr.generators.latent import SphericalLatent
from blindsr.generators.skip import SkipSettings
from blindsr.likelihood.data_term import SsimThenMse
from blindsr.methods.parts import PRIORS
from blindsr.methods.presets import PRESETS
from blindsr.methods.table import METHODS
from blindsr.operators.degradation import Degradation
from blindsr.optimizers.base import adam_step
from blindsr.optimizers.plain import Joint
from blindsr.priors.flow import FlowPrior
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import NoPrior
from blindsr.random import seeded

TINY = replace(PRESETS["paper"], skip=SkipSettings(channels=4, skip_channels=2, levels=2))
OP = Degradation(2)


def picture(side=16):
    return torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))


def soon(kernel_from=4):
    """The loop with the kernel's turn after few steps."""
    return replace(METHODS["fkp-dip"].loop(TINY), optimizer=Joint(kernel_from))


def test_the_row_holds_the_published_settings():
    a, problem = METHODS["fkp-dip"].method("paper").estimator, Problem(picture(), Degradation(4))
    assert (a.image_lr, a.kernel_lr, a.optimizer) == (5e-3, 0.5, Joint(kernel_from=75))
    assert a.data_term == SsimThenMse(80) and isinstance(a.image_prior, NoPrior) and a.steps == 1000
    with seeded(0):
        block = a.kernel(problem, a.prior(problem))
    assert isinstance(block.module, SphericalLatent) and isinstance(block.module.family, FlowPrior)
    assert block.draws is None, "no Monte Carlo step"
    assert block.module.z.shape == (361,) and block.module.radius == 18
    assert float(block.module.z.detach().norm()) == pytest.approx(18, rel=1e-5)


def test_the_latent_stays_on_its_sphere():
    family = GaussianKernelPrior.truth(2)
    with seeded(0):
        latent = SphericalLatent(family, radius=1.5)
    adam = torch.optim.Adam(latent.parameters(), lr=0.5)
    for _ in range(5):
        before = latent.z.detach().clone()
        latent().square().sum().backward()
        adam_step(adam, latent)
        assert float(latent.z.detach().norm()) == pytest.approx(1.5, rel=1e-6)
        assert not torch.equal(before, latent.z)
    torch.testing.assert_close(latent(), family.kernel(latent.z[None]))
    with seeded(0):
        assert SphericalLatent(family).radius == pytest.approx(math.sqrt(3) - 1)


def test_starts_differ_by_seed():
    a, again, b = (begin(soon(), picture(), seed).run.kernel.z for seed in (0, 0, 1))
    assert torch.equal(a, again) and not torch.equal(a, b)


def test_the_image_goes_first():
    estimation = begin(soon(), picture())
    run = estimation.run
    start, latents, images = run.kernel.z.detach().clone(), [], []
    for _ in estimation.iterate(6):
        latents.append(run.kernel.z.detach().clone())
        images.append(run.x.clone())
        waits = estimation.step < 5  # and takes no old gradients along
        assert not waits or (not run.kernel_adam.state and run.kernel.z.grad is None)
    assert all(torch.equal(z, start) for z in latents[:4])
    assert not torch.equal(latents[4], start) and not torch.equal(latents[5], latents[4])
    assert not torch.equal(images[1], images[0])
    with pytest.raises(ValueError, match="kernel_from must be 0 or more"):
        Joint(-1)


def test_a_resumed_run_is_the_same_run():
    check_resume(soon(2), picture(), OP, 7, (1, 4))


def test_the_latent_follows_the_data():
    """With the true image given, the latent alone finds a kernel of the flow that explains y."""
    flow = PRIORS["flow"].value(Problem(picture(), OP))
    truth = GaussianKernelPrior.truth(2).sample(1, generator=torch.Generator().manual_seed(2))
    x = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    y = OP(x, truth)
    with seeded(0):
        latent = SphericalLatent(flow)
    adam = torch.optim.Adam(latent.parameters(), lr=0.5)
    first = float((latent().detach() - truth).square().mean())
    for _ in range(150):
        (OP(x, latent()) - y).square().mean().backward()
        adam_step(adam, latent)
    assert float((latent().detach() - truth).square().mean()) < first / 50


def test_priors_that_are_no_flow_are_refused():
    for name in ("gaussian", "motion", "none"):
        loop = replace(soon(), prior=PRIORS[name].value)
        with pytest.raises(UserError, match="this method's kernel is the latent of a flow: give --prior flow"):
            begin(loop, picture())


def test_wrong_priors_are_one_line_on_the_command_line(tmp_path):
    picture = save_png(tmp_path / "a.png")
    common = ("run", picture, "--scale", 2, "--method", "fkp-dip", "--iterations", 2, "--output", tmp_path / "out")
    assert "this method's kernel is the latent of a flow" in error_line(call(*common, "--prior", "mcmc"))
    line = error_line(call(*common, "--kernel-size", 9))
    assert "train one: blindsr train-flow --prior gaussian --scale 2 --kernel-size 9" in line
    assert not any((tmp_path / "out").rglob("*.png"))
