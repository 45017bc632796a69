"""Samplers: objects that hold settings, and `sample`, which runs one of them on a target.

from blindsr.samplers import Hmc, sample

chains = sample(target, Hmc(), chains=4, draws=1000, generator=torch.Generator().manual_seed(0))
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
