"""Do your own parts keep the contract? If not, a check raises `ContractError`: one line that says what is wrong."""

from blindsr.testing.base import ContractError
from blindsr.testing.estimators import check_estimator
from blindsr.testing.image_priors import check_image_prior
from blindsr.testing.kernels import check_kernel_density, check_kernel_prior
from blindsr.testing.optimizers import check_optimizer
from blindsr.testing.restorers import check_restorer
from blindsr.testing.samplers import check_sampler

__all__ = [
    "ContractError",
    "check_estimator",
    "check_image_prior",
    "check_kernel_density",
    "check_kernel_prior",
    "check_optimizer",
    "check_restorer",
    "check_sampler",
]
