import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from helpers import LIGHT, Clock, call, error_line, gaussian_kernel, run, save_png
from PIL import Image

import blindsr
from blindsr.commands.batch import output_folders
from blindsr.commands.settings import RunSettings
from blindsr.estimators.loop import JointLoop
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


@pytest.mark.usefixtures("real_overview")
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
    assert (r["noise"], r["alignment"], r["prior"], r["optimizer"]) == ("0.01", "fkp", "gaussian", "meta")
    assert r["estimator"]["image"]["settings"]["channels"] == PRESETS["fast"].skip.channels
    assert r["versions"]["blindsr"] == blindsr.__version__ and r["versions"]["torch"] == torch.__version__
    assert r["seconds"] > 0 and r["peak_memory_mib"] > 10 and r["image"] == str(test_pair / "lr.png")
    assert {"psnr_border_s", "ssim_border_s", "psnr_border_s2", "kernel_psnr", "lr_rmse"} <= r["metrics"].keys()
    # the scores are those of `blindsr evaluate` on the files
    scored = call("evaluate", folder / "sr.png", test_pair / "hr.png", "--scale", 2, "--border", "s", "--json")
    assert json.loads(scored.stdout)["psnr"] == pytest.approx(r["metrics"]["psnr_border_s"], abs=0.02)


def test_parts_of_the_loop_compose_the_papers_method(tmp_path: Path) -> None:
    """Without --method, and the run says so; with one part the rest is that of MLMC as well."""
    image = save_png(tmp_path / "a.png", 16, 16)
    words = ("run", image, "--scale", 2, "--preset", "fast", "--iterations", 3, "--output")
    composed = call(*words, tmp_path / "parts", "--prior", "mcmc", "--optimizer", "meta")
    assert composed.exit_code == 0, composed.stderr
    assert "--prior mcmc, --optimizer meta: composed into the joint loop, --method mlmc" in composed.stderr
    named = call(*words, tmp_path / "named", "--method", "mlmc")
    assert named.exit_code == 0 and "composed" not in named.stderr
    one, two = tmp_path / "parts/a", tmp_path / "named/a"
    assert record(one)["method"] == record(two)["method"] == "mlmc" and record(one)["steps"] == 3
    for name in ("sr.png", "kernel.npy", "trace.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_what_does_not_combine_names_a_command_that_works(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png", 16, 16)
    words = ("run", image, "--scale", 2, "--output", tmp_path / "out")
    cases = [
        ("--method fast-map --optimizer meta", "--optimizer meta: fast-map estimates the kernel without one"),
        (
            "--method fast-map --prior motion",
            "--prior motion: the spectral estimate needs a family",
        ),
        ("--method kernelgan --image-prior tv", "--image-prior tv: kernelgan finds its kernel in a way of its own"),
        ("--method fast-map --noise patch", "--noise patch: a noise model of the joint loop"),
    ]
    for asked, why in cases:
        line = error_line(call(*words, *asked.split()))
        assert why in line and not (tmp_path / "out").exists()
        (command,) = re.findall("`(.*?)`", line)
        assert command.startswith("--method mlmc ") and set(command.split()) >= set(asked.split()[2:])
        method = RunSettings(**options(command)).composed
        assert isinstance(method.estimator, JointLoop), command
    light = ("--preset", "fast", "--iterations", 1)  # the first of them, run
    assert call(*words, "--method", "mlmc", "--optimizer", "meta", *light).exit_code == 0


def options(command: str) -> dict[str, str]:
    """Options of a command as fields of the settings."""
    words = command.split()
    return {name[2:].replace("-", "_"): value for name, value in zip(words[::2], words[1::2], strict=True)}


def test_fast_map_takes_a_kernel_family(tmp_path: Path) -> None:
    words = ("--scale", 2, "--method", "fast-map", "--prior", "line", "--restorer", "bicubic")
    assert call("run", save_png(tmp_path / "a.png"), *words, "--output", tmp_path).exit_code == 0
    r = record(tmp_path / "a")
    assert (r["method"], r["prior"], r["kernel_found"]["family"]) == ("fast-map", "line", "line")


@pytest.mark.parametrize(  # one of each kind; test_methods.py runs every row
    "method", [pytest.param("kernelgan", marks=pytest.mark.slow), "pam", "bicubic", "external", "fast-map"]
)
@pytest.mark.usefixtures("real_overview")
def test_every_kind_of_method_runs(tmp_path: Path, method: str) -> None:
    image = save_png(tmp_path / "a.png", 34, 34)  # KernelGAN needs some patches
    words = ["--iterations", 2] if method in ("kernelgan", "pam") else []
    words += ["--restorer", "bicubic"] if method == "external" else []
    assert call("run", image, "--scale", 2, "--method", method, *words, "--output", tmp_path / "out").exit_code == 0
    r = record(tmp_path / "out" / "a")
    assert r["method"] == method and r["steps"] == {"bicubic": 0, "external": 0, "fast-map": 1}.get(method, 2)


@pytest.mark.parametrize("padding", ["circular", "replicate", "valid"])
def test_alignment_and_padding(tmp_path: Path, padding: str) -> None:
    image = save_png(tmp_path / "a.png", 17, 19)
    words = ("--alignment", "centered", "--padding", padding, "--noise", "iid")
    assert run(image, tmp_path / "out", *words, *LIGHT, steps=1).exit_code == 0
    r = record(tmp_path / "out" / "a")
    assert (r["alignment"], r["padding"], r["noise"]) == ("centered", padding, "iid")
    with Image.open(tmp_path / "out/a/sr.png") as sr:
        assert sr.size == (38, 34)


def test_json_alone_on_standard_output(tmp_path: Path) -> None:
    image, other = save_png(tmp_path / "a.png"), save_png(tmp_path / "b.png", seed=1)
    words = ("--scale", 2, "--method", "bicubic", "--json", "--output", tmp_path / "out")
    assert json.loads(call("run", image, *words).stdout) == record(tmp_path / "out" / "a")
    both = call("run", image, other, *words[:-1], tmp_path / "both")
    assert [r["image"] for r in json.loads(both.stdout)] == [str(image), str(other)]
    bad = call("run", tmp_path / "gone.png", "--json")
    assert bad.exit_code == 2 and bad.stdout == ""


def test_time_limit_ends_early(tmp_path: Path, clock: Clock) -> None:
    image = save_png(tmp_path / "a.png")
    clock.tick = 0.1
    result = run(image, tmp_path / "out", "--time-limit", 1.5, steps=100_000)
    assert result.exit_code == 0 and "time limit" in result.stderr
    r = record(tmp_path / "out" / "a")
    assert r["stopped"] == "time limit" and 1 < r["steps"] < 15 and 1 < r["seconds"] < 6
    assert sorted(p.name for p in (tmp_path / "out" / "a").iterdir()) == FILES


def test_no_time_at_all_still_makes_a_result(tmp_path: Path) -> None:
    result = run(save_png(tmp_path / "a.png"), tmp_path / "out", "--time-limit", 0, *LIGHT)
    assert result.exit_code == 0
    assert record(tmp_path / "out" / "a")["steps"] == 1 and (tmp_path / "out/a/sr.png").exists()


def test_same_names_in_different_folders(tmp_path: Path) -> None:
    one, two = save_png(tmp_path / "x" / "a.png"), save_png(tmp_path / "y" / "a.png", seed=1)
    three = tmp_path / "x" / "a.bmp"
    Image.open(one).save(three)
    result = call("run", one, two, three, "--scale", 2, "--method", "bicubic", "--output", tmp_path / "out")
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
    result = run(tmp_path / "lr", tmp_path / "out", *truth, *LIGHT, steps=1)
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
    assert (
        "one file cannot be the truth of several pictures; name a folder of such files" in line
        and not (tmp_path / "out").exists()
    )


def test_even_true_kernel_with_the_alignment_named(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    np.save(tmp_path / "k.npy", gaussian_kernel(10, 1.5, 4.5) * 3)
    words = ("--true-kernel", tmp_path / "k.npy", "--alignment", "fkp")
    result = run(image, tmp_path / "out", *words, *LIGHT, steps=1)
    assert result.exit_code == 0 and "summed to 3 and was normalised" in result.stderr
    assert "kernel_psnr" in record(tmp_path / "out" / "a")["metrics"]


def test_a_result_of_other_settings_is_replaced_only_when_asked(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    assert run(image, tmp_path / "out", *LIGHT, steps=1).exit_code == 0
    before = (tmp_path / "out/a/sr.png").read_bytes()
    line = error_line(run(image, tmp_path / "out", "--seed", 1, *LIGHT, steps=2))
    assert "a result of other settings" in line and "--overwrite" in line
    assert (tmp_path / "out/a/sr.png").read_bytes() == before
    again = run(image, tmp_path / "out", "--seed", 1, "--overwrite", *LIGHT, steps=2)
    assert again.exit_code == 0 and "of an earlier run is replaced" in again.stderr
    assert record(tmp_path / "out" / "a")["seed"] == 1
    assert run(image, tmp_path / "out", "--seed", 1, *LIGHT, steps=2).exit_code == 0, (
        "the same settings give the same result"
    )


def test_an_unfinished_run_is_not_thrown_away(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    assert run(image, tmp_path / "out", *LIGHT, steps=1).exit_code == 0
    (tmp_path / "out/a/run.json").unlink()  # as after a kill: a checkpoint, no record
    line = error_line(run(image, tmp_path / "out", *LIGHT, steps=2))
    assert "an unfinished run; --resume goes on with it, --overwrite starts anew" in line
    assert run(image, tmp_path / "out", "--resume", *LIGHT, steps=2).exit_code == 0
    done = run(image, tmp_path / "out", "--resume", *LIGHT, steps=2)
    assert done.exit_code == 0 and "already finished (2 steps)" in done.stderr


def test_parts_named_one_by_one_are_not_recorded_as_another_method(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png", 16, 16)
    assert run(image, tmp_path / "x", "--prior", "none", "--image-prior", "tv", steps=1).exit_code == 0
    assert run(image, tmp_path / "y", "--prior", "none", steps=1).exit_code == 0
    x, y = record(tmp_path / "x" / "a"), record(tmp_path / "y" / "a")
    assert (x["method"], y["method"]) == ("custom", "mlmc-no-mc")
    assert (x["prior"], x["image_prior"], x["optimizer"]) == ("none", "tv", "meta")
    loop = x["estimator"]
    assert loop["prior"] is None and loop["image_prior"]["class"] == "TotalVariation"
    meta = {"class": "MetaLearned", "interval": 3, "weights": None, "reset_each_outer": True}
    assert loop["optimizer"] == meta and "steps" not in loop


def test_leftovers_of_a_killed_run_are_cleared(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    folder = tmp_path / "out" / "a"
    folder.mkdir(parents=True)
    (folder / ".blindsr-abc.pt").write_bytes(b"half a checkpoint")
    assert run(image, tmp_path / "out", *LIGHT, steps=1).exit_code == 0
    assert sorted(p.name for p in folder.iterdir()) == FILES


def test_table_of_methods() -> None:
    result = call("methods")
    assert result.exit_code == 0
    rows = [line.split()[0] for line in result.stdout.splitlines() if line]
    assert sorted(name for name in rows if name in METHODS) == sorted(METHODS)
    for word in ("motion", "joint", "tikhonov", "iid", "my_file.py:MyPart"):
        assert word in result.stdout


def test_demo_of_an_unknown_method(tmp_path: Path) -> None:
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
    program = [sys.executable, "-m", "blindsr", "evaluate", str(tmp_path / "no such.png"), "x.png"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"blindsr: {tmp_path / 'no such.png'}: no such file\n"
