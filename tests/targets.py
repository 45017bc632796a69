"""Targets whose posterior is known in closed form."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats

F64 = torch.float64


def randn(n, dim, generator):
    return torch.randn(n, dim, generator=generator, dtype=F64)


@dataclass
class CorrelatedGaussian:
    """Prior N(0, s² I), likelihood N(data; A z, I): the posterior and the evidence are Gaussian."""

    dim: int = 10
    prior_sd: float = 2.0
    seed: int = 0
    design: torch.Tensor = field(init=False)
    data: torch.Tensor = field(init=False)
    mean: torch.Tensor = field(init=False)
    covariance: torch.Tensor = field(init=False)

    def __post_init__(self):
        g = torch.Generator().manual_seed(self.seed)
        base = randn(self.dim, self.dim, g)
        scale = torch.logspace(-0.5, 0.7, self.dim, dtype=F64)
        self.design = torch.linalg.qr(base)[0] @ torch.diag(scale) @ torch.linalg.qr(randn(self.dim, self.dim, g))[0]
        self.data = self.design @ randn(1, self.dim, g)[0] * 2
        precision = self.design.T @ self.design + torch.eye(self.dim, dtype=F64) / self.prior_sd**2
        self.covariance = torch.linalg.inv(precision)
        self.mean = self.covariance @ self.design.T @ self.data

    @property
    def names(self):
        return tuple(f"z_{j}" for j in range(self.dim))

    @property
    def log_evidence(self):
        cov = self.design @ self.design.T * self.prior_sd**2 + torch.eye(self.dim, dtype=F64)
        return float(stats.multivariate_normal(np.zeros(self.dim), cov.numpy()).logpdf(self.data.numpy()))

    def log_prior(self, z):
        return -0.5 * (z / self.prior_sd).square().sum(1) - self.dim * math.log(self.prior_sd * math.sqrt(2 * math.pi))

    def log_likelihood(self, z):
        gap = self.data - z @ self.design.T
        return -0.5 * gap.square().sum(1) - 0.5 * self.dim * math.log(2 * math.pi)

    def log_prob(self, z):
        return self.log_prior(z) + self.log_likelihood(z)

    def sample_prior(self, n, *, generator):
        return self.prior_sd * randn(n, self.dim, generator)

    def initial(self, n, *, generator):
        return 2 * self.prior_sd * randn(n, self.dim, generator)

    def exact(self, n, *, generator):
        return self.tempered_exact(1.0, n, generator=generator)

    def tempered_exact(self, beta, n, *, generator):
        """Draws from the posterior whose likelihood is raised to beta."""
        precision = beta * self.design.T @ self.design + torch.eye(self.dim, dtype=F64) / self.prior_sd**2
        covariance = torch.linalg.inv(precision)
        mean = beta * covariance @ self.design.T @ self.data
        return mean + randn(n, self.dim, generator) @ torch.linalg.cholesky(covariance).T

    def marginals(self):
        return [
            stats.norm(float(m), float(v) ** 0.5) for m, v in zip(self.mean, self.covariance.diagonal(), strict=True)
        ]


@dataclass
class LogGamma:
    """z = log rate, prior rate ~ Gamma(a, 1), one Poisson count for each coordinate: skewed, conjugate."""

    counts: tuple = (0, 1, 2, 5)
    shape: float = 0.7

    @property
    def dim(self):
        return len(self.counts)

    @property
    def names(self):
        return tuple(f"log_rate_{j}" for j in range(self.dim))

    @property
    def log_evidence(self):
        return float(sum(stats.nbinom(self.shape, 0.5).logpmf(c) for c in self.counts))

    def log_prior(self, z):
        return (self.shape * z - z.exp() - math.lgamma(self.shape)).sum(1)

    def log_likelihood(self, z):
        c = torch.tensor(self.counts, dtype=F64)
        return (c * z - z.exp() - torch.lgamma(c + 1)).sum(1)

    def log_prob(self, z):
        return self.log_prior(z) + self.log_likelihood(z)

    def _numpy(self, generator):
        return np.random.default_rng(int(torch.randint(0, 2**31, (1,), generator=generator)))

    def sample_prior(self, n, *, generator):
        rng = self._numpy(generator)
        return torch.from_numpy(stats.loggamma(self.shape).rvs((n, self.dim), random_state=rng))

    def initial(self, n, *, generator):
        return 2 * randn(n, self.dim, generator)

    def exact(self, n, *, generator):
        rng = self._numpy(generator)
        return torch.from_numpy(np.stack([m.rvs(n, random_state=rng) for m in self.marginals()], 1))

    def marginals(self):
        return [stats.loggamma(self.shape + c, loc=-math.log(2)) for c in self.counts]


@dataclass
class TwoModes:
    """Prior N(0, s² I), likelihood a mixture of two narrow normal bumps: two modes of known weight, far apart."""

    dim: int = 3
    prior_sd: float = 3.0
    width: float = 0.4
    share: float = 0.3

    def __post_init__(self):
        self.centres = torch.stack([torch.full((self.dim,), -2.5, dtype=F64), torch.full((self.dim,), 2.0, dtype=F64)])

    @property
    def names(self):
        return tuple(f"z_{j}" for j in range(self.dim))

    def _parts(self):
        """log(share · evidence) of each mode."""
        sd = math.hypot(self.prior_sd, self.width)
        each = stats.norm(0, sd).logpdf(self.centres.numpy()).sum(1)
        return each + np.log([self.share, 1 - self.share])

    @property
    def log_evidence(self):
        return float(np.logaddexp(*self._parts()))

    @property
    def weight(self):
        """Posterior weight of the first mode."""
        return float(np.exp(self._parts()[0] - self.log_evidence))

    @property
    def shrink(self):
        return self.prior_sd**2 / (self.prior_sd**2 + self.width**2)

    @property
    def mode_sd(self):
        return self.width * math.sqrt(self.shrink)

    def log_prior(self, z):
        return -0.5 * (z / self.prior_sd).square().sum(1) - self.dim * math.log(self.prior_sd * math.sqrt(2 * math.pi))

    def log_likelihood(self, z):
        gap = (z[:, None] - self.centres).square().sum(2)
        share = torch.tensor([self.share, 1 - self.share], dtype=F64).log()
        bump = share - 0.5 * gap / self.width**2 - self.dim * math.log(self.width * math.sqrt(2 * math.pi))
        return bump.logsumexp(1)

    def log_prob(self, z):
        return self.log_prior(z) + self.log_likelihood(z)

    def sample_prior(self, n, *, generator):
        return self.prior_sd * randn(n, self.dim, generator)

    def initial(self, n, *, generator):
        return 1.5 * self.prior_sd * randn(n, self.dim, generator)

    def exact(self, n, *, generator):
        first = torch.rand(n, 1, generator=generator, dtype=F64) < self.weight
        centre = torch.where(first, self.centres[0], self.centres[1]) * self.shrink
        return centre + self.mode_sd * randn(n, self.dim, generator)

    def marginals(self):
        return [_Mixture(self, j) for j in range(self.dim)]


@dataclass
class _Mixture:
    """A coordinate of `TwoModes`, with the methods of a scipy distribution that tests use."""

    target: TwoModes
    j: int

    def _modes(self):
        t = self.target
        return [stats.norm(float(c[self.j]) * t.shrink, t.mode_sd) for c in t.centres]

    def cdf(self, x):
        a, b = self._modes()
        return self.target.weight * a.cdf(x) + (1 - self.target.weight) * b.cdf(x)

    def moment(self, k):
        a, b = self._modes()
        return self.target.weight * a.moment(k) + (1 - self.target.weight) * b.moment(k)

    def mean(self):
        return self.moment(1)

    def std(self):
        return math.sqrt(self.moment(2) - self.moment(1) ** 2)


@dataclass
class Funnel:
    """Neal's funnel: v ~ N(0, 3²), x_j given v ~ N(0, exp(v))."""

    dim: int = 5

    @property
    def names(self):
        return ("v", *(f"x_{j}" for j in range(self.dim - 1)))

    def log_prob(self, z):
        v, x = z[:, 0], z[:, 1:]
        return -v.square() / 18 - 0.5 * (x.square() * (-v).exp()[:, None]).sum(1) - 0.5 * (self.dim - 1) * v

    def initial(self, n, *, generator):
        return 2 * randn(n, self.dim, generator)

    def exact(self, n, *, generator):
        z = randn(n, self.dim, generator)
        v = 3 * z[:, :1]
        return torch.cat([v, z[:, 1:] * (v / 2).exp()], 1)

    def marginals(self):
        return [stats.norm(0, 3)]
