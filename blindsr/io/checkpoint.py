"""Checkpoints: a plain dict of tensors and numbers, written whole or not at all, read without running any code."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from blindsr.errors import UserError
from blindsr.io.files import atomic_path

FORMAT = 1


def save(path: Path, settings: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a checkpoint to a temporary file, sync it, rename it: a kill at any moment leaves the old or the new one.

    Parameters
    ----------
    path : Path
        Where to.
    settings : dict
        What the run was started with (plain values): a resume under other settings is refused.
    state : dict
        `Solver.state_dict`.
    """
    content = io.BytesIO()  # torch's own file writer does not tell a full disk from its other errors
    torch.save({"format": FORMAT, "settings": settings, "state": state}, content)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint's state, if it was made with these settings.

    Raises
    ------
    UserError
        If the file is no checkpoint, holds anything but tensors and plain values, or belongs to other settings.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # the reader raises many kinds on damaged and crafted files
        raise UserError(f"{path}: not a blindsr checkpoint, or damaged; delete it to start anew") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this version of blindsr; delete it to start anew")
    old = content.get("settings")
    state = content.get("state")
    if not isinstance(old, dict) or not isinstance(state, dict):
        raise UserError(f"{path}: not a blindsr checkpoint, or damaged; delete it to start anew")
    for name in [*settings, *sorted(str(n) for n in old if n not in settings)]:
        if json.dumps(settings.get(name)) != json.dumps(old.get(name), default=str):
            raise UserError(
                f"{path}: made with other settings ({name}: {old.get(name)} there, {settings.get(name)} here); "
                "give the same, or leave out --resume"
            )
    return state
