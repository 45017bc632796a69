"""What every check uses: the error, and small assertions that raise it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class ContractError(TypeError):
    """A part does not do what its place in a solver needs."""


def call(what: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a user's function; whatever it raises breaks the contract."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        raise ContractError(f"{what} fails: {type(error).__name__}: {error}") from error


def need(condition: object, message: str) -> None:
    """Raise ContractError with this message unless the condition holds."""
    if not bool(condition):
        raise ContractError(message)


def need_tensor(value: Any, what: str, shape: tuple[int, ...] | None = None, axes: str = "") -> None:
    """Raise ContractError unless a value is a tensor, of this shape if one is given; `axes` says it in symbols."""
    need(isinstance(value, Tensor), f"{what} returns {type(value).__name__}, not a tensor")
    if shape is not None:
        need(tuple(value.shape) == shape, f"{what} has shape {tuple(value.shape)}; {axes} = {shape} is needed")


@contextmanager
def global_state_kept(message: str) -> Iterator[None]:
    """Raise ContractError with this message if the block changes torch's global random state."""
    before = torch.random.get_rng_state()
    yield
    need(torch.equal(before, torch.random.get_rng_state()), message)
