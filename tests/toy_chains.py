"""Chains made by hand over a small kernel target."""

from dataclasses import dataclass

import torch

from blindsr.operators.degradation import Degradation
from blindsr.priors.normal import GaussianShape
from blindsr.samplers.chains import Chains

F64 = torch.float64


@dataclass
class ToyTarget:
    """A Gaussian kernel's three parameters and a noise level, normal and independent; data of 6 LR pixels."""

    family: GaussianShape = GaussianShape(11, 2)

    @property
    def names(self):
        return (*self.family.names, "log_noise")

    def kernel(self, z):
        return self.family.kernel(z[:, :3])

    def log_prob(self, z):
        return -0.5 * z.square().sum(1)

    def initial(self, n, *, generator):
        return torch.randn(n, 4, generator=generator, dtype=F64)

    def sample_prior(self, n, *, generator):
        return torch.randn(n, 4, generator=generator, dtype=F64)

    def observed(self):
        return {"lr_image": torch.linspace(0, 1, 6, dtype=F64).reshape(1, 2, 3)}

    def predict(self, z, generator):
        return {"lr_image": z[:, :1, None, None] * torch.ones(1, 1, 2, 3, dtype=F64)}

    def pointwise_log_likelihood(self, z):
        return {"lr_image": -z[:, :1] * torch.arange(6, dtype=F64)}


def toy_draws(chains=4, draws=500, dim=4, seed=0):
    """Independent normal draws, narrow enough for kernels of 11 pixels."""
    g = torch.Generator().manual_seed(seed)
    return torch.tensor([0.8, 0.1, -0.2, -4.0], dtype=F64)[:dim] + 0.1 * torch.randn(
        chains, draws, dim, generator=g, dtype=F64
    )


def toy_chains(draws, names=None, **changes):
    """Chains around draws (chains, draws, dim)."""
    m, n, _ = draws.shape
    g = torch.Generator().manual_seed(1)
    energy = torch.randn(m, n, generator=g, dtype=F64)
    given = {
        "draws": draws,
        "names": names or ToyTarget().names,
        "log_prob": -energy,
        "acceptance": torch.full((m, n), 0.8, dtype=F64),
        "energy": energy,
        "divergent": torch.zeros(m, n, dtype=torch.bool),
        "step_size": torch.linspace(0.1, 0.4, m, dtype=F64),
        "sampler": "hmc",
        "warmup": 500,
        "seconds": 1.5,
        "tuning": {"trajectory_length": 1.5},
    }
    return Chains(**given | changes)


DEGRADATION = Degradation(2)
