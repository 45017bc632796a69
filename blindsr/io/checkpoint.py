"""Checkpoints: plain dicts of tensors and numbers, written atomically and read without running any code."""

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
    """Write a checkpoint atomically, so that a kill at any moment leaves the old or the new file.

    `settings` is what the run was started with, as plain values; resuming with other settings is refused. `state` is
    the `state_dict` of the run.
    """
    content = io.BytesIO()  # torch's own file writer cannot tell a full disk from other errors
    torch.save({"format": FORMAT, "settings": settings, "state": state}, content)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load(
    path: Path, settings: dict[str, Any], *, advice: str = "use the same settings, or leave out --resume"
) -> dict[str, Any]:
    """Read a checkpoint's state, if it was made with these settings.

    Raises UserError if the file is not a checkpoint, holds anything but tensors and plain values, or belongs to other
    settings; `advice` is what the message says to do then.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # damaged and crafted files make the reader raise many kinds
        raise UserError(f"{path}: not a blindsr checkpoint, or damaged; delete it to start anew") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this version of blindsr; delete it to start anew")
    old, state = content.get("settings"), content.get("state")
    if not isinstance(old, dict) or not isinstance(state, dict):
        raise UserError(f"{path}: not a blindsr checkpoint, or damaged; delete it to start anew")
    for name in [*settings, *sorted(str(n) for n in old if n not in settings)]:
        if json.dumps(settings.get(name)) != json.dumps(old.get(name), default=str):
            raise UserError(
                f"{path}: made with other settings ({name}: {old.get(name)} there, {settings.get(name)} here); {advice}"
            )
    return state
