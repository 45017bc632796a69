"""Methods by name, and how a user composes one of their own: an estimator and a restorer."""

from blindsr.methods.base import Method
from blindsr.methods.loop_row import LoopRow
from blindsr.methods.presets import PRESETS, Preset
from blindsr.methods.rows import Choice, OtherRow, Row
from blindsr.methods.table import DEFAULT_METHOD, METHODS, compose

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "PRESETS",
    "Choice",
    "LoopRow",
    "Method",
    "OtherRow",
    "Preset",
    "Row",
    "compose",
]
