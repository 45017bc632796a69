"""One call: every kind of picture in and out, what is refused, and what can be done with the result."""

import io
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers import call, error_line, noise, run_script, smooth
from PIL import Image

import blindsr
from blindsr import Estimate, KernelEstimator, Method, super_resolve
from blindsr.diagnostics import arviz_io
from blindsr.estimators.assumed import KnownKernel, NoKernel
from blindsr.io.images import read_image
from blindsr.io.kernels import read_kernel
from blindsr.operators.degradation import Alignment, Degradation
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.restorers.bicubic import BicubicRestorer, bicubic
from blindsr.results.result import SuperResolved, SuperResolvedBatch

H, W, S = 18, 20, 2
BICUBIC = {"scale": S, "method": "bicubic"}


def expected(a):
    """(s H, s W, C) in 0..1 by interpolation of an array (H, W, C) in 0..1, alpha like any other channel."""
    x = torch.from_numpy(np.atleast_3d(a)).float().permute(2, 0, 1)[None]
    return bicubic(x, S, Alignment.FKP)[0].permute(1, 2, 0).double().numpy()


# --- kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(H, W), (H, W, 1), (H, W, 2), (H, W, 3), (H, W, 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float16", "float32", "float64"])
def test_an_array_comes_back_as_it_came(shape, dtype):
    dtype = np.dtype(dtype)
    top = 1 if dtype.kind == "f" else np.iinfo(dtype).max
    a = np.random.default_rng(0).random(shape)
    a = a.astype(dtype) if top == 1 else np.round(a * top).astype(dtype)
    before = a.copy()
    made = super_resolve(a, **BICUBIC).image
    assert made.dtype == dtype and made.shape == (S * H, S * W, *shape[2:])
    rounding = {"float16": 5e-4, "float32": 1e-6, "float64": 1e-6}.get(dtype.name, 0.501 / top)
    assert np.abs(made.reshape(S * H, S * W, -1) / top - expected(a.astype(float) / top)).max() <= rounding
    assert np.array_equal(a, before)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_pillow_image_comes_back_in_its_mode(mode):
    a = np.squeeze(noise(H, W, len(mode)))
    image = Image.fromarray(a)
    image.info["icc_profile"] = b"profile"
    made = super_resolve(image, **BICUBIC).image
    assert (image.mode, made.mode, made.size) == (mode, mode, (S * W, S * H))
    assert np.array_equal(np.asarray(made), super_resolve(a, **BICUBIC).image)
    assert made.info["icc_profile"] == b"profile"


def test_pillow_images_of_more_bits():
    a = noise(H, W, dtype=np.uint16)
    made = super_resolve(Image.fromarray(a), **BICUBIC).image
    assert made.mode == "I;16" and np.array_equal(np.asarray(made), super_resolve(a, **BICUBIC).image)
    f = np.random.default_rng(0).random((H, W), dtype=np.float32)
    made = super_resolve(Image.fromarray(f), **BICUBIC).image
    assert made.mode == "F" and np.array_equal(np.asarray(made), super_resolve(f, **BICUBIC).image)


def test_pillow_images_that_are_converted():
    colour = Image.fromarray(smooth(H, W))
    assert super_resolve(colour.convert("P"), **BICUBIC).image.mode == "RGB"
    assert super_resolve(colour.convert("1"), **BICUBIC).image.mode == "L"
    made = super_resolve(colour.convert("CMYK"), **BICUBIC)
    assert made.image.mode == "RGB" and "CMYK" in made.notes[0] and "CMYK" in repr(made)
    turned = Image.fromarray(smooth(H, W))
    turned.getexif()[274] = 6  # a quarter turn
    assert super_resolve(turned, **BICUBIC).image.size == (S * H, S * W)


@pytest.mark.parametrize("as_str", [True, False])
def test_a_path_gives_a_pillow_image(tmp_path, as_str):
    Image.fromarray(noise(H, W, 4)).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    made = super_resolve(str(path) if as_str else path, **BICUBIC)
    assert made.image.mode == "RGBA" and np.array_equal(made.image, super_resolve(noise(H, W, 4), **BICUBIC).image)
    assert made.record["image"] == "a.png"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_tensor_comes_back_as_it_came(channels, dtype):
    t = torch.rand(channels, H, W).to(dtype).requires_grad_()
    made = super_resolve(t, **BICUBIC).image
    assert made.dtype == dtype and made.shape == (channels, S * H, S * W) and not made.requires_grad
    wanted = expected(t.detach().permute(1, 2, 0).double().numpy())
    assert np.abs(made.permute(1, 2, 0).double().numpy() - wanted).max() <= (5e-4 if dtype is torch.float16 else 1e-6)


def test_the_same_picture_of_every_kind(tmp_path):
    a = smooth(H, W)
    Image.fromarray(a).save(tmp_path / "a.png")
    t = torch.from_numpy(a).permute(2, 0, 1).float() / 255
    kinds = (a, tmp_path / "a.png", Image.open(tmp_path / "a.png"), a.astype(np.float32) / 255, t)
    results = [super_resolve(p, S, restorer="bicubic") for p in kinds]
    assert [type(r) for r in results] == [SuperResolved] * 5
    images = [np.asarray(r.image) for r in results[:3]]
    floats = results[3].image, results[4].image.permute(1, 2, 0).numpy()
    images += [np.round(255 * image.astype(np.float64)) for image in floats]
    for r, image in zip(results[1:], images[1:], strict=True):
        assert np.array_equal(image, images[0]) and np.array_equal(r.kernel, results[0].kernel)
        assert r.noise_std == results[0].noise_std and r.method == "free-unfolded" and r.seconds > 0
    k = results[0].kernel
    assert k.shape == (11, 11) and k.dtype == np.float64 and k.min() >= 0 and abs(k.sum() - 1) < 1e-5


def test_the_same_result_as_the_command_line(tmp_path):
    Image.fromarray(smooth(H, W)).save(tmp_path / "a.png")
    assert call("run", tmp_path / "a.png", "--scale", S, "--output", tmp_path / "out").exit_code == 0
    made = super_resolve(tmp_path / "a.png", S)
    assert np.array_equal(np.load(tmp_path / "out/a/kernel.npy"), made.kernel)
    assert np.array_equal(Image.open(tmp_path / "out/a/sr.png"), made.image)
    made.save(tmp_path / "saved")
    theirs, ours = (json.loads((f / "run.json").read_text()) for f in (tmp_path / "out/a", tmp_path / "saved"))
    differing = {"image", "seconds", "date", "peak_memory_mib", "device", "threads"}
    only_of_a_run = {"tiles", "resumed_at", "sampling", "restarts"}
    assert set(theirs) - set(ours) == only_of_a_run and not set(ours) - set(theirs)
    assert {k: v for k, v in ours.items() if k not in differing} == {
        k: v for k, v in theirs.items() if k not in differing | only_of_a_run
    }


def test_a_batch_is_its_pictures_one_by_one(tmp_path):
    t = torch.rand(2, 3, H, W, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
    options = {"scale": S, "method": "double-dip", "preset": "fast", "iterations": 1, "seed": 3}
    batch = super_resolve(t, **options)
    singles = [super_resolve(x, **options) for x in t]
    assert isinstance(batch, SuperResolvedBatch) and batch.image.shape == (2, 3, S * H, S * W) and len(batch) == 2
    assert torch.equal(batch.image, torch.stack([s.image for s in singles]))
    assert np.array_equal(batch.kernel, np.stack([s.kernel for s in singles])) and batch.kernel.shape == (2, 11, 11)
    assert batch.noise_std == [s.noise_std for s in singles] and batch.method == singles[0].method
    assert batch.seconds == sum(r.seconds for r in batch) and [r.record["image"] for r in batch] == [
        "picture 0",
        "picture 1",
    ]
    assert super_resolve(t[:1], **BICUBIC).image.shape == (1, 3, S * H, S * W)
    assert super_resolve(t, **BICUBIC).kernel is None
    folders = super_resolve(t, **BICUBIC).save(tmp_path)
    assert [f.name for f in folders] == ["0", "1"] and all((f / "sr.png").exists() for f in folders)
    assert batch[0]._repr_png_()[:4] == b"\x89PNG" and batch._repr_html_().count("data:image/png;base64,") == 2


# --- methods and parts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flat(KnownKernel):
    """A user's estimator: one kernel, whatever the picture."""


def test_methods_as_objects():
    a, k = smooth(H, W), torch.full((1, 1, 11, 11), 1 / 121)
    made = super_resolve(a, S, method=Flat(k), restorer=BicubicRestorer())
    assert made.method.startswith("Flat") and np.allclose(made.kernel, 1 / 121)
    assert np.array_equal(made.image, super_resolve(a, **BICUBIC).image)
    mine = Method("mine", NoKernel(), BicubicRestorer())
    assert super_resolve(a, S, method=mine).method == "mine"
    with pytest.raises(blindsr.UserError, match="restorer: the Method that is given has its parts already"):
        super_resolve(a, S, method=mine, restorer="map")
    by_word = super_resolve(a, S, method="fast-map")
    by_object = super_resolve(a, S, method=KernelEstimator())
    assert np.array_equal(by_word.kernel, by_object.kernel) and np.array_equal(by_word.image, by_object.image)


def test_parts_as_words_and_as_objects():
    a, options = smooth(H, W), {"scale": S, "preset": "fast", "iterations": 2}
    word = super_resolve(a, prior="mcmc", optimizer="meta", **options)
    assert word.method == "mlmc" and "--method mlmc" in word.notes[0]
    prior = GaussianKernelPrior.truth(S, 11)
    made = super_resolve(a, prior=prior, optimizer="meta", **options)
    assert made.method == "custom" and made.kernel.shape == (11, 11)


def test_options_of_the_operator():
    a = smooth(H, W)
    made = super_resolve(a, np.int64(3), method="bicubic", alignment="centered", padding="reflect", kernel_size=13)
    assert made.task.degradation == Degradation(3, 13, Alignment.CENTERED, blindsr.Padding.REFLECT)
    assert super_resolve(a, S, method="bicubic").task.degradation == Degradation(S)
    assert super_resolve(a, S, method="bicubic", alignment="centered").task.degradation.padding == "valid"


# --- what is refused --------------------------------------------------------------------------------------------------

GREY = np.zeros((H, W))


def one_nan():
    a = np.zeros((H, W))
    a[3, 4] = np.nan
    return a


REFUSED = {
    "0..255 as floats": (255 * smooth(H, W).astype(float) / 220, "where 0..1 is needed: divide by 255, or give"),
    "0..65535 as floats": (GREY + 40000, "divide by 65535"),
    "overshoot": (GREY + 1.02, "clip them, np.clip(a, 0, 1)"),
    "-1..1": (GREY - 1, "(a + 1) / 2"),
    "no scale at all": (GREY - 1e6, "scale them to 0..1"),
    "NaN": (one_nan(), "NaN or infinite values: replace them first"),
    "infinite": (GREY + np.inf, "NaN or infinite values"),
    "channels first": (np.zeros((3, H, W), np.uint8), "give (H, W, C), np.moveaxis(a, 0, -1)"),
    "bool": (GREY > 0, "255 * a.astype(np.uint8)"),
    "complex": (GREY + 1j, "complex numbers is no picture"),
    "int64 of 8 bits": (smooth(H, W).astype(np.int64), "convert to uint8, a.astype(np.uint8)"),
    "int32 of 16 bits": (np.full((H, W), 3000, np.int32), "convert to uint16, a.astype(np.uint16)"),
    "negative": (np.full((H, W), -3, np.int32), "scale it to floating point of 0..1"),
    "text": (np.full((H, W), "a"), "uint8, uint16, or floating point"),
    "masked": (np.ma.masked_array(GREY), "a.filled(0)"),
    "empty": (np.zeros((0, W, 3), np.uint8), "there is no picture in it"),
    "too small": (np.zeros((15, W), np.uint8), "20x15 pixels is too small; at least 16x16 is needed"),
    "one axis": (np.zeros(400, np.uint8), "(H, W) or (H, W, C) with 1 to 4 channels"),
    "many channels": (np.zeros((H, W, 31), np.uint8), "(H, W) or (H, W, C) with 1 to 4 channels"),
    "four axes": (np.zeros((2, H, W, 3), np.uint8), "one picture (H, W, C) at a time, or a batch as a tensor"),
    "tensor of two axes": (torch.zeros(H, W), "give (C, H, W), t[None]"),
    "tensor of five axes": (torch.zeros(1, 1, 3, H, W), "(C, H, W) or (B, C, H, W) is needed"),
    "tensor of bytes": (torch.zeros(3, H, W, dtype=torch.uint8), "t.float() / 255"),
    "tensor of bool": (torch.zeros(3, H, W, dtype=torch.bool), "such as t.float()"),
    "complex tensor": (torch.zeros(3, H, W, dtype=torch.complex64), "such as t.real"),
    "channels last": (torch.zeros(H, W, 3), "t.permute(2, 0, 1)"),
    "batch, channels last": (torch.zeros(2, H, W, 3), "t.permute(0, 3, 1, 2)"),
    "tensor of many channels": (torch.zeros(31, H, W), "1 to 4 channels is needed"),
    "empty batch": (torch.zeros(0, 3, H, W), "there is no picture in it"),
    "small tensor": (torch.zeros(3, H, 15), "15x18 pixels is too small"),
    "tensor of 0..255": (torch.full((3, H, W), 200.0), "divide by 255"),
    "tensor with NaN": (torch.full((3, H, W), torch.nan), "NaN or infinite"),
    "PIL, 32 bits": (Image.new("I", (W, H)), "image.convert('I;16')"),
    "PIL, small": (Image.new("L", (15, 16)), "15x16 pixels is too small"),
    "PIL, floats of 0..255": (Image.new("F", (W, H), 200), "divide by 255"),
    "no such file": ("no/such/photo.png", "no/such/photo.png: no such file"),
    "list": ([[0, 1]], "list is no picture: give a path, a PIL image"),
    "bytes": (b"photo.png", "bytes is no picture"),
    "nothing": (None, "NoneType is no picture"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_pictures_that_are_refused(case):
    picture, words = REFUSED[case]
    with pytest.raises(blindsr.UserError) as caught:
        super_resolve(picture, **BICUBIC)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"scale": 5}, "scale 5 is not supported: choose 2, 3, 4 or 8"),
        ({"scale": 2.0}, "scale 2.0: a whole number is needed"),
        ({"scale": "2"}, "scale '2': a whole number is needed"),
        ({"scale": True}, "scale 1 is not supported"),
        ({"kernel_size": 10}, "kernel size 10: an odd number"),
        ({"kernel_size": 41}, "a kernel of 41 pixels is larger than the result (40x36)"),
        ({"alignment": "left"}, "'left' is not a valid Alignment: the alignment is one of fkp, centered"),
        ({"padding": "zeros"}, "the padding one of circular, reflect"),
        ({"method": "magic"}, "magic: unknown"),
        ({"method": "mlmc", "preset": "huge"}, "huge: unknown; choose paper, balanced, fast"),
        ({"seed": None}, "seed None: a whole number is needed"),
        ({"device": "abacus"}, "abacus: unknown; choose auto, cpu"),
        ({"prior": "mcmc"}, "--prior mcmc: bicubic has no kernel"),
    ],
)
def test_options_that_are_refused(options, words):
    with pytest.raises(blindsr.UserError) as caught:
        super_resolve(np.zeros((H, W), np.uint8), **BICUBIC | options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_pillow_image(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(whole, format="PNG")
    cut = Image.open(io.BytesIO(whole.getvalue()[:2000]))
    with pytest.raises(blindsr.UserError, match="truncated or damaged"):
        super_resolve(cut, **BICUBIC)


def test_an_estimation_that_diverges(monkeypatch):
    from blindsr.estimators.loop import JointLoop

    start = JointLoop.start

    def broken(self, *args, **kwargs):
        run = start(self, *args, **kwargs)
        advance = run.advance
        run.advance = lambda: advance()._replace(loss=float("nan"))
        return run

    monkeypatch.setattr(JointLoop, "start", broken)
    with pytest.raises(blindsr.UserError, match="diverged at step 1 .* try another seed"):
        super_resolve(smooth(H, W), S, method="mlmc", preset="fast", iterations=2)


# --- what a result can do ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("real_overview")
def test_saved_files(tmp_path):
    a = smooth(40, 44)
    made = super_resolve(Image.fromarray(np.dstack([a, noise(40, 44)])), S)
    assert made.save(str(tmp_path / "out")) == tmp_path / "out"
    names = {"sr.png", "kernel.npy", "kernel.mat", "kernel.png", "trace.csv", "overview.png", "run.json"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    assert np.array_equal(Image.open(tmp_path / "out/sr.png"), made.image) and made.image.mode == "RGBA"
    assert np.array_equal(np.load(tmp_path / "out/kernel.npy"), made.kernel)
    Image.fromarray(smooth(80, 88)).save(tmp_path / "hr.png")
    other = np.zeros((11, 11))
    other[4, 4] = 1
    np.save(tmp_path / "k.npy", other)
    side = made.kernel.shape[0]
    other = np.pad(other, (side - 11) // 2)  # the default's kernel may be larger than 11x11
    kernels = ("--kernel", tmp_path / "out/kernel.mat", "--true-kernel", tmp_path / "k.npy")
    scored = call("evaluate", tmp_path / "out/sr.png", tmp_path / "hr.png", "--scale", S, *kernels, "--json")
    assert scored.exit_code == 0 and json.loads(scored.stdout)["psnr"] > 20
    psnr = 10 * np.log10(1 / np.mean((made.kernel - other) ** 2))
    assert json.loads(scored.stdout)["kernel_psnr"] == pytest.approx(psnr, abs=1e-3)
    with pytest.raises(blindsr.UserError, match=r"holds a result already \(sr.png\); .* overwrite=True"):
        made.save(tmp_path / "out")
    (tmp_path / "out/posterior.nc").touch()
    super_resolve(noise(H, W, dtype=np.uint16), **BICUBIC).save(tmp_path / "out", overwrite=True)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"sr.png", "trace.csv", "overview.png", "run.json"}
    assert read_image(tmp_path / "out/sr.png").bits == 16
    (tmp_path / "file").touch()
    with pytest.raises(blindsr.UserError, match="file: is a file; choose another folder"):
        made.save(tmp_path / "file")


def test_a_saved_result_is_one_of_blindsr_run(tmp_path):
    Image.fromarray(smooth(H, W)).save(tmp_path / "a.png")
    super_resolve(tmp_path / "a.png", S, method="bicubic").save(tmp_path / "out/a")
    line = error_line(
        call("run", tmp_path / "a.png", "--scale", 3, "--method", "bicubic", "--output", tmp_path / "out")
    )
    assert "holds a result of other settings" in line


@pytest.mark.slow
@pytest.mark.parametrize("target", ["spectral", "image"])
def test_samples_of_the_kernel(target):
    made = super_resolve(smooth(40, 44) // 2 + noise(40, 44, 3) // 16, S)
    data = made.sample(chains=2, draws=100, warmup=30, target=target)
    posterior = arviz_io.group(data, "posterior")
    assert posterior.sizes["chain"] == 2 and posterior.sizes["draw"] == 100
    assert np.isfinite(posterior["width_1"].values).all() and posterior["width_1"].values.std() > 0


def test_samples_follow_the_seed_and_the_options():
    made = super_resolve(smooth(40, 44) // 2 + noise(40, 44, 3) // 16, S, prior="gaussian", method="fast-map")
    draws = [
        arviz_io.group(made.sample("rwm", chains=1, draws=100, warmup=10, seed=seed), "posterior")["width_1"].values
        for seed in (None, 0, 1)
    ]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])
    with pytest.raises(blindsr.UserError, match="draws 10: at least 100"):
        made.sample(draws=10)
    with pytest.raises(blindsr.UserError, match="unknown; choose"):
        made.sample("dice")


def test_a_method_without_a_kernel_samples_a_gaussian_one():
    made = super_resolve(smooth(40, 44) // 2 + noise(40, 44, 3) // 16, **BICUBIC)
    assert made.kernel is None and made.noise_std is None and isinstance(made.estimate, Estimate)
    assert "posterior" in arviz_io.group_names(made.sample("rwm", chains=1, draws=100, warmup=10))


@pytest.mark.parametrize("method, panels", [("bicubic", 2), ("fast-map", 3)])
def test_a_result_shows_itself(method, panels, tmp_path):
    Image.fromarray(smooth(H, W)).save(tmp_path / "$x_ね.png")  # no formula, and letters that the font lacks
    png = super_resolve(tmp_path / "$x_ね.png", S, method=method)._repr_png_()
    with Image.open(io.BytesIO(png)) as shown:
        shown.load()
        assert shown.format == "PNG" and abs(shown.width - 320 * panels) <= 1
        assert np.asarray(shown.convert("L")).std() > 10


def test_repr_says_what_was_done():
    words = repr(super_resolve(smooth(H, W), S))
    assert (
        words.startswith("<SuperResolved: 40x36 pixels by free-unfolded, x2, ")
        and "kernel 11x11; noise_std 0.0" in words
    )
    assert "kernel" not in repr(super_resolve(smooth(H, W), **BICUBIC))


# --- files by name, and names of the package --------------------------------------------------------------------------


def test_files_named_by_str(tmp_path):
    Image.fromarray(smooth(H, W)).save(tmp_path / "x.png")
    np.save(tmp_path / "k.npy", np.full((3, 3), 1 / 9))
    assert torch.equal(read_image(str(tmp_path / "x.png")).pixels, read_image(tmp_path / "x.png").pixels)
    assert torch.equal(read_kernel(str(tmp_path / "k.npy")).kernel, torch.full((1, 1, 3, 3), 1 / 9))
    for read in (read_image, read_kernel):
        with pytest.raises(blindsr.UserError, match="NoneType is no path: give a str or a pathlib.Path"):
            read(None)
        with pytest.raises(blindsr.UserError, match="nowhere.png: no such file"):
            read("nowhere.png")


def test_every_exported_name_is_there():
    assert set(blindsr.__all__) <= set(dir(blindsr)) and all(hasattr(blindsr, name) for name in blindsr.__all__)
    assert blindsr.read_image is read_image and blindsr.SuperResolved is SuperResolved
    assert not hasattr(blindsr, "nonsense")


@pytest.mark.slow
def test_import_is_quick(tmp_path):
    (tmp_path / "t.py").write_text(
        "import time, torch\nstart = time.process_time()\nimport blindsr\nprint(time.process_time() - start)\n"
    )
    assert float(run_script(tmp_path / "t.py")) < 2
