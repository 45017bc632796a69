"""One call from a picture to its super-resolved image and its kernel, for scripts and notebooks."""

from __future__ import annotations

import operator
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from blindsr.errors import UserError
from blindsr.estimators.base import Estimator
from blindsr.methods.base import Method
from blindsr.methods.rows import Choice
from blindsr.methods.table import compose
from blindsr.methods.words import default_degradation
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.results.device import choose_device

if TYPE_CHECKING:
    from blindsr.results.result import SuperResolved, SuperResolvedBatch


def super_resolve(
    picture: Any,
    scale: int = 4,
    *,
    method: str | Method | Estimator | None = None,
    prior: Any = None,
    optimizer: Any = None,
    image_prior: Any = None,
    noise: Any = None,
    restorer: Any = None,
    weights: str | PathLike[str] | None = None,
    preset: str = "balanced",
    iterations: int | None = None,
    kernel_size: int = 0,
    alignment: Alignment | str | None = None,
    padding: Padding | str | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> SuperResolved | SuperResolvedBatch:
    """Super-resolve a picture whose blur kernel is unknown: estimate the kernel k and the image x.

    The model is y = (x ⊗ k)↓s + n: y is the picture given, s the scale, n white noise.

    Parameters
    ----------
    picture : str, Path, PIL.Image.Image, ndarray or Tensor
        The LR picture, at least 16 x 16 pixels. The image comes back in the same kind:

        - path: a PIL image, which can be shown, saved, and read by NumPy. Pillow has no mode for 16-bit colour, so such
          a picture comes back with 8 bits; `SuperResolved.save` writes all 16.
        - PIL image: a PIL image of the same mode (L, LA, RGB, RGBA, I;16, F). Palettes come back as RGB or RGBA, mode
          1 as L, other modes as RGB.
        - array (H, W) or (H, W, C), C = 1 to 4, uint8, uint16 or floating point of 0..1: an array of the same type.
        - tensor (C, H, W) or (B, C, H, W), floating point of 0..1: a tensor of the same type on the same device. Each
          picture of a batch is estimated on its own, with the same seed.

        With two or four channels, the last one is alpha, which is enlarged by bicubic interpolation.
    scale : int
        s: 2, 3, 4 or 8.
    method : str, Method or Estimator, optional
        A row of `blindsr.METHODS`, `my_file.py:MyEstimator`, or an object. Default: `fast-map`, or `mlmc` where a part
        of the joint loop is named (see `blindsr.methods.table.compose`). A `Method` has all of its parts already.
    prior, optimizer, image_prior, noise, restorer : optional
        Parts that replace the method's own: words as on the command line, or objects.
    weights : str or Path, optional
        State dict of `restorer="usrnet"`.
    preset : str
        Sets the sizes, steps and rates of the joint loop: fast, balanced or paper.
    iterations : int, optional
        Number of steps, in place of the method's own.
    kernel_size : int
        K, odd; 0: min(4 s + 3, 21).
    alignment, padding : str, Alignment or Padding, optional
        Grid of the LR pixels ("centered" for a photo) and border rule. Default: as on the command line,
        `blindsr.operators.degradation.DEFAULT_ALIGNMENT` and the padding that goes with the grid.
    seed : int
        Seed of all random draws.
    device : str or torch.device
        Device that networks run on: auto, cpu, cuda or mps.

    Returns
    -------
    SuperResolved or SuperResolvedBatch
        With `image`, `kernel`, `noise_std`, `method`, `seconds`, `save` and `sample`; for a batch a sequence of such
        results that has the stacked `image` and `kernel` too.

    Raises
    ------
    UserError
        A ValueError of one line that says what to do: if the picture is of another kind, layout, range or size, a
        word is unknown, or parts do not go together.

    Examples
    --------
    >>> import numpy as np
    >>> result = super_resolve(np.zeros((16, 20), np.uint8), scale=2, method="bicubic")
    >>> result.image.shape, result.image.dtype
    ((32, 40), dtype('uint8'))
    """
    # Pillow and what else a picture needs is loaded now, not with the package.
    from blindsr.io.kinds import given
    from blindsr.results.result import SuperResolvedBatch, Task

    degradation = _degradation(scale, kernel_size, alignment, padding)
    parts = {
        "prior": prior,
        "optimizer": optimizer,
        "image_prior": image_prior,
        "noise": noise,
        "restorer": restorer,
        "weights": None if weights is None else Path(weights),
        "iterations": iterations,
    }
    made = _method(method, parts, preset, degradation)
    taken = given(picture)
    place = choose_device(str(device))
    task = Task(made, degradation, _whole("seed", seed), place, prior, taken.back, taken.name)
    if not taken.batch:
        return task(taken.pictures[0])
    names = (f"{taken.name} {i}" for i in range(len(taken.pictures)))
    return SuperResolvedBatch(tuple(replace(task, name=n)(p) for n, p in zip(names, taken.pictures, strict=True)))


def _method(
    method: str | Method | Estimator | None, parts: dict[str, Any], preset: str, degradation: Degradation
) -> Method:
    """Compose the method, or take one that is complete."""
    if not isinstance(method, Method):
        return compose(Choice(method, preset=preset, **parts), degradation)
    extra = [name for name, part in parts.items() if part is not None]
    if extra:
        raise UserError(f"{', '.join(extra)}: the Method that is given has its parts already; leave this out")
    return method


def _degradation(
    scale: Any, kernel_size: Any, alignment: Alignment | str | None, padding: Padding | str | None
) -> Degradation:
    try:
        grid = None if alignment is None else Alignment(alignment)
        border = None if padding is None else Padding(padding)
    except ValueError as error:
        raise UserError(
            f"{error}: the alignment is one of {', '.join(Alignment)}, the padding one of {', '.join(Padding)}"
        ) from error
    return default_degradation(_whole("scale", scale), _whole("kernel_size", kernel_size), grid, border)


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} {value!r}: a whole number is needed") from None
