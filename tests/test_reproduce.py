"""The paper's tables and figures: every file reads, what is missing is named, each kind comes out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_helpers import pictures, results
from helpers import call, error_line
from PIL import Image

from blindsr.bench import paper
from blindsr.bench.comparison import detailed_square
from blindsr.bench.dataset import SAMPLES, DataSet
from blindsr.bench.row import Row
from blindsr.bench.toml_table import read_toml
from blindsr.methods.table import METHODS

TABLES = [f"table{n}" for n in range(1, 9)]
FIGURES = [f"figure{n}" for n in range(2, 10)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write every data set of the paper, of one or two small pictures each."""
    tmp_path = tmp_path_factory.mktemp("paper")
    for name in ("Set14", "BSD100", "Urban100", "RealSRSet"):
        pictures(tmp_path / "DATA" / name, ("x",), side=40)
    pictures(tmp_path / "DATA" / "Set5", ("butterfly", "woman"), side=260)
    pictures(tmp_path / "DATA" / "Urban100", ("x", "z"), side=40)
    pictures(tmp_path / "DATA" / "real", ("y",), side=60)
    return tmp_path / "DATA"


def test_every_table_and_figure_is_there() -> None:
    assert paper.names() == sorted(TABLES + FIGURES)


@pytest.mark.parametrize("name", TABLES + FIGURES)
def test_every_file_reads_and_names_what_is_missing(name: str, data: Path) -> None:
    for quick in (False, True):
        check_paper(name, quick, data)


def check_paper(name: str, quick: bool, data: Path) -> None:
    lines: list[str] = []
    found = paper.read_paper(name, data, quick=quick, images=None, say=lines.append)
    assert found.kind in paper.KINDS and len(found.shows) > 20
    assert all("skipped, " in line for line in lines)
    assert all(row.method in METHODS for row in found.rows)
    assert all(
        row.steps is not None and row.preset == "fast" for row in found.rows if quick and found.kind != "kernels"
    )
    if found.kind != "kernels":
        tasks = found.tasks()  # all settings go together, no two rows are the same
        assert tasks and (not quick or len(tasks) <= 40)


def test_the_tables_hold_the_paper_s_rows_and_sets() -> None:
    def read(name: str) -> tuple[list[str], list[str], dict[str, Any]]:
        table = read_toml(paper.FOLDER / f"{name}.toml")
        return [row["label"] for row in table["rows"]], [data["folder"] for data in table["data"]], table

    labels, sets, table = read("table1")
    assert labels[:8] == ["Bicubic", "PAM", "DIP", "KernelGAN+ZSSR", "Double-DIP", "FKP-DIP", "BSRDM", "MLMC"]
    assert sets == ["Set5", "Set14", "BSD100", "Urban100"] and table["scales"] == [2, 3, 4]
    labels, _, table = read("table2")
    assert {"BSRGAN", "RCAN", "KDSR", "UDKE", "DASR", "KXNet", "KULNet", "MANet+USRNet", "MLMC+USRNet"} <= set(labels)
    assert table["scales"] == [4]
    assert [d["noise"] for d in read("table4")[2]["degradations"]] == [0.0392, 0.0784]
    _, sets, table = read("table5")
    assert sets == ["Set14", "BSD100"] and [d["kernel"] for d in table["degradations"]] == ["motion"]
    assert read("table7")[0] == ["none", "hyper-Laplacian", "Tikhonov", "TV"]


def test_missing_methods_weights_and_sets_are_named(tmp_path: Path) -> None:
    assert Row("nothing", "A").missing() == "A: skipped, there is no method nothing (`blindsr methods` lists them)"
    needs = Row("fast-map", "B", restorer="usrnet", weights="w.pth", needs="put it there").missing()
    assert needs == "B: skipped, no file w.pth; put it there"
    assert Row("fast-map", "C", restorer="usrnet").missing() == "C: skipped, no weights are named"
    assert Row("fast-map", "D", restorer="m.onnx").missing() == "D: skipped, no file m.onnx"
    assert Row("fast-map", "E", restorer="a/own.py:f").missing() == "E: skipped, no file a/own.py"
    assert Row("fast-map", "F", restorer="magic").missing() == "F: skipped, there is no restorer magic"
    assert Row("fast-map", "G", restorer="map").missing() is None
    assert DataSet(SAMPLES, "S").missing() is None
    empty = tmp_path / "S"
    line = f"data set S: skipped, not found; put its HR images into {empty}"
    assert DataSet(str(empty), "S").missing() == line


def test_what_cannot_be_reproduced_is_one_line(tmp_path: Path, data: Path) -> None:
    line = error_line(call("reproduce", "table9", "--out", tmp_path / "out"))
    assert "reproduce table9: unknown; choose figure2, " in line
    assert "no such folder" in error_line(call("reproduce", "table1", "--data", tmp_path / "gone"))
    (tmp_path / "nothing").mkdir()
    result = call("reproduce", "table5", "--data", tmp_path / "nothing", "--out", tmp_path / "out")
    lines = result.stderr.splitlines()
    assert result.exit_code == 2 and lines[-1].startswith("blindsr: reproduce table5: no data set of it is there")
    assert f"data set Set14: skipped, not found; put its HR images into {tmp_path / 'nothing' / 'Set14'}" in lines
    assert not (tmp_path / "out").exists()


def test_quick_takes_the_sample_photos_where_there_is_no_set5(tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / "nothing").mkdir()
    bench = paper.read_paper("table6", tmp_path / "nothing", quick=True, images=None, say=lines.append)
    assert [(d.folder, d.crop, d.first) for d in bench.data] == [(SAMPLES, 96, 2)]
    assert any(line.endswith("the sample photos of scikit-image are taken instead") for line in lines)


def test_pictures_can_be_named(data: Path) -> None:
    found = paper.read_paper("figure5", data, quick=False, images=("z",), say=lambda line: None)
    assert [(d.name, d.images) for d in found.data] == [("Urban100", ("z",))]


@pytest.mark.parametrize("name", ["figure3", "figure7"])
def test_draws_from_a_prior(tmp_path: Path, name: str) -> None:
    result = call("reproduce", name, "--out", tmp_path)
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / name / name}.png\n"
    with Image.open(tmp_path / name / f"{name}.png") as image:
        assert min(image.size) > 300 and np.asarray(image.convert("L")).std() > 5


def test_detailed_square_finds_the_detail() -> None:
    image = np.full((60, 80, 3), 0.5)
    image[30:40, 50:60] = np.random.default_rng(0).random((10, 10, 3))
    top, left = detailed_square(image, 16)
    assert 24 <= top <= 30 and 44 <= left <= 50
    assert detailed_square(image, 200) == (0, 0)


HEAD = 'title = "mine"\nshows = "a small one, for the test"\nscales = [2]\noracle = "none"\n'
ROWS = "".join(
    f'[[rows]]\nlabel = "{label}"\nmethod = "mlmc"\npreset = "fast"\nsteps = 5\n{more}\n'
    for label, more in (("one", "n_kernels = 2"), ("two", "n_kernels = 4"), ("three", "meta_interval = 2"))
)
SETS = '[[data]]\nfolder = "a"\n[[data]]\nfolder = "b"\ntruth = false\n'


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sets", "crops", "sweep", "convergence"])
def test_every_kind_comes_out(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        pictures(tmp_path / "DATA" / name, (name,), side=34)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "mine.toml").write_text(f'kind = "{kind}"\n' + HEAD + SETS + ROWS)
    monkeypatch.setattr(paper, "FOLDER", tmp_path / "tables")
    result = call("reproduce", "mine", "--data", tmp_path / "DATA", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "out" / "mine"
    if kind == "sets":
        head = result.stdout.splitlines()[0]
        assert head == "| method | scale | a: PSNR / SSIM / kernel PSNR | b: PSNR / SSIM / kernel PSNR |"
        psnr = next(r["psnr"] for r in results(folder) if r["data"] == "a")
        assert f"| one | x2 | {psnr:.2f} / " in result.stdout
        assert (folder / "mine.md").read_text().endswith(result.stdout)
        return
    with Image.open(folder / "mine.png") as image:
        assert min(image.size) > 200 and np.asarray(image.convert("L")).std() > 5
