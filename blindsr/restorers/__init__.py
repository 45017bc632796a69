"""From a low-resolution image and a known kernel to an image.

The public restorers; each is imported when it is first used, since some bring networks and file readers along.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blindsr.restorers.base import Restorer
    from blindsr.restorers.bicubic import BicubicRestorer
    from blindsr.restorers.external import CallableRestorer, OnnxRestorer, TorchScriptRestorer
    from blindsr.restorers.grid import Grid, OnGrid
    from blindsr.restorers.map import MapRestorer
    from blindsr.restorers.spandrel_model import SpandrelRestorer
    from blindsr.restorers.splitting import Admm, HalfQuadratic, PlugAndPlay, map_solution
    from blindsr.restorers.tiled import restore
    from blindsr.restorers.usrnet import UsrNetRestorer
    from blindsr.restorers.zssr import ZssrRestorer

_MODULES = {
    "base": ("Restorer",),
    "bicubic": ("BicubicRestorer",),
    "external": ("CallableRestorer", "OnnxRestorer", "TorchScriptRestorer"),
    "grid": ("Grid", "OnGrid"),
    "map": ("MapRestorer",),
    "spandrel_model": ("SpandrelRestorer",),
    "splitting": ("Admm", "HalfQuadratic", "PlugAndPlay", "map_solution"),
    "tiled": ("restore",),
    "usrnet": ("UsrNetRestorer",),
    "zssr": ("ZssrRestorer",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Admm",
    "BicubicRestorer",
    "CallableRestorer",
    "Grid",
    "HalfQuadratic",
    "MapRestorer",
    "OnGrid",
    "OnnxRestorer",
    "PlugAndPlay",
    "Restorer",
    "SpandrelRestorer",
    "TorchScriptRestorer",
    "UsrNetRestorer",
    "ZssrRestorer",
    "map_solution",
    "restore",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
