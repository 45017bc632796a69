"""What a flow is measured against: a Gaussian mixture by EM, and a flow with the layers of the FKP code."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pyro.distributions.transforms import AffineCoupling, BatchNorm
from torch import Tensor, nn

from blindsr.priors.flow_net import standard_normal


@dataclass(frozen=True)
class Mixture:
    """A mixture of normals with full covariances; log weights (m,), means (m, d), Cholesky factors (m, d, d)."""

    log_weights: Tensor
    means: Tensor
    factors: Tensor

    def joint(self, v: Tensor) -> Tensor:
        """Log weight plus log density of each component, (n, m)."""
        columns = []
        for w, mean, factor in zip(self.log_weights, self.means, self.factors, strict=True):
            white = torch.linalg.solve_triangular(factor, (v - mean).T, upper=False).T
            columns.append(w + standard_normal(white) - factor.diagonal().log().sum())
        return torch.stack(columns, 1)

    def log_prob(self, v: Tensor) -> Tensor:
        """Log density (n,), nats."""
        return self.joint(v).logsumexp(1)


def fit_mixture(v: Tensor, components: int, noise: float, generator: torch.Generator, rounds: int = 40) -> Mixture:
    """Fit by EM, after some rounds of k-means from random centres. No variance falls below that of the noise."""
    n, d = v.shape
    means = v[torch.randperm(n, generator=generator)[:components]]
    for _ in range(15):
        nearest = torch.cdist(v, means).argmin(1)
        means = torch.stack(
            [v[nearest == j].mean(0) if bool((nearest == j).any()) else means[j] for j in range(components)]
        )
    share = torch.nn.functional.one_hot(torch.cdist(v, means).argmin(1), components).to(v)
    floor = noise**2 * torch.eye(d, dtype=v.dtype)
    last = -math.inf
    for _ in range(rounds):
        total = share.sum(0).clamp_min(1e-9)
        means = (share.T @ v) / total[:, None]
        factors = []
        for j in range(components):
            centred = v - means[j]
            values, vectors = torch.linalg.eigh((centred * share[:, j : j + 1]).T @ centred / total[j])
            factors.append(torch.linalg.cholesky((vectors * values.clamp_min(noise**2)) @ vectors.T + 1e-6 * floor))
        mixture = Mixture((total / n).log(), means, torch.stack(factors))
        joint = mixture.joint(v)
        share = joint.softmax(1)
        now = float(joint.logsumexp(1).mean())
        if now - last < 0.02:
            break
        last = now
    return mixture


class _Nets(nn.Module):
    """Shift by a ReLU network, log scale by a tanh network, two hidden layers each, as published."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()

        def net(act: type[nn.Module]) -> nn.Sequential:
            layers = [nn.Linear(inputs, hidden), act(), nn.Linear(hidden, hidden), act(), nn.Linear(hidden, outputs)]
            return nn.Sequential(*layers)

        self.shift, self.scale = net(nn.ReLU), net(nn.Tanh)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.shift(x), self.scale(x)


class PublishedFlow(nn.Module):
    """Five affine couplings, pixels taken by turns, each with batch norm, hidden layers of min(5 (s + 1), 25)."""

    def __init__(self, dim: int, scale: int, blocks: int = 5) -> None:
        super().__init__()
        self.orders, couplings, norms = [], [], []
        for j in range(blocks):
            kept = torch.arange(j % 2, dim, 2)
            self.orders.append(torch.cat([kept, torch.arange(1 - j % 2, dim, 2)]))
            nets = _Nets(len(kept), min(5 * (scale + 1), 25), dim - len(kept))
            couplings.append(AffineCoupling(len(kept), nets, log_scale_min_clip=-10.0, log_scale_max_clip=10.0))
            norms.append(BatchNorm(dim, momentum=0.1))
        self.couplings, self.norms = nn.ModuleList(couplings), nn.ModuleList(norms)

    def inverse(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """White noise of logits, and log |det| (n,)."""
        total = v.new_zeros(len(v))
        for order, coupling, norm in zip(self.orders, self.couplings, self.norms, strict=True):
            y = v[:, order]
            x = coupling.inv(y)
            total = total - coupling.log_abs_det_jacobian(x, y)
            x = x[:, order.argsort()]
            v = norm.inv(x)
            total = total - norm.log_abs_det_jacobian(v, x).sum(-1)
        return v, total

    def log_prob(self, v: Tensor) -> Tensor:
        """Log density (n,), nats."""
        z, log_det = self.inverse(v)
        return standard_normal(z) + log_det

    def forward(self, z: Tensor) -> Tensor:
        """Logits of white noise."""
        for order, coupling, norm in zip(
            reversed(self.orders), reversed(self.couplings), reversed(self.norms), strict=True
        ):
            z = coupling(norm(z)[:, order])[:, order.argsort()]
        return z
