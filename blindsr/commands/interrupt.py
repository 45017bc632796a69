"""Ctrl-C as a flag that is checked after each step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Interrupt:
    """Raised by Ctrl-C or a termination signal, and checked after each step; a second Ctrl-C exits at once."""

    raised: bool = False

    def _handle(self, number: int, frame: object) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True
        os.write(2, b"\nblindsr: stopping after this step; the result so far will be saved\n")

    @contextmanager
    def listening(self) -> Iterator[Interrupt]:
        """Catch the signals inside the block (which Python allows in the main thread only; elsewhere, do nothing)."""
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
        old = {n: signal.signal(n, self._handle) for n in numbers}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
