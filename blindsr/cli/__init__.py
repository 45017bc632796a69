"""The command line."""

from blindsr.cli.root import app, main

__all__ = ["app", "main"]
