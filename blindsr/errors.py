"""Errors that a user can put right."""

from __future__ import annotations

from pathlib import Path


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, where, what to do. The command line ends with exit code 2."""


def check_file(path: Path, what: str) -> None:
    """Raise UserError unless there is a file of that name; `what` is needed, with its article."""
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.is_dir():
        raise UserError(f"{path}: is a folder, {what} is needed")
