"""The model of an image's spectrum in a window: the terms of its logarithm and their prior spreads.

With ρ = 2 s |f|, which is one at the Nyquist frequency of y, and φ the direction of the frequency f,

    log S_x,w(f) = Σ_t θ_wt B_t(ρ, φ),        θ_wt = mean_t + shared_t ε_t + local_t ε_wt,        ε ~ N(0, 1).

The terms are a power law with its slope, a scale-free angular factor, a slope that depends on the direction (edges
fall off more slowly across than along), and a bend, for content that is soft by itself or whose power law does not hold
over the whole band. Over the band of y the bend has the form of the logarithm of a Gaussian kernel. Its shared part
cannot be told from blur by any y, and so bounds from below the uncertainty of every kernel estimated from spectra.

Power laws of natural images: Field, JOSA A 1987; slopes that differ by image and direction: van der Schaaf, van
Hateren, "Modelling the power spectra of natural images: statistics and information", Vision Research 1996.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor


@dataclass(frozen=True)
class Term:
    """The prior of one term's coefficient: its mean, and its standard deviations over images and over windows."""

    mean: float
    shared: float
    local: float


def _log(rho: Tensor) -> Tensor:
    """Logarithm of the frequency over half the Nyquist frequency of y."""
    return (2 * rho).log()


def _bend(rho: Tensor) -> Tensor:
    """ρ² over the band of y, levelling off beyond it, so that a bend stays moderate at the aliases."""
    return 2 * torch.tanh(rho.square() / 2)


BASIS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "level": lambda rho, phi: torch.ones_like(rho),
    "slope": lambda rho, phi: -_log(rho),
    "angular_cos2": lambda rho, phi: torch.cos(2 * phi),
    "angular_sin2": lambda rho, phi: torch.sin(2 * phi),
    "angular_cos4": lambda rho, phi: torch.cos(4 * phi),
    "angular_sin4": lambda rho, phi: torch.sin(4 * phi),
    "slope_cos2": lambda rho, phi: -_log(rho) * torch.cos(2 * phi),
    "slope_sin2": lambda rho, phi: -_log(rho) * torch.sin(2 * phi),
    "slope_cos4": lambda rho, phi: -_log(rho) * torch.cos(4 * phi),
    "slope_sin4": lambda rho, phi: -_log(rho) * torch.sin(4 * phi),
    "bend": lambda rho, phi: -_bend(rho),
    "bend_cos2": lambda rho, phi: -_bend(rho) * torch.cos(2 * phi),
    "bend_sin2": lambda rho, phi: -_bend(rho) * torch.sin(2 * phi),
}
"""B_t(ρ, φ) by name."""

PHOTOGRAPH = MappingProxyType(
    {
        "level": Term(-6.0, 3.0, 2.0),
        "slope": Term(2.9, 0.35, 0.25),
        **dict.fromkeys(("angular_cos2", "angular_sin2", "angular_cos4", "angular_sin4"), Term(0.0, 0.0, 1.0)),
        **dict.fromkeys(("slope_cos2", "slope_sin2", "slope_cos4", "slope_sin4"), Term(0.0, 0.0, 0.4)),
        "bend": Term(0.2, 0.4, 0.25),
        **dict.fromkeys(("bend_cos2", "bend_sin2"), Term(0.0, 0.25, 0.3)),
    }
)
"""Photographs. The spreads are close to those of photographs whose kernel is known, see docs/posterior.md."""

POWER_LAW = MappingProxyType({name: PHOTOGRAPH[name] for name in list(PHOTOGRAPH)[:6]})
"""Exact power laws with a scale-free angular factor and no other term."""


def design(names: tuple[str, ...], frequency_row: Tensor, frequency_column: Tensor, scale: int) -> Tensor:
    """Evaluate B_t at frequencies in cycles per HR pixel, each within ±1/2: (..., number of terms)."""
    rho = 2 * scale * torch.hypot(frequency_row, frequency_column)
    phi = torch.atan2(frequency_row, frequency_column)
    return torch.stack([BASIS[name](rho, phi) for name in names], -1)
