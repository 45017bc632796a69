"""A restorer made for another pixel grid: its result is moved by the right amount, and nothing else is done to it."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.priors.image import TotalVariation
from blindsr.restorers import CallableRestorer, MapRestorer, ZssrRestorer
from blindsr.restorers.bicubic import BicubicRestorer, bicubic
from blindsr.restorers.grid import Grid, OnGrid
from blindsr.restorers.tiled import restore
from blindsr.testing import check_restorer


@dataclass
class Interpolation:
    """A model of one grid that cannot know of any other: splines at the positions of that grid."""

    grid: Grid
    order: int = 3
    seen: list[Degradation] = field(default_factory=list)

    def __call__(self, y, kernel, degradation, noise_std):
        self.seen.append(degradation)
        s = degradation.scale
        planes = [at(plane, s, self.grid.position(s), self.order) for plane in y[0].double().numpy()]
        return torch.from_numpy(np.stack(planes))[None].float()


def at(plane, scale, position, order=3, mode="nearest"):
    """Read an LR plane at the HR pixels, with LR pixel u at `scale` u + position."""
    h, w = plane.shape
    where = [(np.arange(scale * n) - position) / scale for n in (h, w)]
    return map_coordinates(plane, np.meshgrid(*where, indexing="ij"), order=order, mode=mode)


def smooth(h, w):
    rows, columns = np.mgrid[0:h, 0:w]
    return torch.from_numpy(0.5 + 0.2 * np.sin(rows / 3) + 0.2 * np.cos(columns / 4 + rows / 9))[None, None].float()


@pytest.mark.parametrize("alignment", Alignment)
@pytest.mark.parametrize("grid", Grid)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_model_of_any_grid_lands_on_the_one_of_the_run(scale, grid, alignment):
    y = smooth(24, 30)
    op = Degradation(scale, alignment=alignment, padding=Padding.REPLICATE)
    kernel = torch.full((1, 1, op.kernel_size, op.kernel_size), 1 / op.kernel_size**2)
    found = OnGrid(Interpolation(grid), grid)(y, kernel, op, 0.0)
    wanted = at(y[0, 0].double().numpy(), scale, Grid(alignment).position(scale))
    inside = (slice(2 * scale, -2 * scale), slice(2 * scale, -2 * scale))
    np.testing.assert_allclose(found[0, 0].numpy()[inside], wanted[inside], atol=2e-3)
    off = at(y[0, 0].double().numpy(), scale, Grid(alignment).position(scale) + 0.5)
    assert np.abs(off - wanted)[inside].max() > 0.01, "half a pixel would show"


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_bicubic_of_the_usual_grid_becomes_that_of_the_protocol(scale, gen):
    """Nothing is interpolated: to the bit where no border has its say, and to it where y wraps round."""
    y = torch.rand(1, 3, 14, 11, generator=gen)
    op = Degradation(scale)

    def centered(y, kernel, degradation, noise_std):
        return bicubic(y, degradation.scale, Alignment.CENTERED)

    kernel = torch.full((1, 1, op.kernel_size, op.kernel_size), 1 / op.kernel_size**2)
    found = OnGrid(centered, Grid.CENTERED)(y, kernel, op, 0.0)
    part = (..., slice(2 * scale, -3 * scale), slice(2 * scale, -3 * scale))
    torch.testing.assert_close(found[part], bicubic(y, scale)[part], atol=1e-6, rtol=0)
    two_rounds = bicubic(torch.cat([y, y], 2), scale)[:, :, : 14 * scale]
    columns = slice(2 * scale, -3 * scale)
    rows = slice(2 * scale, None)
    torch.testing.assert_close(found[..., rows, columns], two_rounds[..., rows, columns], atol=1e-6, rtol=0)


def test_the_grid_of_the_run_changes_nothing(gen):
    y, op = torch.rand(1, 1, 9, 9, generator=gen), Degradation(2)
    kernel = torch.full((1, 1, 11, 11), 1 / 121)
    inner = Interpolation(Grid.FKP)
    assert torch.equal(OnGrid(inner, Grid.FKP)(y, kernel, op, 0.1), inner(y, kernel, op, 0.1))
    assert inner.seen == [op, op]


@pytest.mark.parametrize("grid", [Grid.CENTERED, Grid.CORNER])
def test_the_model_is_told_of_its_own_grid_and_of_no_border(grid, gen):
    inner, op = Interpolation(grid), Degradation(2)
    OnGrid(inner, grid)(torch.rand(1, 1, 9, 9, generator=gen), torch.zeros(1, 1, 11, 11), op, 0.0)
    alignment = Alignment.CENTERED if grid is Grid.CENTERED else Alignment.FKP
    assert inner.seen == [replace(op, padding=Padding.VALID, alignment=alignment)]


def test_a_restorer_that_uses_the_kernel_finds_the_same_scene(gen):
    """MAP under the kernel of the run, told that the samples are on the other grid: the same picture, moved back."""
    op = Degradation(2)
    x = smooth(48, 52)
    axis = torch.exp(-0.5 * ((torch.arange(11.0) - op.center) / 1.2) ** 2)
    kernel = torch.outer(axis, axis)[None, None]
    kernel = kernel / kernel.sum()
    y = op(x, kernel)
    restorer = MapRestorer(TotalVariation())
    plain, moved = (r(y, kernel, op, 0.001) for r in (restorer, OnGrid(restorer, Grid.CENTERED)))
    inside = (..., slice(8, -8), slice(8, -8))
    assert float((plain - moved)[inside].abs().max()) < 0.02
    assert float((plain[..., :-1, :-1] - moved[..., 1:, 1:])[inside].abs().max()) > 0.04, "a pixel off would show"


def test_large_pictures_have_no_seams():
    """In tiles, as the jobs call it."""
    op = Degradation(2)
    y = smooth(260, 420)
    kernel = torch.full((1, 1, 11, 11), 1 / 121)
    found = restore(OnGrid(Interpolation(Grid.CENTERED), Grid.CENTERED), y, kernel, op, 0.0)
    wanted = at(y[0, 0].double().numpy(), 2, -0.5)
    np.testing.assert_allclose(found[0, 0].numpy()[6:-6, 6:-6], wanted[6:-6, 6:-6], atol=2e-3)


@pytest.mark.slow
def test_what_the_other_one_needs():
    for restorer, wanted in ((BicubicRestorer(), False), (MapRestorer(), True)):
        wrapped = OnGrid(restorer, Grid.CENTERED)
        assert wrapped.needs_kernel == restorer.needs_kernel == wanted
        assert wrapped.needs_noise == restorer.needs_noise == wanted
        check_restorer(wrapped)


def test_what_the_other_one_has():
    inner = ZssrRestorer(seed=1)
    assert OnGrid(inner, Grid.CORNER).with_seed(3) == OnGrid(ZssrRestorer(seed=3), Grid.CORNER)
    assert OnGrid(CallableRestorer(lambda y, k, d, n: y, "my.py:f"), Grid.CORNER).parameters is None
