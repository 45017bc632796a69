"""Reading a TOML table into a dataclass: every key is a field, every value has the field's type."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from blindsr.errors import UserError

KINDS: dict[type, tuple[tuple[type, ...], str, str]] = {
    str: ((str,), "text", "texts"),
    bool: ((bool,), "true or false", "truth values"),
    int: ((int,), "a whole number", "whole numbers"),
    float: ((int, float), "a number", "numbers"),
}
"""For each type of field: the types that TOML may give, and their name, singular and plural."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; UserError if the file is missing, cannot be read or is not TOML."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


@dataclass(frozen=True)
class Places:
    """Where the files that a TOML file names are looked for."""

    folders: tuple[Path, ...]
    """In this order: the data folder, if one was given, and the folder of the TOML file."""

    @classmethod
    def of(cls, data: Path | None, folder: Path) -> Places:
        """Look in the data folder, if there is one, then in another folder."""
        return cls((folder,) if data is None else (data, folder))

    def find(self, name: str) -> str:
        """Return the path of a file: in one of the folders, or else as it stands.

        A file that is in none of these places is given its path in the first folder, which the error will name.
        """
        file, rest = split_reference(name)
        candidates = [folder / file for folder in self.folders] + [Path(file)]
        return f"{next((p for p in candidates if p.exists()), candidates[0])}{rest}"

    def find_folder(self, name: str) -> str:
        """Return the path of a folder in one of the folders; in the first where it is in none."""
        candidates = [folder / name for folder in self.folders]
        return str(next((p for p in candidates if p.is_dir()), candidates[0]))


def split_reference(word: str) -> tuple[str, str]:
    """Split a file from what may follow it: `:part` after a Python file, `@grid` after any file."""
    bare, at, grid = word.rpartition("@")
    if not at or not grid.isalpha():
        bare, at, grid = word, "", ""
    file, colon, part = bare.rpartition(":") if ".py:" in bare else (bare, "", "")
    return file, f"{colon}{part}{at}{grid}"


def names_file(word: str) -> bool:
    """Whether a word names a file and not a part of the package."""
    return bool(Path(split_reference(word)[0]).suffix)


def absolute(word: str) -> str:
    """Return a word with the full path of the file that it names, if it names one."""
    file, rest = split_reference(word)
    return f"{Path(file).resolve()}{rest}" if names_file(word) else word


def at_least(least: float, default: Any = None) -> Any:
    """Declare a numeric field of a dataclass with a lower limit for `read_fields`."""
    return field(default=default, metadata={"at_least": least})


def read_fields(
    cls: type, table: Mapping[str, Any], where: str, places: Places, *, optional: Collection[str] = ()
) -> dict[str, Any]:
    """Check a TOML table against the fields of a dataclass, and return arguments for the dataclass.

    The fields are texts, truth values, numbers (see `at_least`), tuples of these, or dataclasses with a class method
    `from_table(table, where, places)`; all may be optional, and those in `optional` may be missing although they have
    no default. Messages call the table `where`, such as `bench.toml, [[rows]] 2`; `places`, where files are looked for,
    is handed on to nested tables. Raises UserError if a key is unknown or missing, or a value is of the wrong type or
    too small.
    """
    known = {f.name: f for f in fields(cls)}
    hints = get_type_hints(cls)
    for key in table:
        if key not in known:
            raise UserError(f"{where}: {key}: unknown; choose {', '.join(sorted(known))}")
    for name, f in known.items():
        required = f.default is MISSING and f.default_factory is MISSING and name not in optional
        if required and table.get(name) in (None, ""):
            raise UserError(f"{where}: {name} is missing")
    found = {}
    for key, value in table.items():
        hint = next((h for h in get_args(hints[key]) if NoneType in get_args(hints[key]) and h is not NoneType), None)
        found[key] = _read(value, hint or hints[key], key, where, places)
        least = known[key].metadata.get("at_least")
        if least is not None and found[key] < least:
            raise UserError(f"{where}: {key} = {value}: at least {least} is needed")
    return found


def _read(value: Any, hint: Any, key: str, where: str, places: Places) -> Any:
    """Return a value as its field has it."""
    said = f"{where}: {key} = {value!r}"
    if hasattr(hint, "from_table"):
        if not isinstance(value, dict):
            raise UserError(f"{said}: a table, [{key}], is needed")
        return hint.from_table(value, f"{where}, [{key}]", places)
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if hasattr(item, "from_table"):
            if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
                raise UserError(f"{said}: an array of tables, [[{key}]], is needed")
            tables = enumerate(value, 1)
            return tuple(item.from_table(v, f"{where}, [[{key}]] {i}", places) for i, v in tables)
        if not isinstance(value, list) or not value or not all(_is(v, item) for v in value):
            raise UserError(f"{said}: a list of {KINDS[item][2]}, not empty, is needed")
        return tuple(value)
    if not _is(value, hint):
        raise UserError(f"{said}: {KINDS[hint][1]} is needed")
    return float(value) if hint is float else value


def _is(value: Any, kind: type) -> bool:
    """Whether a value is of the kind of a field: a truth value is no number, and numbers are finite."""
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, KINDS[kind][0]) and (not isinstance(value, float) or math.isfinite(value))
