"""The flow itself: kernels as unconstrained logits, and an invertible map between logits and white noise.

A kernel k (K², summing to one) becomes logits v in two steps:

    x = φ + (1 - 2φ) k / c,        v = log x/(1 - x) + τ ε,    ε ~ N(0, I)

c is a fixed scale at or above the largest kernel value, φ a floor. The noise dequantises: without it kernels of a few
parameters fill no volume and have no density. FKP adds noise of one size to all pixels (U[0, 1/720], on the same scale)
instead, which in a wide kernel piles up to some per cent of its mass, spread over the frame; here it is in proportion
to the pixel. The way back, k ∝ max(sigmoid(v) - φ', 0), removes the floor again, with two standard deviations of its
noise: logit φ' = logit φ + 2τ.

The map goes from coarse to fine. Logits are whitened along the principal axes of the training kernels; the first few
coordinates pass through spline couplings, then each finer group of coordinates is shifted and scaled, given all coarser
ones, by an affine coupling:

    v = m + U diag(s) h,    h = T(z),    h_fine = μ(h_coarse) + exp(σ(h_coarse)) z_fine,    z ~ N(0, I)

References
----------
Liang, Zhang, Gu, Van Gool, Timofte, "Flow-based Kernel Prior with Application to Blind Super-Resolution", CVPR 2021
(FKP);
Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", ICLR 2017 (affine couplings, coarse and fine scales);
Dolatabadi, Erfani, Leckie, "Invertible Generative Modeling using Linear Rational Splines", AISTATS 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.transforms import AffineCoupling, SplineCoupling
from pyro.nn import DenseNN
from torch import Tensor, nn

from blindsr.operators.kernels import tilted
from blindsr.priors.base import standard_normal

LARGEST = 30.0
"""Logits beyond this are cut: a float holds no smaller or larger share."""
REST = 1e-6
"""Share of what is below the floor that is kept, so that no kernel is all zero."""
BOUND = 5.0
"""Splines act within ± this, in units of white noise, and leave what lies beyond."""
LOG_SCALE = (-8.0, 4.0)
"""Smallest and largest σ of an affine coupling."""


@dataclass(frozen=True)
class Logits:
    """How kernels become logits."""

    peak: float  # c, kernel values (they sum to one)
    floor: float = 1e-3  # φ, share of c
    noise: float = 0.05
    """τ, standard deviation of the dequantising noise in logits: about the relative error of a pixel."""
    center: float | None = None
    """Where the kernels' centre of mass lies on both axes, pixels, if all have the same: `decode` then puts it there by
    an exponential tilt, since no noise may move what never varies. None: it falls where it falls."""

    def __post_init__(self) -> None:
        if not (0 < self.peak <= 1 and 0 < self.floor < 0.1 and 0 < self.noise < 1):
            raise ValueError(f"flow: peak {self.peak}, floor {self.floor}, noise {self.noise}: above 0, and small")

    def encode(self, kernels: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Logits (n, K²) of kernels (n, 1, K, K), dequantised where a generator is given."""
        x = (kernels.flatten(1) / self.peak).clamp(0, 1)
        v = torch.logit(self.floor + (1 - 2 * self.floor) * x)
        if generator is None:
            return v
        return v + self.noise * torch.randn(v.shape, generator=generator, dtype=v.dtype)

    def decode(self, v: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of logits (n, K²): non-negative, summing to one, differentiable."""
        size = math.isqrt(v.shape[1])
        x = torch.sigmoid(v.clamp(-LARGEST, LARGEST))
        quiet = 1 / (1 + (1 / self.floor - 1) * math.exp(-2 * self.noise))  # the floor, two standard deviations up
        k = (x - quiet).clamp_min(0) + REST * x
        k = (k / k.sum(1, keepdim=True)).view(-1, 1, size, size)
        return k if self.center is None else tilted(k, self.center)


@dataclass(frozen=True)
class FlowShape:
    """Size of a flow."""

    kernel_size: int  # K; the flow has K² dimensions
    levels: tuple[int, ...] = (4, 16, 64)
    """Coordinates in the coarsest group, in the two coarsest together, and so on; the last group takes the rest."""
    couplings: int = 5  # Spline couplings of the coarsest group
    bins: int = 8  # Pieces of a spline
    hidden: int = 64  # Width of both hidden layers of each coupling's network

    def __post_init__(self) -> None:
        steps = (2, *self.levels, self.kernel_size**2)
        if min(self.couplings, self.hidden) < 1 or self.bins < 2 or not self.levels:
            raise ValueError("flow: at least one level, coupling and hidden unit and two bins are needed")
        if steps[0] > steps[1] or any(a >= b for a, b in zip(steps[1:], steps[2:], strict=False)):
            raise ValueError(f"flow: levels {self.levels} must increase from 2 or more to below {self.kernel_size**2}")

    @property
    def dim(self) -> int:
        """K²."""
        return self.kernel_size**2


def _network(inputs: int, hidden: int, outputs: list[int]) -> DenseNN:
    """Two hidden layers; the last layer starts near zero, where an affine coupling is the identity."""
    net = DenseNN(inputs, [hidden, hidden], outputs, nonlinearity=nn.SiLU())
    last = net.layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()
    return net


def _spline(kept: int, free: int, bins: int, hidden: int) -> SplineCoupling:
    """A spline coupling that starts near the identity: bins of one size, slopes of 1."""
    net = _network(kept, hidden, [free * bins, free * bins, free * (bins - 1), free * bins])
    last = net.layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias[2 * free * bins : free * (3 * bins - 1)] = math.log(math.e - 1)  # softplus of it is 1
    return SplineCoupling(kept + free, kept, net, bins, bound=BOUND, identity=True)


class _Layer(nn.Module):
    """A coupling of the leading `width` coordinates, taken in some order; the others pass."""

    order: Tensor
    coupling: Any

    def __init__(self, width: int, coupling: nn.Module, shift: int = 0) -> None:
        super().__init__()
        self.width, self.coupling = width, coupling
        self.register_buffer("order", torch.arange(width).roll(shift), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        y = self.coupling(z[:, self.order])
        return torch.cat([y[:, self.order.argsort()], z[:, self.width :]], 1)

    def inverse(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log |det dz/dh|."""
        y = h[:, self.order]
        x = self.coupling.inv(y)
        log_det: Tensor = self.coupling.log_abs_det_jacobian(x, y)
        return torch.cat([x[:, self.order.argsort()], h[:, self.width :]], 1), -log_det


class KernelFlow(nn.Module):
    """The invertible map z <-> v between white noise and logits, both (n, K²).

    Weights come from torch's global random state: construct inside `blindsr.random.seeded`. Until `whiten` is called
    the logits' axes are the pixels.
    """

    mean: Tensor
    axes: Tensor
    std: Tensor

    def __init__(self, shape: FlowShape) -> None:
        super().__init__()
        self.shape = shape
        first = shape.levels[0]
        kept = first // 2
        layers = [
            _Layer(first, _spline(kept, first - kept, shape.bins, shape.hidden), shift=j)
            for j in range(shape.couplings)
        ]
        for low, high in zip(shape.levels, (*shape.levels[1:], shape.dim), strict=True):
            net = _network(low, shape.hidden, [high - low, high - low])
            clip = dict(zip(("log_scale_min_clip", "log_scale_max_clip"), LOG_SCALE, strict=True))
            layers.append(_Layer(high, AffineCoupling(low, net, **clip)))
        self.layers = nn.ModuleList(layers)
        self.register_buffer("mean", torch.zeros(shape.dim))
        self.register_buffer("axes", torch.eye(shape.dim))
        self.register_buffer("std", torch.ones(shape.dim))

    @torch.no_grad()
    def whiten(self, logits: Tensor, noise: float) -> None:
        """Take mean, principal axes and standard deviations from logits (n, K²) without noise, and from its level."""
        v = logits.double()
        centred = v - v.mean(0)
        variances, axes = torch.linalg.eigh(centred.T @ centred / len(v))
        self.mean.copy_(v.mean(0))
        self.axes.copy_(axes.flip(1))
        self.std.copy_((variances.flip(0).clamp_min(0) + noise**2).sqrt())

    def forward(self, z: Tensor) -> Tensor:
        """Logits of white noise."""
        for layer in self.layers:
            z = layer(z)
        return self.mean + (z * self.std) @ self.axes.T

    def inverse(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """White noise of logits, and log |det dz/dv| (n,)."""
        h = ((v - self.mean) @ self.axes) / self.std
        total = -self.std.log().sum().expand(len(v))
        for layer in reversed(self.layers):
            assert isinstance(layer, _Layer)
            h, log_det = layer.inverse(h)
            total = total + log_det
        return h, total

    def log_prob(self, v: Tensor) -> Tensor:
        """Log density (n,) of logits, nats."""
        z, log_det = self.inverse(v)
        return standard_normal(z) + log_det
