"""MAP restoration under a known kernel by variable splitting, which alternates prior steps and data steps.

To minimise ‖y − (x ⊗ k)↓s‖²/(2σ²) + λ Ω(x), a second variable replaces x (or its differences) in Ω, and a quadratic
penalty of weight β couples the two. The minimum over x then has the closed form of `Canvas.solve`, and the minimum over
the second variable is the proximal map or the shrinkage of the prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from blindsr.likelihood.noise import check_noise
from blindsr.operators.degradation import Degradation
from blindsr.priors.base import ImagePrior
from blindsr.priors.image import GradientPrior, TotalVariation
from blindsr.priors.patch_groups import PatchGroups
from blindsr.restorers.bicubic import bicubic
from blindsr.restorers.canvas import Canvas, difference_filters

QUANTISATION_STD = 0.3 / 255
"""Standard deviation of rounding to 8 bits, 1/sqrt(12) grey levels: the smallest noise that a restorer assumes."""

_ANCHOR = 1e-6


class Solution(NamedTuple):
    """A restored image, and what a later call may start from."""

    image: Tensor  # The picture (1, C, s h, s w), not clipped
    canvas: Tensor
    """The picture with the border that was solved for (the picture itself under circular padding), to be given as
    `start`."""


class Splitting(Protocol):
    """A scheme that alternates prior steps and data steps; subclasses start from the bicubic image by default."""

    def start(self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float) -> Tensor:
        """Image (1, C, s h, s w), or canvas, to start from where none is given: by default the bicubic enlargement."""
        return bicubic(y, degradation.scale, degradation.alignment)

    def minimise(self, canvas: Canvas, x: Tensor, prior: Any, weight: float, noise_std: float) -> Tensor:
        """Minimise ‖y − A x‖²/(2σ²) + λ Ω(x) from a canvas x (1, C, H, W), float64; returns a canvas."""
        ...


@dataclass(frozen=True)
class HalfQuadratic(Splitting):
    """Half-quadratic splitting of the differences w_i = f_i ⊗ x of a `GradientPrior`, with increasing β.

    The steps alternate between w, by the prior's shrinkage of weight λ/β, and x, in closed form. At a fixed β both
    decrease ‖y − A x‖²/(2σ²) + λ Σ φ(w) + (β/2) Σ_i ‖f_i ⊗ x − w_i‖². Differences are circular on the canvas.

    Parameters
    ----------
    first, growth, steps : float, float, int
        Continuation: β starts at `first` λ, above 0, and is multiplied by `growth`, at least 1, after each of the
        `steps` steps.

    Raises
    ------
    ValueError
        If a value lies outside its range.
    """

    first: float = 4.0
    growth: float = 1.5
    steps: int = 25

    def __post_init__(self) -> None:
        if not self.first > 0 or not self.growth >= 1 or self.steps < 1:
            raise ValueError("half-quadratic splitting: need first > 0, growth of at least 1 and at least one step")

    def minimise(self, canvas: Canvas, x: Tensor, prior: Any, weight: float, noise_std: float) -> Tensor:
        """Minimise, see `Splitting.minimise`."""
        filters = [f.to(x.device) for f in difference_filters(canvas.shape, prior.offsets)]
        power = torch.stack([f.abs().square() for f in filters]).sum(0) + _ANCHOR
        variance, beta = _variance(noise_std), self.first * weight
        for _ in range(self.steps):
            spectrum = torch.fft.fft2(x)
            g = torch.stack([torch.fft.ifft2(f * spectrum).real for f in filters])
            w = torch.fft.fft2(prior.shrink(g, weight / beta))
            # _ANCHOR β ‖x − x_old‖² determines the mean, on which differences do not depend
            target = sum((f.conj() * v for f, v in zip(filters, w, strict=True)), _ANCHOR * spectrum)
            x = canvas.solve(beta * power, beta * target, variance)
            beta *= self.growth
        return x


@dataclass(frozen=True)
class PlugAndPlay(Splitting):
    """Plug-and-play splitting: the alternating direction method with a decreasing noise level.

    The assumed noise level a decreases from `first` to `last` (times the scale), β = λ/a², and the steps are

        z = prox(x + m (x − x_old) + u; a²)        (a denoiser for the noise level a)
        u = x + m (x − x_old) + u − z
        x = argmin ‖y − A x‖²/σ² + β ‖x − (z − u)‖²        (`Canvas.solve`).

    No energy is guaranteed to decrease. The start is the image under total variation. A prior with a method `at`
    (`PatchGroups`) is updated to the current image every `regroup` steps.

    Parameters
    ----------
    first, last : float
        Assumed noise levels of the first and the last step, with a geometric sequence between them, in units of 0..1
        for each unit of the scale. The last one is raised to `noise_gain` times the noise level if that is larger.
    noise_gain : float
        See `last`.
    steps, regroup : int
        Number of steps, and number of steps between updates of the prior; at least 1 each.
    momentum : float
        Extrapolation m of x between updates of the prior, in [0, 1).

    Raises
    ------
    ValueError
        If a value lies outside its range.

    References
    ----------
    Zhang, Li, Zuo, Zhang, Van Gool, Timofte, "Plug-and-Play Image Restoration with Deep Denoiser Prior", TPAMI 2021.
    """

    first: float = 7.5 / 255
    last: float = 0.75 / 255
    noise_gain: float = 2.0
    steps: int = 16
    regroup: int = 4
    momentum: float = 0.8

    def __post_init__(self) -> None:
        if self.steps < 1 or self.regroup < 1:
            raise ValueError("plug and play: at least one step, and one step between regroupings, are needed")
        if not 0 < self.last <= self.first < math.inf:
            raise ValueError(f"plug and play: noise levels {self.first} to {self.last}: need positive and not growing")
        if not (self.noise_gain >= 0 and 0 <= self.momentum < 1):
            raise ValueError("plug and play: need a noise gain of at least 0 and a momentum in [0, 1)")

    def start(self, y: Tensor, kernel: Tensor, degradation: Degradation, noise_std: float) -> Tensor:
        """Restore y under total variation, see `Splitting.start`."""
        return map_solution(y, kernel, degradation, noise_std).canvas

    def minimise(self, canvas: Canvas, x: Tensor, prior: Any, weight: float, noise_std: float) -> Tensor:
        """Alternate, see `Splitting.minimise`."""
        first = self.first * canvas.scale
        last = min(max(self.last * canvas.scale, self.noise_gain * noise_std), first)
        form = getattr(prior, "at", lambda image: prior)
        old, u, z = x, torch.zeros_like(x), x
        for step in range(self.steps):
            level = first * (last / first) ** (step / max(self.steps - 1, 1))
            if step % self.regroup == 0:
                denoiser, old = form(x.float()), x
            v = x + self.momentum * (x - old) + u
            z = denoiser.prox(v.float(), level**2).double()
            u, old = v - z, x
            x = _data_step(canvas, z - u, weight / level**2, noise_std)
        return z


@dataclass(frozen=True)
class Admm(Splitting):
    """The alternating direction method of multipliers, for any prior with a proximal map.

    With u the scaled multiplier, alternately z = prox(x + u; λ/β), u ← u + x − z, and x in closed form for z − u. For a
    convex Ω it converges to the MAP image from any start. β is doubled or halved where the relative primal and dual
    residuals differ tenfold (Boyd et al. 2011, Section 3.4.1; Wohlberg 2017, "ADMM Penalty Parameter Selection by
    Residual Balancing"), so that it suits an energy of any unit.

    Parameters
    ----------
    first : float
        Variance λ/β of the noise that the first proximal map is told, squared units of 0..1.
    steps : int
        Most steps.
    tolerance : float
        Relative residuals at which it ends.

    Raises
    ------
    ValueError
        If a value lies outside its range.
    """

    first: float = 1e-3
    steps: int = 200
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if not (self.first > 0 and self.tolerance > 0) or self.steps < 1:
            raise ValueError("alternating directions: need first > 0, tolerance > 0 and at least one step")

    def minimise(self, canvas: Canvas, x: Tensor, prior: ImagePrior, weight: float, noise_std: float) -> Tensor:
        """Alternate until both residuals are small, see `Splitting.minimise`."""
        beta, u, z = weight / self.first, torch.zeros_like(x), x
        for _ in range(self.steps):
            old, z = z, prior.prox(x + u, weight / beta)
            u = u + x - z
            x = _data_step(canvas, z - u, beta, noise_std)
            primal = float((x - z).norm() / torch.maximum(x.norm(), z.norm()).clamp_min(1e-12))
            dual = float((z - old).norm() / u.norm().clamp_min(1e-12))
            if max(primal, dual) < self.tolerance:
                break
            factor = 2.0 if primal > 10 * dual else 0.5 if dual > 10 * primal else 1.0
            beta, u = beta * factor, u / factor
        return z


@singledispatch
def splitting_for(prior: object) -> Splitting:
    """Return the splitting that suits a prior; other kinds may be registered (`functools.singledispatch`)."""
    return Admm()


@splitting_for.register
def _(prior: GradientPrior) -> Splitting:
    return HalfQuadratic()


@splitting_for.register
def _(prior: PatchGroups) -> Splitting:
    return PlugAndPlay()


def check_prior(prior: object, weight: float | None = None) -> float:
    """Return the weight λ of a prior: the given one, else its own `map_weight`, else 1.

    Raises ValueError if the prior has no `prox`, or the weight is not a positive number.
    """
    if not callable(getattr(prior, "prox", None)):
        raise ValueError(
            f"image prior {type(prior).__name__}: has no prox(x, step), which MAP restoration needs (the joint loop "
            "needs energy(x) alone)"
        )
    found = float(getattr(prior, "map_weight", 1.0) if weight is None else weight)
    if not 0 < found < math.inf:
        raise ValueError(f"prior weight {found}: a positive number is needed")
    return found


def map_solution(
    y: Tensor,
    kernel: Tensor,
    degradation: Degradation,
    noise_std: float,
    *,
    prior: ImagePrior | None = None,
    weight: float | None = None,
    splitting: Splitting | None = None,
    start: Tensor | None = None,
) -> Solution:
    """Minimise ‖y − (x ⊗ k)↓s‖²/(2σ²) + λ Ω(x).

    Parameters
    ----------
    y : Tensor
        LR image (1, C, h, w).
    kernel : Tensor
        (1, 1, K, K).
    degradation : Degradation
        Scale, kernel size, alignment, padding.
    noise_std : float
        σ, units of 0..1; counted as at least `QUANTISATION_STD`.
    prior : ImagePrior, optional
        Ω. Default: total variation, coupled over the channels.
    weight : float, optional
        λ. Default: the prior's `map_weight`, or 1.
    splitting : Splitting, optional
        Default: `splitting_for` the prior.
    start : Tensor, optional
        Image or canvas to start from. Default: what the splitting starts from.

    Raises
    ------
    ValueError
        If a shape or the noise level is bad, see `Canvas`, or the prior has no `prox`.
    """
    check_noise(noise_std)
    prior = TotalVariation(coupled=True) if prior is None else prior
    weight = check_prior(prior, weight)
    splitting = splitting_for(prior) if splitting is None else splitting
    canvas = Canvas(y, kernel, degradation)
    begin = splitting.start(y, kernel, degradation, noise_std) if start is None else start
    x = splitting.minimise(canvas, canvas.fill(begin).double(), prior, weight, noise_std)
    return Solution(canvas.crop(x).to(y.dtype), x.to(y.dtype))


def _variance(noise_std: float) -> float:
    return max(noise_std, QUANTISATION_STD) ** 2


def _data_step(canvas: Canvas, target: Tensor, beta: float, noise_std: float) -> Tensor:
    """Minimise ‖y − A x‖²/σ² + β ‖x − target‖²."""
    weight = torch.full((1, 1), beta, dtype=torch.float64, device=target.device)
    return canvas.solve(weight.expand(canvas.shape), weight * torch.fft.fft2(target), _variance(noise_std))
