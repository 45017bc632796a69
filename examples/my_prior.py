"""A kernel prior of your own in one file: uniform disks (defocus).

blindsr run photo.png --prior examples/my_prior.py:DiskPrior

The class is called with the Degradation, which holds the kernel's size and nominal centre. The Monte Carlo step needs
no more than `sample`, and so do `blindsr degrade --kernel` and `blindsr train-flow --prior`;
`blindsr.testing.check_kernel_prior` checks the contract.
"""

import torch
from torch import Tensor

from blindsr import Degradation
from blindsr.testing import check_kernel_prior


class DiskPrior:
    """Disks of radius U[1, K/3] pixels with a soft edge, centred at (K - s)/2."""

    def __init__(self, degradation: Degradation) -> None:
        self.kernel_size = degradation.kernel_size
        self.center = degradation.center

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n kernels (n, 1, K, K), each non-negative and summing to one."""
        radius = 1 + (self.kernel_size / 3 - 1) * torch.rand(n, 1, 1, generator=generator)
        axis = torch.arange(self.kernel_size) - self.center
        distance = torch.hypot(axis[:, None], axis[None, :])
        disk = torch.sigmoid((radius - distance) / 0.25)
        return (disk / disk.sum((1, 2), keepdim=True)).unsqueeze(1)


if __name__ == "__main__":
    degradation = Degradation(scale=4)
    check_kernel_prior(DiskPrior(degradation), degradation)
    print("DiskPrior keeps the contract of a kernel prior")
