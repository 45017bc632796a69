"""Reading TIFF: Pillow for 8 bits, tifffile for 16 bits and floating point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blindsr.errors import UserError
from blindsr.io.picture import Picture, from_array, from_pillow, upright

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
PREMULTIPLIED = 1
ORIENTATION, ICC_PROFILE = 274, 34675


def read_tiff(path: Path, image: Image.Image | None, max_pixels: int) -> Picture:
    """Read a TIFF, which Pillow may have opened as `image`; one of more than `max_pixels` is refused.

    Raises UserError if its pixels are of an unsupported kind. Damaged files raise whatever the decoders raise.
    """
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages.first
        if page.dtype in (np.uint8, np.bool_) and image is not None:
            return from_pillow(image, image.info.get("icc_profile"))
        if page.imagewidth * page.imagelength > max_pixels:
            raise UserError(
                f"{path}: {page.imagewidth}x{page.imagelength} pixels is too large; "
                f"at most {max_pixels // 10**6} million pixels"
            )
        _check_kind(path, page)
        try:
            a = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise UserError(
                f"{path}: a TIFF of more than 8 bits with {page.compression.name} compression cannot be read; "
                "save it uncompressed, with ZIP compression, or as PNG (or pip install imagecodecs)"
            ) from error
        notes = ["several frames: the first is used"] if len(tiff.pages) > 1 else []
        tags = {code: page.tags.get(code) for code in (ORIENTATION, ICC_PROFILE)}
        if page.planarconfig == 2 and a.ndim == 3:
            a = np.moveaxis(a, 0, -1)
        a = _values(path, a, page)
    turn, profile = tags[ORIENTATION], tags[ICC_PROFILE]
    a = upright(a, int(turn.value) if turn is not None else 1)
    return from_array(a, 8 if a.dtype == np.uint8 else 16, bytes(profile.value) if profile else None, notes)


def _check_kind(path: Path, page: Any) -> None:
    if page.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
        raise UserError(f"{path}: {page.photometric.name} pixels in a TIFF of this kind; grey or RGB is needed")
    whole = page.dtype in (np.uint8, np.uint16) and page.bitspersample == page.dtype.itemsize * 8
    if not whole and (page.dtype is None or page.dtype.kind != "f"):
        what = page.dtype or "unknown type"
        raise UserError(
            f"{path}: pixels of {page.bitspersample} bits, {what}; 8 or 16 bits or floating point are needed"
        )
    if page.samplesperpixel not in (1, 2, 3, 4):
        raise UserError(f"{path}: {page.samplesperpixel} channels; grey or RGB, with or without alpha, is needed")


def _values(path: Path, a: NDArray[Any], page: Any) -> NDArray[Any]:
    """Return pixels with black at zero and straight alpha; floating-point pixels are checked and become float32."""
    if a.ndim not in (2, 3):
        raise UserError(f"{path}: an array of shape {a.shape}; a picture has two axes and its channels")
    floating = a.dtype.kind == "f"
    if floating:
        if not np.isfinite(a).all():
            raise UserError(f"{path}: holds NaN or infinite pixels; replace them first")
        if a.min() < 0 or a.max() > 1:
            raise UserError(f"{path}: floating-point pixels of {a.min():g}..{a.max():g}; scale them to 0..1 first")
        a = a.astype(np.float32)
    top = 1.0 if floating else float(np.iinfo(a.dtype).max)
    if page.photometric == WHITE_IS_ZERO:
        a = a.copy()
        gray = a[..., 0] if a.ndim == 3 else a
        gray[...] = top - gray
    if page.samplesperpixel in (2, 4) and tuple(page.extrasamples or ())[:1] == (PREMULTIPLIED,):
        alpha = a[..., -1:].astype(np.float64) / top
        color = np.minimum(a[..., :-1] / np.where(alpha > 0, alpha, 1), top)
        a = np.concatenate([color if floating else color.round(), a[..., -1:]], -1).astype(a.dtype)
    return a
