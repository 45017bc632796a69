"""What a bench is made of: words, TOML files, every error line, and the key of a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_helpers import CHEAP, pictures, tasks_of
from helpers import call, error_line, gaussian_kernel, save_png

from blindsr.bench.dataset import DataSet
from blindsr.bench.degrading import Degrading
from blindsr.bench.measure import make_test_image
from blindsr.bench.row import Row
from blindsr.bench.spec import Bench, Options, from_file, from_options
from blindsr.errors import UserError
from blindsr.optimizers.meta import MetaLearned
from blindsr.priors.gaussian import GaussianKernelPrior

SPEC = """
title = "mine"
scales = [2, 4]
seeds = [3, 5]
oracle = "none"
threads = 2

[[data]]
name = "faces"
folder = "hr"
crop = 36
images = ["b"]

[[data]]
folder = "real"
truth = false

[[degradations]]
name = "far out"
variance = [2.5, 4]
noise = 0.02
quantize = "truncate"

[[degradations]]
kernel = "k.npy"

[[rows]]
label = "ours"
method = "fast-map"
restorer = "own.py:restore"

[[rows]]
method = "mlmc"
preset = "fast"
steps = 7
n_kernels = 4
meta_interval = 2
noise = "iid"
time_limit = 60
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import numpy as np

    pictures(tmp_path / "hr", side=70)
    pictures(tmp_path / "real", ("photo",))
    np.save(tmp_path / "k.npy", gaussian_kernel(13, 1.2))
    (tmp_path / "own.py").write_text(CHEAP)
    (tmp_path / "bench.toml").write_text(SPEC)
    return tmp_path


def test_a_file_says_everything(folder: Path) -> None:
    bench = from_file(folder / "bench.toml", Options())
    assert bench.scales == (2, 4) and bench.seeds == (3, 5) and bench.threads == 2 and bench.title == "mine"
    assert bench.data[0] == DataSet(str(folder / "hr"), "faces", 36, ("b",))
    assert bench.data[1] == DataSet(str(folder / "real"), "real", truth=False)
    assert bench.degradations[0] == Degrading("far out", variance=(2.5, 4.0), noise=0.02, quantize="truncate")
    assert bench.degradations[1] == Degrading("k", str(folder / "k.npy"))
    ours, mlmc = bench.rows
    assert (ours.label, ours.restorer) == ("ours", f"{folder / 'own.py'}:restore")
    assert (mlmc.label, mlmc.preset, mlmc.steps, mlmc.time_limit) == ("mlmc", "fast", 7, 60.0)
    tasks = bench.tasks()
    # two seeds, two scales; one HR picture with two degradations, one photo with none; two rows
    assert len(tasks) == 2 * 2 * (2 + 1) * 2
    assert {t.group for t in tasks} == {
        (d, s, g) for s in (2, 4) for d, g in (("faces", "far out"), ("faces", "k"), ("real", "photo"))
    }
    settings = mlmc.settings(Degrading("x").operator(2), 0, "cpu")
    loop = settings.composed.estimator
    assert loop.optimizer == MetaLearned(interval=2) and loop.monte_carlo.n_kernels == 4
    assert settings.steps == 7 and settings.bare


def test_data_sets_of_a_file_are_looked_for_under_data_first(folder: Path, tmp_path: Path) -> None:
    pictures(folder / "elsewhere" / "hr", ("b", "z"))
    bench = from_file(folder / "bench.toml", Options(data=(folder / "elsewhere",)))
    assert bench.data[0].folder == str(folder / "elsewhere" / "hr") and bench.data[1].folder == str(folder / "real")


def test_options_go_before_a_file(folder: Path) -> None:
    said = Options(scales=(3,), seeds=(1,), methods=("double-dip:fast",), degradations=("motion",), steps=2, threads=1)
    bench = from_file(folder / "bench.toml", said)
    assert (bench.scales, bench.seeds, bench.threads) == ((3,), (1,), 1)
    assert bench.rows == (Row("double-dip", "double-dip:fast", "fast", steps=2),)
    assert bench.degradations == (Degrading("motion", "motion"),)
    rows = from_file(folder / "bench.toml", Options(steps=9, preset="paper")).rows
    assert [(r.steps, r.preset) for r in rows] == [(9, "paper")] * 2
    assert rows[0].restorer is not None and rows[0].restorer.endswith("own.py:restore")


def test_words_of_rows_and_degradations() -> None:
    assert Row.parse("mlmc:fast+usrnet") == Row("mlmc", "mlmc:fast+usrnet", "fast", restorer="usrnet")
    assert Row.parse("fast-map+a.py:f").restorer == "a.py:f"
    assert Degrading.of("motion+0.0392") == Degrading("motion+0.0392", "motion", noise=0.0392)
    assert Degrading.of("some/k.mat").kernel == "some/k.mat"
    wide = Degrading.of("wide").source(Degrading.of("wide").operator(4))
    assert isinstance(wide, GaussianKernelPrior)
    theta = wide.sample_theta(500, generator=torch.Generator().manual_seed(0))
    assert 10 <= float(theta[:, :2].min()) < 10.5 and 15.5 < float(theta[:, :2].max()) <= 16  # 2.5 s to 4 s


def test_photos_are_read_on_the_usual_grid(folder: Path) -> None:
    task = from_options(Options(photos=(folder / "real",), methods=("fast-map",), scales=(2,))).tasks()[0]
    assert (task.settings["alignment"], task.settings["padding"], task.degrading) == ("centered", "valid", None)


def test_the_picture_s_number_stays_when_others_are_left_out(folder: Path) -> None:
    every = tasks_of(folder / "hr", seeds=(2,))
    assert [(t.image, t.kernel_seed) for t in every] == [("a", 200), ("b", 201)]
    assert [t.key for t in tasks_of(folder / "hr", seeds=(2,), images=("b",))] == [every[1].key]


CHANGES = {
    "seeds": (1,),
    "scales": (4,),
    "crop": 64,
    "methods": ("fast-map",),
    "degradations": ("gaussian+0.01",),
    "oracle": "bicubic",
    "threads": 2,
    "time_limit": 5.0,
}


def test_every_setting_is_part_of_the_key(folder: Path) -> None:
    def first(**more: object) -> str:
        return tasks_of(folder / "hr", images=("a",), **more)[0].key

    assert first() == first()
    keys = [first(), *(first(**{name: value}) for name, value in CHANGES.items())]
    assert len(set(keys)) == len(keys)


def test_presets_and_steps_are_part_of_the_key_where_steps_are_made(folder: Path) -> None:
    keys = {
        tasks_of(folder / "hr", images=("a",), methods=(word,), steps=steps)[0].key
        for word in ("mlmc:fast", "mlmc:paper")
        for steps in (3, 4)
    }
    assert len(keys) == 4
    words = ("fast-map:fast", "fast-map:balanced")
    assert len({tasks_of(folder / "hr", images=("a",), methods=(w,))[0].key for w in words}) == 1


def test_contents_of_files_are_part_of_the_key_and_names_are_not(folder: Path) -> None:
    def keys(where: Path, own: Path) -> list[str]:
        return [t.key for t in tasks_of(where, methods=(f"fast-map+{own}:restore",), degradations=(str(kernel),))]

    kernel, own = folder / "k.npy", folder / "own.py"
    before = keys(folder / "hr", own)
    (folder / "hr").rename(folder / "moved")
    assert keys(folder / "moved", own) == before
    own.write_text(CHEAP + "\n# changed\n")
    changed = keys(folder / "moved", own)
    assert not set(changed) & set(before)
    pictures(folder / "moved", ("a",), side=80)
    assert [x == y for x, y in zip(keys(folder / "moved", own), changed, strict=True)] == [False, True]


def test_label_and_set_name_are_no_part_of_the_key(folder: Path) -> None:
    bench = from_options(Options(data=(folder / "hr",), methods=("fast-map",), scales=(2,)))
    data, row = bench.data[0], bench.rows[0]
    other = replace(bench, data=(replace(data, name="x"),), rows=(replace(row, label="y", needs="z"),))
    assert [t.key for t in other.tasks()] == [t.key for t in bench.tasks()]
    twice = replace(bench, rows=(row, replace(row, label="again")))
    with pytest.raises(UserError, match="fast-map and again are the same method with the same settings"):
        twice.tasks()


def test_a_picture_in_two_sets_is_run_once_and_counts_in_both(folder: Path, tmp_path: Path) -> None:
    from blindsr.bench.engine import Engine, pending

    pictures(folder / "zoo", ("a",), side=70)
    more = {"methods": ("fast-map",), "scales": (2,), "images": ("a",)}
    tasks = from_options(Options(data=(folder / "hr", folder / "zoo"), **more)).tasks()
    assert [t.data for t in tasks] == ["hr", "zoo"] and tasks[0].key == tasks[1].key
    assert len(pending(tasks, {}, Engine(), tmp_path)) == 1


def test_a_task_can_be_made_from_any_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words = {"methods": ("fast-map+own.py:restore",), "degradations": ("k.npy",), "images": ("a",)}
    task = tasks_of(Path("hr"), **words)[0]
    assert task.row["restorer"] == f"{folder / 'own.py'}:restore" and task.path == str(folder / "hr" / "a.png")
    assert (task.degrading or {})["kernel"] == str(folder / "k.npy") and task.label == "fast-map+own.py:restore"
    assert task.key == tasks_of(folder / "hr", **words | {"methods": (f"fast-map+{folder / 'own.py'}:restore",)})[0].key


def test_a_task_survives_json(folder: Path) -> None:
    import json

    from blindsr.bench.task import Task

    task = tasks_of(folder / "hr", degradations=("wide+0.01",))[0]
    again = Task(**json.loads(json.dumps(task.plain())))
    assert replace(again, degrading=task.degrading) == task
    assert Degrading.made(again.degrading or {}) == Degrading.of("wide+0.01")


FILE_ERRORS = {
    "scales = [": "not TOML",
    "scales = 2": "scales = 2: a list of whole numbers, not empty, is needed",
    "scales = []": "not empty",
    "scales = [5]": "choose among 2, 3, 4 and 8",
    "seeds = [1, 1]": "seeds: 1 appears twice",
    "seeds = [-1]": "seeds: -1",
    "threads = 0": "threads = 0: at least 1",
    "oracle = 3": "oracle = 3: text is needed",
    "methods = ['fast-map']": "methods: unknown; choose data, degradations",
    "[[rows]]\nlabel = 'x'": "[[rows]] 2: method is missing",
    "[[rows]]\nmethod = 'fast-map'\nlabel = 'one'": "rows: one appears twice",
    "[[rows]]\nmethod = 'fast-map'\nprest = 'fast'": "prest: unknown; choose image_prior",
    "[[rows]]\nmethod = 'fast-map'\nsteps = 1.5": "steps = 1.5: a whole number is needed",
    "[[rows]]\nmethod = 'fast-map'\nsteps = true": "steps = True: a whole number is needed",
    "[[rows]]\nmethod = 'fast-map'\ntime_limit = -1": "time_limit = -1",
    "[[rows]]\nmethod = 'nothing'": "row nothing: --method nothing: unknown",
    "[[rows]]\nmethod = 'mlmc'\npreset = 'nothing'": "row mlmc: --preset nothing: unknown",
    "[[rows]]\nmethod = 'double-dip'\nmeta_interval = 2": "goes with the meta optimizer",
    "[[rows]]\nmethod = 'fast-map'\nrestorer = 'gone.pt'": "gone.pt: no such file",
    "[[degradations]]\nname = 'x'\nkernel = 'box'": "degradation x: kernel box: unknown kernel family; choose gaussian",
    "[[degradations]]\nname = 'x'\nvariance = [2, 1]": "two rising numbers above 0",
    "[[degradations]]\nname = 'x'\nkernel = 'motion'\nvariance = [1, 2]": "variance goes with the kernel gaussian",
    "[[degradations]]\nname = 'x'\nnoise = 20": "a standard deviation in units of 0..1",
    "[[degradations]]\nname = 'x'\nnoise = 'much'": "noise = 'much': a number is needed",
    "[[degradations]]\nname = 'x'\nquantize = 'none'": "choose round or truncate",
    "[[degradations]]\nkernel = 'shake'\nkernel_size = 30": "degradation shake-30: kernel_size 30: an odd number",
    "[[degradations]]\nkernel = 'shake'\nkernel_size = 'large'": "kernel_size = 'large': a whole number is needed",
    "[[degradations]]\nkernel = 'gone.mat'": "gone.mat: no such file",
    "degradations = 'gaussian'": "degradations = 'gaussian': an array of tables, [[degradations]], is needed",
    "degradations = ['gaussian']": "[[degradations]]",
    "[[data]]\nname = 'x'": "folder is missing",
    "[[data]]\nname = 'x'\nfolder = 'gone'": "gone: no such folder",
    "[[data]]\nname = 'x'\nfolder = 'hr'\nimages = ['c']": "data set x: has no picture c; choose among a, b",
    "[[data]]\nname = 'x'\nfolder = 'hr'\ntruth = 'yes'": "truth = 'yes': true or false is needed",
    "[[data]]\nname = 'x'\nfolder = 'hr'\ncrop = 8": "crop = 8: at least 16",
}


@pytest.mark.parametrize("text", FILE_ERRORS)
def test_what_is_wrong_in_a_file_is_said_in_one_line(folder: Path, text: str) -> None:
    spec = folder / "bad.toml"
    rest = "\n[[rows]]\nlabel = 'one'\nmethod = 'fast-map'\n"
    rest += "" if "[[data]]" in text else "[[data]]\nname = 'hr'\nfolder = 'hr'\n"
    if "[[" in text:
        spec.write_text(rest + text)
    else:
        spec.write_text(text + "\n" + rest)
    line = error_line(call("bench", spec, "--out", folder / "out"))
    assert FILE_ERRORS[text] in line
    assert not (folder / "out").exists()


OPTION_ERRORS = {
    ("--methods", "fast-map"): "--data: a folder of HR images is needed",
    ("--data", "hr"): "--methods: name at least one",
    ("--data", "gone", "--methods", "fast-map"): "gone: no such folder",
    ("--data", "empty", "--methods", "fast-map"): "this folder holds no picture",
    ("--data", "hr", "--methods", "fast-map", "--scales", "2;4"): "--scales 2;4: a list separated by commas is needed",
    ("--data", "hr", "--methods", "fast-map,,mlmc"): "--methods fast-map,,mlmc: a list separated by commas",
    ("--data", "hr", "--methods", "fast-map+"): "write METHOD, METHOD:PRESET or METHOD+RESTORER",
    ("--data", "hr", "--methods", "mlmc:"): "write METHOD, METHOD:PRESET or METHOD+RESTORER",
    ("--data", "hr", "--methods", "fast-map+none"): "makes its image by a restorer",
    ("--data", "hr", "--methods", "fast-map", "--degradations", "motion+x"): "noise x: a number",
    ("--data", "hr", "--methods", "fast-map", "--crop", "4"): "--crop 4: at least 16",
    ("--data", "hr", "--methods", "fast-map", "--oracle", "magic"): "--restorer magic: unknown",
    ("--data", "hr", "--methods", "fast-map", "--oracle", "usrnet"): "needs --weights FILE",
    ("--data", "hr", "--methods", "fast-map", "--device", "tpu"): "--device tpu: unknown",
    ("--data", "hr", "--methods", "fast-map", "--table", "html"): "--table html: choose md, csv, latex",
    ("--data", "hr", "--methods", "fast-map", "--workers", "2", "--scheduler", "tcp://x:1"): "name one of them",
    ("--data", "hr", "--methods", "fast-map", "--images", "c"): "has no picture c; choose among a, b",
    ("gone.toml",): "gone.toml: no such file",
    ("bench.toml", "--photos", "real"): "--photos",
    ("bench.toml", "--data", "hr", "--data", "real"): "--data: give one folder",
}


@pytest.mark.parametrize("words", OPTION_ERRORS)
def test_what_is_wrong_in_options_is_said_in_one_line(
    folder: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder)
    assert OPTION_ERRORS[words] in error_line(call("bench", *words, "--out", "out"))
    assert not (folder / "out").exists()


def test_two_pictures_of_one_name_are_refused(folder: Path) -> None:
    (folder / "hr" / "a.jpg").write_bytes((folder / "hr" / "a.png").read_bytes())
    with pytest.raises(UserError, match="two pictures in .* are called a; rename one"):
        tasks_of(folder / "hr")


def test_a_file_without_data_takes_the_folder_named(folder: Path) -> None:
    (folder / "rows.toml").write_text("[[rows]]\nmethod = 'fast-map'\n")
    bench = from_file(folder / "rows.toml", Options(data=(folder / "hr",), crop=40))
    assert bench.data == (DataSet(str(folder / "hr"), "hr-40", 40),)
    line = error_line(call("bench", folder / "rows.toml", "--out", folder / "out"))
    assert "names no [[data]]; add them, or give --data DIR" in line


def test_sample_photos_need_no_folder() -> None:
    bench = from_options(Options(data=(Path("scikit-image"),), methods=("fast-map",), crop=64))
    assert [t.image for t in bench.tasks()][:3] == ["astronaut", "camera", "chelsea"]
    assert bench.data[0].name == "scikit-image-64"


def test_the_kernel_size_of_a_family(tmp_path: Path) -> None:
    """The operator and the kernels have it, the key differs, and without it keys are those of older stores."""
    large, usual = (Degrading("shake", "shake", kernel_size=size) for size in (31, 0))
    d = large.operator(2)
    assert d.kernel_size == 31 and large.source(d).kernel_size == 31 and usual.operator(2).kernel_size == 11
    (tmp_path / "hr").mkdir()
    save_png(tmp_path / "hr" / "a.png", 40, 40)
    np.save(tmp_path / "k.npy", gaussian_kernel(9))
    with pytest.raises(UserError, match=r"kernel_size goes with a kernel family; .*k.npy has a size of its own"):
        Degrading("x", str(tmp_path / "k.npy"), kernel_size=9)
    bench = Bench(
        (DataSet(str(tmp_path / "hr"), "d"),),
        (Row("bicubic", "bicubic"),),
        (2,),
        (large, replace(usual, name="usual")),
        oracle="none",
    )
    one, two = bench.tasks()
    old = replace(two, degrading={n: v for n, v in two.degrading.items() if n != "kernel_size"})
    assert one.key != two.key == old.with_key().key
    assert make_test_image(one).kernel.shape == (1, 1, 31, 31)
