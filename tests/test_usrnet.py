"""USRNet: its data step against dense linear algebra, its weights, both grids, every border, and real pictures."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from blindsr.diagnostics.metrics import psnr
from blindsr.errors import UserError
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.restorers.borders import close_border
from blindsr.restorers.usrnet import UsrNetRestorer, load_usrnet
from blindsr.restorers.usrnet_net import ResUNet, UsrNet, data_step, transfer_function

NAMES = ("baby", "bird", "butterfly", "head", "woman")
X4 = {"baby": 33.4, "bird": 33.8, "butterfly": 29.1, "head": 32.6, "woman": 30.6}


def tiny(**sizes):
    torch.manual_seed(3)
    return UsrNet(**{"n_iter": 2, "channels": (4, 4, 6, 6), "n_blocks": 1, "hidden": 5, **sizes})


def save(path: Path, content) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def small(tmp_path: Path) -> UsrNetRestorer:
    return UsrNetRestorer(save(tmp_path / "small.pth", tiny().state_dict()))


def random_kernel(size, gen):
    k = torch.rand(1, 1, size, size, generator=gen, dtype=torch.float64)
    return k / k.sum()


@pytest.mark.parametrize("size", [5, 9, 15])
@pytest.mark.parametrize("alignment", list(Alignment))
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_data_step_solves_the_normal_equations(scale, alignment, size, gen):
    """Against a dense solve; the matrix comes from degrading each unit image."""
    op = Degradation(scale, size, alignment)
    h, w = 3, 4
    shape, n = (1, 1, scale * h, scale * w), scale * scale * h * w
    k = random_kernel(size, gen)
    a = op(torch.eye(n, dtype=torch.float64).view(n, *shape[1:]), k).reshape(n, -1).T
    y = torch.rand(1, 1, h, w, generator=gen, dtype=torch.float64)
    x = torch.rand(shape, generator=gen, dtype=torch.float64)
    alpha = 0.03
    expected = torch.linalg.solve(
        a.T @ a + alpha * torch.eye(n, dtype=torch.float64), a.T @ y.flatten() + alpha * x.flatten()
    )
    weight = torch.full((1, 1, 1, 1), alpha, dtype=torch.float64)
    z = data_step(x, y, transfer_function(k, *shape[2:], op.offset), weight, scale)
    torch.testing.assert_close(z.flatten(), expected, rtol=1e-9, atol=1e-10)


def test_data_step_in_float32_is_accurate_at_a_tiny_weight(gen):
    k, y = random_kernel(11, gen), torch.rand(1, 3, 8, 8, generator=gen, dtype=torch.float64)
    x, alpha = torch.rand(1, 3, 16, 16, generator=gen, dtype=torch.float64), torch.full((1, 1, 1, 1), 1e-4)
    exact = data_step(x, y, transfer_function(k, 16, 16), alpha.double(), 2)
    single = data_step(x.float(), y.float(), transfer_function(k.float(), 16, 16), alpha, 2)
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-3)


def test_denoiser_takes_any_size_and_keeps_it():
    net = ResUNet(3, (4, 4, 6, 6), 1)
    for h, w in [(8, 16), (9, 15), (1, 3)]:
        assert net(torch.rand(2, 3, h, w), torch.rand(2, 1, 1, 1)).shape == (2, 3, h, w)


def test_data_step_and_denoiser_are_told_their_own_numbers():
    alpha, beta = tiny().h(torch.zeros(1, 1, 1, 1), 4)
    assert alpha.shape == beta.shape == (1, 2, 1, 1)
    assert float(torch.cat([alpha, beta]).detach().min()) > 0


SIZES = [
    {},
    {"n_iter": 3, "channels": (4, 5, 6, 7), "n_blocks": 2, "hidden": 7},
    {"image_channels": 1},
    {"n_blocks": 3, "channels": (8, 8, 8, 8)},
]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("wrapper", [None, "state_dict", "params", "params_ema"])
def test_size_is_read_off_the_weights(tmp_path, sizes, wrapper):
    net = tiny(**sizes)
    content = net.state_dict() if wrapper is None else {"step": 3, wrapper: net.state_dict()}
    other = load_usrnet(save(tmp_path / "w.pth", content))
    assert other.n_iter == net.n_iter
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in net.state_dict().items())
    assert not any(p.requires_grad for p in other.parameters())


def test_the_large_published_size_loads(tmp_path):
    """8 iterations, channels 64 to 512, 2 blocks, hidden 64: 17 million numbers."""
    net = UsrNet(8, (64, 128, 256, 512), 2, 64)
    assert sum(p.numel() for p in net.parameters()) == 17_016_016
    path = save(tmp_path / "w.pth", {k: v.half() for k, v in net.state_dict().items()})
    assert load_usrnet(path).p.m_body[1].res[0].weight.dtype == torch.float32


def test_names_and_shapes_are_those_of_the_published_weights(data_folder):
    state = torch.load(data_folder / "weights/usrnet_tiny.pth", weights_only=True)
    mine = UsrNet().state_dict()
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in state.items()}


def changed(**changes):
    state = dict(tiny().state_dict())
    for name, value in changes.items():
        state[name.replace("__", ".")] = value
    return {k: v for k, v in state.items() if v is not None}


BAD = {
    "other network": ({"conv.weight": torch.zeros(3)}, "not USRNet weights (p.m_head.weight is missing)"),
    "one missing": (changed(p__m_up1__0__weight=None), "names or shapes of the tensors do not fit"),
    "one too many": (changed(p__extra=torch.zeros(1)), "names or shapes of the tensors do not fit"),
    "wrong shape": (changed(p__m_up1__0__weight=torch.zeros(4, 4, 3, 3)), "names or shapes of the tensors do not fit"),
    "no shape": (changed(p__m_head__weight=torch.tensor(1.0)), "names or shapes of the tensors do not fit"),
    "no iteration": (changed(h__mlp__4__weight=torch.zeros(1, 5, 1, 1)), "names or shapes of the tensors do not fit"),
    "no number": (changed(p__m_head__weight=torch.full((4, 4, 3, 3), torch.nan)), "weights are not all finite"),
    "a list": ([torch.zeros(3)], "holds no state dict"),
    "a tensor": (torch.zeros(3), "holds no state dict"),
    "empty": ({}, "holds no state dict"),
    "words": ({"a": "b"}, "holds more than named arrays of numbers"),
    "whole numbers": (changed(p__m_head__weight=torch.ones(4, 4, 3, 3).long()), "more than named arrays of numbers"),
    "a whole network": (tiny(), "not a file of weights (a state dict, saved by torch.save)"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_other_files_are_refused_in_one_line(tmp_path, content, message):
    path = save(tmp_path / "w.pth", content)
    with pytest.raises(UserError) as caught:
        UsrNetRestorer(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_folder_and_garbage(tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    for name, message in (("gone.pth", "No such file"), (".", "cannot be read"), ("text.pth", "not a file of weights")):
        with pytest.raises(UserError, match=message):
            UsrNetRestorer(tmp_path / name)


def test_images_of_other_channels_are_refused(small):
    with pytest.raises(UserError, match="images of 1 or 3 channels; this one has 2"):
        small(torch.rand(1, 2, 8, 8), torch.full((1, 1, 11, 11), 1 / 121), Degradation(2), 0.0)


@pytest.mark.parametrize("padding", list(Padding))
@pytest.mark.parametrize("alignment", list(Alignment))
def test_output_is_the_picture(small, alignment, padding, gen):
    assert small.parameters == sum(p.numel() for p in small.network.parameters())
    for scale, channels in ((2, 3), (4, 1)):
        op = Degradation(scale, alignment=alignment, padding=padding)
        y = torch.rand(1, channels, 7, 10, generator=gen)
        x = small(y, random_kernel(op.kernel_size, gen), op, 0.02)
        assert x.shape == (1, channels, 7 * scale, 10 * scale) and x.dtype == torch.float32
        assert float(x.min()) >= 0 and float(x.max()) <= 1 and not x.requires_grad


def test_noise_level_counts(small, gen):
    y, k = torch.rand(1, 3, 8, 8, generator=gen), random_kernel(11, gen)
    assert not torch.equal(small(y, k, Degradation(2), 0.0), small(y, k, Degradation(2), 0.5))


def test_border_closes_smoothly_around_y(gen):
    y = torch.rand(1, 2, 5, 6, generator=gen)
    wide = close_border(y, 8)  # wider than y itself
    assert wide.shape == (1, 2, 21, 22)
    assert torch.equal(wide[..., 8:13, 8:14], y)
    ramp = torch.arange(20.0).expand(1, 1, 20, 20)
    row = close_border(ramp, 10)[0, 0, 0]
    assert float((row - row.roll(1)).abs().max()) < 2.5  # a plain wrap jumps by 19


def read(path: Path, scale: int = 1) -> torch.Tensor:
    x = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
    x = x[: x.shape[0] // scale * scale, : x.shape[1] // scale * scale]
    return torch.from_numpy(x).permute(2, 0, 1)[None]


def score(x, truth, border):
    return psnr(x.clamp(0, 1), truth, border)


def true_kernel(path: Path) -> torch.Tensor:
    return torch.from_numpy(scipy.io.loadmat(path)["Kernel"])[None, None]


@pytest.fixture
def published(data_folder: Path) -> UsrNetRestorer:
    return UsrNetRestorer(data_folder / "weights/usrnet_tiny.pth")


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "mean"), [(2, 36.6), (4, 31.9)])
def test_set5_with_the_true_kernels(data_folder, published, scale, mean):
    folder, found = data_folder / f"Set5_x{scale}", {}
    for name in NAMES:
        k = true_kernel(folder / f"{name}.mat")
        x = published(read(folder / f"{name}.png"), k, Degradation(scale), 0.0)
        found[name] = score(x, read(data_folder / f"Set5/{name}.png", scale), scale**2)
    assert np.mean(list(found.values())) == pytest.approx(mean, abs=0.06)
    if scale == 4:
        assert found == pytest.approx(X4, abs=0.06)


def degraded(data_folder, scale, alignment, padding):
    """Woman by its true kernel on any grid, in 8 bits: operator, kernel, LR image, the picture that it shows."""
    hr, k = read(data_folder / "Set5/woman.png", scale), true_kernel(data_folder / f"Set5_x{scale}/woman.mat").float()
    op = Degradation(scale, k.shape[-1], alignment, padding)
    y = (op(hr, k) * 255).round() / 255
    return op, k, y, op.crop(hr)[..., : scale * y.shape[-2], : scale * y.shape[-1]]


@pytest.mark.slow
@pytest.mark.parametrize("padding", list(Padding))
@pytest.mark.parametrize("scale", [2, 4])
def test_the_grids_agree(data_folder, published, scale, padding):
    """The same scene on both grids is restored equally well, with any border."""
    found = []
    for alignment in Alignment:
        op, k, y, truth = degraded(data_folder, scale, alignment, padding)
        found.append(score(published(y, k, op, 0.0), truth, scale**2))
    assert found[0] == pytest.approx(found[1], abs=0.5)
    assert min(found) > {2: 35.0, 4: 29.9}[scale]


def test_grey_is_restored_like_colour(data_folder, published):
    op, k, y, truth = degraded(data_folder, 4, Alignment.CENTERED, Padding.VALID)
    x = published(y.mean(1, keepdim=True), k, op, 0.0)
    assert x.shape[1] == 1
    assert score(x, truth.mean(1, keepdim=True), 16) > 29


def test_border_does_not_wrap_around(data_folder, published):
    """The outermost pixels of a picture without a circular border: far better than when it is taken as circular."""
    op, k, y, truth = degraded(data_folder, 2, Alignment.CENTERED, Padding.VALID)
    wrapped = published(y, k, Degradation(2, op.kernel_size, Alignment.CENTERED), 0.0)
    assert score(published(y, k, op, 0.0), truth, 0) > score(wrapped, truth, 0) + 3


def test_noise_is_treated_as_noise(data_folder, published):
    op, k, y, truth = degraded(data_folder, 4, Alignment.FKP, Padding.CIRCULAR)
    y = (y + 10 / 255 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert score(published(y, k, op, 10 / 255), truth, 16) > score(published(y, k, op, 0.0), truth, 16) + 2
