"""The image by Adam, the kernel refitted to it outright: the composite objective of the spectral methods."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blindsr.generators.base import retract_
from blindsr.likelihood.quadratic import LrErrorForm
from blindsr.optimizers.base import Energy, Optimizer, Pass, Run, image_step, parameters


@dataclass(frozen=True)
class RefitKernel(Optimizer):
    """φ_x takes an Adam step at every step; φ_k is refitted every few steps to the image's running mean.

    The refit minimises n e(k) / 2σ_e² + Φ(k) by L-BFGS, e the mean squared LR error of a kernel under the fixed image
    (`LrErrorForm`, exact, built once for each refit) and Φ the kernel prior of the energy. With Φ the spectral
    likelihood this keeps what y alone says in the objective, without which joint estimation drifts.

    Parameters
    ----------
    interval : int
        Steps between two refits.
    first : int
        No refit before this step: the image is still too coarse.
    error_variance : float
        σ_e² beside the noise variance, squared units of y: what the image still gets wrong. Larger trusts Φ more.
    iterations : int
        L-BFGS iterations in one refit.

    Raises
    ------
    ValueError
        If a count is too small or the variance not positive.
    """

    interval: int = 5
    first: int = 30
    error_variance: float = 1e-3
    iterations: int = 10

    def __post_init__(self) -> None:
        if self.interval < 1 or self.iterations < 2 or self.first < 0 or not self.error_variance > 0:
            raise ValueError("kernel refit: need interval >= 1, iterations >= 2, first >= 0 and error_variance > 0")

    def step(self, run: Run, energy: Energy) -> Pass:
        """One step on x; where it is due, a refit of k."""
        done = image_step(run, energy)
        free = parameters(run.kernel)
        for p in free:
            p.grad = None
        if free and run.step >= self.first and run.step % self.interval == 0:
            self._refit(run, energy, done.x if run.mean_x is None else run.mean_x)
        return done

    def _refit(self, run: Run, energy: Energy, x: Tensor) -> None:
        weight = run.variance.mean() / run.variance if run.variance.ndim else None
        form = LrErrorForm.build(energy.degradation, x, energy.y, weight)
        scale = energy.y.numel() / (2 * (self.error_variance + float(run.variance.mean())))
        descent = torch.optim.LBFGS(parameters(run.kernel), max_iter=self.iterations, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            descent.zero_grad(set_to_none=True)
            k = run.kernel()
            loss = scale * form(k).sum() + energy.kernel(k)
            loss.backward()
            return loss

        descent.step(closure)
        descent.zero_grad(set_to_none=True)
        retract_(run.kernel)
