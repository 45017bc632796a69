import errno
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import png
import pytest
import tifffile
from helpers import LIGHT, call, error_line, gaussian_kernel, noise, run, save_png, smooth
from PIL import Image

from blindsr.errors import UserError
from blindsr.io.images import read_image, to_array


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb_png(side: int, bits: int = 8) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, 0, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(bytes(1_000_000), 9))
    return b"\x89PNG\r\n\x1a\n" + header + body + png_chunk(b"IEND", b"")


def bomb_tiff(path: Path, side: int, dtype: type, compression: str | None) -> None:
    """Write a small TIFF, then make it claim to be huge."""
    tifffile.imwrite(path, noise(16, 16, dtype=dtype), photometric="minisblack", compression=compression)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages.first.tags[name].overwrite(side)


def encoded(kind: str, folder: Path) -> bytes:
    a = smooth(24, 28)
    path = folder / f"good.{kind.split()[-1]}"
    match kind:
        case "deep png":
            with path.open("wb") as file:
                deep = noise(24, 28 * 3, dtype=np.uint16)
                png.Writer(28, 24, greyscale=False, bitdepth=16).write(file, deep)
        case "deep tif":
            tifffile.imwrite(path, noise(24, 28, 3, dtype=np.uint16), photometric="rgb")
        case "deep zip tif":
            tifffile.imwrite(path, noise(24, 28, 3, dtype=np.uint16), photometric="rgb", compression="zlib")
        case "lzw tif":
            Image.fromarray(a).save(path, compression="tiff_lzw")
        case _:
            Image.fromarray(a).save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    "kind", ["png", "jpg", "bmp", "webp", "tif", "lzw tif", "deep png", "deep tif", "deep zip tif"]
)
def test_truncated_pictures(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = encoded(kind, tmp_path)
    suffix = kind.split()[-1]
    good = to_array(read_image(tmp_path / f"good.{suffix}"))
    path = tmp_path / f"cut.{suffix}"
    refused = 0
    cuts = sorted({*range(1, len(data), max(1, len(data) // 60)), *range(max(1, len(data) - 12), len(data))})
    for n in cuts:
        path.write_bytes(data[:n])
        try:
            got = to_array(read_image(path))
        except UserError as error:
            refused += 1
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        else:  # only bytes after the pixels were cut off
            assert np.array_equal(got, good), n
    assert refused >= 0.8 * len(cuts)
    assert capfd.readouterr() == ("", "")  # the decoders say nothing of their own


@pytest.mark.parametrize("kind", ["png", "jpg", "deep png", "tif", "deep tif", "webp"])
def test_damaged_pictures(tmp_path: Path, kind: str) -> None:
    data = bytearray(encoded(kind, tmp_path))
    rng = np.random.default_rng(1)
    path = tmp_path / f"hit.{kind.split()[-1]}"
    for _ in range(60):
        hit = bytearray(data)
        for place in rng.integers(0, min(len(data), 400), 4):
            hit[place] = rng.integers(256)
        path.write_bytes(hit)
        try:
            read_image(path)
        except UserError as error:
            assert str(error).startswith(str(path)) and len(str(error).splitlines()) == 1


def unreadable(folder: Path) -> dict[str, tuple[Path, str]]:
    """Make bad pictures: what they are, where, and what the message must say."""

    def file(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    good = encoded("png", folder)
    cases = {
        "missing": (folder / "no such picture.png", "no such file"),
        "name too long": (folder / ("x" * 300 + ".png"), "too long"),
        "empty": (file("empty.png", b""), "empty"),
        "text": (file("text.png", b"this is no picture\n" * 50), "not a picture"),
        "text tiff": (file("text.tif", b"this is no picture\n" * 50), "damaged"),
        "postscript": (file("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EOF\n"), "not a picture"),
        "truncated": (file("cut.png", good[: len(good) // 2]), "damaged"),
        "huge": (file("huge.png", bomb_png(40_000)), "too large; at most 50 million pixels"),
        "huge 16 bit": (file("deep.png", bomb_png(40_000, 16)), "too large"),
        "large": (file("large.png", bomb_png(8_000)), "8000x8000 pixels is too large"),
        "small": (save_png(folder / "small.png", 15, 40), "40x15 pixels is too small; at least 16x16"),
        "folder": (folder / "holds nothing", "holds no picture"),
    }
    (folder / "holds nothing").mkdir()
    for dtype in (np.uint8, np.uint16, np.float32):
        for compression in (None, "zlib"):
            path = folder / f"{np.dtype(dtype).name}-{compression}.tif"
            bomb_tiff(path, 40_000, np.uint8 if dtype is np.float32 else dtype, compression)
            cases[path.stem] = (path, "too large")
    kinds: dict[str, tuple[Any, str, str]] = {
        "nan": (np.full((16, 16), np.nan, np.float32), "minisblack", "NaN or infinite"),
        "infinite": (np.full((16, 16, 3), np.inf, np.float64), "rgb", "NaN or infinite"),
        "out of range": (np.full((16, 16), 2.5, np.float32), "minisblack", "2.5..2.5; scale them to 0..1"),
        "32 bits": (noise(16, 16, dtype=np.uint32), "minisblack", "32 bits"),
        "signed": (np.zeros((16, 16), np.int16), "minisblack", "int16"),
        "five channels": (noise(16, 16, 5, dtype=np.uint16), "minisblack", "5 channels"),
        "cmyk": (noise(16, 16, 4, dtype=np.uint16), "separated", "SEPARATED"),
    }
    for name, (a, photometric, message) in kinds.items():
        planar = "contig" if a.ndim == 3 else None
        tifffile.imwrite(folder / f"{name}.tif", a, photometric=photometric, planarconfig=planar)
        cases[name] = (folder / f"{name}.tif", message)
    return cases


def test_unreadable_pictures_give_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, (path, message) in unreadable(tmp_path).items():
        line = error_line(run(path, tmp_path / "out"))
        assert message in line and path.name in line, (name, line)
        for words in (("degrade", path), ("evaluate", path, path)):
            output = () if words[0] == "evaluate" else ("--output", tmp_path / "out")
            result = call(*words, *output)
            if name != "small":
                assert "is a folder" in error_line(result) if name == "folder" else message in error_line(result)
    assert capfd.readouterr() == ("", "")


def test_compressed_deep_tiff_names_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(16, 16, 3, dtype=np.uint16), photometric="rgb")

    def missing(self: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", missing)
    line = error_line(run(tmp_path / "a.tif", tmp_path / "out"))
    assert "compression cannot be read; save it" in line


@pytest.mark.parametrize("scale", ["0", "5", "-2", "1"])
def test_scale_that_is_none(tmp_path: Path, scale: str) -> None:
    image = save_png(tmp_path / "a.png")
    for words in (("run", image), ("degrade", image), ("evaluate", image, image)):
        assert f"scale {scale} is not supported: choose 2, 3, 4 or 8" in error_line(call(*words, "--scale", scale))


OPTIONS = [
    ("--noise", "-1", "--noise -1: choose iid, patch, none, or a standard deviation"),
    ("--noise", "nan", "--noise nan: choose"),
    ("--noise", "inf", "--noise inf: choose"),
    ("--noise", "loud", "--noise loud: choose"),
    ("--method", "magic", "--method magic: unknown; `blindsr methods` lists them: free-unfolded, free-map, "),
    (
        "--prior",
        "nonsense",
        "--prior nonsense: unknown; choose gaussian, motion, shake, line, disk, mixture, generalized-gaussian, "
        "simplex, flow, flow-motion, spectral, none, or my_file.py:MyPart",
    ),
    ("--optimizer", "sgd", "--optimizer sgd: unknown; choose meta, am, joint, refit, projected, em, image-first, or"),
    ("--image-prior", "nice", "--image-prior nice: unknown; choose hyper-laplacian, tv"),
    ("--preset", "quick", "--preset quick: unknown; choose paper, balanced, fast"),
    ("--device", "abacus", "--device abacus: unknown; choose auto, cpu"),
    ("--kernel-size", "4", "kernel size 4: an odd number"),
    ("--kernel-size", "-3", "kernel size -3: an odd number"),
    ("--kernel-size", "35", "a kernel of 35 pixels is larger than the result (36x32)"),
    ("--kernel-size", "999999", "larger than the result"),
    ("--ground-truth", "gone.png", "gone.png: no such file"),
    ("--true-kernel", "gone.mat", "gone.mat: no such file"),
]


def test_options_of_run(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    for option, value, message in OPTIONS:
        assert message in error_line(run(image, tmp_path / "out", option, value))
        assert not (tmp_path / "out").exists()


def test_usage_errors(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    for option, *value in (
        ("--scale", "x"),
        ("--seed", "-1"),
        ("--iterations", "0"),
        ("--time-limit", "-1"),
        ("--time-limit", "nan"),
        ("--checkpoint-every", "nan"),
        ("--alignment", "left"),
        ("--padding", "9"),
        ("--no-such-option",),
    ):
        result = call("run", image, "--output", tmp_path / "out", option, *value)
        assert result.exit_code == 2 and option in result.stderr and "Traceback" not in result.stderr
        assert not (tmp_path / "out").exists()


def test_truth_that_does_not_fit(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png", 16, 18)
    cases = [
        ("--ground-truth", save_png(tmp_path / "small.png", 31, 36), "36x31 pixels, but the result will have 36x32"),
        ("--ground-truth", save_png(tmp_path / "big.png", 34, 36), "another --scale"),
        ("--true-kernel", tmp_path / "k9.npy", "9x9, the run estimates 11x11; give --kernel-size 9"),
        ("--true-kernel", tmp_path / "k12.npy", "for an even size, name the --alignment"),
    ]
    np.save(tmp_path / "k9.npy", gaussian_kernel(9))
    np.save(tmp_path / "k12.npy", gaussian_kernel(12))
    for option, path, message in cases:
        assert message in error_line(run(image, tmp_path / "out", option, path))
    assert not (tmp_path / "out").exists()


def test_memory_is_checked_before_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blindsr.generators.memory.available_memory", lambda: 2**20)
    line = error_line(run(save_png(tmp_path / "a.png"), tmp_path / "out", "--device", "cpu"))
    assert "a result of 36x32 pixels needs about" in line and "GiB are free" in line


# where results cannot go


def test_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "out" / "a" / "sr.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    line = error_line(run(save_png(tmp_path / "a.png"), tmp_path / "out"))
    assert "holds other files; choose another --output" in line
    assert mine.read_text() == "precious" and [p.name for p in mine.parent.iterdir()] == ["sr.png"]


def test_output_below_a_file(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    before = image.read_bytes()
    assert "cannot be written" in error_line(run(image, image))
    assert "cannot be written" in error_line(call("degrade", image, "--scale", 2, "--output", image))
    assert image.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
def test_output_where_nothing_can_be_made(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    assert "cannot be written" in error_line(run(image, Path("/proc/here")))
    assert "cannot be written" in error_line(call("degrade", image, "--scale", 2, "--output", "/proc/here"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_folder_without_write_permission(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert "cannot be written" in error_line(run(image, closed))
    closed.chmod(0o700)
    assert not list(closed.iterdir())


def test_refused_by_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    image = save_png(tmp_path / "a.png")
    monkeypatch.setattr(Path, "touch", refuse)
    line = error_line(run(image, tmp_path / "out"))
    assert "cannot be written (Permission denied); choose another --output" in line
    monkeypatch.setattr(Path, "stat", refuse)
    assert "Permission denied" in error_line(call("evaluate", image, image))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def full_disk(monkeypatch: pytest.MonkeyPatch, where: str, after: int) -> Callable[[], None]:
    """Make a file operation fail as on a full disk, after so many calls that work."""
    owner: Any = io.BytesIO if where == "?" else os if where in ("fsync", "replace") else Path
    real = getattr(owner, where)
    count = 0

    def fail(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, where, fail)
    return lambda: monkeypatch.setattr(owner, where, real)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["fsync", "replace", "write_bytes"])
def test_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    image = save_png(tmp_path / "a.png")
    assert run(image, tmp_path / "out").exit_code == 0
    before = snapshot(tmp_path / "out")
    mend = full_disk(monkeypatch, where, 0)
    result = run(image, tmp_path / "out", "--seed", 1, "--overwrite")
    assert result.exit_code == 2 and result.stdout == ""
    assert "No space left on device" in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith("blindsr: ") and "checkpoint.pt" in result.stderr.splitlines()[-1]
    assert snapshot(tmp_path / "out") == before
    mend()
    assert run(image, tmp_path / "out", "--resume").exit_code == 0


@pytest.mark.slow
def test_disk_that_fills_up_while_results_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = save_png(tmp_path / "a.png")
    assert run(image, tmp_path / "whole").exit_code == 0
    whole = snapshot(tmp_path / "whole" / "a")
    for after in (1, 3, 6):
        output = tmp_path / f"out {after}"
        mend = full_disk(monkeypatch, "replace", after)
        result = run(image, output)
        assert result.exit_code == 2 and "No space left" in result.stderr.splitlines()[-1], after
        mend()
        left = snapshot(output / "a")
        assert len(left) == after and "run.json" not in left
        for name in set(left) - {"checkpoint.pt", "overview.png", "kernel.mat"}:
            assert left[name] == whole[name]
        assert run(image, output, "--resume").exit_code == 0
        assert snapshot(output / "a").keys() == whole.keys()


def test_real_file_size_limit(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    image = save_png(tmp_path / "a.png")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, old[1]))  # a checkpoint is larger
    try:
        result = run(image, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert result.exit_code == 2 and "checkpoint.pt: cannot be written" in result.stderr.splitlines()[-1]
    assert snapshot(tmp_path / "out") == {}
    assert run(image, tmp_path / "out").exit_code == 0


# several pictures


def test_bad_pictures_among_good_ones(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    save_png(folder / "a.png")
    (folder / "b.png").write_bytes(b"no picture")
    save_png(folder / "c.png")
    result = run(folder, tmp_path / "out", *LIGHT, steps=1)
    assert result.exit_code == 1 and result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("blindsr: ")]
    assert len(errors) == 2 and "b.png: not a picture" in errors[0]
    assert errors[1] == f"blindsr: 1 of 3 pictures failed: {folder / 'b.png'}"
    assert result.stderr.splitlines()[-1] == errors[1]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "c"]
    assert (tmp_path / "out" / "c" / "sr.png").exists()


def test_only_bad_pictures(tmp_path: Path) -> None:
    result = call("run", tmp_path / "x.png", tmp_path / "y.png", "--output", tmp_path / "out")
    assert result.exit_code == 1 and "2 of 2 pictures failed" in result.stderr
    assert not (tmp_path / "out").exists()
