"""Samplers: objects that hold settings, and `sample`, which runs one of them on a target.

from blindsr.samplers import Hmc, sample

chains = sample(target, Hmc(), chains=4, draws=1000, generator=torch.Generator().manual_seed(0))
"""

from blindsr.samplers.base import Info, State, Transition
from blindsr.samplers.chains import Chains
from blindsr.samplers.hmc import Hmc
from blindsr.samplers.latent import LatentLangevin
from blindsr.samplers.mala import Mala
from blindsr.samplers.mcka import MonteCarloKernelApproximation
from blindsr.samplers.metric import Metric
from blindsr.samplers.network_langevin import NetworkLangevin
from blindsr.samplers.pyro_nuts import PyroNuts
from blindsr.samplers.request import Request
from blindsr.samplers.rwm import RandomWalk
from blindsr.samplers.sampler import MarkovSampler, Sampler
from blindsr.samplers.sgld import PreconditionedSgld, Sgld
from blindsr.samplers.smc import Smc
from blindsr.samplers.table import SAMPLERS, sample
from blindsr.samplers.tempering import Tempering
from blindsr.samplers.warmup import AdaptiveSampler, Tunable

__all__ = [
    "SAMPLERS",
    "AdaptiveSampler",
    "Chains",
    "Hmc",
    "Info",
    "LatentLangevin",
    "Mala",
    "MarkovSampler",
    "Metric",
    "MonteCarloKernelApproximation",
    "NetworkLangevin",
    "PreconditionedSgld",
    "PyroNuts",
    "RandomWalk",
    "Request",
    "Sampler",
    "Sgld",
    "Smc",
    "State",
    "Tempering",
    "Transition",
    "Tunable",
    "sample",
]
