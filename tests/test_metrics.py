"""PSNR, SSIM and kernel PSNR against their definitions, written out."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat
from scipy.signal import correlate2d
from skimage.metrics import peak_signal_noise_ratio

from blindsr.diagnostics import Border, kernel_psnr, luma, psnr, ssim


def pair(shape=(40, 36, 3), seed=0):
    rng = np.random.default_rng(seed)
    a = rng.random(shape)
    return a, np.clip(a + 0.1 * rng.standard_normal(shape), 0, 1)


def y_channel(rgb):
    """BT.601, 16..235, of 8-bit values."""
    r, g, b = (np.round(255 * rgb[..., i]) for i in range(3))
    return 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255


def reference_ssim(a, b):
    """Wang et al. 2004 on 0..255, 11x11 Gaussian window of 1.5, valid area."""
    u = np.arange(11) - 5.0
    w = np.exp(-(u[:, None] ** 2 + u[None, :] ** 2) / (2 * 1.5**2))
    w /= w.sum()

    def mean(p):
        return correlate2d(p, w, mode="valid")

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(np.mean((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))))


def crop(p, border):
    return p[border : p.shape[0] - border, border : p.shape[1] - border]


@pytest.mark.parametrize("border", [0, 2, 9])
def test_psnr_equals_its_definition(border):
    a, b = pair()
    difference = crop(y_channel(a) - y_channel(b), border)
    expected = 20 * math.log10(255 / math.sqrt(np.mean(difference**2)))
    assert psnr(a, b, border) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("border", [0, 2, 9])
def test_ssim_equals_its_definition(border):
    a, b = pair()
    expected = reference_ssim(crop(y_channel(a), border), crop(y_channel(b), border))
    assert ssim(a, b, border) == pytest.approx(expected, abs=1e-10)


def test_luma_runs_from_16_to_235_and_takes_grey_images():
    assert luma(np.zeros((2, 2, 3))) == pytest.approx(16)
    assert luma(np.ones((2, 2, 3))) == pytest.approx(235)
    grey = np.linspace(0, 1, 12).reshape(3, 4)
    expected = 16 + 219 * np.round(grey * 255) / 255
    for image in (grey, grey[..., None], np.repeat(grey[..., None], 3, axis=2)):
        np.testing.assert_allclose(luma(image), expected, atol=1e-9)


def test_images_are_rounded_to_8_bits_first_and_only_equal_ones_score_infinity():
    a = np.full((8, 8), 100 / 255)
    one_level = 20 * math.log10(255 / (219 / 255))
    assert psnr(a + 0.6 / 255, a) == pytest.approx(one_level)
    assert psnr(a + 0.4 / 255, a) == pytest.approx(one_level - 20 * math.log10(0.4))  # equal once rounded: not rounded
    assert psnr(a + 1e-9, a) < math.inf and psnr(a, a) == math.inf
    assert ssim(*[pair()[0]] * 2) == pytest.approx(1)


def test_every_kind_of_image_scores_as_skimage_does():
    a, b = (np.round(255 * v).astype(np.uint8) for v in pair())
    expected = peak_signal_noise_ratio(y_channel(b / 255), y_channel(a / 255), data_range=255)
    tensors = [torch.from_numpy(v / 255).permute(2, 0, 1) for v in (a, b)]
    for x, t in (
        (a, b),
        (a / 255, b / 255),
        ((a / 255).astype(np.float32), b / 255),
        (a * np.uint16(257), b * np.uint16(257)),
        tensors,
        [v[None] for v in tensors],
        (Image.fromarray(a), Image.fromarray(b)),
        (tensors[0], b / 255),
    ):
        assert psnr(x, t) == pytest.approx(expected, abs=1e-9)
    grey = [v[..., 0] for v in (a, b)]
    assert psnr(*grey) == psnr(*(v[..., None] for v in grey)) == psnr(*(torch.from_numpy(v[None] / 255) for v in grey))
    dark = np.uint8(3) * np.ones((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    assert psnr(*dark) == psnr(*dark[::-1]) == pytest.approx(20 * math.log10(255 / (3 * 219 / 255)))  # nothing wraps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: (255 * a).astype(np.uint8), "one image is uint8, the other floating point; convert both"),
        (lambda a: 255 * a, r"floating-point pixels of 0\..*; scale them to 0\.\.1"),
        (lambda a: a - 0.5, r"floating-point pixels of -0\..*; scale them to 0\.\.1"),
        (lambda a: np.where(a > 0.9, np.nan, a), "holds NaN or infinite values"),
        (lambda a: a.transpose(2, 0, 1), r"shape \(3, 40, 36\); give an array \(H, W\)"),
        (lambda a: torch.from_numpy(a), r"shape \(40, 36, 3\)"),
        (lambda a: a[None], r"shape \(1, 40, 36, 3\)"),
        (lambda a: (255 * a).astype(np.int64), "pixels of type int64; give uint8, uint16"),
        (lambda a: Image.new("P", (36, 40)), "PIL image of mode P; convert it to L or RGB first"),
    ],
)
def test_what_has_no_clear_meaning_is_refused_in_one_sentence(change, message):
    a, b = pair()
    for score in (psnr, ssim):
        with pytest.raises(ValueError, match=message) as caught:
            score(change(a), b)
        assert "\n" not in str(caught.value)


def test_border_pixels_do_not_count():
    a, b = pair()
    spoiled = b.copy()
    spoiled[:3], spoiled[-3:], spoiled[:, :3], spoiled[:, -3:] = 0, 1, 0, 1
    assert psnr(a, spoiled, 3) == psnr(a, b, 3) != psnr(a, spoiled, 2)
    assert ssim(a, spoiled, 3) == ssim(a, b, 3) != ssim(a, spoiled, 2)


def test_border_rules():
    assert [Border.S.pixels(s) for s in (2, 3, 4, 8)] == [2, 3, 4, 8]
    assert [Border.S2.pixels(s) for s in (2, 3, 4, 8)] == [4, 9, 16, 64]


def test_ssim_of_an_image_below_its_window_is_nan():
    a, b = pair((14, 30, 3))
    assert math.isnan(ssim(a, b, 2)) and not math.isnan(ssim(a, b, 1))


def test_sizes_must_match_and_leave_something():
    a, b = pair()
    for score in (psnr, ssim):
        with pytest.raises(ValueError, match="images differ in size: 36x40 and 36x39"):
            score(a, b[:-1], 0)
        with pytest.raises(ValueError, match="border of 18 pixels leaves nothing"):
            score(a, b, 18)


def test_kernel_psnr_has_peak_one():
    rng = np.random.default_rng(0)
    k, truth = rng.random((2, 11, 11)) / 60
    rmse = math.sqrt(np.mean((k - truth) ** 2))
    assert kernel_psnr(k, truth) == pytest.approx(20 * math.log10(1 / rmse))
    assert kernel_psnr(truth, truth) == math.inf
    with pytest.raises(ValueError, match="kernels differ in size"):
        kernel_psnr(k, truth[:9, :9])


def test_scores_of_the_published_result_are_the_published_scores(data_folder):
    """Final image and kernel of the published implementation, scored here, against its own log (border s²)."""
    log = json.loads((data_folder / "published" / "butterfly_x4.json").read_text())[-1]
    truth = np.asarray(Image.open(data_folder / "Set5" / "butterfly.png").convert("RGB")) / 255
    image = np.asarray(Image.open(data_folder / "published" / "butterfly_x4.png").convert("RGB")) / 255
    truth = truth[: image.shape[0], : image.shape[1]]
    border = Border.S2.pixels(4)
    assert psnr(image, truth, border) == pytest.approx(log["psnr"], abs=0.02)
    assert ssim(image, truth, border) == pytest.approx(log["ssim"], abs=5e-4)
    kernel = np.load(data_folder / "published" / "butterfly_x4_kernel.npy").squeeze()
    true_kernel = loadmat(data_folder / "Set5_x4" / "butterfly.mat")["Kernel"]
    assert kernel_psnr(kernel, true_kernel) == pytest.approx(log["kpsnr"], abs=0.01)
