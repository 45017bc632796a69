"""Optimizers of the joint loop: how the image and the kernel take turns."""

from blindsr.optimizers.base import Energy, Optimizer, Pass, Run
from blindsr.optimizers.em import MonteCarloEm
from blindsr.optimizers.meta import MetaLearned
from blindsr.optimizers.plain import Alternating, Joint
from blindsr.optimizers.projected import ProjectedGradient
from blindsr.optimizers.refit import RefitKernel

__all__ = [
    "Alternating",
    "Energy",
    "Joint",
    "MetaLearned",
    "MonteCarloEm",
    "Optimizer",
    "Pass",
    "ProjectedGradient",
    "RefitKernel",
    "Run",
]
