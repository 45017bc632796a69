"""What the optimizers work on: a run's two blocks (image, kernel), and the energy they lower."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from blindsr.generators.base import retract_
from blindsr.likelihood.data_term import DataTerm
from blindsr.operators.degradation import Degradation
from blindsr.priors.base import ImagePrior, KernelEnergy

Memory = dict[str, Tensor | int | list[Tensor]]


class Pass(NamedTuple):
    """One evaluation of both generators and of the energy; tensors detached except the losses."""

    x: Tensor
    k: Tensor
    residual: Tensor
    data: Tensor
    prior: Tensor


@dataclass(frozen=True)
class Energy:
    """The energy of Eqs. 3 and 39, times 2σ²/n: data(x, k) + (2σ̄²/n) (ρ Ω(x) + Φ(k)), over the n values of y.

    (Where the data term is 1 - SSIM the prior keeps this weight, as in the published code. At σ = 0 it has none.)

    Parameters
    ----------
    y : Tensor
        (1, C, h, w).
    degradation, data_term, image_prior
        The parts.
    rho : float
        Weight ρ of the image prior. Published: 0.2, with 2σ² held at 1e-3.
    kernel_prior : KernelEnergy, optional
        Φ, where the method keeps one in the objective.
    """

    y: Tensor
    degradation: Degradation
    data_term: DataTerm
    image_prior: ImagePrior
    rho: float
    kernel_prior: KernelEnergy | None = None

    def data(self, x: Tensor, k: Tensor, variance: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Data term and detached residual prediction - y."""
        prediction = self.degradation(x, k)
        return self.data_term.loss(prediction, self.y, variance, step), (prediction - self.y).detach()

    def prior(self, x: Tensor, variance: Tensor) -> Tensor:
        """Weighted image prior, a scalar."""
        weight = 2 * variance.mean() * self.rho / self.y.numel()
        return weight * self.image_prior.energy(x).sum()

    def kernel(self, k: Tensor) -> Tensor:
        """Φ(k), a scalar, not weighted: a negative log density."""
        return k.new_zeros(()) if self.kernel_prior is None else self.kernel_prior.energy(k).sum()

    def weighted_kernel(self, k: Tensor, variance: Tensor) -> Tensor:
        """Φ(k) as it stands in the energy, a scalar."""
        return 2 * variance.mean() / self.y.numel() * self.kernel(k)


@dataclass
class Run:
    """Everything that changes while a run goes on; nothing else does."""

    image: nn.Module
    kernel: nn.Module
    image_adam: torch.optim.Optimizer | None
    kernel_adam: torch.optim.Optimizer | None
    variance: Tensor
    initial_variance: Tensor
    generator: torch.Generator
    step: int = 0
    x: Tensor | None = None
    """Image of the last pass, detached."""
    k: Tensor | None = None
    """Kernel of the last pass, detached."""
    mean_x: Tensor | None = None
    """Running average of x, where the solver keeps one."""
    memory: Memory = field(default_factory=dict)
    """What the optimizer keeps between steps (accumulated gradients, counters)."""


@runtime_checkable
class Optimizer(Protocol):
    """How the two blocks take turns."""

    def begin_outer(self, run: Run, energy: Energy) -> None:
        """Do what is done once in each outer iteration, such as an E-step; by default nothing."""
        return None

    def step(self, run: Run, energy: Energy) -> Pass:
        """One inner step: at least one pass through both generators and a step on one block."""
        ...


def parameters(module: nn.Module) -> list[nn.Parameter]:
    """Trainable parameters of a module."""
    return [p for p in module.parameters() if p.requires_grad]


def forward(run: Run, energy: Energy) -> Pass:
    """Evaluate both generators and the energy, with graphs."""
    x, k = run.image(), run.kernel()
    data, residual = energy.data(x, k, run.variance, run.step)
    prior = energy.prior(x, run.variance) + energy.weighted_kernel(k, run.variance)
    return Pass(x.detach(), k.detach(), residual, data, prior)


def image_step(run: Run, energy: Energy) -> Pass:
    """Evaluate the energy, add its gradients for both blocks to those that stand there, and step on the image."""
    done = forward(run, energy)
    (done.data + done.prior).backward()
    adam_step(run.image_adam, run.image)
    return done


def adam_step(adam: torch.optim.Optimizer | None, module: nn.Module) -> None:
    """Step on the gradients that stand in the module's parameters, clear them, retract."""
    if adam is not None:
        adam.step()
        adam.zero_grad(set_to_none=True)
        retract_(module)
