"""Generators: shapes, what they start from, formulas written out, projections against their optimality."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from blindsr.generators import skip as skip_module
from blindsr.generators.base import Generator, retract_
from blindsr.generators.kernel import FixedKernel, GaussianKernel, KernelNetwork, SimplexKernel, project_simplex
from blindsr.generators.pixels import Pixels
from blindsr.generators.skip import NonLocalBlock, SkipNetwork, SkipSettings, usable_levels
from blindsr.random import seeded

SMALL = SkipSettings(channels=8, skip_channels=4, levels=2)


def skip(height, width, settings=SMALL, channels=3, seed=0):
    with seeded(seed):
        return SkipNetwork(channels, height, width, settings)


# --- kernels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), (40,), (40, 30)])
def test_kernel_network_makes_a_kernel(hidden):
    with seeded(0):
        net = KernelNetwork(11, hidden, inputs=20)
    k = net()
    assert k.shape == (1, 1, 11, 11)
    assert float(k.detach().min()) > 0
    assert float(k.detach().sum()) == pytest.approx(1, abs=1e-5)
    k[..., 5, 5].log().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())


def test_kernel_network_has_the_published_layers():
    with seeded(0):
        net = KernelNetwork(19)
    assert [tuple(p.shape) for p in net.parameters()] == [(1000, 200), (1000,), (361, 1000), (361,)]
    assert net.z.shape == (1, 200) and not net.z.requires_grad
    assert 0 <= float(net.z.min()) and float(net.z.max()) < 0.1
    # Uniform on [0, 0.1): mean 0.05, standard error 0.1/sqrt(12 * 200).
    assert abs(float(net.z.mean()) - 0.05) < 5 * 0.1 / math.sqrt(12 * 200)


def test_kernel_network_is_linear_relu6_linear_softmax():
    with seeded(1):
        net = KernelNetwork(5, (30,), inputs=10, input_std=20.0)
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in net.parameters())
    hidden = np.clip(w1 @ net.z[0].double().numpy() + b1, 0, 6)
    assert hidden.max() == 6
    logits = w2 @ hidden + b2
    expected = np.exp(logits - logits.max())
    np.testing.assert_allclose(net().detach()[0, 0], (expected / expected.sum()).reshape(5, 5), rtol=1e-4)


def test_explicit_gaussian_is_the_formula():
    net = GaussianKernel(9, 3.5, free_center=True).double()
    with torch.no_grad():
        net.factor.copy_(torch.tensor([[0.7, 9.0], [0.25, 0.4]], dtype=torch.float64))  # above the diagonal: not used
        net.center.copy_(torch.tensor([3.2, 4.1], dtype=torch.float64))
    factor = np.array([[0.7, 0], [0.25, 0.4]])
    precision = factor @ factor.T
    np.testing.assert_allclose(net.precision().detach(), precision, rtol=1e-12)
    expected = np.array(
        [[math.exp(-0.5 * np.array([c - 3.2, r - 4.1]) @ precision @ [c - 3.2, r - 4.1]) for c in range(9)]
         for r in range(9)]
    )  # fmt: skip
    np.testing.assert_allclose(net().detach()[0, 0], expected / expected.sum(), rtol=1e-10)


@pytest.mark.parametrize(("free", "count"), [(False, 1), (True, 2)])
def test_explicit_gaussian_starts_isotropic(free, count):
    net = GaussianKernel(21, 10.0, std=2.0, free_center=free)
    np.testing.assert_allclose(net.precision().detach(), np.eye(2) / 4, rtol=1e-6, atol=1e-7)
    assert len(list(net.parameters())) == count


def test_explicit_gaussian_learns_a_kernel_that_it_can_make():
    target = GaussianKernel(11, 4.5)
    with torch.no_grad():
        target.factor.copy_(torch.tensor([[0.8, 0.0], [0.2, 0.4]]))
    net = GaussianKernel(11, 4.5)
    adam = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(300):
        adam.zero_grad()
        (1e3 * (net() - target().detach()).square().sum()).backward()
        adam.step()
    torch.testing.assert_close(net.precision(), target.precision(), rtol=0.02, atol=0.01)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_simplex_projection_meets_its_optimality_condition(values):
    """p is the nearest point of the simplex to v exactly if (v - p)·(e_i - p) <= 0 for every vertex e_i."""
    v = torch.tensor([values], dtype=torch.float64)
    p = project_simplex(v)
    assert float(p.min()) >= 0
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    gap = (v - p)[0]
    assert float((gap - (gap * p[0]).sum()).max()) <= 1e-10


def test_simplex_projection_equals_a_quadratic_program():
    rng = np.random.default_rng(0)
    for _ in range(5):
        v = rng.standard_normal(6)
        found = minimize(
            lambda w, v=v: ((w - v) ** 2).sum(),
            np.full(6, 1 / 6),
            jac=lambda w, v=v: 2 * (w - v),
            bounds=[(0, 1)] * 6,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(project_simplex(torch.from_numpy(v)[None])[0], found.x, atol=1e-6)


def test_simplex_projection_works_row_by_row(gen):
    v = torch.randn(4, 9, generator=gen)
    rows = torch.cat([project_simplex(r[None]) for r in v])
    torch.testing.assert_close(project_simplex(v), rows, rtol=0, atol=0)


def test_simplex_kernel_starts_as_a_gaussian_and_retracts(gen):
    net = SimplexKernel(11, 4.5)
    assert float(net().detach().sum()) == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        net.pixels.add_(0.1 * torch.randn(net.pixels.shape, generator=gen))
    wanted = project_simplex(net.pixels.detach().view(1, -1)).view(1, 1, 11, 11)
    retract_(net)
    assert torch.equal(net(), wanted)
    assert float(net().detach().min()) >= 0


def test_fixed_kernel_has_no_parameters_and_keeps_its_own_copy():
    k = torch.full((1, 1, 3, 3), 1 / 9)
    net = FixedKernel(k)
    k.zero_()
    assert list(net.parameters()) == []
    assert torch.equal(net(), torch.full((1, 1, 3, 3), 1 / 9))


def test_pixels_start_where_told_and_are_clipped_by_retraction():
    start = torch.tensor([[[[0.2, 0.9]]]])
    net = Pixels(start)
    assert isinstance(net, Generator) and torch.equal(net(), start)
    with torch.no_grad():
        net.pixels.add_(torch.tensor([[[[-0.5, 0.5]]]]))
    retract_(net)
    assert torch.equal(net().detach(), torch.tensor([[[[0.0, 1.0]]]]))
    assert torch.equal(start, torch.tensor([[[[0.2, 0.9]]]]))


def test_retraction_leaves_other_modules_alone():
    with seeded(0):
        net = torch.nn.Linear(2, 2)
    before = net.weight.detach().clone()
    retract_(net)
    assert torch.equal(net.weight, before)


# --- the skip network ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 48), (33, 47), (17, 64), (35, 35)])
def test_skip_network_gives_an_image_of_any_size(height, width, channels):
    x = skip(height, width, channels=channels)()
    assert x.shape == (1, channels, height, width) and x.dtype == torch.float32
    assert 0 < float(x.detach().min()) and float(x.detach().max()) < 1


@pytest.mark.parametrize(
    ("height", "width", "levels"),
    [(256, 256, 5), (128, 300, 5), (127, 127, 5), (64, 64, 4), (33, 64, 3), (32, 32, 3), (16, 16, 2), (8, 500, 1)],
)
def test_levels_adapt_to_small_images(height, width, levels):
    """No feature map gets smaller than 4 pixels; halving rounds up."""
    assert usable_levels(height, width, 5) == levels
    side = min(height, width)
    for _ in range(levels):
        side = math.ceil(side / 2)
    assert side >= 4 and (levels == 5 or math.ceil(side / 2) < 4)


@pytest.mark.parametrize("size", [16, 17, 19, 23])
def test_full_depth_settings_work_on_tiny_images(size):
    net = skip(size, size + 3, SkipSettings(channels=8, non_local_from=1))
    net().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_skip_network_has_the_published_make_up():
    net = skip(256, 256, SkipSettings())
    assert net.levels == 5 and net.z.shape == (1, 3, 256, 256)
    assert 0 <= float(net.z.min()) and float(net.z.max()) < 0.1
    assert sum(isinstance(m, NonLocalBlock) for m in net.modules()) == 3
    convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(m.stride == (2, 2) for m in convs) == 5
    assert all(m.padding_mode == "reflect" for m in convs if m.kernel_size == (3, 3))
    assert sum(m.out_channels == 16 and m.kernel_size == (1, 1) for m in convs) == 5
    assert {m.negative_slope for m in net.modules() if isinstance(m, torch.nn.LeakyReLU)} == {0.2}
    level, inputs = net.body, 3
    for number in range(1, 6):
        assert any(isinstance(m, NonLocalBlock) for m in level.down.modules()) == (number >= 3)
        assert next(level.down.parameters()).shape == (128, inputs, 3, 3)
        level, inputs = level.deeper, 128


def test_all_parameters_of_the_skip_network_learn():
    net = skip(32, 32, SkipSettings(channels=8, levels=3))
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, NonLocalBlock):
                m.out[1].weight.fill_(1.0)
    (net() - 0.3).square().sum().backward()
    idle = [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)]
    # A key's bias adds the same number to every logit of a softmax: it alone has (nearly) no gradient.
    assert all(n.endswith("phi.bias") for n in idle)


def test_skip_network_fits_an_image():
    target = torch.zeros(1, 1, 16, 16)
    target[..., 4:12, 5:9] = 1
    net = skip(16, 16, channels=1)
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(150):
        adam.zero_grad()
        loss = (net() - target).square().mean()
        loss.backward()
        adam.step()
    assert float(loss.detach()) < 0.02 * float(target.var())


def test_bf16_stays_near_fp32_and_is_left_where_the_processor_has_none(monkeypatch):
    full = skip(48, 40, SkipSettings(channels=16, levels=3))
    half = skip(48, 40, SkipSettings(channels=16, levels=3, bf16=True))
    half.load_state_dict(full.state_dict())
    a, b = full().detach(), half().detach()
    assert b.dtype == torch.float32 and all(p.dtype == torch.float32 for p in half.parameters())
    assert torch.equal(a, b) != skip_module.has_bf16(torch.device("cpu"))
    # bf16 keeps 8 bits; errors of 2^-9 in each of some 15 layers, relative to the image's own spread.
    assert float((a - b).square().mean().sqrt()) < 0.1 * float(a.std())
    assert float((a - b).abs().max()) < 0.1
    monkeypatch.setattr(skip_module, "has_bf16", lambda device: False)
    assert torch.equal(half().detach(), a)


def test_same_seed_same_network():
    a, b, c = (skip(16, 16, seed=s) for s in (3, 3, 4))
    assert torch.equal(a(), b()) and not torch.equal(a(), c())


@pytest.mark.parametrize("field", ["channels", "skip_channels", "levels", "input_channels"])
def test_skip_settings_below_one_are_refused(field):
    with pytest.raises(ValueError, match="skip network"):
        SkipSettings(**{field: 0})


def test_non_local_block_is_the_embedded_gaussian_formula(gen):
    with seeded(5):
        block = NonLocalBlock(6).double()
        torch.nn.init.normal_(block.out[1].weight)
        torch.nn.init.normal_(block.out[1].bias)
    x = torch.randn(2, 6, 4, 5, generator=gen, dtype=torch.float64)

    def linear(conv, v):
        return conv.weight[:, :, 0, 0] @ v + conv.bias[:, None]

    mixed = []
    for image in x:
        v = image.reshape(6, 20)
        q, k, g = (linear(c, v) for c in (block.theta, block.phi, block.g))
        y = torch.empty(3, 20, dtype=torch.float64)
        for i in range(20):
            score = torch.stack([(q[:, i] * k[:, j]).sum() for j in range(20)])
            weight = score.exp() / score.exp().sum()
            y[:, i] = (weight * g).sum(1)
        mixed.append(linear(block.out[0], y).view(6, 4, 5))
    w = torch.stack(mixed)
    norm = (w - w.mean((0, 2, 3), keepdim=True)) / (w.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = x + norm * block.out[1].weight.view(1, -1, 1, 1) + block.out[1].bias.view(1, -1, 1, 1)
    torch.testing.assert_close(block(x), expected, rtol=1e-8, atol=1e-8)


def test_non_local_block_starts_as_the_identity(gen):
    with seeded(6):
        block = NonLocalBlock(4)
    x = torch.randn(1, 4, 5, 5, generator=gen)
    assert torch.equal(block(x), x)
