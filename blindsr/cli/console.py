"""How the command line speaks: notes and errors as single lines on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from blindsr.errors import UserError


def say(line: str) -> None:
    """Print a note for the user on standard error."""
    typer.echo(line, err=True)


def show(record: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a record as JSON on standard output, or the text that stands for it."""
    from blindsr.results.files import to_json

    typer.echo(to_json(record) if as_json else text)


def fail(error: object) -> NoReturn:
    """Print an error as one line and end with exit code 2."""
    say("blindsr: " + " ".join(str(error).split()))
    raise typer.Exit(2)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what goes wrong in a job into one line and an exit code: 2 for bad input, 130 for an interrupt."""
    try:
        yield
    except (UserError, OSError) as error:
        fail(error)
    except KeyboardInterrupt as error:
        say("blindsr: interrupted")
        raise typer.Exit(130) from error
