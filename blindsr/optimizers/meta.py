"""Meta-learned alternating optimisation (MLAO, Eqs. 31-34)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from blindsr.optimizers.base import Energy, Pass, Run, adam_step, image_step, parameters


@dataclass(frozen=True)
class MetaLearned:
    """φ_x steps on L_i + prior at every inner step i; φ_k steps on Σ w_i L_i over a window, every P steps.

    One backward pass serves both: the gradients for φ_k are added up between steps (numbers, never graphs).

    Parameters
    ----------
    interval : int
        P, steps between two updates of φ_k.
    weights : tuple of float, optional
        w_i by place in the window, length P; default all one.
    reset_each_outer : bool
        Start a new window at each outer iteration while the step counter runs on, as the published code does: with
        P = 3 and five inner steps, windows hold 3, 1, 3, 2, 3 terms and the rest are dropped. False: every window
        holds P terms.

    Raises
    ------
    ValueError
        If the interval is below 1 or the weights are not P numbers.
    """

    interval: int = 3
    weights: tuple[float, ...] | None = None
    reset_each_outer: bool = True

    def __post_init__(self) -> None:
        if self.interval < 1 or (self.weights is not None and len(self.weights) != self.interval):
            raise ValueError("meta-learned optimizer: interval must be at least 1, weights must be `interval` numbers")

    def begin_outer(self, run: Run, energy: Energy) -> None:
        """Drop the terms of an unfinished window, if so set."""
        if self.reset_each_outer:
            self._clear(run)

    def step(self, run: Run, energy: Energy) -> Pass:
        """One inner step."""
        done = image_step(run, energy)
        self._accumulate(run)
        if (run.step + 1) % self.interval == 0:
            window = run.memory.pop("gradients")
            assert isinstance(window, list)
            for p, g in zip(parameters(run.kernel), window, strict=True):
                p.grad = g
            adam_step(run.kernel_adam, run.kernel)
            self._clear(run)
        return done

    @staticmethod
    def _clear(run: Run) -> None:
        for name in ("gradients", "count"):
            run.memory.pop(name, None)

    def _accumulate(self, run: Run) -> None:
        count = run.memory.get("count", 0)
        assert isinstance(count, int)
        weight = 1.0 if self.weights is None else self.weights[count]
        new = [torch.zeros_like(p) if p.grad is None else weight * p.grad for p in parameters(run.kernel)]
        old = run.memory.get("gradients")
        run.memory["gradients"] = [a + b for a, b in zip(old, new, strict=True)] if isinstance(old, list) else new
        run.memory["count"] = count + 1
        for p in parameters(run.kernel):
            p.grad = None
