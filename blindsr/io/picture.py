"""A picture in the form that the estimators take, made of arrays or of Pillow's images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """A picture in the form that the estimators take, and what is needed to write one like it.

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
        What was changed when the picture was read, for the user to know.
    """

    pixels: Tensor
    alpha: Tensor | None = None
    bits: int = 8
    icc: bytes | None = None
    notes: tuple[str, ...] = ()


def from_array(a: NDArray[Any], bits: int, icc: bytes | None, notes: list[str]) -> Picture:
    """Make a picture of an array (H, W) or (H, W, 1 to 4 channels), unsigned integers or floats in 0..1."""
    a = a[..., None] if a.ndim == 2 else a
    top = float(np.iinfo(a.dtype).max) if a.dtype.kind == "u" else 1.0
    x = torch.from_numpy(np.ascontiguousarray(a).astype(np.float32) / np.float32(top)).permute(2, 0, 1).unsqueeze(0)
    return from_tensor(x, bits, icc, notes)


def from_tensor(x: Tensor, bits: int, icc: bytes | None = None, notes: Sequence[str] = ()) -> Picture:
    """Make a picture of a tensor (1, 1 to 4 channels, H, W), float32 in 0..1; of 2 or 4 channels the last is alpha."""
    if x.shape[1] in (2, 4):
        return Picture(x[:, :-1].contiguous(), x[:, -1:].contiguous(), bits, icc, tuple(notes))
    return Picture(x.contiguous(), None, bits, icc, tuple(notes))


def channels(picture: Picture) -> Tensor:
    """Return the pixels, alpha last, as (1, channels, H, W)."""
    return picture.pixels if picture.alpha is None else torch.cat([picture.pixels, picture.alpha], dim=1)


def from_pillow(image: Image.Image, icc: bytes | None) -> Picture:
    """Make an 8-bit picture, turned upright, of an image that Pillow has opened."""
    notes: list[str] = []
    if getattr(image, "n_frames", 1) > 1:
        notes.append("several frames: the first is used")
    image.load()
    image = ImageOps.exif_transpose(image)
    transparent = "transparency" in image.info
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if transparent or image.mode == "PA" else "RGB")
    elif image.mode in ("1", "L"):
        image = image.convert("LA" if transparent else "L")
    elif image.mode == "RGB" and transparent:
        image = image.convert("RGBA")
    elif image.mode in ("RGBa", "La"):  # premultiplied alpha, as in some TIFFs
        image = image.convert(image.mode[:-1] + "A")
    elif image.mode not in ("LA", "RGB", "RGBA"):
        notes.append(f"{image.mode} pixels were converted to RGB, and their colour profile was dropped")
        image, icc = image.convert("RGB"), None
    return from_array(np.asarray(image), 8, icc, notes)


def upright(a: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn pixels upright by EXIF orientation 1..8."""
    if orientation in (5, 6, 7, 8):
        a = np.swapaxes(a, 0, 1)
    if orientation in (2, 3, 6, 7):
        a = a[:, ::-1]
    if orientation in (3, 4, 7, 8):
        a = a[::-1]
    return a
