"""The transport map of a spectral posterior: nested Laplace approximations along its two most non-normal coordinates.

The likelihood is flat in the noise level below some value, where y carries no information about it, and falls steeply
above; the size of the kernel has a long tail towards narrow kernels, whose shape is undetermined. Along such a
coordinate t the other coordinates follow a curve of conditional modes with conditional covariances C(t), and

    log p(t | y) ≈ log π(t, mode(t)) + ½ log det C(t)

is Laplace's approximation of the marginal. The axis (see `transport`) maps a standard normal to this marginal, and
shifts and scales the other coordinates accordingly; the last conditional covariance gives the linear map. Integrated
nested Laplace approximations: Rue, Martino, Chopin, JRSS B 2009.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.stats import norm
from torch import Tensor

from blindsr.posteriors.laplace import SpectralMode, descend
from blindsr.posteriors.spectral import SpectralTarget
from blindsr.posteriors.transport import Axis, Transport
from blindsr.threads import one_thread

DEPTH = 9.0
"""Depth below its maximum, in nats, at which a profile ends."""
JUMP = 3.0
"""Largest change of a profile between neighbouring points, in nats."""
GAP = 0.7
"""Largest distance between neighbouring points in w."""
MOST_POINTS = 40
"""Largest number of points of a profile."""
REACH = 4.2
"""Largest |w| at which an axis is tabulated."""
FOLLOWED = (1.5, 4.0)
"""|w| up to which the other coordinates follow the conditional modes, and beyond which they stay constant: in the
tails, conditional modes differ from conditional means."""
KNOTS = 301
"""Number of knots: large, as kinks in the derivatives would limit the step size of a sampler."""
SETTLED = 0.02
"""Gain in nats that ends the search for a conditional mode: the map need not be exact."""
SHAPE_UP_TO = 8
"""Largest number of kernel parameters for which the first is taken to be the kernel's size, and gets an axis."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A conditional mode."""

    at: Tensor  # (dim,) kernel parameters and content parameters
    position: Tensor  # (dim,) the same as a position of the target
    covariance: Tensor  # (m, m) of the free coordinates there, in the coordinates of positions
    margin: float  # Laplace's approximation of the log marginal, up to a constant


def nested_laplace(target: SpectralTarget) -> Transport:
    """Build the transport map: an axis for the noise level, one for the kernel's size, a linear map for the others.

    Raises ValueError if a marginal cannot be computed, or a conditional curvature is not positive definite.
    """
    try:
        return _nested_laplace(target)
    except (torch.linalg.LinAlgError, ValueError) as error:
        raise ValueError(f"no transport map: {error}") from error


def _nested_laplace(target: SpectralTarget) -> Transport:
    places = [target.n_kernel] + [0] * (0 < target.n_kernel <= SHAPE_UP_TO)
    with one_thread(), torch.no_grad():
        middle, free, axes = target.mode, torch.arange(len(target.names)), []
        offset: Tensor | None = None
        for place in places:
            std = float(torch.linalg.inv(middle.precision[free][:, free])[free == place, free == place].sqrt())
            free = free[free != place]
            axis, middle, point = _axis(target, place, free, middle, std, offset)
            axes.append(axis)
            offset = point.position
        return Transport(tuple(axes), free, torch.linalg.cholesky(point.covariance))


def _axis(
    target: SpectralTarget, place: int, free: Tensor, start: SpectralMode, std: float, offset: Tensor | None
) -> tuple[Axis, SpectralMode, Point]:
    """Axis along a coordinate, and the conditional mode at its median.

    An inner axis is expressed relative to the median of the outer one, `offset`.
    """

    def solve(at: Tensor) -> tuple[SpectralMode, Point]:
        mode = descend(target.likelihood, target.prior, at, steps=6, free=free, settled=SETTLED)
        position, precision = target.in_positions(mode)
        factor = torch.linalg.cholesky(precision[free][:, free])
        margin = -mode.energy - float(factor.diagonal().log().sum())
        return mode, Point(mode.position, position, torch.cholesky_inverse(factor), margin)

    points = _profile(lambda at: solve(at)[1], place, start.position, std)
    t, w = _quantiles(points, place)
    moved = points[int(np.abs(np.interp([float(p.at[place]) for p in points], t, w)).argmin())].at.clone()
    moved[place] = float(np.interp(0.0, w, t))
    mode, middle = solve(moved)
    return _table(points, place, free, middle, t, w, offset), mode, middle


def _profile(solve: Callable[[Tensor], Point], place: int, start: Tensor, std: float) -> list[Point]:
    """Points along a coordinate, ascending: dense where the log marginal is steep, until it has fallen by `DEPTH`."""
    first = solve(start)
    sides = [_walk(solve, place, first, sign * 0.7 * std) for sign in (-1, 1)]
    points = [*sides[0][:0:-1], *sides[1]]
    while len(points) < MOST_POINTS:
        t, w = _quantiles(points, place)
        at = np.interp([float(p.at[place]) for p in points], t, w)
        wide = [i for i in range(len(points) - 1) if at[i + 1] - at[i] > GAP and at[i + 1] > -REACH and at[i] < REACH]
        for i in reversed(wide):
            points.insert(i + 1, solve((points[i].at + points[i + 1].at) / 2))
        if not wide:
            break
    return points


def _walk(solve: Callable[[Tensor], Point], place: int, first: Point, step: float) -> list[Point]:
    """Points from the first one on in one direction; each search starts from a linear extrapolation."""
    side, least = [first], abs(step) / 40
    while len(side) < MOST_POINTS // 2:
        last = side[-1]
        guess = last.at.clone()
        if len(side) > 1:
            guess += (last.at - side[-2].at) * (step / (last.at[place] - side[-2].at[place]))
        guess[place] = last.at[place] + step
        new = solve(guess)
        if not abs(new.margin - last.margin) <= JUMP and abs(step) > least:
            step /= 2
            continue
        if not np.isfinite(new.margin):
            break
        side.append(new)
        if new.margin < max(p.margin for p in side) - DEPTH:
            break
        if abs(new.margin - last.margin) < 1:
            step *= 1.4
    return side


def _quantiles(points: list[Point], place: int) -> tuple[Vector, Vector]:
    """Values t of the coordinate on a fine grid, and the normal quantiles w of the marginal there."""
    t = np.array([float(p.at[place]) for p in points])
    margin = np.array([p.margin for p in points])
    fine = np.linspace(t[0], t[-1], 4001)
    density = np.exp(CubicSpline(t, margin - margin.max())(fine).clip(-30, 5))
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    share = (below / below[-1]).clip(1e-12, 1)
    above = ((below[-1] - below) / below[-1]).clip(1e-12, 1)
    w = np.where(share < 0.5, norm.ppf(share), -norm.ppf(above))
    rising = np.concatenate([[True], np.diff(w) > 1e-9]) & (np.abs(w) < REACH + 1)
    return fine[rising], w[rising]


def _table(
    points: list[Point], place: int, free: Tensor, middle: Point, t: Vector, w: Vector, offset: Tensor | None
) -> Axis:
    """Tabulate u, m and l over w; dt/dw is the normal density at w divided by the marginal density at t."""
    at = np.array([float(p.at[place]) for p in points])
    knots = np.linspace(max(-REACH, w[0]), min(REACH, w[-1]), KNOTS)
    u = np.interp(knots, w, t)
    margin = CubicSpline(at, np.array([p.margin - middle.margin for p in points]))
    mass = np.trapezoid(np.exp(margin(t)), t)
    slope = norm.pdf(knots) * mass / np.exp(margin(u))
    secant = np.diff(u) / np.diff(knots)
    slope[:-1], slope[1:] = np.minimum(slope[:-1], 2.5 * secant), np.minimum(slope[1:], 2.5 * secant)
    deviation = torch.stack([p.covariance.diagonal() for p in points]).log() / 2
    followers = np.concatenate([torch.stack([p.position[free] for p in points]), deviation], 1)
    curve = CubicSpline(at, followers)
    full, none = FOLLOWED
    excess = (np.abs(knots).clip(max=none) - full).clip(0)
    follow = np.sign(knots) * (np.abs(knots).clip(max=none) - excess**2 / (2 * (none - full)))
    led, pace = np.interp(follow, w, t), np.interp(follow, knots, slope) * (1 - excess / (none - full))
    values = np.column_stack([u, curve(led)])
    slopes = np.column_stack([slope, curve(led, 1) * pace[:, None]])
    start = torch.zeros_like(middle.position) if offset is None else offset
    at_middle = middle.covariance.diagonal().log() / 2
    base = torch.cat([start[[place]], start[free], at_middle])
    return Axis(place, free, *(torch.from_numpy(v) for v in (knots, values - base.numpy(), slopes)))
