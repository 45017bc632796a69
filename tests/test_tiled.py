"""Restoration in tiles: against the whole picture's result, and how the tiles lie."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.image import TotalVariation
from blindsr.restorers import tiled
from blindsr.restorers.bicubic import BicubicRestorer, bicubic
from blindsr.restorers.map import MapRestorer
from blindsr.restorers.tiled import Mosaic, restore
from blindsr.simulate import degrade


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 96 HR pixels that overlap by at least 16, or two kernels."""
    monkeypatch.setattr(tiled, "SIDE", 96)
    monkeypatch.setattr(tiled, "OVERLAP", 16)


class Recorder:
    """A restorer that notes what it is given, and answers with one value, another for each call if so asked."""

    def __init__(self, value=0.25, step=0.0):
        self.calls, self.value, self.step = [], value, step

    def __call__(self, y, kernel, degradation, noise_std):
        self.calls.append((y.clone(), kernel, degradation, noise_std))
        s = degradation.scale
        value = self.value + self.step * (len(self.calls) - 1)
        return torch.full((*y.shape[:2], s * y.shape[2], s * y.shape[3]), value)


def kernel(degradation, seed=0):
    prior = GaussianKernelPrior.truth(degradation.scale, degradation.kernel_size)
    return prior.sample(1, generator=torch.Generator().manual_seed(seed))


def random_picture(h, w, channels=3, seed=0):
    return torch.rand(1, channels, h, w, generator=torch.Generator().manual_seed(seed))


# --- where the tiles lie ------------------------------------------------------------------------------------------


@given(st.integers(1, 600), st.integers(8, 64), st.integers(1, 31))
def test_starts_cover_an_axis_with_the_overlap_and_no_tile_too_many(n, side, overlap):
    overlap = min(overlap, side // 2)
    starts = tiled._starts(n, side, overlap)
    if n <= side + side // 2:
        assert starts == [0]
        return
    assert (starts[0], starts[-1]) == (0, n - side)
    gaps = np.diff(starts)
    assert gaps.min() > 0 and gaps.max() <= side - overlap
    assert gaps.max() - gaps.min() <= 1
    assert side + (len(starts) - 2) * (side - overlap) < n, "one tile fewer would not do"


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("shape", [(30, 31), (40, 200), (200, 40), (150, 111)])
def test_tiles_never_exceed_the_stated_size_and_cover_the_picture(small_tiles, scale, shape):
    d = Degradation(scale, 2 * scale + 1)
    index = torch.arange(shape[0] * shape[1], dtype=torch.float64).view(1, 1, *shape)
    told, k = Recorder(), kernel(d)
    mosaic = Mosaic(index, k, d)
    assert list(mosaic.restore(told, 0.125)) == list(range(1, len(mosaic) + 1))
    side = 96 // scale
    seen = torch.zeros(shape[0] * shape[1])
    for y, given_kernel, degradation, noise in told.calls:
        for n, whole in zip(y.shape[-2:], shape, strict=True):
            assert n == (whole if whole <= side + side // 2 else side)
        whole = y.shape[-2:] == shape
        assert degradation == (d if whole else replace(d, padding=Padding.VALID))
        assert given_kernel is k and noise == 0.125
        seen[y.flatten().long()] += 1
    assert seen.min() >= 1
    assert len(told.calls) == len(mosaic)
    assert mosaic.image().shape == (1, 1, scale * shape[0], scale * shape[1])


@pytest.mark.parametrize("padding", Padding)
def test_a_small_picture_is_one_tile_and_keeps_its_padding(small_tiles, padding):
    d = Degradation(2, 7, padding=padding)
    told = Recorder()
    restore(told, random_picture(72, 72), kernel(d), d, 0.0)
    ((y, _, degradation, _),) = told.calls
    assert degradation == d and y.shape == (1, 3, 72, 72)
    more = Recorder()
    restore(more, random_picture(73, 72), kernel(d), d, 0.0)
    assert len(more.calls) == 2


def test_one_tile_is_the_restorers_own_result():
    d = Degradation(2)
    y, k = random_picture(20, 24), kernel(d)
    torch.testing.assert_close(
        restore(BicubicRestorer(), y, k, d, 0.0), bicubic(y, 2), rtol=1e-6, atol=0, check_stride=False
    )


# --- weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tiles", "extra"), [(2, 0), (3, 0), (2, 5)])
def test_weights_of_neighbours_sum_to_one(small_tiles, tiles, extra):
    """Two neighbours that overlap by just the least share one unit; where they overlap by more, a unit or more."""
    d = Degradation(2, 7)
    side, overlap = 48, 9
    n = side + (tiles - 1) * (side - overlap) - extra
    mosaic = Mosaic(random_picture(40, n), kernel(d), d)
    assert (mosaic.side, mosaic.overlap, len(mosaic)) == (side, overlap, tiles)
    list(mosaic.restore(Recorder(), 0.0))
    weight = mosaic.weight[0, 0]
    if not extra:
        torch.testing.assert_close(weight, torch.ones(80, 2 * n), rtol=0, atol=1e-5)
    assert weight.min() > 1 - 1e-5 and weight.max() < 2 + 1e-5
    alone = torch.zeros(2 * n)
    for left in mosaic.lefts:
        alone[2 * left : 2 * (left + side)] += 1
    torch.testing.assert_close(weight[:, alone == 1], torch.ones(80, int((alone == 1).sum())), rtol=0, atol=1e-5)


def test_fade_between_two_tiles_by_hand(small_tiles):
    """Values 0 and 1: 0, then half a kernel of guard, a straight line at pixel centres, the guard again, then 1."""
    d = Degradation(2, 7)
    n, overlap = 48 + 48 - 9, 18  # HR overlap
    image = restore(Recorder(0.0, 1.0), random_picture(30, n, 1), kernel(d), d, 0.0)[0, 0]
    fade = overlap - 6
    start = 2 * (n - 48)
    expected = [min(max((j + 0.5 - start - 3) / fade, 0), 1) for j in range(2 * n)]
    np.testing.assert_allclose(image, np.broadcast_to(expected, image.shape), atol=1e-5)
    assert (np.diff(expected) > 0).sum() == fade + 1


def test_a_constant_restorer_gives_a_constant(small_tiles):
    d = Degradation(3)
    image = restore(Recorder(0.7), random_picture(101, 77), kernel(d), d, 0.0)
    torch.testing.assert_close(image, torch.full((1, 3, 303, 231), 0.7), rtol=1e-6, atol=0)


# --- against the whole picture ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("alignment", Alignment)
def test_mosaic_of_bicubic_is_bicubic(small_tiles, scale, alignment):
    """Everywhere, at the picture's border as well: a tile's cut edge changes at most 2 s + (s - 1)/2 HR pixels of it,
    no more than the guard of half a default kernel, whose share is one millionth."""
    d = Degradation(scale, alignment=alignment)
    assert d.kernel_size // 2 >= math.floor(2 * scale + (scale - 1) / 2)
    y = random_picture(300 // scale, 250 // scale)
    mosaic = Mosaic(y, kernel(d), d)
    assert len(mosaic.tops) > 2 and len(mosaic.lefts) > 2
    list(mosaic.restore(BicubicRestorer(), 0.0))
    whole = bicubic(y, scale, alignment)
    torch.testing.assert_close(mosaic.image(), whole, rtol=0, atol=5e-6)


def test_map_restoration_has_no_seam(small_tiles):
    """Two tiles against one, away from the picture's border: the same values, and no step from column to column."""
    d = Degradation(2, 7, padding=Padding.VALID)
    x = torch.from_numpy(data.camera()[100:205, 150:329] / 255.0).float()[None, None]
    k = kernel(d, 3)
    y = degrade(x, d, k).y
    restorer = MapRestorer(TotalVariation())
    mosaic = Mosaic(y, k, d)
    assert (len(mosaic.tops), len(mosaic.lefts)) == (1, 2)
    list(mosaic.restore(restorer, 1 / 255))
    whole = restorer(y, k, d, 1 / 255)
    inner = slice(24, -24)  # each canvas closes upon itself, so its own border differs
    gap = (mosaic.image() - whole)[0, 0, inner, inner]
    assert gap.abs().max() < 0.006
    first, last = 2 * mosaic.lefts[1], 2 * mosaic.side  # columns of both tiles
    assert gap[:, first - 24 : last - 24].square().mean().sqrt() < 0.001
    cut = restorer(y[..., :48], k, d, 1 / 255)[..., inner, -3:]
    assert (cut - whole[..., inner, last - 3 : last]).abs().max() > 0.03, "what the guard leaves out"
    step, same = (v[0, 0, inner].diff(dim=1).abs().mean(0)[inner] for v in (mosaic.image(), whole))
    assert (step - same).abs().max() < 0.02 * same.mean()  # from column to column


# --- interrupted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [0, 1, 3])
def test_interrupted_half_way_the_rest_is_bicubic(small_tiles, done):
    d = Degradation(2, 7, alignment=Alignment.CENTERED)
    y = random_picture(100, 85)
    mosaic = Mosaic(y, kernel(d), d)
    assert len(mosaic) == 6
    work = mosaic.restore(Recorder(0.25), 0.0)
    for i in range(done):
        assert next(work) == i + 1
    work.close()
    covered = torch.zeros(200, 170, dtype=torch.bool)
    places = [(top, left) for top in mosaic.tops for left in mosaic.lefts][:done]
    for top, left in places:
        covered[2 * top : 2 * (top + 48), 2 * left : 2 * (left + 48)] = True
    assert done == 0 or 0 < int(covered.sum()) < covered.numel()
    image, rest = mosaic.image(), bicubic(y, 2, Alignment.CENTERED)
    assert torch.equal(image[..., ~covered], rest[..., ~covered])
    torch.testing.assert_close(image[..., covered], torch.full_like(image[..., covered], 0.25), rtol=1e-5, atol=0)
    assert torch.isfinite(image).all()


def test_tiles_leave_y_alone(small_tiles):
    d = Degradation(2, 7)
    y = random_picture(80, 60)
    before = y.clone()
    restore(BicubicRestorer(), y, kernel(d), d, 0.0)
    assert torch.equal(y, before)


def test_a_kernel_smaller_than_valid_padding_allows_still_works_in_one_tile(small_tiles):
    d = Degradation(4, 3)
    y = random_picture(30, 30)
    torch.testing.assert_close(restore(BicubicRestorer(), y, kernel(d), d, 0.0), bicubic(y, 4), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_kernel_smaller_than_valid_padding_allows_still_works_in_tiles(small_tiles, size):
    d = Degradation(4, size)
    y = random_picture(30, 80)
    torch.testing.assert_close(restore(Recorder(0.5), y, kernel(d), d, 0.0), torch.full((1, 3, 120, 320), 0.5))
