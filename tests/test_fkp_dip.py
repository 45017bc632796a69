"""FKP-DIP: a latent on a sphere, the published settings, image first; and the latent as a kernel block of its own."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import call, error_line, save_png

from blindsr.errors import UserError
from blindsr.estimators.loop import Solver
from blindsr.generators.latent import SphericalLatent
from blindsr.generators.skip import SkipSettings
from blindsr.likelihood.data_term import SsimThenMse
from blindsr.methods.parts import PRIORS, Part
from blindsr.methods.presets import PRESETS
from blindsr.methods.table import METHODS, assemble
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
    """The row with the kernel's turn after few steps."""
    return replace(METHODS["fkp-dip"], optimizer=Part("soon", Joint(kernel_from)))


def test_the_row_holds_the_published_settings():
    a = assemble(METHODS["fkp-dip"], Degradation(4), PRESETS["paper"])
    assert (a.image_lr, a.kernel_lr, a.optimizer) == (5e-3, 0.5, Joint(kernel_from=75))
    assert a.data_term == SsimThenMse(80) and isinstance(a.image_prior, NoPrior) and a.monte_carlo is None
    assert PRESETS["paper"].steps == 1000 and METHODS["fkp-dip"].steps is None
    with seeded(0):
        kernel = a.kernel(picture(), Degradation(4))
    assert isinstance(kernel, SphericalLatent) and isinstance(kernel.family, FlowPrior)
    assert kernel.z.shape == (361,) and kernel.radius == 18
    assert float(kernel.z.detach().norm()) == pytest.approx(18, rel=1e-5)


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
    solver = Solver(assemble(METHODS["fkp-dip"], OP, TINY))
    a, again, b = (solver.init(picture(), seed).kernel.z for seed in (0, 0, 1))
    assert torch.equal(a, again) and not torch.equal(a, b)


def test_the_image_goes_first():
    y = picture()
    solver = Solver(assemble(soon(), OP, TINY))
    run = solver.init(y, 0)
    start, latents, images = run.kernel.z.detach().clone(), [], []
    for _ in solver.iterate(run, y, 6):
        latents.append(run.kernel.z.detach().clone())
        images.append(run.x.clone())
    assert all(torch.equal(z, start) for z in latents[:4])
    assert not torch.equal(latents[4], start) and not torch.equal(latents[5], latents[4])
    assert not torch.equal(images[1], images[0])


def test_a_kernel_that_waits_takes_no_old_gradients_along():
    """The first step of the kernel uses that step's gradient only: Adam's first step is lr times its sign."""
    y = picture()
    solver = Solver(assemble(soon(3), OP, TINY))
    run = solver.init(y, 0)
    list(solver.iterate(run, y, 3))
    assert not run.kernel_adam.state and run.kernel.z.grad is None


def test_negative_waits_are_refused():
    with pytest.raises(ValueError, match="kernel_from must be 0 or more"):
        Joint(-1)


def test_a_resumed_run_is_the_same_run():
    y = picture()
    solver = Solver(assemble(soon(2), OP, TINY))
    whole = solver.init(y, 0)
    list(solver.iterate(whole, y, 7))
    part = solver.init(y, 0)
    list(solver.iterate(part, y, 4))
    resumed = solver.load_state_dict(y, solver.state_dict(part))
    list(solver.iterate(resumed, y, 7))
    assert torch.equal(whole.kernel.z, resumed.kernel.z) and torch.equal(whole.x, resumed.x)


def test_the_latent_follows_the_data():
    """With the true image given, the latent alone finds a kernel of the flow that explains y."""
    flow = PRIORS["flow"].value(OP, None)
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


@pytest.mark.parametrize("name", ["gaussian", "motion", "none"])
def test_priors_that_are_no_flow_are_refused(name):
    row = replace(METHODS["fkp-dip"], prior=PRIORS[name])
    with pytest.raises(UserError, match=f"--prior {name}: this kernel is the latent of a flow"):
        assemble(row, OP, TINY)


def test_wrong_priors_are_one_line_on_the_command_line(tmp_path):
    picture = save_png(tmp_path / "a.png")
    common = ("run", picture, "--scale", 2, "--method", "fkp-dip", "--iterations", 2, "--output", tmp_path / "out")
    line = error_line(call(*common, "--prior", "mcmc"))
    assert "this kernel is the latent of a flow; give flow, flow-motion or" in line
    assert "no gaussian flow for x2" not in error_line(call(*common, "--kernel-size", 9))
    assert "train one: blindsr train-flow --prior gaussian --scale 2 --kernel-size 9" in error_line(
        call(*common, "--kernel-size", 9)
    )
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").rglob("*.png"))
