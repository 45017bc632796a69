"""blindsr: a modular probabilistic-programming toolkit for blind image super-resolution.

The LR image y = (x ⊗ k)↓s + n is all there is; neither the sharp image x nor the kernel k is known.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from blindsr.errors import UserError
from blindsr.estimators.base import Estimate, Estimation, Estimator, Metrics
from blindsr.estimators.loop import JointLoop
from blindsr.estimators.spectral import KernelEstimate, KernelEstimator
from blindsr.io.files import VERSION
from blindsr.methods.base import Method
from blindsr.methods.presets import PRESETS, Preset
from blindsr.methods.rows import Choice
from blindsr.methods.table import METHODS, compose
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.results.super_resolve import super_resolve

if TYPE_CHECKING:
    from blindsr.io.images import read_image, write_png
    from blindsr.io.kernels import read_kernel, write_kernel
    from blindsr.io.picture import Picture
    from blindsr.results.result import SuperResolved, SuperResolvedBatch

__version__ = VERSION

__all__ = [
    "METHODS",
    "PRESETS",
    "Alignment",
    "Choice",
    "Degradation",
    "Estimate",
    "Estimation",
    "Estimator",
    "JointLoop",
    "KernelEstimate",
    "KernelEstimator",
    "Method",
    "Metrics",
    "Padding",
    "Picture",
    "Preset",
    "SuperResolved",
    "SuperResolvedBatch",
    "UserError",
    "compose",
    "read_image",
    "read_kernel",
    "super_resolve",
    "write_kernel",
    "write_png",
]

_LAZY = {
    "Picture": "blindsr.io.picture",
    "SuperResolved": "blindsr.results.result",
    "SuperResolvedBatch": "blindsr.results.result",
    "read_image": "blindsr.io.images",
    "read_kernel": "blindsr.io.kernels",
    "write_kernel": "blindsr.io.kernels",
    "write_png": "blindsr.io.images",
}
"""Names whose modules load Pillow, and are imported when they are first used."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
