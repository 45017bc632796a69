"""Reading and writing kernels: .npy, .mat, .png and .txt, checked when they are read."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blindsr.errors import UserError, check_file
from blindsr.io.files import as_path, atomic_path
from blindsr.io.images import read_image

MAT_KEYS = ("kernel", "k", "psf", "blur_kernel", "blurkernel", "blur", "ker", "h", "f")
"""Names of a kernel in a .mat file, likeliest first, in any case."""
KERNEL_SUFFIXES = (".npy", ".mat", ".txt", ".png")
MAX_SIZE = 129
NEGATIVE = 1e-3
"""A kernel value below minus this share of the largest value is an error; above it, it counts as rounding."""
SUM_TOLERANCE = 1e-3


class LoadedKernel(NamedTuple):
    """A kernel (1, 1, K, K), and what had to be changed when it was read."""

    kernel: Tensor
    notes: tuple[str, ...]


def read_kernel(path: str | os.PathLike[str], *, scale: int | None = None) -> LoadedKernel:
    """Read a kernel and check it: 2-D, square, of odd size, finite, non-negative up to rounding; make its sum one.

    Parameters
    ----------
    path : str or Path
        .npy, .mat, .png or .txt.
    scale : int, optional
        If given, the alignment is known, and a kernel of even size gets a row and a column of zeros, on the side that
        brings its centre of mass nearest to the nominal (K - s)/2.

    Raises
    ------
    UserError
        If the file cannot be read or the kernel fails a check.
    """
    path = as_path(path)
    try:
        check_file(path, "a kernel file")
        a, exact = _read(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or 'damaged file'})") from error
    return check_kernel(a, str(path), exact=exact, scale=scale)


def _read(path: Path) -> tuple[NDArray[np.float64], bool]:
    """Return the values of a kernel file, and whether their sum has a meaning (that of a picture has none)."""
    match path.suffix.lower():
        case ".npy":
            try:
                a = np.load(path, allow_pickle=False)
            except OSError:
                raise
            except Exception as error:  # damaged files make NumPy raise many kinds
                raise UserError(f"{path}: not a plain NumPy array, or damaged") from error
        case ".mat":
            a = _read_mat(path)
        case ".txt":
            try:
                with warnings.catch_warnings(action="ignore"):
                    a = np.loadtxt(path, delimiter="," if "," in path.read_text() else None, ndmin=2)
            except ValueError as error:
                raise UserError(f"{path}: not a table of numbers") from error
        case ".png":
            return read_image(path).pixels.mean(1)[0].double().numpy(), False
        case _:
            raise UserError(f"{path}: kernels are read from {', '.join(KERNEL_SUFFIXES)}")
    if isinstance(a, np.lib.npyio.NpzFile):
        a.close()
    if not isinstance(a, np.ndarray) or a.dtype.kind not in "fiu":
        raise UserError(f"{path}: holds no array of real numbers")
    return a.astype(np.float64), True


def _read_mat(path: Path) -> NDArray[np.generic]:
    from scipy.io import loadmat

    try:
        with warnings.catch_warnings(action="ignore"):
            content = loadmat(path)
    except OSError:
        raise
    except Exception as error:  # damaged files make SciPy raise many kinds
        raise UserError(
            f"{path}: not a MATLAB file that can be read (damaged, or version 7.3: save it with -v7)"
        ) from error
    arrays = {n: v for n, v in content.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fiu"}
    by_name = {n.lower(): v for n, v in arrays.items()}
    for name in MAT_KEYS:
        if name in by_name:
            return by_name[name]
    tables = arrays if len(arrays) == 1 else {n: v for n, v in arrays.items() if v.ndim == 2 and min(v.shape) > 1}
    if len(tables) == 1:
        return next(iter(tables.values()))
    names = ", ".join(n for n in content if not n.startswith("__")) or "nothing"
    raise UserError(f"{path}: no kernel found (holds {names}); name it Kernel")


def check_kernel(
    values: NDArray[np.float64], where: str, *, exact: bool = True, scale: int | None = None
) -> LoadedKernel:
    """Check a kernel's values (K, K), or with axes of length one before or after, and normalise them.

    Messages call it `where`. With `exact`, a sum away from one deserves a note; for `scale` see `read_kernel`.
    """
    if values.size == 0:
        raise UserError(f"{where}: the kernel is empty")
    a = np.squeeze(values)
    if a.ndim == 0:
        a = a.reshape(1, 1)
    if a.ndim != 2:
        raise UserError(f"{where}: a kernel has two axes, this array has shape {values.shape}")
    if a.shape[0] != a.shape[1]:
        raise UserError(f"{where}: the kernel is {a.shape[0]}x{a.shape[1]}; a square is needed")
    if a.shape[0] % 2 == 0 and scale is None:
        raise UserError(f"{where}: the kernel is {a.shape[0]}x{a.shape[1]}; for an even size, name the --alignment")
    if a.shape[0] > MAX_SIZE:
        raise UserError(f"{where}: the kernel is {a.shape[0]}x{a.shape[1]}; at most {MAX_SIZE}x{MAX_SIZE}")
    if not np.isfinite(a).all():
        raise UserError(f"{where}: the kernel holds NaN or infinite values")
    if a.min() < -NEGATIVE * max(a.max(), 0) or a.max() <= 0:
        raise UserError(f"{where}: the kernel holds negative values (down to {a.min():g}) or is all zero")
    a = np.clip(a, 0, None)
    if a.shape[0] % 2 == 0 and scale is not None:
        a = _pad_even(a, scale)
    total = float(a.sum())
    if total == float("inf"):
        raise UserError(f"{where}: the kernel's values are too large")
    notes = (f"{where}: the kernel summed to {total:.4g} and was normalised",)
    kernel = torch.from_numpy(a / total).float().view(1, 1, *a.shape)
    return LoadedKernel(kernel, notes if exact and abs(total - 1) > SUM_TOLERANCE else ())


def _pad_even(a: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    """Pad a kernel of even size by a row and a column of zeros, so that its centre of mass is nearest to (K - s)/2."""
    nominal = (a.shape[0] + 1 - scale) / 2
    pads = []
    for axis in (0, 1):
        center = float((a.sum(1 - axis) * np.arange(a.shape[axis])).sum() / a.sum())
        pads.append((0, 1) if abs(center - nominal) <= abs(center + 1 - nominal) else (1, 0))
    return np.pad(a, pads)


def write_kernel(folder: Path, kernel: Tensor, alignment: str) -> None:
    """Write kernel.npy, kernel.mat (key `Kernel`) and kernel.png (peak white, enlarged, nearest) into a folder.

    Parameters
    ----------
    folder : Path
        Where to write the files.
    kernel : Tensor
        (1, 1, K, K).
    alignment : str
        Recorded in the .mat file, with the fact that the kernel is applied by correlation.

    Raises
    ------
    UserError
        If a file cannot be written.
    """
    import scipy.io
    from PIL import Image

    a = kernel[0, 0].double().numpy()
    with atomic_path(folder / "kernel.npy") as temporary, temporary.open("wb") as file:
        np.save(file, a)
    with atomic_path(folder / "kernel.mat") as temporary, temporary.open("wb") as file:
        scipy.io.savemat(file, {"Kernel": a, "alignment": alignment, "operation": "correlation"})
    zoom = max(1, 256 // a.shape[0])
    grey = np.round(a / a.max() * 255).astype(np.uint8)
    with atomic_path(folder / "kernel.png") as temporary:
        Image.fromarray(np.kron(grey, np.ones((zoom, zoom), np.uint8))).save(temporary)


def remove_kernel(folder: Path) -> None:
    """Remove the files of `write_kernel` from a folder, if they are there."""
    for suffix in (".npy", ".mat", ".png"):
        (folder / f"kernel{suffix}").unlink(missing_ok=True)
