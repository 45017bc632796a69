"""Bicubic enlargement: Keys' formula point by point, and where things land."""

import math

import pytest
import torch

from blindsr.operators.degradation import SCALES, Alignment, Degradation
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.restorers.bicubic import bicubic


def keys(t):
    t = abs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def position(p, scale, alignment):
    """LR index of HR pixel p."""
    shift = (scale - 1) / 2
    return (p + shift) / scale if alignment is Alignment.FKP else (p - shift) / scale


@pytest.mark.parametrize("alignment", list(Alignment))
@pytest.mark.parametrize("scale", SCALES)
def test_every_pixel_is_keys_interpolation(scale, alignment, gen):
    y = 0.3 + 0.4 * torch.rand(1, 2, 5, 6, generator=gen, dtype=torch.float64)
    x = bicubic(y, scale, alignment)
    assert x.shape == (1, 2, 5 * scale, 6 * scale)
    for p, q in [(0, 0), (scale, 3), (2 * scale + 1, 4 * scale - 1), (5 * scale - 1, 6 * scale - 1)]:
        r, c = position(p, scale, alignment), position(q, scale, alignment)
        expected = sum(
            keys(r - i) * keys(c - j) * y[0, :, min(max(i, 0), 4), min(max(j, 0), 5)]
            for i in range(math.floor(r) - 1, math.floor(r) + 3)
            for j in range(math.floor(c) - 1, math.floor(c) + 3)
        )
        torch.testing.assert_close(x[0, :, p, q], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alignment", list(Alignment))
@pytest.mark.parametrize("scale", SCALES)
def test_a_plane_stays_a_plane(scale, alignment):
    """Cubic convolution reproduces linear functions: inside, x(p) is the plane at the LR position of p."""
    rows, cols = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    x = bicubic((0.02 * rows + 0.03 * cols + 0.1).view(1, 1, 12, 12), scale, alignment)
    at = torch.tensor([position(p, scale, alignment) for p in range(12 * scale)])
    expected = 0.02 * at[:, None] + 0.03 * at[None, :] + 0.1
    inner = slice(3 * scale, 9 * scale)
    torch.testing.assert_close(x[0, 0, inner, inner], expected[inner, inner], rtol=0, atol=1e-5)


@pytest.mark.parametrize("alignment", list(Alignment))
@pytest.mark.parametrize("scale", SCALES)
def test_degrade_then_enlarge_leaves_a_blob_where_it_was(scale, alignment):
    op, n = Degradation(scale, alignment=alignment), 20
    axis = torch.arange(n * scale, dtype=torch.float64)
    row, col = 9.3 * scale, 10.6 * scale
    x = torch.exp(-((axis[:, None] - row) ** 2 + (axis[None, :] - col) ** 2) / (2 * (1.5 * scale) ** 2))[None, None]
    prior = GaussianKernelPrior.truth(scale)
    c = op.center
    k = prior.kernel_of(torch.tensor([[1.0, 1.0, 0.0, c, c]], dtype=torch.float64))
    back = bicubic(op(x, k), scale, alignment)[0, 0]
    found = [float((back.sum(1) * axis).sum() / back.sum()), float((back.sum(0) * axis).sum() / back.sum())]
    assert found == pytest.approx([row, col], abs=0.01)


def test_values_are_clipped():
    y = torch.zeros(1, 1, 6, 6)
    y[..., 3:] = 1
    x = bicubic(y, 4)
    assert float(x.min()) == 0 and float(x.max()) == 1
