"""Pictures as users have them: a path, Pillow image, NumPy array or tensor in, the result in the same kind out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from blindsr.errors import UserError
from blindsr.io.files import as_path
from blindsr.io.images import MIN_SIDE, check_size, read_image, to_array
from blindsr.io.picture import Picture, channels, from_array, from_pillow, from_tensor

FLOAT_BITS = 16
"""Depth at which a picture of floating-point values is saved, as one from a floating-point TIFF is."""


@dataclass(frozen=True)
class Given:
    """A user's picture, or batch of pictures."""

    pictures: tuple[Picture, ...]
    """One, or those of a batch."""
    back: Callable[[Picture], Any]
    """Turns a picture into the kind that came in."""
    name: str = "picture"
    """For captions and records."""
    batch: bool = False
    """Whether it was a batch, perhaps of one."""


def given(picture: Any) -> Given:
    """Take a picture of any kind, as `blindsr.super_resolve` does.

    Raises UserError if it is of another kind, or its type, layout, range or size is none of those.
    """
    if isinstance(picture, str | os.PathLike):
        path = as_path(picture)
        return Given((read_image(path, min_side=MIN_SIDE),), to_pillow, path.name)
    if isinstance(picture, Image.Image):
        return _pillow(picture)
    if isinstance(picture, np.ndarray):
        return _array(picture)
    if isinstance(picture, Tensor):
        return _tensor(picture)
    raise UserError(
        f"{type(picture).__name__} is no picture: give a path, a PIL image, a NumPy array (H, W) or (H, W, C), or a "
        "tensor (C, H, W) or (B, C, H, W)"
    )


def to_pillow(picture: Picture) -> Image.Image:
    """Return a Pillow image: L, LA, RGB or RGBA; I;16 where it is grey, without alpha, and of 16 bits.

    Pillow has no other mode of 16 bits: those pictures are rounded to 8.
    """
    a = channels(picture)
    top, dtype = (65535, np.uint16) if picture.bits == 16 and a.shape[1] == 1 else (255, np.uint8)
    values = (a[0].double().clamp(0, 1) * top).round().permute(1, 2, 0).numpy().astype(dtype)
    image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    if picture.icc:
        image.info["icc_profile"] = picture.icc
    return image


def _pillow(image: Image.Image) -> Given:
    w, h = image.size
    check_size(h, w)
    if image.mode == "I":
        raise UserError(
            "a PIL image of mode I (32-bit integers): give image.convert('I;16') for values of 0..65535, or "
            "image.convert('L') for values of 0..255"
        )
    try:
        if image.mode != "F" and not image.mode.startswith("I;16"):
            return Given((from_pillow(image, image.info.get("icc_profile")),), to_pillow)
        a = np.asarray(ImageOps.exif_transpose(image))
    except OSError as error:  # a file that was opened, and is read only now
        raise UserError(f"this PIL image cannot be read: truncated or damaged picture ({error})") from error
    if image.mode == "F":
        _check_range(float(a.min()), float(a.max()), "an image of mode F", "clip them, np.clip(a, 0, 1)")
    picture = from_array(a, 16, image.info.get("icc_profile"), [])
    return Given((picture,), _to_float_pillow if image.mode == "F" else to_pillow)


def _to_float_pillow(picture: Picture) -> Image.Image:
    return Image.fromarray(picture.pixels[0, 0].float().clamp(0, 1).numpy())


def _array(a: NDArray[Any]) -> Given:
    if a.size == 0:
        raise UserError(f"an empty array, of shape {a.shape}: there is no picture in it")
    if isinstance(a, np.ma.MaskedArray):
        raise UserError("a masked array: fill what is masked first, a.filled(0)")
    _check_array_type(a)
    _check_array_layout(a)
    check_size(*a.shape[:2])
    floating = a.dtype.kind == "f"
    if floating:
        _check_range(float(a.min()), float(a.max()), f"an array of {a.dtype}", "clip them, np.clip(a, 0, 1)")
    bits = FLOAT_BITS if floating else 8 * a.dtype.itemsize

    def back(picture: Picture) -> NDArray[Any]:
        made: NDArray[Any] = (
            channels(picture)[0].clamp(0, 1).permute(1, 2, 0).numpy() if floating else to_array(picture)
        )
        made = np.ascontiguousarray(made.astype(a.dtype, copy=False))
        return made[..., 0] if a.ndim == 2 else made

    return Given((from_array(a, bits, None, []),), back)


def _check_array_type(a: NDArray[Any]) -> None:
    """Refuse values that are neither 8 or 16 bits nor floating point."""
    kind, size = a.dtype.kind, a.dtype.itemsize
    if kind == "f" or (kind == "u" and size <= 2):
        return
    if kind == "b":
        raise UserError("an array of bool is no picture; if False is black and True white: 255 * a.astype(np.uint8)")
    if kind == "c":
        raise UserError("an array of complex numbers is no picture: give its real part, a.real, scaled to 0..1")
    if kind not in "iu":
        raise UserError(f"an array of {a.dtype} is no picture: uint8, uint16, or floating point of 0..1 is needed")
    low, high = int(a.min()), int(a.max())
    if low < 0 or high > 65535:
        raise UserError(f"an array of {a.dtype} with values of {low}..{high}: scale it to floating point of 0..1")
    fitting = "uint8" if high <= 255 else "uint16"
    raise UserError(
        f"an array of {a.dtype} with values of {low}..{high}: convert to {fitting}, a.astype(np.{fitting}), so that it "
        "is known which value is white"
    )


def _check_array_layout(a: NDArray[Any]) -> None:
    """Refuse what is not (H, W) or (H, W, C), C = 1 to 4."""
    if a.ndim == 2 or (a.ndim == 3 and a.shape[2] <= 4):
        return
    if a.ndim == 3 and a.shape[0] <= 4:
        raise UserError(f"an array of shape {a.shape} has its channels first: give (H, W, C), np.moveaxis(a, 0, -1)")
    if a.ndim == 4:
        raise UserError(
            f"an array of shape {a.shape}: give one picture (H, W, C) at a time, or a batch as a tensor (B, C, H, W)"
        )
    raise UserError(f"an array of shape {a.shape}: (H, W) or (H, W, C) with 1 to 4 channels is needed")


def _tensor(t: Tensor) -> Given:
    if t.numel() == 0:
        raise UserError(f"an empty tensor, of shape {tuple(t.shape)}: there is no picture in it")
    if not t.is_floating_point():
        conversions = {torch.bool: "t.float()", torch.complex64: "t.real", torch.complex128: "t.real"}
        advice = conversions.get(t.dtype, "t.float() / 255 for values of 0..255")
        raise UserError(f"a tensor of {t.dtype}: floating point of 0..1 is needed, such as {advice}")
    _check_tensor_layout(t)
    check_size(*t.shape[-2:])
    values = t.detach().cpu()
    _check_range(float(values.min()), float(values.max()), f"a tensor of {t.dtype}", "clip them, t.clamp(0, 1)")
    batch = values.float() if t.ndim == 4 else values.float()[None]

    def back(picture: Picture) -> Tensor:
        return channels(picture)[0].clamp(0, 1).to(t.device, t.dtype)

    return Given(tuple(from_tensor(x[None], FLOAT_BITS) for x in batch), back, batch=t.ndim == 4)


def _check_tensor_layout(t: Tensor) -> None:
    """Refuse what is not (C, H, W) or (B, C, H, W), C = 1 to 4."""
    shape = tuple(t.shape)
    if t.ndim == 2:
        raise UserError(f"a tensor of shape {shape}: give (C, H, W), t[None]")
    if t.ndim not in (3, 4):
        raise UserError(f"a tensor of shape {shape}: (C, H, W) or (B, C, H, W) is needed")
    if shape[-3] <= 4:
        return
    if shape[-1] <= 4:
        axes = "2, 0, 1" if t.ndim == 3 else "0, 3, 1, 2"
        raise UserError(f"a tensor of shape {shape} has its channels last: give (C, H, W), t.permute({axes})")
    raise UserError(f"a tensor of shape {shape}: (C, H, W) or (B, C, H, W) with 1 to 4 channels is needed")


def _check_range(low: float, high: float, what: str, clip: str) -> None:
    """Refuse floating-point values outside 0..1, and say what they seem to be; NaN shows in the extremes, too."""
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{what} holds NaN or infinite values: replace them first")
    if low >= 0 and high <= 1:
        return
    if low > -0.5 and high < 1.5:
        advice = clip
    elif low >= 0 and high <= 255:
        advice = "divide by 255, or give an array of uint8"
    elif low >= 0 and high <= 65535:
        advice = "divide by 65535, or give an array of uint16"
    elif low >= -1 and high <= 1:
        advice = "for a picture of -1..1 give (a + 1) / 2"
    else:
        advice = "scale them to 0..1"
    raise UserError(f"{what} with values of {low:.4g}..{high:.4g}, where 0..1 is needed: {advice}")
