import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import error_line, run, save_png

from blindsr.errors import UserError
from blindsr.io import checkpoint

SETTINGS = {"scale": 2, "seed": 0, "values": {"rate": 0.1, "levels": [1, 2]}}
STATE = {"x": torch.arange(6.0).view(2, 3), "step": 3, "memory": {"gradients": [torch.ones(2)]}, "none": None}


def test_round_trip(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c.pt", SETTINGS, STATE)
    state = checkpoint.load(tmp_path / "c.pt", SETTINGS)
    assert torch.equal(state["x"], STATE["x"]) and state["step"] == 3 and state["none"] is None
    assert torch.equal(state["memory"]["gradients"][0], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize(
    "other", [{"scale": 3}, {"values": {"rate": 0.2, "levels": [1, 2]}}, {"more": 1}, {"scale": "2"}]
)
def test_other_settings_are_refused_and_named(tmp_path: Path, other: dict[str, Any]) -> None:
    checkpoint.save(tmp_path / "c.pt", SETTINGS, STATE)
    with pytest.raises(UserError, match=f"other settings .{next(iter(other))}: "):
        checkpoint.load(tmp_path / "c.pt", SETTINGS | other)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


def crafted(folder: Path) -> dict[str, Path]:
    marker = folder / "executed"
    bad = {"format": 1, "settings": SETTINGS, "state": {"x": Evil(marker)}}
    with (folder / "plain.pt").open("wb") as file:
        pickle.dump(bad, file)
    torch.save(bad, folder / "zip.pt")
    torch.save(bad, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    return {name: folder / f"{name}.pt" for name in ("plain", "zip", "legacy")}


def test_crafted_pickles_run_nothing(tmp_path: Path) -> None:
    for name, path in crafted(tmp_path).items():
        with pytest.raises(UserError, match="not a blindsr checkpoint"):
            checkpoint.load(path, SETTINGS)
        assert not (tmp_path / "executed").exists(), name
    torch.load(tmp_path / "zip.pt", weights_only=False)  # the trap does work
    assert (tmp_path / "executed").exists()


def test_truncated_and_damaged_files(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c.pt", SETTINGS, STATE)
    data = (tmp_path / "c.pt").read_bytes()
    path = tmp_path / "cut.pt"
    for n in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:n])
        with pytest.raises(UserError):
            checkpoint.load(path, SETTINGS)


@pytest.mark.parametrize(
    "content",
    [
        [1],
        {"format": 0},
        {"format": 1},
        {"format": 1, "settings": SETTINGS},
        {"format": 1, "settings": [], "state": {}},
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(UserError, match="not a (blindsr checkpoint|checkpoint of this version)"):
        checkpoint.load(tmp_path / "c.pt", SETTINGS)


def test_other_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(UserError, match="not a blindsr checkpoint"):
        checkpoint.load(tmp_path / "c.pt", SETTINGS)
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(tmp_path / "gone.pt", SETTINGS)


# on the command line


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    save_png(folder / "a.png")
    assert run(folder / "a.png", folder / "out").exit_code == 0
    return folder


def test_resume_under_other_settings_is_refused(finished: Path) -> None:
    before = contents(finished / "out" / "a")
    for words, name in (
        (("--seed", 1), "seed"),
        (("--method", "mlmc-tv"), "image_prior"),
        (("--alignment", "centered"), "alignment"),
        (("--noise", "0.1"), "noise"),
        (("--padding", "reflect"), "padding"),
        (("--kernel-size", 9), "kernel_size"),
        (("--preset", "balanced"), "preset"),
    ):
        line = error_line(run(finished / "a.png", finished / "out", "--resume", *words))
        assert "made with other settings" in line and f"({name}:" in line
        assert contents(finished / "out" / "a") == before


def test_another_picture_does_not_replace_a_result(finished: Path) -> None:
    save_png(finished / "other" / "a.png", seed=5)
    before = contents(finished / "out" / "a")
    for words in ((), ("--resume",)):
        line = error_line(run(finished / "other" / "a.png", finished / "out", *words))
        assert "another picture" in line and "--output" in line
    assert contents(finished / "out" / "a") == before


@pytest.mark.parametrize("kind", ["plain", "zip", "legacy", "truncated", "empty", "wrong state", "wrong shapes"])
def test_bad_checkpoint_on_the_command_line(finished: Path, tmp_path: Path, kind: str) -> None:
    save_png(tmp_path / "a.png")
    target = tmp_path / "out" / "a" / "checkpoint.pt"
    target.parent.mkdir(parents=True)
    good = finished / "out" / "a" / "checkpoint.pt"
    if kind in ("plain", "zip", "legacy"):
        target.write_bytes(crafted(tmp_path)[kind].read_bytes())
    elif kind == "truncated":
        target.write_bytes(good.read_bytes()[:-1000])
    elif kind == "empty":
        target.touch()
    else:
        content = torch.load(good, weights_only=True)
        state = content["state"]
        if kind == "wrong state":
            state["run"] = {"step": "three"}
        else:
            state["run"]["image"] = {n: v[:0] if v.ndim else v for n, v in state["run"]["image"].items()}
        torch.save(content, target)
    before = target.read_bytes()
    line = error_line(run(tmp_path / "a.png", tmp_path / "out", "--resume"))
    assert "checkpoint.pt" in line and "delete it to start anew" in line
    assert target.read_bytes() == before and not (tmp_path / "executed").exists()
    assert [p.name for p in target.parent.iterdir()] == ["checkpoint.pt"]


def test_resume_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    result = run(save_png(tmp_path / "a.png"), tmp_path / "out", "--resume")
    assert result.exit_code == 0 and "starting anew" in result.stderr
