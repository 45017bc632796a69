"""blindsr: a modular probabilistic-programming toolkit for blind image super-resolution.

An LR image y = (x ⊗ k)↓s + n is all there is; neither the sharp image x nor the kernel k is known.
"""

from blindsr.estimators.loop import Assembly, Estimate, Metrics, Solver
from blindsr.estimators.spectral import KernelEstimate, KernelEstimator
from blindsr.methods.presets import PRESETS, Preset
from blindsr.methods.table import METHODS, Method, assemble
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.super_resolve import super_resolve

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "PRESETS",
    "Alignment",
    "Assembly",
    "Degradation",
    "Estimate",
    "KernelEstimate",
    "KernelEstimator",
    "Method",
    "Metrics",
    "Padding",
    "Preset",
    "Solver",
    "assemble",
    "super_resolve",
]
