"""Estimators find the kernel of an LR image, and perhaps the image itself; all share one resumable face."""

from blindsr.estimators.assumed import KnownKernel, NoKernel
from blindsr.estimators.base import Estimate, Estimation, Estimator, Finished, Metrics
from blindsr.estimators.kernelgan.game import KernelGan
from blindsr.estimators.loop import JointLoop, KernelBlock, MonteCarloSettings, Problem, free_kernel
from blindsr.estimators.spectral import KernelEstimate, KernelEstimator

__all__ = [
    "Estimate",
    "Estimation",
    "Estimator",
    "Finished",
    "JointLoop",
    "KernelBlock",
    "KernelEstimate",
    "KernelEstimator",
    "KernelGan",
    "KnownKernel",
    "Metrics",
    "MonteCarloSettings",
    "NoKernel",
    "Problem",
    "free_kernel",
]
