"""Reading a table of a TOML file key by key: each value of the right type, no key left over."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blindsr.errors import UserError


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    UserError
        If it is missing or not TOML.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


@dataclass
class Entry:
    """A table of a TOML file, of which every key must be asked for before `end`.

    Parameters
    ----------
    values : mapping
        The table.
    where : str
        What to call it in messages, such as `bench.toml, row 2`.
    """

    values: Mapping[str, Any]
    where: str
    asked: set[str] = field(default_factory=set)

    def _get(self, key: str, kind: type | tuple[type, ...], word: str) -> Any:
        self.asked.add(key)
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UserError(f"{self.where}: {key} = {value!r}: {word} is needed")
        return value

    def text(self, key: str) -> str | None:
        """Text, or None where the key is not there."""
        value: str | None = self._get(key, str, "text")
        return value

    def needed(self, key: str) -> str:
        """Text that must be there."""
        value = self.text(key)
        if not value:
            raise UserError(f"{self.where}: {key} is missing")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value: bool | None = self._get(key, bool, "true or false")
        return default if value is None else value

    def whole(self, key: str, least: int = 0) -> int | None:
        """Whole number of at least `least`, or None."""
        value: int | None = self._get(key, int, "a whole number")
        if value is not None and value < least:
            raise UserError(f"{self.where}: {key} = {value}: at least {least} is needed")
        return value

    def number(self, key: str) -> float | None:
        """Finite number of 0 or more, or None."""
        value = self._get(key, (int, float), "a number")
        if value is not None and not 0 <= value < float("inf"):
            raise UserError(f"{self.where}: {key} = {value}: a number of 0 or more is needed")
        return None if value is None else float(value)

    def words(self, key: str) -> tuple[str, ...] | None:
        """List of texts, or None."""
        return self._many(key, str, "a list of texts")

    def wholes(self, key: str) -> tuple[int, ...] | None:
        """List of whole numbers, or None."""
        return self._many(key, int, "a list of whole numbers")

    def numbers(self, key: str) -> tuple[float, ...] | None:
        """List of numbers, or None."""
        return self._many(key, (int, float), "a list of numbers")

    def _many(self, key: str, kind: type | tuple[type, ...], word: str) -> tuple[Any, ...] | None:
        value = self._get(key, list, word)
        if value is None:
            return None
        if not value or any(not isinstance(v, kind) or isinstance(v, bool) for v in value):
            raise UserError(f"{self.where}: {key} = {value!r}: {word}, not empty, is needed")
        return tuple(value)

    def tables(self, key: str) -> list[Entry]:
        """Entries of an array of tables; empty where the key is not there."""
        value = self._get(key, list, "an array of tables") or []
        if not all(isinstance(v, dict) for v in value):
            raise UserError(f"{self.where}: {key}: an array of tables, [[{key}]], is needed")
        return [Entry(v, f"{self.where}, [[{key}]] {i}") for i, v in enumerate(value, 1)]

    def table(self, key: str) -> Entry | None:
        """A table inside this one, or None."""
        value = self._get(key, dict, f"a table, [{key}],")
        return None if value is None else Entry(value, f"{self.where}, [{key}]")

    def end(self) -> None:
        """Refuse keys that nobody asked for.

        Raises
        ------
        UserError
            Naming the keys that there are.
        """
        unknown = sorted(set(self.values) - self.asked)
        if unknown:
            raise UserError(f"{self.where}: {unknown[0]}: unknown; choose {', '.join(sorted(self.asked))}")
