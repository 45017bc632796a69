"""The model of an image's spectrum in a window: the terms of its logarithm and their prior spreads.

With ρ = 2 s |f|, which is one at the Nyquist frequency of y, and φ the direction of the frequency f,

    log S_x,w(f) = Σ_t θ_wt B_t(ρ, φ),        θ_wt = mean_t + shared_t ε_t + local_t ε_wt,        ε ~ N(0, 1).

The terms are a power law with its slope, a scale-free angular factor, a slope that depends on the direction (edges
fall off more slowly across than along), and a bend, for content that is soft by itself or whose power law does not hold
over the whole band. Straight edges put nearly all their power on one line through the origin, so the factor and the
slope need harmonics of the direction up to the eighth: with the second and the fourth alone, stripes and facades are
explained by an elongated kernel. Over the band of y the bend has the form of the logarithm of a Gaussian kernel. Its
shared part cannot be told from blur by any y, and so bounds from below the uncertainty of every kernel estimated from
spectra.

Power laws of natural images: Field, JOSA A 1987; slopes that differ by image and direction: van der Schaaf, van
Hateren, "Modelling the power spectra of natural images: statistics and information", Vision Research 1996.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


Basis = Callable[[Tensor, Tensor], Tensor]
"""A term as a function of ρ and φ."""


def _log(rho: Tensor) -> Tensor:
    """Logarithm of the frequency over half the Nyquist frequency of y."""
    return (2 * rho).log()


def _bend(rho: Tensor) -> Tensor:
    """ρ² over the band of y, levelling off beyond it, so that a bend stays moderate at the aliases."""
    return 2 * torch.tanh(rho.square() / 2)


HARMONICS = (2, 4, 6, 8)
"""n of cos nφ and sin nφ in the angular factor and the slope; even, since a real image has equal power at f and −f."""


def _turned(radial: Callable[[Tensor], Tensor], turn: Callable[[Tensor], Tensor], n: int) -> Basis:
    """Return a function of ρ times the cosine or sine of nφ."""
    return lambda rho, phi: radial(rho) * turn(n * phi)


def _by_direction(name: str, radial: Callable[[Tensor], Tensor], harmonics: tuple[int, ...]) -> dict[str, Basis]:
    """Return the terms radial(ρ) cos nφ and radial(ρ) sin nφ by name."""
    turns = {"cos": torch.cos, "sin": torch.sin}
    return {f"{name}_{f}{n}": _turned(radial, turn, n) for n in harmonics for f, turn in turns.items()}


BASIS: dict[str, Basis] = {
    "level": lambda rho, phi: torch.ones_like(rho),
    "slope": lambda rho, phi: -_log(rho),
    **_by_direction("angular", torch.ones_like, HARMONICS),
    **_by_direction("slope", lambda rho: -_log(rho), HARMONICS),
    "bend": lambda rho, phi: -_bend(rho),
    **_by_direction("bend", lambda rho: -_bend(rho), (2,)),
}
"""B_t(ρ, φ) by name."""


def _directions(name: str, local: Sequence[float], shared: float = 0.0) -> dict[str, Term]:
    """Return the terms of a name for the first harmonics, each with its spread over windows."""
    return {
        f"{name}_{f}{n}": Term(0.0, shared, std)
        for n, std in zip(HARMONICS, local, strict=False)
        for f in ("cos", "sin")
    }


PHOTOGRAPH = MappingProxyType(
    {
        "level": Term(-6.0, 3.0, 2.0),
        "slope": Term(2.6, 0.5, 0.25),
        **_directions("angular", (2.0, 2.0, 1.4, 1.4)),
        **_directions("slope", (0.4, 0.4, 0.4, 0.4)),
        "bend": Term(-0.15, 0.3, 0.25),
        **_directions("bend", (0.3,), shared=0.25),
    }
)
"""Photographs; where the numbers come from is in docs/posterior.md."""

POWER_LAW = MappingProxyType(
    {**{name: PHOTOGRAPH[name] for name in ("level", "slope")}, **_directions("angular", (1.0, 1.0))}
)
"""Exact power laws with a scale-free angular factor and no other term."""


def design(names: tuple[str, ...], frequency_row: Tensor, frequency_column: Tensor, scale: int) -> Tensor:
    """Evaluate B_t at frequencies in cycles per HR pixel, each within ±1/2: (..., number of terms)."""
    rho = 2 * scale * torch.hypot(frequency_row, frequency_column)
    phi = torch.atan2(frequency_row, frequency_column)
    return torch.stack([BASIS[name](rho, phi) for name in names], -1)
