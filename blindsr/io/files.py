"""Atomic writing of files, and the version that is written into records."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from blindsr.errors import UserError

VERSION = version("blindsr")
"""Of the package."""
OWN_PREFIX = ".blindsr-"
"""Names of temporary files begin with this; a killed process may leave one behind."""


def as_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that was given as str or Path; UserError if it is neither."""
    try:
        return Path(path)
    except TypeError:
        raise UserError(f"{type(path).__name__} is no path: give a str or a pathlib.Path") from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; if the block succeeds, sync it and rename it to `path`.

    Raises
    ------
    UserError
        If the file cannot be written (no permission, disk full, ...); what was at `path` is untouched.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=OWN_PREFIX, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
