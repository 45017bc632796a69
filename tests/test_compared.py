"""The compared methods as rows: their fixed and missing kernels, and what the deep image prior's paper says of it."""

from dataclasses import replace

import pytest
import torch

from blindsr import Choice, compose
from blindsr.estimators.loop import LoopEstimation
from blindsr.generators.kernel import FixedKernel
from blindsr.generators.skip import SkipSettings
from blindsr.generators.starts import kernel_pixels, pixel_average, protocol_mean
from blindsr.methods.presets import PRESETS
from blindsr.methods.table import METHODS
from blindsr.operators.degradation import SCALES, Alignment, Degradation
from blindsr.operators.kernels import center_of_mass, width
from blindsr.restorers.bicubic import bicubic

SMALL = replace(PRESETS["paper"], skip=SkipSettings(channels=16, skip_channels=4, levels=3))


def test_kernels_that_methods_start_from_lie_at_the_nominal_centre():
    for scale in SCALES:
        op = Degradation(scale)
        for kernel in (protocol_mean(op), kernel_pixels(op)().detach(), pixel_average(op)):
            assert float(kernel.sum()) == pytest.approx(1, abs=1e-5) and float(kernel.min()) >= 0
            off = (center_of_mass(kernel) - op.center).abs().max()
            assert off < (0.3 if scale == 8 else 0.02), "the protocol's mean is cut off at scale 8, where K is 21"


@pytest.mark.parametrize("scale", [2, 4])
def test_the_assumed_kernel_has_the_mean_variance_of_the_protocol(scale):
    low, high = 0.175 * scale, min(2.5 * scale, 10)
    assert float(width(protocol_mean(Degradation(scale)))) == pytest.approx(((low + high) / 2) ** 0.5, rel=0.02)


@pytest.mark.parametrize("alignment", Alignment)
def test_where_there_is_no_kernel_an_lr_pixel_is_the_mean_of_its_own_square(alignment, gen):
    for scale in SCALES:
        op = Degradation(scale, alignment=alignment)
        x = torch.rand(1, 1, 6 * scale, 5 * scale, generator=gen)
        squares = torch.nn.functional.avg_pool2d(x, scale)
        if alignment is Alignment.FKP:  # the square of LR pixel u begins s - 1 pixels earlier
            squares = torch.nn.functional.avg_pool2d(x.roll((scale - 1, scale - 1), (2, 3)), scale)
        torch.testing.assert_close(op(x, pixel_average(op)), squares)


@pytest.mark.parametrize("alignment", Alignment)
def test_bicubic_is_the_interpolation_on_the_grid(alignment, gen):
    y, op = torch.rand(1, 3, 12, 9, generator=gen), Degradation(3, alignment=alignment)
    assert torch.equal(compose(Choice("bicubic"), op).solve(y, op).image, bicubic(y, 3, alignment))


def fitted(y: torch.Tensor, steps: int) -> tuple[float, LoopEstimation]:
    run = METHODS["dip"].loop(SMALL).start(y, Degradation(2), seed=0, device="cpu")
    *_, last = run.iterate(steps)
    return last.mse / float(y.var()), run


def test_dip_resists_noise_and_takes_to_pictures():
    """Ulyanov et al. 2018, Fig. 2: after as many steps, far more of a picture is there than of noise."""
    from skimage.data import chelsea

    photo = torch.from_numpy(chelsea()[100:140, 120:160]).permute(2, 0, 1)[None].float() / 255
    noise = photo.flatten(2)[..., torch.randperm(1600, generator=torch.Generator().manual_seed(0))].view_as(photo)
    (picture, run), (shuffled, _) = fitted(photo, 60), fitted(noise, 60)
    assert picture < 0.05 and shuffled > 10 * picture
    assert isinstance(run.run.kernel, FixedKernel) and run.estimate().assumed
    assert torch.equal(run.estimate().kernel, protocol_mean(Degradation(2)))
