"""`blindsr run` by its default method, and restorers at the end of any method."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import call, error_line, gaussian_kernel, noise, run, save_png, smooth
from PIL import Image
from test_restore import functions, pixels, small_tiles

from blindsr.io.images import read_image, write_png
from blindsr.io.picture import Picture
from blindsr.methods.table import DEFAULT_METHOD

FILES = [
    "checkpoint.pt",
    "kernel.mat",
    "kernel.npy",
    "kernel.png",
    "overview.png",
    "run.json",
    "sr.png",
    "trace.csv",
]
PASSING = ("seconds", "date", "peak_memory_mib", "resumed_at")


def fast_map(image: Path, output: Path, *words: object, restorer: object = "tv", scale: int = 2) -> Any:
    """`blindsr run --method fast-map`, by default with a restorer that is quick."""
    return call(
        "run", image, "--method", "fast-map", "--scale", scale, "--restorer", restorer, "--output", output, *words
    )


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return content


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HR picture, the LR picture made from it, and its kernel."""
    folder = tmp_path_factory.mktemp("made")
    Image.fromarray(np.kron(noise(7, 8, 3), np.ones((7, 7, 1), np.uint8))[:, :53]).save(folder / "photo.png")
    assert call("degrade", folder / "photo.png", "--scale", 2, "--output", folder, "--seed", 4).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def done(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of a finished run with --json and a real overview.png, and what the call gave."""
    output = tmp_path_factory.mktemp("done")
    truth = ("--ground-truth", made / "hr.png", "--true-kernel", made / "kernel.mat")
    result = fast_map(made / "lr.png", output, "--json", *truth)
    assert result.exit_code == 0, result.stderr
    return output / "lr", result


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return save_png(tmp_path / "a.png", 16, 16)


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture of four tiles."""
    small_tiles(monkeypatch)
    Image.fromarray(smooth(16, 28)).save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


# what comes out


def test_everything_it_leaves(done: tuple[Path, Any], made: Path) -> None:
    folder, result = done
    assert sorted(p.name for p in folder.iterdir()) == FILES
    r = record(folder)
    assert json.loads(result.stdout) == r, "--json: the record alone on standard output"
    assert DEFAULT_METHOD == "free-unfolded"
    fixed = {
        "method": "fast-map",
        "restorer": "tv",
        "preset": None,
        "kernel": None,
        "prior": None,
        "optimizer": None,
        "image_prior": None,
        "tiles": 1,
        "steps": 1,
        "stopped": "finished",
        "image": str(made / "lr.png"),
        "files_sha256": {},
    }
    assert fixed.items() <= r.items()
    found = r["kernel_found"]
    assert found["family"] == "gaussian" and found["rounds"] >= 0 and len(found["parameters"]) == 3
    assert set(found["parameters"]) == {"log_variance", "stretch", "diagonal_stretch"}
    assert np.isfinite(list(found["parameters"].values())).all() and len(found["spectral_mode"]) == 3
    assert np.linalg.eigvalsh(np.array(found["spectral_precision"])).min() > 0
    assert r["noise_std"] == found["noise_std"] and 0 < r["noise_std"] < 0.1
    assert {"psnr_border_s", "psnr_border_s2", "psnr_bicubic_border_s2", "kernel_psnr"} <= r["metrics"].keys()
    assert r["metrics"]["lr_rmse"] is None
    with Image.open(folder / "sr.png") as sr:
        assert sr.size == (52, 48)
    k = np.load(folder / "kernel.npy")
    assert k.shape == (11, 11) and k.sum() == pytest.approx(1, abs=1e-5) and k.min() >= 0
    assert len((folder / "trace.csv").read_text().splitlines()) == 2, "the heading, and the spectral estimate"
    line = result.stderr.splitlines()[-1]
    width = f"kernel gaussian, width {r['metrics']['kernel_width']:.2f} px; image by tv"
    assert line.startswith(f"{folder}: fast-map, 1 step in ") and width in line
    assert f"PSNR {r['metrics']['psnr_border_s2']:.2f} dB" in line


def test_overview_has_no_empty_panel(done: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from blindsr.diagnostics import overview

    with Image.open(done[0] / "overview.png") as page:
        assert min(page.size) > 500
    pages = []
    monkeypatch.setattr("blindsr.results.files.render", lambda page: pages.append(page) or b"")
    output = done[0].parent.parent / "again"
    assert fast_map(Path(record(done[0])["image"]), output / "x").exit_code == 0
    figure = overview.draw(pages[0])
    for axes in figure.findobj(lambda a: type(a).__name__ == "Axes"):
        drawn = [len(line.get_xdata()) for line in axes.get_lines()]
        assert axes.images or axes.collections or (drawn and min(drawn) > 0), axes.get_title()


def test_same_result_twice(tmp_path: Path, done: tuple[Path, Any], made: Path) -> None:
    truth = ("--ground-truth", made / "hr.png", "--true-kernel", made / "kernel.mat")
    assert fast_map(made / "lr.png", tmp_path / "out", *truth).exit_code == 0
    one, two = done[0], tmp_path / "out" / "lr"
    for name in ("sr.png", "kernel.npy", "kernel.png", "trace.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    a, b = ({k: v for k, v in record(folder).items() if k not in PASSING} for folder in (one, two))
    assert a == b


def test_the_seed_does_not_matter_but_is_on_record(tmp_path: Path, image: Path) -> None:
    for seed in (0, 1):
        assert fast_map(image, tmp_path / str(seed), "--seed", seed).exit_code == 0
        assert record(tmp_path / str(seed) / "a")["seed"] == seed
    assert (tmp_path / "0/a/sr.png").read_bytes() == (tmp_path / "1/a/sr.png").read_bytes()


@pytest.mark.parametrize("restorer", ["map", "tv", "bicubic"])
def test_restorers_of_the_table(tmp_path: Path, image: Path, restorer: str) -> None:
    result = fast_map(image, tmp_path / "out", restorer=restorer)
    assert result.exit_code == 0 and f"image by {restorer}" in result.stderr
    r = record(tmp_path / "out" / "a")
    assert (r["method"], r["restorer"]) == ("fast-map", restorer)


@pytest.mark.parametrize(
    ("scale", "alignment"),
    [(2, "centered"), (3, "fkp"), (4, "centered"), pytest.param(8, "fkp", marks=pytest.mark.slow)],
)
def test_scales_and_grids_on_the_smallest_picture(tmp_path: Path, scale: int, alignment: str) -> None:
    Image.fromarray(smooth(16, 16)).save(tmp_path / "a.png")  # clean, so that the kernel is refined
    assert fast_map(tmp_path / "a.png", tmp_path / "out", "--alignment", alignment, scale=scale).exit_code == 0
    with Image.open(tmp_path / "out/a/sr.png") as sr:
        assert sr.size == (16 * scale, 16 * scale)


@pytest.mark.parametrize("kind", ["grey 8", "colour alpha 16"])  # the others: test_images.py
def test_pictures_keep_their_kind(tmp_path: Path, kind: str) -> None:
    colour, bits = 3 if "colour" in kind else 1, int(kind.split()[-1])
    x = torch.from_numpy(smooth(16, 18)).permute(2, 0, 1)[None, :colour] / 255
    alpha = torch.linspace(0, 1, 18).expand(1, 1, 16, 18) if "alpha" in kind else None
    write_png(tmp_path / "in.png", Picture(x, alpha, bits, None))
    assert fast_map(tmp_path / "in.png", tmp_path / "out").exit_code == 0
    back = read_image(tmp_path / "out" / "in" / "sr.png")
    assert back.bits == bits and back.pixels.shape == (1, colour, 32, 36)
    assert (back.alpha is None) == (alpha is None)


@pytest.mark.slow
def test_pictures_of_no_detail(tmp_path: Path) -> None:
    for name, value in (("black", 0), ("grey", 128)):
        Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
        assert fast_map(tmp_path / f"{name}.png", tmp_path / "out", restorer="map").exit_code == 0
        assert abs(pixels(tmp_path / "out" / name / "sr.png") - value).max() <= 1


def test_known_noise_reaches_the_restorer(tmp_path: Path, image: Path) -> None:
    for name, words, level in (("a", ("--noise", "0.03"), 0.03), ("b", (), None)):
        path = functions(tmp_path / name)
        path.write_text(path.read_text() + LEVEL)
        assert fast_map(image, tmp_path / name, *words, restorer=f"{path}:check").exit_code == 0
        r = record(tmp_path / name / "a")
        told = float((tmp_path / name / "told").read_text())
        assert told == r["noise_std"] == (level or r["kernel_found"]["noise_std"])


LEVEL = """
def check(y, kernel, degradation, noise_std):
    from pathlib import Path
    Path(__file__).with_name("told").write_text(repr(noise_std))
    assert y.shape == (1, 3, 16, 16) and kernel.shape == (1, 1, 11, 11) and degradation.scale == 2
    return good(y, kernel, degradation, noise_std)
"""


def test_several_pictures_one_of_them_bad(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    save_png(folder / "a.png", 16, 16)
    (folder / "b.png").write_bytes(b"no picture")
    result = fast_map(folder, tmp_path / "out", "--json")
    assert result.exit_code == 1 and "1 of 2 pictures failed" in result.stderr
    assert [r["method"] for r in json.loads(result.stdout)] == ["fast-map"]


# restorers at the end of other methods


@pytest.mark.parametrize(
    ("words", "method"),
    [
        (("--restorer", "tv"), "mlmc+tv"),
        (("--restorer", "none"), "mlmc"),
        (("--method", "spectral-dip", "--restorer", "bicubic"), "spectral-dip+bicubic"),
        (("--method", "mlmc-no-mc", "--restorer", "tv", "--noise", "0.02"), "custom+tv"),
    ],
)
def test_restorer_after_steps(tmp_path: Path, image: Path, words: tuple[str, ...], method: str) -> None:
    result = run(image, tmp_path / "out", *words, steps=1)
    assert result.exit_code == 0, result.stderr
    r = record(tmp_path / "out" / "a")
    restorer = words[words.index("--restorer") + 1]
    assert (r["method"], r["restorer"], r["steps"]) == (method, restorer, 1)
    assert r["tiles"] == (restorer != "none") and ("image by" in result.stderr) == (restorer != "none")
    assert (r["kernel_found"] is not None) == ("spectral-dip" in words)
    assert r["kernel"] == ("spectral" if "spectral-dip" in words else "network")
    if "--noise" in words:
        assert r["noise_std"] == 0.02
    assert sorted(p.name for p in (tmp_path / "out" / "a").iterdir()) == FILES


def test_restorer_does_not_change_the_kernel_of_a_run(tmp_path: Path, image: Path) -> None:
    for name in ("none", "tv"):
        assert run(image, tmp_path / name, "--restorer", name, steps=2).exit_code == 0
    assert (tmp_path / "none/a/kernel.npy").read_bytes() == (tmp_path / "tv/a/kernel.npy").read_bytes()
    assert (tmp_path / "none/a/trace.csv").read_bytes() == (tmp_path / "tv/a/trace.csv").read_bytes()
    assert (tmp_path / "none/a/sr.png").read_bytes() != (tmp_path / "tv/a/sr.png").read_bytes()


def test_spectral_draws_for_the_monte_carlo_step(tmp_path: Path, image: Path) -> None:
    assert run(image, tmp_path / "out", "--prior", "spectral", steps=1).exit_code == 0
    r = record(tmp_path / "out" / "a")
    assert (r["prior"], r["kernel"], r["kernel_found"]["rounds"]) == ("spectral", "network", 0)
    assert (tmp_path / "out/a/trace.csv").read_text().splitlines()[1].split(",")[-1] != "", "kernels were drawn"


# the user's own restorers, models


def test_own_restorer_is_named_and_hashed(tmp_path: Path, image: Path) -> None:
    word = f"{functions(tmp_path / 'with a space')}:good"
    assert fast_map(image, tmp_path / "out", restorer=word).exit_code == 0
    r = record(tmp_path / "out" / "a")
    assert r["restorer"] == word and list(r["files_sha256"]) == [word.removesuffix(":good")]
    path = functions(tmp_path / "with a space")
    path.write_text(path.read_text() + "# edited\n")
    before = snapshot(tmp_path / "out" / "a")
    assert "holds a result of other settings" in error_line(fast_map(image, tmp_path / "out", restorer=word))
    assert snapshot(tmp_path / "out" / "a") == before


@pytest.mark.slow
def test_function_that_fails_later_leaves_the_earlier_result(tmp_path: Path, wide: Path) -> None:
    path = functions(tmp_path)
    assert fast_map(wide, tmp_path / "out").exit_code == 0
    before = snapshot(tmp_path / "out" / "wide")
    result = fast_map(wide, tmp_path / "out", "--overwrite", restorer=f"{path}:second")
    assert result.exit_code == 2 and result.stdout == ""
    assert "second: fails (RuntimeError: second tile)" in result.stderr.splitlines()[-1]
    after = snapshot(tmp_path / "out" / "wide")
    assert all(after[name] == before[name] for name in FILES[1:]), "all but the checkpoint"


def test_a_bad_restorer_costs_no_steps(tmp_path: Path, image: Path) -> None:
    error_line(run(image, tmp_path / "out", "--restorer", f"{functions(tmp_path)}:same", steps=2))


def test_a_mended_function_can_be_tried_again(tmp_path: Path, image: Path) -> None:
    path = functions(tmp_path)
    assert fast_map(image, tmp_path / "out", restorer=f"{path}:fails").exit_code == 2
    path.write_text(
        path.read_text().replace('raise RuntimeError("too\\nbad")', "return good(y, kernel, degradation, 0)")
    )
    result = fast_map(image, tmp_path / "out", restorer=f"{path}:fails")
    assert result.exit_code == 0, result.stderr


class Double(torch.nn.Module):
    def forward(self, y):
        return torch.nn.functional.interpolate(y, scale_factor=2.0)


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Double()).save(str(folder / "model.pt"))
    return folder / "model.pt"


def test_model_file(tmp_path: Path, image: Path) -> None:
    path = model(tmp_path / "with a space")
    result = fast_map(image, tmp_path / "out", restorer=path)
    assert result.exit_code == 0, result.stderr
    r = record(tmp_path / "out" / "a")
    assert r["restorer"] == path.name and list(r["files_sha256"]) == [str(path)]
    assert np.array_equal(pixels(tmp_path / "out/a/sr.png")[::2, ::2], pixels(image))


def usrnet_weights(path: Path) -> Path:
    from blindsr.restorers.usrnet_net import UsrNet

    torch.manual_seed(0)
    torch.save(UsrNet(1, (4, 4, 4, 4), 1, 4, 3).state_dict(), path)
    return path


def test_usrnet_by_its_weights(tmp_path: Path, image: Path) -> None:
    path = usrnet_weights(tmp_path / "weights")  # without a suffix
    assert fast_map(image, tmp_path / "out", "--weights", path, restorer="usrnet").exit_code == 0
    r = record(tmp_path / "out" / "a")
    assert r["restorer"] == "usrnet" and list(r["files_sha256"]) == [str(path)]


# ended early, gone on with


def unfinished(folder: Path, low: Path) -> None:
    """Check that a picture of four tiles is the restorer's (black) in the first one, bicubic in the last ones."""
    x, bicubic = pixels(folder / "sr.png"), pixels(low / "sr.png")
    assert x.shape == (32, 56, 3) and not x[:, :16].any()
    assert abs(x[:, 40:] - bicubic[:, 40:]).max() <= 1


def test_interrupt_among_the_tiles(tmp_path: Path, wide: Path) -> None:
    word = f"{functions(tmp_path)}:stop"
    result = fast_map(wide, tmp_path / "out", "--json", restorer=word)
    assert result.exit_code == 130 and "(interrupted)" in result.stderr and "4 tiles" in result.stderr
    r = record(tmp_path / "out" / "wide")
    assert json.loads(result.stdout) == r and (r["stopped"], r["tiles"]) == ("interrupted", 4)
    assert set(FILES) <= set(snapshot(tmp_path / "out" / "wide"))
    assert fast_map(wide, tmp_path / "low", restorer="bicubic").exit_code == 0
    unfinished(tmp_path / "out" / "wide", tmp_path / "low" / "wide")


def test_time_limit_among_the_tiles(tmp_path: Path, wide: Path) -> None:
    result = fast_map(wide, tmp_path / "out", "--time-limit", 0, restorer=f"{functions(tmp_path)}:black")
    assert result.exit_code == 0 and "(time limit)" in result.stderr
    assert record(tmp_path / "out" / "wide")["stopped"] == "time limit"
    assert fast_map(wide, tmp_path / "low", restorer="bicubic").exit_code == 0
    unfinished(tmp_path / "out" / "wide", tmp_path / "low" / "wide")


def test_interrupt_among_several_pictures(tmp_path: Path, wide: Path) -> None:
    other = save_png(tmp_path / "z.png", 16, 16)
    word = f"{functions(tmp_path)}:stop"
    result = call("run", wide, other, "--scale", 2, "--restorer", word, "--output", tmp_path / "out")
    assert result.exit_code == 130 and "interrupted; 1 of 2 pictures not begun" in result.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["wide"]


@pytest.mark.parametrize("method", [("fast-map",), ("mlmc", "--preset", "fast", "--iterations", "1")])
@pytest.mark.parametrize("how", ["stop", "limit"])
@pytest.mark.slow
def test_resume_makes_the_missing_tiles(tmp_path: Path, wide: Path, method: tuple[str, ...], how: str) -> None:
    path = functions(tmp_path)
    path.write_text(path.read_text().replace("    if not calls:\n", "    if not calls and first():\n") + FIRST)
    words, limit = ("--method", *method), ("--time-limit", "0") if how == "limit" else ()
    word = f"{path}:{'stop' if how == 'stop' else 'black'}"
    fast_map(wide, tmp_path / "out", *words, *limit, restorer=word)
    assert record(tmp_path / "out" / "wide")["stopped"] == ("interrupted" if how == "stop" else "time limit")
    again = fast_map(wide, tmp_path / "out", *words, "--resume", restorer=word)
    assert again.exit_code == 0, again.stderr
    assert record(tmp_path / "out" / "wide")["stopped"] == "finished"
    assert not pixels(tmp_path / "out" / "wide" / "sr.png").any()


FIRST = """
def first():
    from pathlib import Path
    mark = Path(__file__).with_name("been here")
    was = mark.exists()
    mark.touch()
    return not was
"""


def test_an_interrupted_result_is_not_replaced_unasked(tmp_path: Path, wide: Path) -> None:
    word = f"{functions(tmp_path)}:stop"
    assert fast_map(wide, tmp_path / "out", restorer=word).exit_code == 130
    before = snapshot(tmp_path / "out" / "wide")
    assert "holds an unfinished run" in error_line(fast_map(wide, tmp_path / "out", restorer=word))
    assert snapshot(tmp_path / "out" / "wide") == before


def test_resume_of_a_finished_result_and_the_same_again(tmp_path: Path, image: Path) -> None:
    assert fast_map(image, tmp_path / "out", "--resume").exit_code == 0, "nothing there: it starts"
    before = snapshot(tmp_path / "out" / "a")
    result = fast_map(image, tmp_path / "out", "--resume")
    assert result.exit_code == 0 and "already finished" in result.stderr
    assert snapshot(tmp_path / "out" / "a") == before
    assert fast_map(image, tmp_path / "out").exit_code == 0, "the same settings give the same result"
    after = snapshot(tmp_path / "out" / "a")
    assert after["sr.png"] == before["sr.png"] and after["kernel.npy"] == before["kernel.npy"]


def test_a_result_of_other_settings_is_replaced_only_when_asked(tmp_path: Path, image: Path) -> None:
    assert fast_map(image, tmp_path / "out").exit_code == 0
    before = snapshot(tmp_path / "out" / "a")
    for words in (("--noise", "0.1"), ("--kernel-size", "9"), ("--seed", "1"), ("--alignment", "centered")):
        line = error_line(fast_map(image, tmp_path / "out", *words))
        assert "holds a result of other settings; choose another --output, or --overwrite" in line
    assert "of other settings" in error_line(fast_map(image, tmp_path / "out", restorer="bicubic"))
    fast = ("--method", "mlmc", "--preset", "fast", "--iterations", "1")
    assert "of other settings" in error_line(fast_map(image, tmp_path / "out", *fast))
    assert "with other settings" in error_line(fast_map(image, tmp_path / "out", "--resume", restorer="bicubic"))
    assert snapshot(tmp_path / "out" / "a") == before
    assert fast_map(image, tmp_path / "out", "--overwrite", restorer="bicubic").exit_code == 0
    assert record(tmp_path / "out" / "a")["restorer"] == "bicubic"


def test_another_picture_of_the_same_name_is_refused(tmp_path: Path, image: Path) -> None:
    assert fast_map(image, tmp_path / "out").exit_code == 0
    other = save_png(tmp_path / "other" / "a.png", 16, 16, seed=1)
    before = snapshot(tmp_path / "out" / "a")
    line = error_line(fast_map(other, tmp_path / "out", "--overwrite"))
    assert "holds the result for another picture" in line and snapshot(tmp_path / "out" / "a") == before


# what is refused


def test_options_that_are_refused(tmp_path: Path, image: Path) -> None:
    (tmp_path / "damaged.pt").write_text("no model")
    gone, damaged = tmp_path / "gone.pt", tmp_path / "damaged.pt"
    np.save(tmp_path / "k9.npy", gaussian_kernel(9))
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--iterations", 3), "--iterations 3: leave it out; free-unfolded: it has no steps"),
        (("--method", "fast-map", "--optimizer", "am"), "`--method mlmc --optimizer am` puts it into the joint loop"),
        (("--prior", "magic"), "--prior magic: unknown; choose gaussian, motion, shake, "),
        (("--restorer", "none"), "--restorer none: method free-unfolded makes its image by a restorer"),
        (
            ("--restorer", "magic"),
            "--restorer magic: unknown; choose none, map, tv, bicubic, zssr, unfolded, usrnet, a",
        ),
        (("--restorer", "usrnet"), "--restorer usrnet: needs --weights FILE"),
        (("--restorer", "tv", "--weights", gone), "goes with --restorer usrnet or unfolded, not with tv"),
        (("--restorer", "usrnet", "--weights", gone), "gone.pt: cannot be read"),
        (("--restorer", "usrnet", "--weights", damaged), "damaged.pt: not a file of weights"),
        (("--restorer", gone), "gone.pt: no such file"),
        (("--restorer", damaged), "damaged.pt: not a TorchScript model"),
        (("--restorer", f"{tmp_path / 'gone.py'}:f"), "gone.py: no such file (wanted f from it)"),
        (("--noise", "-1"), "--noise -1: choose iid, patch, none, or a standard deviation of 0 or more"),
        (("--noise", "nan"), "--noise nan: choose"),
        (("--noise", "inf"), "--noise inf: choose"),
        (("--preset", "quick"), "--preset quick: unknown; choose"),
        (("--method", "magic"), "--method magic: unknown; `blindsr methods` lists them"),
        (("--device", "abacus"), "--device abacus: unknown"),
        (("--kernel-size", "33"), "a kernel of 33 pixels is larger than the result (32x32)"),
        (("--kernel-size", "4"), "kernel size 4: an odd number"),
        (("--true-kernel", tmp_path / "k9.npy"), "9x9, the run estimates 11x11; give --kernel-size 9"),
        (("--ground-truth", save_png(tmp_path / "hr.png", 31, 32)), "32x31 pixels, but the result will have 32x32"),
        (("--scale", "5"), "scale 5 is not supported"),
    ]
    for words, message in cases:
        line = error_line(call("run", image, "--scale", 2, "--output", tmp_path / "out", *words))
        assert message in line, words
        assert not (tmp_path / "out").exists(), words
    line = error_line(run(image, tmp_path / "out", "--restorer", "magic"))
    assert "--restorer magic: unknown" in line and not (tmp_path / "out").exists()


def test_weights_alone_mean_usrnet(tmp_path: Path, image: Path) -> None:
    words = ("--scale", 2, "--output", tmp_path / "out", "--weights", usrnet_weights(tmp_path / "w.pth"))
    assert call("run", image, *words).exit_code == 0
    assert record(tmp_path / "out" / "a")["restorer"] == "usrnet"


def test_kernel_that_leaves_no_interior(tmp_path: Path) -> None:
    """Then the kernel is not refined."""
    Image.fromarray(smooth(16, 16)).save(tmp_path / "a.png")
    words = ("--kernel-size", 63, "--alignment", "centered")
    assert fast_map(tmp_path / "a.png", tmp_path / "out", *words, scale=4).exit_code == 0
    assert record(tmp_path / "out" / "a")["kernel_found"]["rounds"] == 0


def test_pictures_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    small = save_png(tmp_path / "small.png", 15, 40)
    for path, message in (
        (tmp_path / "gone.png", "gone.png: no such file"),
        (tmp_path / "text.png", "text.png: not a picture"),
        (small, "40x15 pixels is too small; at least 16x16 is needed"),
    ):
        assert message in error_line(fast_map(path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a corner of the photo, for speed."""
    from skimage import data

    photo = data.chelsea()[:90, :110]
    monkeypatch.setattr(data, "chelsea", lambda: photo)
    result = call("demo", "--output", tmp_path)
    assert result.exit_code == 0 and f"look at {tmp_path / 'demo' / 'overview.png'}" in result.stderr
    r = record(tmp_path / "demo")
    assert (r["method"], r["alignment"], r["restorer"], r["scale"]) == ("free-unfolded", "centered", "unfolded", 4)
    with Image.open(tmp_path / "demo" / "sr.png") as sr:
        assert sr.size == (80, 80)
