"""The forward operator y = (x ⊗ k)↓s, its adjoint, and the moments of kernels."""

from blindsr.operators.degradation import SCALES, Alignment, Degradation, Padding, default_kernel_size
from blindsr.operators.kernels import center_of_mass, covariance, tilted, width

__all__ = [
    "SCALES",
    "Alignment",
    "Degradation",
    "Padding",
    "center_of_mass",
    "covariance",
    "default_kernel_size",
    "tilted",
    "width",
]
