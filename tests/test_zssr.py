"""ZSSR: its pairs are true pairs on the right grid, and it beats bicubic where its paper says so."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import call, save_png
from scipy.ndimage import map_coordinates
from scipy.signal import correlate2d

from blindsr.methods.parts import RESTORERS, Part
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.priors.gaussian import gaussian_kernel
from blindsr.restorers.bicubic import BicubicRestorer, bicubic
from blindsr.restorers.zssr import PATIENCE, Plateau, ZssrRestorer
from blindsr.restorers.zssr_pairs import Fathers, symmetries, warp

QUICK = ZssrRestorer(steps=3, width=8)


def gaussian(op: Degradation, var1: float, var2: float, angle: float) -> torch.Tensor:
    one = torch.ones(1)
    return gaussian_kernel(op.kernel_size, var1 * one, var2 * one, angle * one, torch.full((1, 2), op.center))


def psnr(a: torch.Tensor, b: torch.Tensor, border: int) -> float:
    inside = (..., slice(border, -border), slice(border, -border))
    return float(-10 * (a[inside] - b[inside]).square().mean().log10())


@pytest.mark.parametrize("alignment", Alignment)
@pytest.mark.parametrize(("scale", "padding"), [(2, Padding.CIRCULAR), (3, Padding.VALID), (4, Padding.REFLECT)])
def test_a_son_is_its_father_degraded(scale, padding, alignment, gen):
    """Against SciPy's correlation: sample u of the son reads the piece from s u on, no border assumed."""
    op = Degradation(scale, alignment=alignment, padding=padding)
    kernel = gaussian(op, 2.0, 1.0, 0.4)
    y = torch.rand(1, 1, 120, 110, generator=gen)
    son, father = Fathers(y, kernel, op, 128, gen).son_and_father(y)
    valid = correlate2d(y[0, 0].numpy(), kernel[0, 0].numpy(), mode="valid")[::scale, ::scale]
    np.testing.assert_allclose(son[0, 0].numpy(), valid, atol=1e-5)
    first = op.kernel_size // 2 - (0 if alignment is Alignment.FKP else scale - 1)
    h, w = (scale * n for n in son.shape[-2:])
    assert torch.equal(father, y[..., first : first + h, first : first + w])


@pytest.mark.parametrize("alignment", Alignment)
def test_the_network_sees_the_son_where_the_father_is(alignment):
    """A plane, blurred and enlarged on the grid, lies on the plane again."""
    op = Degradation(4, alignment=alignment)
    rows, columns = torch.meshgrid(torch.arange(90.0), torch.arange(80.0), indexing="ij")
    y = (0.2 + 0.004 * rows + 0.003 * columns)[None, None]
    son, father = Fathers(y, gaussian(op, 4.0, 2.0, 0.3), op, 128, torch.Generator()).son_and_father(y)
    inside = (..., slice(8, -8), slice(8, -8))
    error = (bicubic(son, 4, alignment) - father)[inside].abs().max()
    assert error < 1e-3, "one pixel off would be 0.003 or more"


def test_pieces_of_every_kind_fit(gen):
    op = Degradation(3)
    kernel = gaussian(op, 2.0, 2.0, 0.0)
    for h, w, crop in ((40, 57, 32), (90, 50, 128), (12, 14, 128)):
        y = torch.rand(1, 3, h, w, generator=gen)
        fathers = Fathers(y, kernel, op, crop, gen)
        for _ in range(60):
            piece = fathers.draw()
            son, father = fathers.son_and_father(piece)
            assert max(piece.shape[-2:]) <= crop and min(son.shape[-2:]) >= 4
            assert father.shape == (1, 3, 3 * son.shape[-2], 3 * son.shape[-1])
            assert 0 <= float(piece.min()) and float(piece.max()) <= 1


def test_warp_reads_where_it_says(gen):
    """Against SciPy's cubic interpolation of a smooth image."""
    rows, columns = np.mgrid[0:40, 0:50]
    smooth = 0.5 + 0.2 * np.sin(rows / 4) + 0.2 * np.cos(columns / 5)
    image = torch.from_numpy(smooth)[None, None].float()
    matrix = torch.tensor([[1.2, 0.3], [-0.2, 1.1]], dtype=torch.float64)
    found = warp(image, matrix, (18.3, 26.1), (16, 20))
    u, v = np.mgrid[0:16, 0:20] - np.array([7.5, 9.5])[:, None, None]
    m = matrix.numpy()
    where = [m[0, 0] * u + m[0, 1] * v + 18.3, m[1, 0] * u + m[1, 1] * v + 26.1]
    np.testing.assert_allclose(found[0, 0].numpy(), map_coordinates(smooth, where, order=3), atol=6e-3)
    same = warp(image, torch.eye(2, dtype=torch.float64), (19.5, 24.5), (40, 50))
    torch.testing.assert_close(same, image, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("shape", "number"),
    [((2.0, 2.0, 0.0), 8), ((4.0, 1.0, 0.0), 4), ((4.0, 1.0, np.pi / 4), 4), ((4.0, 1.0, 0.4), 2)],
)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_flips_are_those_that_keep_the_kernel(scale, shape, number, gen):
    op = Degradation(scale)
    flips = symmetries(gaussian(op, *shape), op)
    assert len(flips) == number
    x = torch.rand(1, 2, 5, 7, generator=gen)
    assert torch.equal(flips[0][0](x), x)
    assert all(torch.equal(back(there(x)), x) for there, back in flips)


def test_a_kernel_off_its_centre_or_lopsided_has_no_flips():
    op = Degradation(2)
    corner = torch.zeros(1, 1, 11, 11)
    corner[..., 10, 10] = 1
    hook = torch.zeros(1, 1, 11, 11)
    hook[..., 3, 2:7] = 1 / 7
    hook[..., 4:6, 2] = 1 / 7
    assert len(symmetries(corner, op)) == len(symmetries(hook, op)) == 1


def test_the_rate_falls_on_a_plateau_only():
    falling, flat = Plateau(1e-3), Plateau(1e-3)
    wobble = np.random.default_rng(0).normal(size=2000)
    ended = None
    for step in range(2000):
        if step % 50 == 0:
            falling.seen(step, 1.0 - step / 4000 + 1e-4 * wobble[step])
            flat.seen(step, 1.0 + 1e-2 * wobble[step])
        assert not falling.ended(step) and falling.rate == 1e-3
        before = flat.rate
        if flat.ended(step):
            ended = step
            break
        assert flat.rate == before or (step + 1) % 60 == 0
    assert ended is not None and ended > 3 * PATIENCE, "three rates, each kept for a while"
    assert flat.rate == pytest.approx(1e-6)


def test_it_repeats_itself_and_leaves_the_global_state_alone(gen):
    op = Degradation(2)
    y, kernel = torch.rand(1, 3, 24, 21, generator=gen), gaussian(op, 2.0, 1.0, 0.4)
    state = torch.random.get_rng_state()
    first, second, other = (QUICK.with_seed(s)(y, kernel, op, 0.01) for s in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())
    assert QUICK.with_seed(7) == replace(QUICK, seed=7) and BicubicRestorer().with_seed(7) == BicubicRestorer()


@pytest.mark.parametrize("padding", Padding)
@pytest.mark.parametrize(("h", "w", "channels"), [(8, 8, 1), (13, 30, 3), (21, 16, 4)])
def test_any_size_and_border(padding, h, w, channels, gen):
    op = Degradation(4, alignment=Alignment.CENTERED, padding=padding)
    y = torch.rand(1, channels, h, w, generator=gen)
    x = QUICK(y, gaussian(op, 4.0, 2.0, 0.4), op, 0.0)
    assert x.shape == (1, channels, 4 * h, 4 * w) and 0 <= float(x.min()) and float(x.max()) <= 1
    assert not x.requires_grad and torch.isfinite(x).all()


def squares(side: int = 96) -> torch.Tensor:
    """Squares within squares, each half the one around it: the same corner at every scale."""
    x = torch.zeros(side, side)
    size, top = side, 0
    for n in range(4):
        x[top : top + size, top : top + size] = 0.15 + 0.7 * (n % 2)
        top, size = top + size // 4 + 1, size // 2
    return torch.stack([x, x.flip(0), x.flip(1)])[None]


def photo() -> torch.Tensor:
    from skimage.data import chelsea

    return torch.from_numpy(chelsea()[80:176, 100:196]).permute(2, 0, 1)[None].float() / 255


@pytest.mark.slow
@pytest.mark.parametrize(("make", "gain"), [(squares, 1.0), (photo, 1.0)])
def test_better_than_bicubic_under_a_known_kernel_that_is_not_bicubic(make, gain):
    """Shocher et al. 2018, Section 4.2, here with a tenth of the steps and half the width."""
    op = Degradation(2)
    kernel = gaussian(op, 4.0, 1.5, 0.5)
    x = make()
    y = op(x, kernel)
    restorer = ZssrRestorer(steps=300, width=32, back_projections=0)
    low, found = bicubic(y, 2, op.alignment), restorer(y, kernel, op, 0.0)
    box = torch.zeros_like(kernel)
    box[..., 4:6, 4:6] = 0.25
    blind = restorer(y, box, op, 0.0)
    assert psnr(found, x, 6) > psnr(low, x, 6) + gain
    assert psnr(found, x, 6) > psnr(blind, x, 6) + gain / 2, "it is the kernel that does it"


def test_back_projection_explains_the_picture(gen):
    """The error of y falls; under noise nothing is projected back."""
    op = Degradation(2)
    kernel, x = gaussian(op, 2.0, 1.0, 0.4), torch.rand(1, 1, 40, 40, generator=gen)
    y = op(0.25 + 0.5 * x, kernel)
    errors = [
        float(
            (op(ZssrRestorer(steps=3, width=8, back_projections=n)(y, kernel, op, noise), kernel) - y).square().mean()
        )
        for n, noise in ((0, 0.0), (2, 0.0), (8, 0.0), (8, 0.02))
    ]
    assert errors[2] < 0.5 * errors[1] < 0.25 * errors[0]
    assert errors[3] > errors[1]


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"width": 0}, {"depth": 1}, {"crop": 8}, {"back_projections": -1}, {"rate": 0.0}]
)
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="ZSSR: "):
        ZssrRestorer(**bad)


@pytest.mark.slow
def test_on_the_command_line_after_any_method_and_with_its_seed(tmp_path, monkeypatch):
    monkeypatch.setitem(RESTORERS, "zssr", Part("zssr", ZssrRestorer(steps=20, width=8, depth=2, rate=0.01)))
    image = save_png(tmp_path / "a.png")
    made = {}
    for method, seed in (("mlmc", 0), ("fast-map", 0), ("fast-map", 1)):
        out = tmp_path / f"{method}{seed}"
        more = ("--iterations", 1, "--preset", "fast") if method == "mlmc" else ()
        words = ("--scale", 2, "--method", method, "--restorer", "zssr", "--seed", seed, "--output", out, *more)
        done = call("run", image, *words)
        assert done.exit_code == 0, done.stderr
        record = json.loads((out / "a/run.json").read_text(encoding="utf-8"))
        assert record["restorer"] == "zssr" and record["noise_std"] > 0
        made[method, seed] = (out / "a/sr.png").read_bytes()
    assert made["fast-map", 0] != made["fast-map", 1], "the same kernel, other weights"
