"""blindsr: a modular probabilistic-programming toolkit for blind image super-resolution.

An LR image y = (x ⊗ k)↓s + n is all there is; neither the sharp image x nor the kernel k is known.
"""

from blindsr.estimators.base import Estimate, Estimation, Estimator, Metrics
from blindsr.estimators.loop import JointLoop
from blindsr.estimators.spectral import KernelEstimate, KernelEstimator
from blindsr.methods.base import Method
from blindsr.methods.presets import PRESETS, Preset
from blindsr.methods.table import METHODS
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.super_resolve import super_resolve

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "PRESETS",
    "Alignment",
    "Degradation",
    "Estimate",
    "KernelEstimate",
    "KernelEstimator",
    "Method",
    "Metrics",
    "Padding",
    "Preset",
    "Estimation",
    "Estimator",
    "JointLoop",
    "super_resolve",
]
