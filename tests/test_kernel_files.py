from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from helpers import gaussian_kernel
from PIL import Image

from blindsr.errors import UserError
from blindsr.io.kernels import check_kernel, read_kernel, write_kernel
from blindsr.operators.kernels import center_of_mass

K = gaussian_kernel(11, 1.7, 4.5)


def values(path: Path, scale: int | None = None) -> np.ndarray:
    return read_kernel(path, scale=scale).kernel[0, 0].double().numpy()


def store(path: Path, a: np.ndarray) -> Path:
    match path.suffix:
        case ".npy":
            np.save(path, a)
        case ".mat":
            scipy.io.savemat(path, {"Kernel": a})
        case ".txt":
            np.savetxt(path, a)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".mat", ".txt"])
def test_exact_formats(tmp_path: Path, suffix: str) -> None:
    loaded = read_kernel(store(tmp_path / f"k{suffix}", K))
    assert loaded.kernel.shape == (1, 1, 11, 11) and loaded.notes == ()
    assert np.allclose(loaded.kernel[0, 0].numpy(), K, atol=1e-7)


def test_comma_separated_text(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "k.txt", K, delimiter=",")
    assert np.allclose(values(tmp_path / "k.txt"), K, atol=1e-7)


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_picture_of_a_kernel(tmp_path: Path, mode: str) -> None:
    peak = 65535 if mode == "I;16" else 255
    a = np.round(K / K.max() * peak)
    image = Image.fromarray(a.astype(np.uint16 if mode == "I;16" else np.uint8))
    (image.convert("RGB") if mode == "RGB" else image).save(tmp_path / "k.png")
    loaded = read_kernel(tmp_path / "k.png")
    assert loaded.notes == ()  # a picture's sum means nothing
    assert np.allclose(loaded.kernel[0, 0].numpy(), a / a.sum(), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int16, ">f8"])
def test_number_types(tmp_path: Path, dtype: str) -> None:
    a = np.round(K * 1000).astype(dtype)
    np.save(tmp_path / "k.npy", a)
    assert np.allclose(values(tmp_path / "k.npy"), a.astype(float) / a.astype(float).sum(), atol=1e-7)


@pytest.mark.parametrize("key", ["Kernel", "kernel", "k", "K", "PSF", "blur_kernel", "H", "anything"])
def test_keys_of_mat_files(tmp_path: Path, key: str) -> None:
    scipy.io.savemat(tmp_path / "k.mat", {key: K, "note": "text"})
    assert np.allclose(values(tmp_path / "k.mat"), K, atol=1e-7)


def test_mat_file_of_several_arrays(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "named.mat", {"x": np.ones((5, 5)), "f": K, "sigma": 2.0})
    assert np.allclose(values(tmp_path / "named.mat"), K, atol=1e-7)
    scipy.io.savemat(tmp_path / "table.mat", {"sigma": 2.0, "mine": K, "steps": np.arange(5.0)})
    assert np.allclose(values(tmp_path / "table.mat"), K, atol=1e-7)
    scipy.io.savemat(tmp_path / "two.mat", {"one": K, "other": K})
    with pytest.raises(UserError, match="no kernel found .holds one, other.; name it Kernel"):
        values(tmp_path / "two.mat")
    scipy.io.savemat(tmp_path / "cell.mat", {"kernels": np.array([K, K[:9, :9]], dtype=object)})
    with pytest.raises(UserError, match="no kernel found"):
        values(tmp_path / "cell.mat")


@pytest.mark.parametrize("factor", [0.5, 1.01, 255.0])
def test_sum_is_mended_with_a_note(tmp_path: Path, factor: float) -> None:
    loaded = read_kernel(store(tmp_path / "k.npy", K * factor))
    assert len(loaded.notes) == 1 and "was normalised" in loaded.notes[0] and f"{factor:.4g}" in loaded.notes[0]
    assert float(loaded.kernel.sum()) == pytest.approx(1, abs=1e-6)


def test_rounding_needs_no_note(tmp_path: Path) -> None:
    dirty = K * (1 + 1e-5)
    dirty[0, 0] = -1e-6
    loaded = read_kernel(store(tmp_path / "k.npy", dirty))
    assert loaded.notes == () and float(loaded.kernel.min()) == 0


def test_axes_of_length_one_are_dropped(tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", K[None, :, :, None])
    assert values(tmp_path / "k.npy").shape == (11, 11)
    np.save(tmp_path / "one.npy", np.array([[2.0]]))
    assert values(tmp_path / "one.npy").tolist() == [[1.0]]


BAD = {
    "three axes": (np.ones((3, 5, 5)) / 75, "two axes"),
    "not square": (np.ones((5, 7)) / 35, "5x7; a square is needed"),
    "even": (np.ones((4, 4)) / 16, "for an even size, name the --alignment"),
    "too large": (np.ones((131, 131)), "at most 129x129"),
    "nan": (np.where(np.eye(5) > 0, np.nan, 1), "NaN or infinite"),
    "infinite": (np.where(np.eye(5) > 0, np.inf, 1), "NaN or infinite"),
    "negative": (np.eye(5) - 0.1, "negative values .down to -0.1"),
    "zero": (np.zeros((5, 5)), "all zero"),
    "empty": (np.zeros((0, 5)), "is empty"),
    "no numbers": (np.array([["a", "b"]]), "no array of real numbers"),
    "complex": (np.ones((3, 3)) * 1j, "no array of real numbers"),
    "overflow": (np.full((3, 3), 1e308), "too large"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore:overflow")
def test_bad_values(tmp_path: Path, kind: str) -> None:
    a, message = BAD[kind]
    np.save(tmp_path / "k.npy", a)
    with pytest.raises(UserError, match=message) as caught:
        values(tmp_path / "k.npy")
    assert str(caught.value).startswith(str(tmp_path / "k.npy"))


def broken_files(folder: Path) -> dict[str, Path]:
    files = {name: folder / name for name in ("gone.npy", "k.jpg", "text.npy", "text.mat", "text.txt", "text.png")}
    for path in files.values():
        if path.stem != "gone":
            path.write_text("this is no kernel")
    (folder / "empty.txt").touch()
    (folder / "empty.npy").touch()
    (folder / "empty.mat").touch()
    (folder / "binary.txt").write_bytes(bytes(range(128, 256)))
    (folder / "ragged.txt").write_text("1 2\n3\n")
    (folder / "folder.npy").mkdir()
    np.save(folder / "object.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    with (folder / "archive.npy").open("wb") as file:
        np.savez(file, K=K)
    header = b"\x93NUMPY\x01\x00"
    shape = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000, 10000000), }\n"
    (folder / "huge.npy").write_bytes(header + len(shape).to_bytes(2, "little") + shape)
    names = ("empty.txt", "empty.npy", "empty.mat", "binary.txt", "ragged.txt", "folder.npy", "object.npy")
    return files | {name: folder / name for name in (*names, "archive.npy", "huge.npy")}


def test_broken_files(tmp_path: Path) -> None:
    for name, path in broken_files(tmp_path).items():
        with pytest.raises(UserError) as caught:
            read_kernel(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value), name


@pytest.mark.parametrize("suffix", [".npy", ".mat"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    data = store(tmp_path / f"k{suffix}", K).read_bytes()
    path = tmp_path / f"cut{suffix}"
    for n in range(1, len(data), max(1, len(data) // 150)):
        path.write_bytes(data[:n])
        with pytest.raises(UserError):
            read_kernel(path)


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 4.0), (1.0, 5.0)])
def test_even_size_is_padded_to_the_nominal_centre(tmp_path: Path, shift: float, expected: float) -> None:
    # scale 4, size 12 made 13: the nominal centre is 4.5; of the two places for it, the nearer one is taken
    k = gaussian_kernel(12, 1.2, 4.0 + shift)
    loaded = values(store(tmp_path / "k.npy", k), scale=4)
    assert loaded.shape == (13, 13)
    got = center_of_mass(torch.from_numpy(loaded)[None, None])[0]
    assert torch.allclose(got, torch.full((2,), expected, dtype=torch.float64), atol=0.01)
    early = values(store(tmp_path / "k.npy", gaussian_kernel(12, 1.2, 3.4)), scale=4)
    assert float(center_of_mass(torch.from_numpy(early)[None, None])[0, 0]) == pytest.approx(4.4, abs=0.02)


def test_written_kernels_read_back(tmp_path: Path) -> None:
    k = torch.from_numpy(K).float()[None, None]
    write_kernel(tmp_path, k, "fkp")
    assert np.array_equal(values(tmp_path / "kernel.npy"), values(tmp_path / "kernel.mat"))
    assert np.allclose(values(tmp_path / "kernel.npy"), K, atol=1e-7)
    content = scipy.io.loadmat(tmp_path / "kernel.mat")
    assert content["Kernel"].shape == (11, 11) and content["alignment"] == ["fkp"]
    assert content["operation"] == ["correlation"]
    with Image.open(tmp_path / "kernel.png") as image:
        assert image.size == (253, 253) and image.getextrema() == (round(K.min() / K.max() * 255), 255)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kernel.mat", "kernel.npy", "kernel.png"]


def test_check_kernel_names_its_source() -> None:
    with pytest.raises(UserError, match="^my kernel: "):
        check_kernel(np.zeros((2, 3, 4)), "my kernel")
