"""Transport maps: a target pulled back to coordinates w in which it is nearly N(0, I); the draws remain exact.

    z = T(w),        log π(w) = log π(T(w)) + log |det dT/dw|

Chains run over w, and their draws are T(w). For any smooth bijection T these are draws of the target. Here T is a
composition of "axes" and a linear map. An axis along coordinate j maps w_j, and the outputs y_i of the inner maps for
the other coordinates (centred at zero), to

    z_j = u(w_j),        z_i = m_i(w_j) + exp(l_i(w_j)) y_i,

so that a skewed z_j becomes normal in w_j, and location and scale of the other coordinates depend on it. u, m and l are
tabulated and read by cubic Hermite interpolation.

Transport maps for Markov chains: Parno and Marzouk, "Transport map accelerated Markov chain Monte Carlo", SIAM/ASA JUQ
2018.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from blindsr.posteriors.base import WIDER, Target, ValueAndGradient, value_and_gradient

ROWS = 1024
"""Rows mapped at once after a run, which bounds the memory for the interpolated tables."""


class Reading(NamedTuple):
    """An axis at some rows: u and its first two derivatives (rows,); m and l with their derivatives (rows, 2, m)."""

    u: Tensor
    slope: Tensor
    bend: Tensor
    middle: Tensor
    log_width: Tensor


@dataclass(frozen=True)
class Axis:
    """One coordinate, and how location and scale of the others depend on it."""

    place: int  # j
    others: Tensor  # (m,) indices of the dependent coordinates
    knots: Tensor  # (n,) values of w_j, ascending
    # values, slopes: (n, 1 + 2 m) u, then m, then l, and their derivatives in w_j. Beyond the knots u is linear, and m
    # and l are constant.
    values: Tensor
    slopes: Tensor

    @cached_property
    def _rows(self) -> Tensor:
        """Values and slopes at the ends of each interval, (n - 1, 4, 1 + 2 m)."""
        return torch.stack([self.values[:-1], self.values[1:], self.slopes[:-1], self.slopes[1:]], 1)

    def read(self, x: Tensor) -> Reading:
        """Read the table at x (rows,)."""
        inside = x.clamp(self.knots[0], self.knots[-1])
        i = (torch.searchsorted(self.knots, inside.detach()) - 1).clamp(0, len(self.knots) - 2)
        h = self.knots[i + 1] - self.knots[i]
        t = (inside - self.knots[i]) / h
        right, a, b = t * t * (3 - 2 * t), h * t * (1 - t).square(), h * t * t * (t - 1)
        first = _high_low(6 * t * (1 - t) / h, (1 - t) * (1 - 3 * t), t * (3 * t - 2))
        second = _high_low((6 - 12 * t) / h / h, (6 * t - 4) / h, (6 * t - 2) / h)
        flat = (x == inside).to(x)[:, None]  # outside of the knots
        weights = torch.stack([torch.stack([1 - right, right, a, b], 1), first * flat, second * flat], 1)
        rows, m = self._rows[i], len(self.others)
        out = weights @ rows
        slope = (first * rows[:, :, 0]).sum(1)
        u = out[:, 0, 0] + slope * (x - inside)
        return Reading(u, slope, out[:, 2, 0], *out[:, :2, 1:].split(m, 2))

    def apply(self, w: Tensor, inner: Tensor) -> tuple[Tensor, Tensor, Reading]:
        """Map the outputs (rows, dim) of the inner maps: positions, log |det| (rows,), and the reading for `pull`."""
        table, out = self.read(w[:, self.place]), torch.zeros_like(w)
        out[:, self.others] = table.middle[:, 0] + table.log_width[:, 0].exp() * inner[:, self.others]
        out[:, self.place] = table.u
        return out, table.slope.log() + table.log_width[:, 0].sum(1), table

    def pull(self, gradient: Tensor, inner: Tensor, table: Reading) -> tuple[Tensor, Tensor]:
        """Pull a gradient in positions back to w_j (rows,), with that of log |det|, and to `inner` (rows, dim)."""
        followers, back = gradient[:, self.others], torch.zeros_like(gradient)
        scaled = followers * table.log_width[:, 0].exp()
        own = gradient[:, self.place] * table.slope + table.bend / table.slope
        own = own + (followers * table.middle[:, 1]).sum(1)
        own = own + ((scaled * inner[:, self.others] + 1) * table.log_width[:, 1]).sum(1)
        back[:, self.others] = scaled
        return own, back


def _high_low(rise: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Weights (rows, 4) of the values and slopes at both ends, from those of the rise and of the slopes."""
    return torch.stack([-rise, rise, low, high], 1)


@dataclass(frozen=True)
class Transport:
    """T: axes, the outermost first, around a linear map of the remaining coordinates.

    Attributes
    ----------
    axes : tuple of Axis
        The `others` of each are the coordinates of the axes after it and of the linear map.
    places : Tensor
        (r,) coordinates of the linear map.
    factor : Tensor
        (r, r) its lower triangular matrix.
    """

    axes: tuple[Axis, ...]
    places: Tensor
    factor: Tensor

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.axes) + len(self.places)

    def forward(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Map w (n, dim) to positions (n, dim) and log |det dT/dw| (n,), up to that of the linear map, a constant."""
        return self._forward(w)[:2]

    def _forward(self, w: Tensor) -> tuple[Tensor, Tensor, list[tuple[Axis, Tensor, Reading]]]:
        """The same, and each axis with its input and reading, the innermost first."""
        z = torch.zeros_like(w)
        z[:, self.places] = w[:, self.places] @ self.factor.T
        log_det, steps = w.new_zeros(len(w)), []
        for axis in reversed(self.axes):
            inner = z
            z, of_axis, table = axis.apply(w, inner)
            log_det = log_det + of_axis
            steps.append((axis, inner, table))
        return z, log_det, steps

    def forward_and_pull(self, w: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """As `forward`, with the function that pulls ∇ log π(z) back to the gradient of log π(T(w)) + log |det|."""
        z, log_det, steps = self._forward(w)

        def pull(gradient: Tensor) -> Tensor:
            out = torch.zeros_like(w)
            for axis, inner, table in reversed(steps):
                out[:, axis.place], gradient = axis.pull(gradient, inner, table)
            out[:, self.places] = gradient[:, self.places] @ self.factor
            return out

        return z, log_det, pull


@dataclass(frozen=True)
class Transported:
    """A target in the coordinates w of a transport map.

    Parameters
    ----------
    target : Target
        The density over z (n, dim).
    transport : Transport
        The map z = T(w), of the same dimension.
    """

    target: Target
    transport: Transport

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the target's coordinates; w_j corresponds to z_j."""
        return self.target.names

    def log_prob(self, w: Tensor) -> Tensor:
        """Log density (n,) of w (n, dim), up to a constant."""
        z, log_det = self.transport.forward(w)
        return self.target.log_prob(z) + log_det

    @cached_property
    def _density(self) -> ValueAndGradient:
        return value_and_gradient(self.target)

    def log_prob_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Log density (n,) and its gradient (n, dim)."""
        z, log_det, pull = self.transport.forward_and_pull(w)
        value, gradient = self._density(z)
        return value + log_det, pull(gradient)

    def initial(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Starting points (n, dim) from N(0, `WIDER`² I); the density itself is nearly N(0, I)."""
        return WIDER * torch.randn(n, self.transport.dim, generator=generator, dtype=torch.float64)

    def positions(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (..., dim) of w (..., dim), and log |det dT/dw| (...,)."""
        parts = [self.transport.forward(part) for part in w.flatten(0, -2).split(ROWS)]
        z, log_det = (torch.cat(of) for of in zip(*parts, strict=True))
        return z.reshape(w.shape), log_det.reshape(w.shape[:-1])
