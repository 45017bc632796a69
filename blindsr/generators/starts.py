"""Kernels that methods start from, or assume, at the nominal centre (K - s)/2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blindsr.generators.kernel import FixedKernel, ScaledKernel
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


def kernel_pixels(y: Tensor, degradation: Degradation) -> nn.Module:
    """K² free pixels on the simplex, uniform at the start over the largest square about the nominal centre."""
    return ScaledKernel.at(uniform_square(degradation, degradation.center))


def isotropic_gaussian(y: Tensor, degradation: Degradation) -> nn.Module:
    """A kernel that is not estimated: the protocol's mean Gaussian."""
    return FixedKernel(protocol_mean(degradation))


def no_kernel(y: Tensor, degradation: Degradation) -> nn.Module:
    """The stand-in of a method without a kernel: the mean over the s x s HR pixels of an LR pixel."""
    return FixedKernel(uniform_square(degradation, (degradation.scale - 1) / 2))
