"""Pictures in and out: any usual format, 8 or 16 bits, grey or colour, alpha, EXIF rotation, ICC profile."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from blindsr.errors import UserError
from blindsr.io.files import atomic_path

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
MAX_PIXELS = 50_000_000
"""Larger pictures are refused before their pixels are decoded."""
MIN_SIDE = 16


@dataclass(frozen=True)
class Picture:
    """A picture as the solver takes it, and what is needed to write one like it.

    Attributes
    ----------
    pixels : Tensor
        (1, C, H, W), C = 1 or 3, values 0..1.
    alpha : Tensor or None
        (1, 1, H, W), 0..1.
    bits : int
        8 or 16.
    icc : bytes or None
        Colour profile.
    notes : tuple of str
        What was changed on reading and the user should know.
    """

    pixels: Tensor
    alpha: Tensor | None = None
    bits: int = 8
    icc: bytes | None = None
    notes: tuple[str, ...] = ()


def read_image(path: Path, *, min_side: int = 1) -> Picture:
    """Read a picture.

    Parameters
    ----------
    path : Path
        PNG, JPEG, TIFF, BMP or WebP.
    min_side : int
        Smallest height and width that is accepted.

    Raises
    ------
    UserError
        If the file is missing, empty, truncated, no picture, too large or too small, or holds NaN or infinite values.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.is_dir():
        raise UserError(f"{path}: is a folder, a picture is needed")
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty")
        picture = _read(path)
    except OSError as error:
        reason = error.strerror or "truncated or damaged picture"
        raise UserError(f"{path}: cannot be read ({reason})") from error
    h, w = picture.pixels.shape[-2:]
    if min(h, w) < min_side:
        raise UserError(f"{path}: {w}x{h} pixels is too small; at least {min_side}x{min_side} is needed")
    return picture


def _read(path: Path) -> Picture:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(path)
    except UnidentifiedImageError as error:
        if path.suffix.lower() in (".tif", ".tiff"):
            return _read_tiff(path, None)
        raise UserError(f"{path}: not a picture (PNG, JPEG, TIFF, BMP and WebP can be read)") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: too large; at most {MAX_PIXELS // 10**6} million pixels") from error
    with image:
        w, h = image.size
        if w * h > MAX_PIXELS:
            raise UserError(f"{path}: {w}x{h} pixels is too large; at most {MAX_PIXELS // 10**6} million pixels")
        icc = image.info.get("icc_profile")
        if image.format == "TIFF":
            return _read_tiff(path, image)
        try:
            if image.format == "PNG" and _png_bit_depth(path) == 16:
                return _read_png16(path, icc)
            return _from_pillow(image, icc)
        except (SyntaxError, ValueError, zlib.error, EOFError, struct.error) as error:
            raise UserError(f"{path}: truncated or damaged picture") from error


def _png_bit_depth(path: Path) -> int:
    with path.open("rb") as file:
        return file.read(25)[24]


def _from_pillow(image: Image.Image, icc: bytes | None) -> Picture:
    notes: list[str] = []
    if getattr(image, "n_frames", 1) > 1:
        notes.append("several frames: the first is used")
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    elif image.mode in ("RGB", "L") and "transparency" in image.info:
        image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        notes.append(f"{image.mode} pixels turned into RGB; their colour profile is dropped")
        image, icc = image.convert("RGB"), None
    return _picture(np.asarray(image), 8, icc, notes)


def _picture(a: NDArray[Any], bits: int, icc: bytes | None, notes: list[str]) -> Picture:
    """Make a Picture of an integer or float array (H, W) or (H, W, channels)."""
    a = a[..., None] if a.ndim == 2 else a
    top = float(np.iinfo(a.dtype).max) if a.dtype.kind == "u" else 1.0
    x = torch.from_numpy(np.ascontiguousarray(a).astype(np.float32) / np.float32(top)).permute(2, 0, 1).unsqueeze(0)
    x = x.contiguous()
    c = x.shape[1]
    if c not in (1, 2, 3, 4):
        raise UserError(f"a picture of {c} channels: grey or RGB, with or without alpha, is needed")
    if c in (2, 4):
        return Picture(x[:, :-1].contiguous(), x[:, -1:].contiguous(), bits, icc, tuple(notes))
    return Picture(x, None, bits, icc, tuple(notes))


def _read_png16(path: Path, icc: bytes | None) -> Picture:
    """Read a 16-bit PNG, which Pillow would cut to 8 bits where it has colour."""
    import png

    try:
        with path.open("rb") as file:
            w, h, rows, info = png.Reader(file=file).read()
            a = np.vstack([np.frombuffer(row, dtype=np.uint16) for row in rows]).reshape(h, w, info["planes"])
    except (png.Error, ValueError) as error:
        raise UserError(f"{path}: truncated or damaged picture") from error
    return _picture(a, 16, icc, [])


def _read_tiff(path: Path, image: Image.Image | None) -> Picture:
    """Read a TIFF: Pillow for 8 bits, tifffile for 16 bits and floating point."""
    import tifffile

    icc = image.info.get("icc_profile") if image is not None else None
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            plain = page.dtype == np.uint8 and image is not None
            if plain and image is not None:
                return _from_pillow(image, icc)
            if np.prod(page.shape) > 4 * MAX_PIXELS:
                raise UserError(f"{path}: too large; at most {MAX_PIXELS // 10**6} million pixels")
            a = page.asarray()
            if page.planarconfig == 2 and a.ndim == 3:
                a = np.moveaxis(a, 0, -1)
            turn = page.tags.get("Orientation")
    except UserError:
        raise
    except Exception as error:  # tifffile raises many kinds on damaged files
        raise UserError(f"{path}: truncated, damaged or unsupported TIFF") from error
    a = _oriented(a, int(turn.value) if turn is not None else 1)
    if a.dtype.kind == "f":
        if not np.isfinite(a).all():
            raise UserError(f"{path}: holds NaN or infinite pixels; replace them first")
        if a.min() < 0 or a.max() > 1:
            raise UserError(f"{path}: floating-point pixels of {a.min():g}..{a.max():g}; scale them to 0..1 first")
        return _picture(a.astype(np.float32), 16, icc, [])
    if a.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path}: pixels of type {a.dtype}; 8 or 16 bits or floating point are needed")
    return _picture(a, 16 if a.dtype == np.uint16 else 8, icc, [])


def _oriented(a: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn pixels upright by EXIF orientation 1..8."""
    if orientation in (5, 6, 7, 8):
        a = np.swapaxes(a, 0, 1)
    if orientation in (2, 3, 6, 7):
        a = a[:, ::-1]
    if orientation in (3, 4, 7, 8):
        a = a[::-1]
    return a


def to_array(picture: Picture) -> NDArray[Any]:
    """Return the pixels, alpha last, as (H, W, channels) of 8 or 16 bits."""
    x = picture.pixels if picture.alpha is None else torch.cat([picture.pixels, picture.alpha], dim=1)
    top = 2**picture.bits - 1
    a: NDArray[np.float64] = (x[0].double().clamp(0, 1) * top).round().permute(1, 2, 0).numpy()
    return a.astype(np.uint16 if picture.bits == 16 else np.uint8)


def write_png(path: Path, picture: Picture) -> None:
    """Write a PNG of 8 or 16 bits, with alpha and colour profile, whole or not at all.

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
