"""Reading and writing pictures: usual formats, 8 or 16 bits, grey or colour, alpha, EXIF rotation, ICC profile."""

from __future__ import annotations

import io
import logging
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from blindsr.errors import UserError, check_file
from blindsr.io.files import as_path, atomic_path
from blindsr.io.picture import Picture, channels, from_array, from_pillow, upright
from blindsr.io.tiff import ORIENTATION, read_tiff

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF")
"""Pillow's names of the formats that are opened; others, some of which start programs, are not."""
MAX_PIXELS = 50_000_000
"""Larger pictures are refused before their pixels are decoded."""
MIN_SIDE = 16


def read_image(path: str | os.PathLike[str], *, min_side: int = 1) -> Picture:
    """Read a picture.

    Parameters
    ----------
    path : str or Path
        PNG, JPEG, TIFF, BMP or WebP.
    min_side : int
        Smallest height and width that is accepted.

    Raises
    ------
    UserError
        If the file is missing, empty, truncated, no picture, too large or too small, or holds NaN or infinite values.
    """
    path = as_path(path)
    try:
        check_file(path, "a picture")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty")
        with _quiet():
            picture = _read(path)
    except UserError:
        raise
    except OSError as error:
        reason = error.strerror or "truncated or damaged picture"
        raise UserError(f"{path}: cannot be read ({reason})") from error
    except Exception as error:  # decoders raise many kinds on damaged files
        raise UserError(f"{path}: cannot be read (truncated or damaged picture)") from error
    h, w = picture.pixels.shape[-2:]
    check_size(h, w, f"{path}: ", min_side=min_side)
    return picture


def check_size(h: int, w: int, where: str = "", *, min_side: int = MIN_SIDE) -> None:
    """Raise UserError, its message begun by `where`, unless a picture of h rows and w columns may be taken."""
    if min(h, w) < min_side:
        raise UserError(f"{where}{w}x{h} pixels is too small; at least {min_side}x{min_side} is needed")
    if w * h > MAX_PIXELS:
        raise UserError(f"{where}{w}x{h} pixels is too large; at most {MAX_PIXELS // 10**6} million pixels")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the decoders' own warnings and log lines: what matters is said in one line."""
    logger = logging.getLogger("tifffile")
    old = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.disabled = old


def _read(path: Path) -> Picture:
    try:
        image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        if path.suffix.lower() in (".tif", ".tiff"):
            return read_tiff(path, None, MAX_PIXELS)
        raise UserError(f"{path}: not a picture (PNG, JPEG, TIFF, BMP and WebP can be read), or damaged") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: too large; at most {MAX_PIXELS // 10**6} million pixels") from error
    with image:
        w, h = image.size
        check_size(h, w, f"{path}: ", min_side=0)
        if image.format == "TIFF":
            return read_tiff(path, image, MAX_PIXELS)
        if image.format == "PNG" and _png_bit_depth(path) == 16:
            return _read_png16(path, image)
        return from_pillow(image, image.info.get("icc_profile"))


def _png_bit_depth(path: Path) -> int:
    with path.open("rb") as file:
        return file.read(25)[24]


def _read_png16(path: Path, image: Image.Image) -> Picture:
    """Read a 16-bit PNG, whose colours Pillow would reduce to 8 bits."""
    import png

    with path.open("rb") as file:
        reader = png.Reader(file=file)
        w, h, rows, info = reader.read()
        a = np.vstack([np.frombuffer(row, dtype=np.uint16) for row in rows]).reshape(h, w, info["planes"])
    if reader.trns:  # a colour that means transparent
        key = np.frombuffer(reader.trns, dtype=">u2")
        seen = (a != key).any(-1, keepdims=True)
        a = np.concatenate([a, np.where(seen, np.uint16(65535), np.uint16(0))], -1)
    a = upright(a, image.getexif().get(ORIENTATION, 1))
    return from_array(a, 16, image.info.get("icc_profile"), [])


def to_array(picture: Picture) -> NDArray[Any]:
    """Return the pixels, alpha last, as (H, W, channels) of 8 or 16 bits."""
    top = 2**picture.bits - 1
    a: NDArray[np.float64] = (channels(picture)[0].double().clamp(0, 1) * top).round().permute(1, 2, 0).numpy()
    return a.astype(np.uint16 if picture.bits == 16 else np.uint8)


def write_png(path: Path, picture: Picture) -> None:
    """Write a PNG of 8 or 16 bits atomically, with alpha and colour profile.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    data = _png16(picture) if picture.bits == 16 else _png8(picture)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _png8(picture: Picture) -> bytes:
    a = to_array(picture)
    out = io.BytesIO()
    Image.fromarray(a[..., 0] if a.shape[2] == 1 else a).save(out, format="PNG", icc_profile=picture.icc)
    return out.getvalue()


def _png16(picture: Picture) -> bytes:
    import png

    a = to_array(picture)
    h, w, c = a.shape
    out = io.BytesIO()
    png.Writer(w, h, greyscale=c < 3, alpha=c in (2, 4), bitdepth=16).write(out, a.reshape(h, w * c))
    chunks = list(png.Reader(bytes=out.getvalue()).chunks())
    if picture.icc:
        chunks.insert(1, (b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc)))
    out = io.BytesIO()
    png.write_chunks(out, chunks)
    return out.getvalue()


def find_images(paths: list[Path]) -> list[Path]:
    """Expand folders to the pictures in them, sorted by name; files stay as given.

    Raises
    ------
    UserError
        If a folder holds no picture.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not inside:
            raise UserError(f"{path}: this folder holds no picture ({', '.join(SUFFIXES)})")
        found += inside
    return found
