import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from helpers import call, error_line, gaussian_kernel, run, save_png
from PIL import Image

import blindsr
from blindsr.commands import batch
from blindsr.commands.batch import output_folders
from blindsr.methods.presets import PRESETS
from blindsr.methods.table import METHODS

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


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def test_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HR picture and the LR picture made from it."""
    folder = tmp_path_factory.mktemp("pair")
    save_png(folder / "photo.png", 48, 52)
    result = call("degrade", folder / "photo.png", "--scale", 2, "--output", folder / "made", "--seed", 4)
    assert result.exit_code == 0, result.stderr
    return folder / "made"


def test_everything_a_run_leaves(test_pair: Path, tmp_path: Path) -> None:
    truth = ("--ground-truth", test_pair / "hr.png", "--true-kernel", test_pair / "kernel.mat")
    result = run(test_pair / "lr.png", tmp_path / "out", *truth, "--noise", "0.01", "--seed", 5)
    assert result.exit_code == 0 and result.stdout == ""
    assert "step 3/3" in result.stderr and "PSNR" in result.stderr and "alignment fkp" in result.stderr
    folder = tmp_path / "out" / "lr"
    assert sorted(p.name for p in folder.iterdir()) == FILES
    with Image.open(folder / "sr.png") as sr:
        assert sr.size == (52, 48)
    kernel = np.load(folder / "kernel.npy")
    assert kernel.shape == (11, 11) and kernel.sum() == pytest.approx(1, abs=1e-5)
    assert np.array_equal(scipy.io.loadmat(folder / "kernel.mat")["Kernel"], kernel)
    rows = list(csv.DictReader((folder / "trace.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert all(float(row["loss"]) > 0 and float(row["kernel_width"]) > 0 for row in rows)
    assert rows[0]["monte_carlo"] != "" and rows[1]["monte_carlo"] == ""
    r = record(folder)
    assert (r["scale"], r["seed"], r["steps"], r["stopped"]) == (2, 5, 3, "finished")
    assert (r["noise"], r["alignment"], r["prior"], r["optimizer"]) == ("0.01", "fkp", "mcmc", "meta")
    assert r["preset_values"]["skip"]["channels"] == PRESETS["fast"].skip.channels
    assert r["versions"]["blindsr"] == blindsr.__version__ and r["versions"]["torch"] == torch.__version__
    assert r["seconds"] > 0 and r["peak_memory_mib"] > 10 and r["image"] == str(test_pair / "lr.png")
    assert {"psnr_border_s", "ssim_border_s", "psnr_border_s2", "kernel_psnr", "lr_rmse"} <= r["metrics"].keys()
    # the scores are those of `blindsr evaluate` on the files
    scored = call("evaluate", folder / "sr.png", test_pair / "hr.png", "--scale", 2, "--border", "s", "--json")
    assert json.loads(scored.stdout)["psnr"] == pytest.approx(r["metrics"]["psnr_border_s"], abs=0.02)


@pytest.mark.slow
def test_paper_method_by_its_parts(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    assert run(image, tmp_path / "one").exit_code == 0
    parts = ("--prior", "mcmc", "--optimizer", "meta", "--image-prior", "hyper-laplacian")
    assert run(image, tmp_path / "two", *parts).exit_code == 0
    assert (tmp_path / "one/a/sr.png").read_bytes() == (tmp_path / "two/a/sr.png").read_bytes()


@pytest.mark.parametrize("method", [m for m in METHODS if m != "mlmc"])
def test_every_method_runs(tmp_path: Path, method: str) -> None:
    side = 16 if METHODS[method].composed or not METHODS[method].iterates else 34  # KernelGAN needs some patches
    image = save_png(tmp_path / "a.png", side, side)
    if METHODS[method].iterates:
        assert run(image, tmp_path / "out", "--method", method, steps=2).exit_code == 0
    else:
        words = ("--scale", 2, "--method", method, *(("--restorer", "bicubic") if method == "external" else ()))
        assert call("run", image, *words, "--output", tmp_path / "out").exit_code == 0
    assert record(tmp_path / "out" / "a")["method"] == method


@pytest.mark.parametrize("padding", ["circular", "replicate", "valid"])
def test_alignment_and_padding(tmp_path: Path, padding: str) -> None:
    image = save_png(tmp_path / "a.png", 17, 19)
    words = ("--alignment", "centered", "--padding", padding, "--noise", "iid")
    assert run(image, tmp_path / "out", *words, steps=1).exit_code == 0
    r = record(tmp_path / "out" / "a")
    assert (r["alignment"], r["padding"], r["noise"]) == ("centered", padding, "iid")
    with Image.open(tmp_path / "out/a/sr.png") as sr:
        assert sr.size == (38, 34)


@pytest.mark.slow
def test_json_alone_on_standard_output(tmp_path: Path) -> None:
    image, other = save_png(tmp_path / "a.png"), save_png(tmp_path / "b.png", seed=1)
    result = run(image, tmp_path / "out", "--json", steps=1)
    assert json.loads(result.stdout) == record(tmp_path / "out" / "a")
    both = call(
        "run",
        image,
        other,
        "--scale",
        2,
        "--method",
        "mlmc",
        "--preset",
        "fast",
        "--iterations",
        1,
        "--output",
        tmp_path / "o",
        "--json",
    )
    assert [r["image"] for r in json.loads(both.stdout)] == [str(image), str(other)]
    bad = call("run", tmp_path / "gone.png", "--json")
    assert bad.exit_code == 2 and bad.stdout == ""


def test_time_limit_ends_early(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    result = run(image, tmp_path / "out", "--time-limit", 1.5, steps=100_000)
    assert result.exit_code == 0 and "time limit" in result.stderr
    r = record(tmp_path / "out" / "a")
    assert r["stopped"] == "time limit" and 1 <= r["steps"] < 100_000 and r["seconds"] < 6
    assert sorted(p.name for p in (tmp_path / "out" / "a").iterdir()) == FILES


def test_no_time_at_all_still_makes_a_result(tmp_path: Path) -> None:
    result = run(save_png(tmp_path / "a.png"), tmp_path / "out", "--time-limit", 0)
    assert result.exit_code == 0
    assert record(tmp_path / "out" / "a")["steps"] == 1 and (tmp_path / "out/a/sr.png").exists()


@pytest.mark.slow
def test_same_names_in_different_folders(tmp_path: Path) -> None:
    one, two = save_png(tmp_path / "x" / "a.png"), save_png(tmp_path / "y" / "a.png", seed=1)
    three = tmp_path / "x" / "a.bmp"
    Image.open(one).save(three)
    result = call(
        "run",
        one,
        two,
        three,
        "--scale",
        2,
        "--method",
        "mlmc",
        "--preset",
        "fast",
        "--iterations",
        1,
        "--output",
        tmp_path / "out",
    )
    assert result.exit_code == 0
    images = {p.name: record(p)["image"] for p in (tmp_path / "out").iterdir()}
    assert images == {"a-png": str(one), "a-png-2": str(two), "a-bmp": str(three)}


def test_output_folders_never_collide() -> None:
    paths = [Path(p) for p in ("x/a.png", "y/a.png", "a-png.jpg", "a-png-2.tif", "B.png", "z/b.png", "c.d.png")]
    names = [f.name for f in output_folders(paths, Path("out"))]
    assert len({name.casefold() for name in names}) == len(paths)
    assert names[0] == "a-png" and names[-1] == "c.d"


def test_truths_in_folders_are_paired_by_name(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        save_png(tmp_path / "lr" / f"{name}.png", seed=seed)
        save_png(tmp_path / "hr" / f"{name}.png", 32 + seed, 36, seed=seed)
        (tmp_path / "k").mkdir(exist_ok=True)
        np.save(tmp_path / "k" / f"{name}.npy", gaussian_kernel(11, 1.5 + seed))
    save_png(tmp_path / "lr" / "c.png", seed=2)
    truth = ("--ground-truth", tmp_path / "hr", "--true-kernel", tmp_path / "k")
    result = run(tmp_path / "lr", tmp_path / "out", *truth, steps=1)
    assert result.exit_code == 1
    assert "holds no file named like c.png" in result.stderr
    for name in ("a", "b"):
        assert "kernel_psnr" in record(tmp_path / "out" / name)["metrics"]
        assert "psnr_border_s" in record(tmp_path / "out" / name)["metrics"]
    kernels = [record(tmp_path / "out" / name)["metrics"]["kernel_psnr"] for name in "ab"]
    assert kernels[0] != kernels[1]


def test_one_truth_for_several_pictures_is_refused_at_once(tmp_path: Path) -> None:
    one, two = save_png(tmp_path / "a.png"), save_png(tmp_path / "b.png")
    line = error_line(call("run", one, two, "--ground-truth", one, "--output", tmp_path / "out"))
    assert "must be a folder of same-named files" in line and not (tmp_path / "out").exists()


def test_even_true_kernel_with_the_alignment_named(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    np.save(tmp_path / "k.npy", gaussian_kernel(10, 1.5, 4.5) * 3)
    words = ("--true-kernel", tmp_path / "k.npy", "--alignment", "fkp")
    result = run(image, tmp_path / "out", *words, steps=1)
    assert result.exit_code == 0 and "summed to 3 and was normalised" in result.stderr
    assert "kernel_psnr" in record(tmp_path / "out" / "a")["metrics"]


def test_a_result_of_other_settings_is_replaced_only_when_asked(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    assert run(image, tmp_path / "out", steps=1).exit_code == 0
    before = (tmp_path / "out/a/sr.png").read_bytes()
    line = error_line(run(image, tmp_path / "out", "--seed", 1, steps=2))
    assert "a result of other settings" in line and "--overwrite" in line
    assert (tmp_path / "out/a/sr.png").read_bytes() == before
    again = run(image, tmp_path / "out", "--seed", 1, "--overwrite", steps=2)
    assert again.exit_code == 0 and "of an earlier run is replaced" in again.stderr
    assert record(tmp_path / "out" / "a")["seed"] == 1
    assert run(image, tmp_path / "out", "--seed", 1, steps=2).exit_code == 0, "the same settings give the same result"


def test_an_unfinished_run_is_not_thrown_away(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    assert run(image, tmp_path / "out", steps=1).exit_code == 0
    (tmp_path / "out/a/run.json").unlink()  # as after a kill: a checkpoint, no record
    line = error_line(run(image, tmp_path / "out", steps=2))
    assert "an unfinished run; --resume goes on with it, --overwrite starts anew" in line
    assert run(image, tmp_path / "out", "--resume", steps=2).exit_code == 0
    done = run(image, tmp_path / "out", "--resume", steps=2)
    assert done.exit_code == 0 and "already finished (2 steps)" in done.stderr


def test_parts_named_one_by_one_are_not_recorded_as_another_method(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png", 16, 16)
    assert run(image, tmp_path / "x", "--prior", "none", "--image-prior", "tv", steps=1).exit_code == 0
    assert run(image, tmp_path / "y", "--prior", "none", steps=1).exit_code == 0
    x, y = record(tmp_path / "x" / "a"), record(tmp_path / "y" / "a")
    assert (x["method"], y["method"]) == ("custom", "mlmc-no-mc")
    assert x["parts"]["image_prior"]["value"]["prior"] == {"class": "TotalVariation", "coupled": False}
    assert x["parts"]["prior"] == {"name": "none", "value": None}
    assert x["parts"]["optimizer"] == {
        "name": "meta",
        "value": {"class": "MetaLearned", "interval": 3, "weights": None, "reset_each_outer": True},
    }


def test_leftovers_of_a_killed_run_are_cleared(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    folder = tmp_path / "out" / "a"
    folder.mkdir(parents=True)
    (folder / ".blindsr-abc.pt").write_bytes(b"half a checkpoint")
    assert run(image, tmp_path / "out", steps=1).exit_code == 0
    assert sorted(p.name for p in folder.iterdir()) == FILES


def test_table_of_methods() -> None:
    result = call("methods")
    assert result.exit_code == 0
    rows = [line.split()[0] for line in result.stdout.splitlines() if line]
    assert [name for name in rows if name in METHODS] == list(METHODS)
    for word in ("motion", "joint", "tikhonov", "iid", "my_file.py:MyPart"):
        assert word in result.stdout


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "fast", replace(PRESETS["fast"], steps=2))
    said: list[str] = []
    assert batch.run_demo(tmp_path / "out", "fast-map", 0, say=said.append) == 0
    assert (tmp_path / "out/demo/overview.png").exists() and "overview.png" in said[-1]
    with Image.open(tmp_path / "out/demo/sr.png") as sr:
        assert sr.size == (4 * 96, 4 * 80)
    assert "--method slow: unknown" in error_line(call("demo", "--method", "slow", "--output", tmp_path / "out"))


def test_version_and_help() -> None:
    assert call("--version").stdout == f"blindsr {blindsr.__version__}\n"
    for command in ("run", "restore", "degrade", "evaluate", "methods", "demo"):
        assert call(command, "--help").exit_code == 0
    assert "Usage" in call().output


def test_interrupt_outside_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("blindsr.commands.synthesis.evaluate_files", interrupted)
    image = save_png(tmp_path / "a.png")
    line = error_line(call("evaluate", image, image), code=130)
    assert line == "blindsr: interrupted"


def test_entry_point(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "blindsr.cli.root", "evaluate", str(tmp_path / "no such.png"), "x.png"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"blindsr: {tmp_path / 'no such.png'}: no such file\n"
