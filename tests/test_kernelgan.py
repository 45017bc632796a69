"""KernelGAN: networks, regularisers, crops and kernel against brute force; the game on a picture of known kernel."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from helpers import call, error_line, save_png
from scipy.signal import correlate2d
from test_loop import check_resume
from torch.nn import functional as F

from blindsr.diagnostics.metrics import kernel_psnr
from blindsr.estimators.kernelgan.crops import Crops, gradient_map, probability_map
from blindsr.estimators.kernelgan.game import KernelGan
from blindsr.estimators.kernelgan.kernel import analytic, finished, placed, shifted, significant
from blindsr.estimators.kernelgan.networks import DeepLinear, PatchDiscriminator
from blindsr.estimators.kernelgan.regularizers import (
    Schedule,
    Weights,
    bicubic_gap,
    bicubic_kernel,
    boundary,
    boundary_mask,
    off_center,
    sparsity,
    sum_to_one,
)
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.operators.kernels import center_of_mass
from blindsr.priors.gaussian import gaussian_kernel
from blindsr.random import seeded
from blindsr.simulate import degrade

SMALL = KernelGan(channels=8, crop=32)


def gaussian(size, center, major=3.0, minor=0.8, angle=0.6):
    axes = (torch.tensor([v], dtype=torch.float64) for v in (major, minor, angle))
    return gaussian_kernel(size, *axes, torch.full((1, 2), center, dtype=torch.float64))


def array(kernel):
    return kernel[0, 0].detach().double().numpy()


# --- the players --------------------------------------------------------------------------------------------------


def deep(layers=(7, 5, 3, 1, 1, 1), channels=6):
    with seeded(3):
        return DeepLinear(layers, channels).double()


def layer_by_layer(net, x):
    """Apply the layers one by one, the last at every second pixel: what `forward` stands for."""
    *most, last = net.weights
    for w in most:
        x = F.conv2d(x, w)
    return F.conv2d(x, last, stride=2)


@pytest.mark.parametrize("layers", [(7, 5, 3, 1, 1, 1), (3, 3), (5, 1, 3)])
def test_the_generator_is_a_correlation_with_its_kernel(layers, gen):
    net, x = deep(layers), torch.rand(3, 1, 21, 24, generator=gen, dtype=torch.float64)
    kernel, size = net.kernel(), sum(layers) - len(layers) + 1
    assert kernel.shape == (1, 1, size, size) and net.kernel_size == size
    slow, fast = layer_by_layer(net, x), net(x)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=0)
    for plane, out in zip(x, slow, strict=True):
        expected = correlate2d(plane[0].numpy(), array(kernel), mode="valid")[::2, ::2]
        np.testing.assert_allclose(out[0].detach().numpy(), expected, rtol=1e-10, atol=1e-18)


def test_both_forms_of_the_generator_have_the_same_gradients(gen):
    net, x = deep(), torch.rand(2, 1, 20, 20, generator=gen, dtype=torch.float64)
    a, b = (torch.autograd.grad(out.square().sum(), list(net.parameters())) for out in (net(x), layer_by_layer(net, x)))
    for one, two in zip(a, b, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=0)


def test_the_published_generator_has_a_kernel_of_13():
    with seeded(0):
        net = DeepLinear()
    assert [tuple(w.shape) for w in net.weights] == [
        (64, 1, 7, 7), (64, 64, 5, 5), (64, 64, 3, 3), (64, 64, 1, 1), (64, 64, 1, 1), (1, 64, 1, 1)
    ]  # fmt: skip
    assert net.kernel().shape[-1] == KernelGan().kernel_size == 13
    assert net(torch.zeros(3, 1, 64, 64)).shape == (3, 1, 26, 26)


def test_the_discriminator_judges_each_7x7_patch(gen):
    with seeded(0):
        net = PatchDiscriminator(3, 16)
    x = torch.rand(1, 3, 20, 18, generator=gen)
    for _ in range(5):
        out = net(x).detach()
    assert out.shape == (1, 1, 14, 12) and 0 < float(out.min()) and float(out.max()) < 1
    net.eval()  # with fixed batch statistics each output depends on one patch alone
    before, other = net(x).detach(), x.clone()
    other[..., 9, 9] += 1
    moved = (net(other) != before)[0, 0].nonzero()
    assert (moved.min(0).values.tolist(), moved.max(0).values.tolist()) == ([3, 3], [9, 9])
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 7
    for conv in convolutions:
        assert float(torch.linalg.matrix_norm(conv.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.05)


# --- regularisers -------------------------------------------------------------------------------------------------


def test_regularisers_are_their_formulas():
    k = torch.randn(1, 1, 13, 13, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.3
    a, mask = array(k), boundary_mask(13).double()
    total = sum(a[r, c] for r in range(13) for c in range(13))
    assert float(sum_to_one(k)) == pytest.approx(abs(1 - total))
    edge = power = row = column = 0.0
    for r in range(13):
        for c in range(13):
            inside = 2 <= r <= 10 and 2 <= c <= 10
            weight = 0 if inside else 30 * (1 - math.exp(-((r - 6) ** 2 + (c - 6) ** 2) / (2 * 13**2)))
            assert float(mask[r, c]) == pytest.approx(weight, abs=1e-5)
            edge += abs(a[r, c]) * weight / 169
            power += abs(a[r, c]) ** 0.2 / 169
            row, column = row + r * a[r, c] / total, column + c * a[r, c] / total
    assert float(boundary(k, mask)) == pytest.approx(edge, rel=1e-5)
    assert float(sparsity(k)) == pytest.approx(power)
    assert float(off_center(k, 5.5)) == pytest.approx(((row - 5.5) ** 2 + (column - 5.5) ** 2) / 2)


def test_bicubic_kernel_is_that_of_the_published_code():
    """Its 8x8 table is an outer product of one line."""
    line = np.array([-0.01171875, -0.03515625, 0.11328125, 0.43359375])
    line = np.concatenate([line, line[::-1]])
    expected = np.zeros((13, 13))
    expected[2:10, 2:10] = np.outer(line, line)
    np.testing.assert_allclose(array(bicubic_kernel(13, 5.5)), expected, atol=1e-6)


def test_bicubic_gap_is_a_mean_square(gen):
    x, k = torch.rand(3, 1, 20, 20, generator=gen), bicubic_kernel(13, 5.5)
    shrunk = torch.rand(3, 1, 4, 4, generator=gen)
    wanted = [correlate2d(p[0].numpy(), array(k), mode="valid")[::2, ::2] for p in x]
    expected = np.mean([(s[0].numpy() - w) ** 2 for s, w in zip(shrunk, wanted, strict=True)])
    assert float(bicubic_gap(shrunk, x, k)) == pytest.approx(expected, rel=1e-5)


def test_the_weights_follow_the_published_schedule():
    w, s, seen = Weights(), Schedule(Weights().bicubic), {}
    gaps = [1.0] * 250 + [0.01, 0.01, 1.0] + [0.01] * 3  # near bicubic for good at step 256
    for step in range(1, 1401):
        s = s.after(step, gaps[step - 1] if step <= len(gaps) else 1.0, w)
        seen[step] = (s.bicubic, s.late)
    assert seen[399] == (5.0, False) and seen[400] == (0.05, False) and seen[599] == (0.05, False)
    assert seen[600] == (5e-4, True) and seen[800] == (5e-6, True) and seen[1400] == (5e-6, True)
    k, mask = gaussian(13, 6.5), boundary_mask(13).double()
    early = 0.5 * sum_to_one(k) + 0.5 * boundary(k, mask)
    torch.testing.assert_close(Schedule(5.0).penalty(k, mask, 5.5, w), early)
    torch.testing.assert_close(s.penalty(k, mask, 5.5, w), early + 5 * sparsity(k) + off_center(k, 5.5))


# --- crops --------------------------------------------------------------------------------------------------------


def test_crops_go_where_the_edges_are():
    grey = torch.full((64, 80), 0.5)
    grey[20:30, 50:60] = 1.0
    p = probability_map(gradient_map(grey), 16)
    assert float(p.sum()) == pytest.approx(1, abs=1e-5) and float(p[20:30, 50:60].sum()) > 0.3, (
        "of an area share of 0.02"
    )
    assert float(p[:8].sum() + p[-8:].sum() + p[:, :8].sum() + p[:, -8:].sum()) == 0, "no crop sticks out"
    flat = probability_map(gradient_map(torch.full((64, 80), 0.5)), 16)
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / flat.numel()))


def test_crops_are_parts_of_the_picture_at_even_places_drawn_by_their_probability(gen):
    picture = torch.arange(40.0 * 50).view(1, 1, 40, 50)
    crops = Crops(picture, 8, torch.zeros(40, 50))
    crops.probability[20, 30], crops.probability[0, 49] = 0.75, 0.25
    tops = [divmod(int(c[0, 0, 0, 0]), 50) for c in (crops.draw(gen) for _ in range(400))]
    assert set(tops) == {(16, 26), (0, 42)}
    assert abs(tops.count((16, 26)) - 300) < 4.5 * math.sqrt(400 * 0.75 * 0.25)
    assert torch.equal(crops.draw(gen)[0, 0].diff(dim=1), torch.ones(8, 7))


# --- from the generator's kernel to the operator's -------------------------------------------------------------------


def test_significant_values_are_kept():
    k = torch.rand(1, 1, 13, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a = array(k)
    kept = np.clip(a - 0.75 * np.sort(a.flatten())[-41], 0, None)
    np.testing.assert_allclose(array(significant(k)), kept / kept.sum(), rtol=1e-12)
    with pytest.raises(ValueError, match="no positive values"):
        significant(-torch.ones(1, 1, 13, 13))


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("alignment", list(Alignment))
def test_the_analytic_kernel_does_in_one_step_what_scale_2_does_in_several(scale, alignment, gen):
    """Exact, borders and grid included: a kernel of centre (K - 2)/2 becomes one of centre (K - s)/2."""
    two = Degradation(2, 7, alignment)
    k2 = gaussian(7, two.center, 0.7, 0.3)
    k = analytic(k2, scale)
    op = Degradation(scale, k.shape[-1], alignment)
    x = torch.rand(1, 2, 64, 48, generator=gen, dtype=torch.float64)
    several = x
    for _ in range(int(math.log2(scale))):
        several = two(several, k2)
    torch.testing.assert_close(op(x, k), several, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(center_of_mass(k), torch.full((1, 2), op.center, dtype=torch.float64), atol=0.05, rtol=0)


@pytest.mark.parametrize("size", [9, 11, 21])
def test_placing_keeps_the_kernel_and_the_nominal_centre(size):
    op = Degradation(2, size)
    k = placed(gaussian(13, 5.5, 1.5, 0.7), op)
    assert k.shape == (1, 1, size, size) and float(k.sum()) == pytest.approx(1)
    assert kernel_psnr(array(k), array(gaussian(size, op.center, 1.5, 0.7))) > 60
    torch.testing.assert_close(center_of_mass(k), torch.full((1, 2), op.center, dtype=torch.float64), atol=2e-3, rtol=0)


def test_shifting_moves_the_centre_and_turns_nothing():
    lopsided = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    lopsided[0, 0, 4, 3:7], lopsided[0, 0, 5, 3] = torch.tensor([4.0, 3.0, 2.0, 1.0]), 2.0
    k = shifted(lopsided / lopsided.sum(), 7.0)
    torch.testing.assert_close(center_of_mass(k), torch.full((1, 2), 7.0, dtype=torch.float64), atol=5e-3, rtol=0)
    row, column = np.unravel_index(array(k).argmax(), (15, 15))
    assert row <= 7 and column < 7, "the heavy corner stays up and left"


@pytest.mark.parametrize("scale", [2, 4])
def test_a_finished_kernel_is_found_again(scale):
    """The generator's kernel, off centre, not normalised, with small ripples: what comes out is the kernel meant."""
    op, ripple = Degradation(scale), 1e-3 * torch.sin(torch.arange(169.0).double()).view(1, 1, 13, 13)
    k = finished(1.3 * gaussian(13, 6.1, 1.5, 0.6) + ripple, op)
    factor = {2: 1, 4: 5}[scale]  # of the variances
    truth = array(gaussian(op.kernel_size, op.center, factor * 1.5, factor * 0.6))
    assert k.dtype == torch.float32 and float(k.min()) >= 0 and float(k.sum()) == pytest.approx(1, abs=1e-5)
    assert kernel_psnr(array(k), truth) > 40 and np.corrcoef(array(k).ravel(), truth.ravel())[0, 1] > 0.98
    torch.testing.assert_close(center_of_mass(k), torch.full((1, 2), op.center), atol=5e-3, rtol=0)


# --- the game -----------------------------------------------------------------------------------------------------


def leaves(side, count=3000):
    """Discs that hide each other, radii by the law r^-3: a picture like itself at every scale (Lee, Mumford 2001)."""
    g = torch.Generator().manual_seed(0)
    small, large = 2.0, side / 3
    radius = (small**-2 - torch.rand(count, generator=g) * (small**-2 - large**-2)) ** -0.5
    center, colour = torch.rand(count, 2, generator=g) * 1.4 * side - 0.2 * side, torch.rand(count, 3, generator=g)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    x = torch.full((3, side, side), 0.5)
    for i in range(count):
        x[:, (row - center[i, 0]) ** 2 + (column - center[i, 1]) ** 2 < radius[i] ** 2] = colour[i][:, None]
    return x[None]


@pytest.mark.slow
@pytest.mark.parametrize("angle", [0.6, 2.2])
def test_the_width_of_the_kernel_of_a_self_similar_picture_is_found(angle):
    """Much closer to the truth than what bicubic shrinking or plain averaging would be.

    That is the width's doing: the lean is not found (docs/method.md).
    """
    op = Degradation(2)
    truth = gaussian(11, op.center, angle=angle).float()
    y = degrade(leaves(192), op, truth).y
    run = KernelGan(channels=32).start(y, op, seed=0, device="cpu")
    metrics = list(run.iterate(600))
    kernel = run.estimate().kernel
    box = torch.zeros(1, 1, 11, 11)
    box[..., 4:6, 4:6] = 0.25
    found, bicubic, plain = (kernel_psnr(array(k), array(truth)) for k in (kernel, bicubic_kernel(11, op.center), box))
    assert found > max(bicubic, plain) + 5, (found, bicubic, plain)
    assert metrics[-1].step == 600 and math.isfinite(metrics[-1].loss)


def picture(side=48, channels=3):
    return degrade(leaves(2 * side, 300)[:, :channels], Degradation(2), gaussian(11, 4.5).float()).y


def start(settings, y, seed=0, op=None):
    return settings.start(y, op or Degradation(2), seed=seed, device="cpu")


def test_a_resumed_game_gives_the_same_bits():
    check_resume(KernelGan(channels=8, decay_every=3), picture(), Degradation(2), 8, (4,))


def test_a_seed_decides_everything_and_the_global_state_nothing():
    y, before, kernels = picture(channels=1), torch.random.get_rng_state(), []
    for seed in (0, 0, 1):
        run = start(SMALL, y, seed)
        list(run.iterate(3))
        kernels.append(run.kernel.kernel())
    assert torch.equal(kernels[0], kernels[1]) and not torch.equal(kernels[0], kernels[2])
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_state_of_other_settings_is_refused():
    y = picture()
    state = start(SMALL, y).state_dict()
    for settings, image, wrong in (
        (KernelGan(channels=9, crop=32), y, state),
        (SMALL, y, state | {"schedule": {"unknown": 1}}),
        (SMALL, y[:, :1], state),
    ):
        with pytest.raises(ValueError, match="does not fit"):
            settings.resume(image, Degradation(2), wrong, device="cpu")


@pytest.mark.parametrize(("padding", "least"), [(Padding.CIRCULAR, 34), (Padding.VALID, 28)])
def test_the_border_is_left_out_and_a_small_picture_refused(padding, least):
    op = Degradation(2, padding=padding)
    y = torch.rand(1, 1, least, least + 9, generator=torch.Generator().manual_seed(0))
    run = start(SMALL, y, op=op)
    assert run.crops[0].picture.shape[-2:] == (28, 37) and (run.crops[0].side, run.crops[1].side) == (28, 8)
    with pytest.raises(ValueError, match=f"needs an LR image of {least} pixels"):
        SMALL.check(y.mT[..., : least - 1], op, torch.device("cpu"))


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="scale 2, 4, 8, not 3"):
        start(SMALL, torch.rand(1, 1, 64, 64), op=Degradation(3))
    with pytest.raises(ValueError, match="has shape"):
        start(SMALL, torch.rand(2, 1, 64, 64))


# --- on the command line ------------------------------------------------------------------------------------------


def test_a_run_on_disk_and_its_resume(tmp_path, real_overview):
    image = save_png(tmp_path / "a.png", 40, 36)
    words = ("run", image, "--scale", 2, "--method", "kernelgan", "--restorer", "bicubic", "--output")
    whole = call(*words, tmp_path / "whole", "--iterations", 6)
    assert whole.exit_code == 0 and "loss" in whole.stderr and "nan" not in whole.stderr
    assert call(*words, tmp_path / "parts", "--iterations", 3).exit_code == 0
    again = call(*words, tmp_path / "parts", "--iterations", 6, "--resume")
    assert again.exit_code == 0 and "resumed at step 3" in again.stderr
    for name in ("kernel.npy", "trace.csv", "sr.png"):
        assert (tmp_path / "whole/a" / name).read_bytes() == (tmp_path / "parts/a" / name).read_bytes()
    r = json.loads((tmp_path / "whole/a/run.json").read_text())
    assert (r["method"], r["restorer"], r["preset"], r["steps"]) == ("kernelgan", "bicubic", None, 6)
    assert r["estimator"]["weights"]["sparsity"] == 5.0 and r["metrics"]["lr_rmse"] is None
    rows = list(csv.DictReader((tmp_path / "whole/a/trace.csv").read_text().splitlines()))
    assert rows[0]["mse"] == rows[0]["noise_std"] == "" and float(rows[0]["kernel_width"]) > 0
    assert (tmp_path / "whole/a/overview.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--scale", 3), "KernelGAN finds kernels of scale 2, 4, 8, not 3"),
        (("--scale", 2, "--prior", "mcmc"), "finds its kernel in a way of its own; `--method mlmc --prior mcmc`"),
        (("--scale", 2, "--restorer", "none"), "makes its image by a restorer"),
        (("--scale", 4), "KernelGAN needs an LR image of 34 pixels a side or more"),
    ],
)
def test_bad_options(tmp_path, words, message):
    image = save_png(tmp_path / "a.png", 33, 40)
    result = call("run", image, "--method", "kernelgan", "--output", tmp_path / "out", *words)
    assert message in error_line(result) and not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    image = save_png(tmp_path / "a.png", 40, 36)
    words = ("run", image, "--scale", 2, "--method", "kernelgan", "--restorer", "bicubic", "--output", tmp_path / "out")
    assert call(*words, "--iterations", 2).exit_code == 0
    path = tmp_path / "out/a/checkpoint.pt"
    content = torch.load(path, weights_only=True)
    del content["state"]["run"]["schedule"]
    torch.save(content, path)
    assert "damaged checkpoint" in error_line(call(*words, "--iterations", 4, "--resume"))
