"""The unfolded network: schedule, grids, borders, files, wrong kernels, training, and the shipped weights."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from helpers import call, error_line, noise, save_png, smooth
from PIL import Image
from safetensors.torch import save_file

from blindsr.commands import train_restorer as job
from blindsr.diagnostics.metrics import psnr
from blindsr.errors import UserError
from blindsr.io.images import write_png
from blindsr.io.picture import Picture
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.operators.kernels import center_of_mass
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.motion import ExposedShakePrior
from blindsr.restorers import unfolded, unfolded_training
from blindsr.restorers.bicubic import bicubic
from blindsr.restorers.denoiser_training import Patches, Stage
from blindsr.restorers.unfolded import UnfoldedRestorer, read_unfolded, unfolded_bytes
from blindsr.restorers.unfolded_net import DenoiserNet, UnfoldedNet
from blindsr.restorers.unfolded_training import RestorerRecipe, RestorerTraining, true_kernels
from blindsr.restorers.usrnet_net import data_step, transfer_function
from blindsr.restorers.wrong_kernels import wrong
from blindsr.testing import check_restorer

SMALL = {"fine": 4, "coarse": 6, "fine_blocks": 1, "coarse_blocks": 1, "rounds": 2, "hidden": 5}
STAGE = Stage(3, 2, 24, 1e-3, rise=1, span=3, last=0.1, clip=1.0, grey=0.3)
TINY = RestorerRecipe(STAGE, replace(STAGE, steps=4, span=4), SMALL, pool=6)


def tiny(seed: int = 3) -> UnfoldedNet:
    """A small network whose correction says something."""
    torch.manual_seed(seed)
    net = UnfoldedNet.of(SMALL)
    torch.nn.init.normal_(net.correction[-1].weight)
    return net


@pytest.fixture
def small(tmp_path: Path) -> UnfoldedRestorer:
    path = tmp_path / "small.safetensors"
    path.write_bytes(unfolded_bytes(tiny(), {"a": 1}))
    return UnfoldedRestorer(path)


def random_kernel(size, gen):
    k = torch.rand(1, 1, size, size, generator=gen).pow(4)
    return k / k.sum()


# --- the network --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 4])
def test_schedule_without_correction_is_that_of_plug_and_play(scale):
    """β from 49/255 down to max(σ, 0.75 s/255) geometrically, α = 0.23 σ²/β² (Zhang et al. 2021)."""
    net = UnfoldedNet(DenoiserNet(4, 4, 1, 1), rounds=5)
    for std in (0.3, 1.0, 10.0):
        alpha, beta = net.schedule(torch.full((1, 1, 1, 1), std / 255), scale)
        expected = np.geomspace(49, max(std, 0.75 * scale), 5) / 255
        np.testing.assert_allclose(beta.detach().flatten(), expected, rtol=1e-5)
        np.testing.assert_allclose(alpha.detach().flatten(), 0.23 * (std / 255) ** 2 / expected**2, rtol=1e-5)


def test_a_round_is_a_data_step_and_the_denoiser(gen):
    net = UnfoldedNet(DenoiserNet(4, 4, 1, 1), rounds=1)
    y, k, sigma = torch.rand(1, 3, 8, 12, generator=gen), random_kernel(7, gen), torch.full((1, 1, 1, 1), 0.02)
    start = y.repeat_interleave(2, -2).repeat_interleave(2, -1)
    alpha, beta = net.schedule(sigma, 2)
    z = data_step(start, y, transfer_function(k, 16, 24), alpha, 2)
    torch.testing.assert_close(net(y, k, 2, sigma), net.denoiser(z, beta))


def test_denoiser_takes_any_size_and_leaves_a_clean_image_alone(gen):
    net = DenoiserNet(4, 6, 1, 1)
    for h, w in ((8, 16), (9, 15), (1, 3)):
        x = torch.rand(2, 3, h, w, generator=gen)
        assert torch.equal(net(x, torch.zeros(2, 1, 1, 1)), x)
        assert not torch.equal(net(x, torch.full((2, 1, 1, 1), 0.1)), x)


def test_denoiser_moves_with_shifts_by_four(gen):
    """Away from the border; the pixels are folded twice, so that shifts by fewer are no symmetry."""
    net, x, level = (
        DenoiserNet(4, 6, 1, 1).double(),
        torch.rand(1, 3, 96, 96, generator=gen),
        torch.full((1, 1, 1, 1), 0.1),
    )
    x, level = x.double(), level.double()
    inside = (..., slice(40, -40), slice(40, -40))
    for shift in (4, 8):
        moved = net(x.roll((shift, shift), (-2, -1)), level).roll((-shift, -shift), (-2, -1))
        torch.testing.assert_close(moved[inside], net(x, level)[inside], rtol=0, atol=1e-12)


# --- the restorer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", list(Padding))
@pytest.mark.parametrize("alignment", list(Alignment))
def test_output_is_the_picture(small, alignment, padding, gen):
    assert small.parameters == sum(p.numel() for p in small.network.parameters()) and small.recipe == {"a": 1}
    for scale, channels in ((2, 3), (4, 1), (3, 2)):
        op = Degradation(scale, alignment=alignment, padding=padding)
        y = torch.rand(1, channels, 7, 10, generator=gen)
        x = small(y, random_kernel(op.kernel_size, gen), op, 0.02)
        assert x.shape == (1, channels, 7 * scale, 10 * scale) and x.dtype == torch.float32
        assert float(x.min()) >= 0 and float(x.max()) <= 1 and not x.requires_grad


def test_it_keeps_the_contract(small):
    check_restorer(small)


def test_grey_is_colour_of_equal_channels_and_others_go_one_by_one(small, gen):
    y, k, op = torch.rand(1, 1, 9, 8, generator=gen), random_kernel(11, gen), Degradation(2)
    grey = small(y, k, op, 0.01)
    torch.testing.assert_close(grey, small(y.expand(-1, 3, -1, -1), k, op, 0.01).mean(1, keepdim=True))
    other = torch.rand(1, 1, 9, 8, generator=gen)
    both = small(torch.cat([y, other], 1), k, op, 0.01)
    torch.testing.assert_close(both, torch.cat([grey, small(other, k, op, 0.01)], 1))


def test_noise_counts_above_its_floor(small, gen):
    y, k, op = torch.rand(1, 3, 8, 8, generator=gen), random_kernel(11, gen), Degradation(2)
    assert torch.equal(small(y, k, op, 0.0), small(y, k, op, 0.4 / 255))
    assert not torch.equal(small(y, k, op, 0.0), small(y, k, op, 0.5 / 255))


# --- files --------------------------------------------------------------------------------------------------------


def test_a_file_holds_network_and_recipe(tmp_path):
    net, path = tiny(), tmp_path / "n.safetensors"
    path.write_bytes(unfolded_bytes(net, {"steps": [1, 2], "who": "me"}))
    before = torch.random.get_rng_state()
    other, recipe = read_unfolded(path)
    assert torch.equal(before, torch.random.get_rng_state())
    assert recipe == {"steps": [1, 2], "who": "me"} and other.shape == net.shape == SMALL
    for name, value in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], value.half().float())
    assert not any(p.requires_grad for p in other.parameters())
    assert unfolded_bytes(other, recipe) == path.read_bytes()


def described(**changes):
    return {"format": unfolded.FORMAT, "shape": SMALL, "recipe": {}} | changes


STATE = {name: t.contiguous() for name, t in tiny().state_dict().items()}
BAD = {
    "other format": (STATE, described(format="x"), "not an unfolded network of this version"),
    "no format": (STATE, [1], "not an unfolded network of this version"),
    "no JSON": (STATE, "{", "not a safetensors file, or damaged"),
    "deep JSON": (STATE, "[" * 100_000, "not a safetensors file, or damaged"),
    "no shape": (STATE, described(shape=3), "do not fit their description"),
    "half a shape": (STATE, described(shape={"fine": 4}), "do not fit their description"),
    "another shape": (STATE, described(shape=SMALL | {"fine": 8}), "do not fit their description"),
    "huge": (STATE, described(shape=SMALL | {"coarse": 10**9}), "do not fit their description"),
    "negative": (STATE, described(shape=SMALL | {"rounds": -1}), "do not fit their description"),
    "a word": (STATE, described(shape=SMALL | {"rounds": "many"}), "do not fit their description"),
    "infinite": (STATE, described(shape=SMALL | {"rounds": 1e999}), "do not fit their description"),
    "no recipe": (STATE, described(recipe=5), "do not fit their description"),
    "one missing": ({n: t for n, t in STATE.items() if n != "denoiser.head.bias"}, described(), "do not fit"),
    "one too many": (STATE | {"extra": torch.zeros(1)}, described(), "do not fit their description"),
    "no number": (STATE | {"denoiser.head.bias": torch.full((4,), torch.nan)}, described(), "not all finite"),
}


@pytest.mark.parametrize(("tensors", "about", "message"), BAD.values(), ids=BAD)
def test_other_files_are_refused_in_one_line(tmp_path, tensors, about, message):
    path = tmp_path / "n.safetensors"
    save_file(tensors, path, {"about": about if isinstance(about, str) else json.dumps(about)})
    with pytest.raises(UserError) as caught:
        UnfoldedRestorer(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_empty_cut_and_garbage(tmp_path):
    whole = unfolded_bytes(tiny(), {})
    for name, content in {"empty": b"", "cut": whole[: len(whole) // 2], "garbage": b"\xff" * 100}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="not a safetensors file, or damaged"):
            UnfoldedRestorer(tmp_path / name)
    for name, message in (("gone", "no such file"), (".", "is a folder, a file of weights is needed")):
        with pytest.raises(UserError, match=message):
            UnfoldedRestorer(tmp_path / name)


def test_the_shipped_weights_are_read_late_and_once(monkeypatch, tmp_path):
    monkeypatch.setattr(unfolded, "SHIPPED", tmp_path / "gone.safetensors")
    restorer = UnfoldedRestorer()
    with pytest.raises(UserError, match=r"gone\.safetensors: no such file"):
        restorer(torch.rand(1, 3, 8, 8), torch.full((1, 1, 11, 11), 1 / 121), Degradation(2), 0.0)
    monkeypatch.undo()
    assert restorer.network is restorer.network and restorer.recipe["settings"]["shape"] == restorer.network.shape


# --- wrong kernels ------------------------------------------------------------------------------------------------


def test_wrong_kernels_are_kernels_with_the_same_centre(gen):
    k = ExposedShakePrior(31, 14.5, (5.0, 20.0)).sample(60, generator=gen)
    q = wrong(k, generator=gen)
    assert q.shape == k.shape and float(q.min()) >= 0
    torch.testing.assert_close(q.sum((1, 2, 3)), torch.ones(60), rtol=0, atol=1e-5)
    assert float((center_of_mass(q) - center_of_mass(k)).abs().max()) < 0.02
    off = (q - k).abs().sum((1, 2, 3)) / 2
    assert float(off.min()) > 1e-3 and float(off.median()) > 0.1 and float(off.max()) < 0.95


def test_wrong_kernels_survive_a_single_pixel_and_repeat_themselves():
    k = torch.zeros(400, 1, 31, 31)
    k[:, 0, 15, 15] = 1
    q = wrong(k, generator=torch.Generator().manual_seed(1))
    assert torch.isfinite(q).all()
    torch.testing.assert_close(q.sum((1, 2, 3)), torch.ones(400), rtol=0, atol=1e-5)
    assert torch.equal(q, wrong(k, generator=torch.Generator().manual_seed(1)))


# --- training -----------------------------------------------------------------------------------------------------


def pictures(n: int = 2) -> list[torch.Tensor]:
    return [torch.from_numpy(smooth(60, 50 + 10 * i)).permute(2, 0, 1)[None].float() / 255 for i in range(n)]


def trained(seed=0, resumed_at=None):
    run, losses = RestorerTraining(pictures(), TINY, seed=seed), []
    while not run.done:
        if resumed_at == len(losses):
            state = run.state_dict()
            run = RestorerTraining(pictures(), TINY, seed=seed)
            run.load_state_dict(state)
        losses.append(run.advance().loss)
    return losses, unfolded_bytes(run.result(), {})


def test_same_seed_same_bits_also_after_a_resume():
    before = torch.random.get_rng_state()
    first = trained()
    assert torch.equal(before, torch.random.get_rng_state())
    assert first == trained() and first != trained(seed=1) and len(first[0]) == 7
    for at in (2, 3, 5):  # in the first stage, between the stages, in the second
        assert trained(resumed_at=at) == first, at


def test_what_the_second_stage_is_shown(gen):
    """The noise level told is the root mean square of what y lacks, half of the kernels being wrong."""
    recipe = RestorerRecipe(STAGE, replace(STAGE, batch=40), SMALL, pool=30)
    run = RestorerTraining(pictures(), recipe)
    for _ in range(4):
        run.advance()
    ratios, right, scales = [], [], set()
    for _ in range(12):
        x, y, q, scale, sigma = run.training.batch()
        scales.add(scale)
        assert y.shape == (40, 3, 24 // scale, 24 // scale) and q.shape == (40, 1, 31, 31)
        if scale > 1:  # against the operator, which has no scale 1
            error = (Degradation(scale, 31)(x, q) - y).square().mean((1, 2, 3)).sqrt()
            ratios.append((error / sigma.flatten()).log())
            right.append((error < 0.4 / 255).float())
    assert scales <= {1, 2, 3, 4} and len(scales) > 2
    assert abs(float(torch.cat(ratios).median())) < 0.1 and float(torch.cat(ratios).std()) < 0.4
    assert 0.15 < float(torch.cat(right).mean()) < 0.5  # half without much noise, most of those with a good kernel


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_true_kernels(scale, gen):
    k = true_kernels(scale, 30, gen)
    assert k.shape == (80, 1, 31, 31) and float(k.min()) >= 0
    torch.testing.assert_close(k.sum((1, 2, 3)), torch.ones(80), rtol=0, atol=1e-4)
    center = center_of_mass(k)
    assert float((center[30:70] - (31 - scale) / 2).abs().max()) < 0.1
    assert float((center - (31 - max(scale, 2)) / 2).abs().max()) < 0.6


def test_the_learning_rate_rises_and_falls():
    stage = unfolded_training.RECIPE.denoising
    rates = [stage.rate(i) for i in range(stage.span)]
    assert max(rates) == rates[stage.rise] == pytest.approx(1e-3) and rates[0] == pytest.approx(1e-3 / 240)
    assert rates[-1] == pytest.approx(1e-5, rel=1e-3)
    middle = stage.rise + (stage.span - stage.rise) // 2
    assert rates[middle] == pytest.approx(0.505e-3, rel=1e-3)  # half way down to a hundredth


def test_both_stages_learn():
    """On batches that are the same before and after, each stage lowers its loss."""
    first = replace(STAGE, steps=300, batch=4, span=300, lr=1e-2)
    shape = SMALL | {"fine": 8, "coarse": 8}
    run = RestorerTraining(pictures(), RestorerRecipe(first, replace(first, steps=30, lr=3e-3), shape, pool=12))

    def loss():
        training, state = run.training, run.training.source.get_state()
        training.source.manual_seed(9)
        with torch.no_grad():
            mean = np.mean([float(training.loss()) for _ in range(12)])
        training.source.set_state(state)
        return mean

    found = {0: loss()}
    for step in range(1, 331):
        run.advance()
        if step in (300, 301, 330):
            found[step] = loss()
    assert run.done and found[300] < 0.8 * found[0] and found[330] < 0.8 * found[301], found


def test_patches_come_from_pictures_that_are_large_enough(gen):
    patches = Patches([torch.zeros(1, 1, 30, 40), torch.ones(1, 3, 50, 64)], 16)
    assert [tuple(p.shape) for p in patches.pictures][0] == (3, 30, 40) and len(patches.pictures) == 5
    x, grey = patches.draw(replace(STAGE, batch=30, side=40), gen)
    assert x.shape == (30, 3, 40, 40) and bool((x == 1).all()) and 0 < int(grey.sum()) < 30
    with pytest.raises(ValueError, match="no picture of at least 100x100 pixels"):
        Patches([torch.zeros(1, 1, 99, 400)], 100)
    with pytest.raises(ValueError, match="no picture of at least 96x96 pixels"):
        RestorerTraining([torch.zeros(1, 1, 70, 400)])


BAD_STAGES = [{"steps": 0}, {"side": 18}, {"span": 2}, {"lr": 0.0}, {"grey": 1.5}, {"last": 0.0}]


@pytest.mark.parametrize("numbers", BAD_STAGES)
def test_impossible_stages_are_refused(numbers):
    with pytest.raises(ValueError, match="training: need"):
        replace(STAGE, **numbers)


def test_impossible_recipes_are_refused():
    with pytest.raises(ValueError, match="unfolded: need a side of 24"):
        replace(TINY, restoring=replace(STAGE, side=32))


# --- what the shipped weights are worth ---------------------------------------------------------------------------


def held_out() -> torch.Tensor:
    """A part of a photo that comes with scikit-image and took no part in the training."""
    path = Path(skimage.data.__file__).parent / "motorcycle_left.png"
    x = torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), np.float32) / 255).permute(2, 0, 1)[None]
    return x[..., 100:292, 100:292]


def degraded(op, seed=2, extent=(9.0, 20.0), n=1):
    hr = held_out()
    k = ExposedShakePrior(31, op.center, extent).sample(n, generator=torch.Generator().manual_seed(seed))
    return hr, k, (op(hr, k[:1]) * 255).round() / 255


@pytest.mark.parametrize(("scale", "gain"), [(2, 5.0), (4, 1.5)])
def test_with_the_true_kernel_it_beats_bicubic(scale, gain):
    op = Degradation(scale, 31)
    hr, k, y = degraded(op)
    plain = psnr(bicubic(y, scale, op.alignment).clamp(0, 1), hr, scale**2)
    assert psnr(UnfoldedRestorer()(y, k, op, 0.0), hr, scale**2) > plain + gain


@pytest.mark.parametrize("padding", [Padding.CIRCULAR, Padding.VALID])
@pytest.mark.parametrize("scale", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_grids_agree(scale, padding):
    """The same scene on both grids is restored equally well."""
    found = []
    for alignment in Alignment:
        op = Degradation(scale, 31, alignment, padding)
        hr, k, y = degraded(op, extent=(9.0, 9.0))
        truth = op.crop(hr)[..., : scale * y.shape[-2], : scale * y.shape[-1]]
        found.append(psnr(UnfoldedRestorer()(y, k, op, 0.0), truth, scale**2))
    assert found[0] == pytest.approx(found[1], abs=0.5)


def test_border_does_not_wrap_around():
    op = Degradation(2, 31, Alignment.CENTERED, Padding.VALID)
    hr, k, y = degraded(op)
    truth = op.crop(hr)[..., : 2 * y.shape[-2], : 2 * y.shape[-1]]
    found = [
        psnr(UnfoldedRestorer()(y, k, replace(op, padding=p), 0.0), truth, 0) for p in (op.padding, Padding.CIRCULAR)
    ]
    assert found[0] > found[1] + 2


@pytest.mark.parametrize("scale", [2, 4])
def test_a_wrong_kernel_costs_little_where_the_noise_level_says_so(scale):
    """Of 24 wrong kernels, the one that is worse than three quarters of them, and the worst.

    Taken at its word (σ = 0) a wrong kernel does great harm; with the error in σ, the picture is about as good as
    bicubic interpolation. For the worst it is not quite.
    """
    op, restorer = Degradation(scale, 31), UnfoldedRestorer()
    hr, kernels, _ = degraded(op, n=24)
    given = wrong(kernels, generator=torch.Generator().manual_seed(5))
    found = []
    for k, q in zip(kernels.split(1), given.split(1), strict=True):
        y = (op(hr, k) * 255).round() / 255
        found.append((float((op(hr, q) - y).square().mean().sqrt()), y, q))
    found.sort(key=lambda row: row[0])
    for (sigma, y, q), loss, gain in ((found[18], 0.3, 0.0), (found[23], 1.5, 2.5)):
        plain = psnr(bicubic(y, scale, op.alignment).clamp(0, 1), hr, scale**2)
        told = psnr(restorer(y, q, op, sigma), hr, scale**2)
        assert told > plain - loss
        assert told > psnr(restorer(y, q, op, 0.0), hr, scale**2) + gain


def test_noise_is_treated_as_noise():
    op, k = Degradation(2), GaussianKernelPrior.truth(2).sample(1, generator=torch.Generator().manual_seed(3))
    hr = held_out()
    y = (op(hr, k) + 10 / 255 * torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    restorer = UnfoldedRestorer()
    assert psnr(restorer(y, k, op, 10 / 255), hr, 4) > psnr(restorer(y, k, op, 0.0), hr, 4) + 3


# --- the commands -------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Few steps on a folder of two pictures and a text."""
    monkeypatch.setattr(unfolded_training, "RECIPE", TINY)
    data = tmp_path / "data"
    for name, x in zip(("b.png", "in/a.png"), pictures(), strict=True):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(data / name, Picture(x))
    (data / "note.txt").write_text("no picture")
    return data


def test_it_trains_a_network_that_runs(quick, tmp_path):
    out = tmp_path / "new" / "mine.safetensors"
    done = call("train-restorer", "--data", quick, "--out", out, "--steps", 2, "--seed", 5, "--json")
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    recipe = read_unfolded(out)[1]
    assert {**recipe, "seconds": record["seconds"], "bytes": out.stat().st_size} == record
    assert (record["seed"], record["pictures"], record["names"]) == (5, 2, ["b.png", "in/a.png"])
    assert (record["settings"]["denoising"]["steps"], record["settings"]["restoring"]["steps"]) == (2, 2)
    assert "restoring: step 2/2" in done.stderr and [f.name for f in out.parent.iterdir()] == [out.name]
    image, kernel = save_png(tmp_path / "a.png"), tmp_path / "k.npy"
    np.save(kernel, np.full((11, 11), 1 / 121))
    words = ("restore", image, "--kernel", kernel, "--scale", 2, "--restorer", "unfolded", "--noise", 0)
    for name, more in (("own", ("--weights", out)), ("shipped", ())):
        result = call(*words, *more, "--output", tmp_path / name)
        assert result.exit_code == 0, result.stderr
        kept = json.loads((tmp_path / name / "restore.json").read_text())
        assert kept["restorer"] == "unfolded" and kept["restorer_file"] == (str(out) if more else None)
    assert (tmp_path / "own/sr.png").read_bytes() != (tmp_path / "shipped/sr.png").read_bytes()


def test_an_interrupted_training_goes_on_to_the_same_file(quick, tmp_path, monkeypatch):
    words = ("train-restorer", "--data", quick, "--out")
    assert call(*words, tmp_path / "whole.safetensors").exit_code == 0
    out, part = tmp_path / "f.safetensors", tmp_path / "f.safetensors.part"
    plain, steps = RestorerTraining.advance, []

    class Stopped(job.Interrupt):
        """Ctrl-C in the fifth step."""

        raised = property(lambda self: len(steps) == 5, lambda self, value: None)

    def counted(self):
        steps.append(plain(self))
        return steps[-1]

    monkeypatch.setattr(RestorerTraining, "advance", counted)
    monkeypatch.setattr(job, "Interrupt", Stopped)
    stopped = call(*words, out)
    assert stopped.exit_code == 130 and not out.exists() and part.exists()
    line = error_line(call(*words, out, "--seed", 1))
    assert "made with other settings (seed: 0 there, 1 here)" in line and "delete the file to start anew" in line
    monkeypatch.undo()
    monkeypatch.setattr(unfolded_training, "RECIPE", TINY)
    done = call(*words, out)
    assert done.exit_code == 0 and "going on after step 2 of restoring" in done.stderr and not part.exists()
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_bad_options_are_one_line_and_leave_nothing(quick, tmp_path):
    there, out, empty, damaged = (tmp_path / n for n in ("there.safetensors", "f.safetensors", "empty", "damaged"))
    there.write_text("mine")
    empty.mkdir()
    damaged.mkdir()
    (damaged / "x.png").write_bytes(noise(40).tobytes())
    small = save_png(tmp_path / "small" / "a.png").parent
    cases = {
        "a name that ends with .safetensors": (quick, tmp_path / "f.pt"),
        "exists; choose another name, or give --overwrite": (quick, there),
        "no such folder": (tmp_path / "gone", out),
        "not a folder": (there, out),
        "this folder holds no picture (.png": (empty, out),
        "x.png: not a picture": (damaged, out),
        f"--data {small}: no picture of at least 24x24 pixels in this folder": (small, out),
        "cannot be written": (quick, there / "below" / "f.safetensors"),
    }
    before = sorted(tmp_path.iterdir())
    for message, (data, file) in cases.items():
        assert message in error_line(call("train-restorer", "--data", data, "--out", file)), message
    assert there.read_text() == "mine" and sorted(tmp_path.iterdir()) == before


def test_a_diverging_training_is_one_line(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(unfolded_training.UnfoldedTraining, "loss", lambda self: torch.tensor(math.nan))
    result = call("train-restorer", "--data", quick, "--out", tmp_path / "f.safetensors")
    assert result.exit_code == 2 and "the training diverges at step 1; try another seed" in result.stderr
