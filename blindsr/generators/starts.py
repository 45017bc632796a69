"""Kernels that methods start from, or assume, at the nominal centre (K - s)/2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blindsr.generators.kernel import ScaledKernel
from blindsr.operators.degradation import Degradation
from blindsr.priors.gaussian import gaussian_kernel, protocol_variances


def protocol_mean(degradation: Degradation) -> Tensor:
    """The isotropic Gaussian (1, 1, K, K) of the protocol's mean variance, at the nominal centre."""
    variance = torch.tensor([sum(protocol_variances(degradation.scale)) / 2])
    center = torch.full((1, 2), degradation.center)
    return gaussian_kernel(degradation.kernel_size, variance, variance, torch.zeros(1), center)


def uniform_square(degradation: Degradation, reach: float) -> Tensor:
    """The kernel (1, 1, K, K) that is uniform up to `reach` pixels from the nominal centre on both axes, else 0."""
    inside = ((torch.arange(degradation.kernel_size) - degradation.center).abs() <= reach).float()
    return (torch.outer(inside, inside) / inside.sum() ** 2)[None, None]


def kernel_pixels(degradation: Degradation) -> nn.Module:
    """K² free pixels on the simplex, at the start equal within the largest square about the centre."""
    return ScaledKernel.at(uniform_square(degradation, degradation.center))


def pixel_average(degradation: Degradation) -> Tensor:
    """The kernel (1, 1, K, K) that averages the s x s HR pixels of an LR pixel: a stand-in where there is no kernel."""
    return uniform_square(degradation, (degradation.scale - 1) / 2)
