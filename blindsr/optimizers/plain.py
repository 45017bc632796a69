"""Plain ways for the two blocks to take turns: alternating minimisation, joint descent, image only."""

from __future__ import annotations

from dataclasses import dataclass

from blindsr.optimizers.base import Energy, Optimizer, Pass, Run, adam_step, image_step


@dataclass(frozen=True)
class Alternating(Optimizer):
    """Plain alternating minimisation: some steps on x with k fixed, then some on k with x fixed, each block greedily.

    Steps on k use the image of the last pass and need no pass through the image generator.

    Parameters
    ----------
    image_steps, kernel_steps : int
        Steps on one block before the other has its turn.
    """

    image_steps: int = 5
    kernel_steps: int = 5

    def __post_init__(self) -> None:
        if min(self.image_steps, self.kernel_steps) < 1:
            raise ValueError("alternating minimisation: image_steps and kernel_steps must be at least 1")

    def step(self, run: Run, energy: Energy) -> Pass:
        """One step on x; after every `image_steps` of them, the turn of k."""
        done = image_step(run, energy)
        if run.kernel_adam is None:
            return done
        run.kernel_adam.zero_grad(set_to_none=True)
        if (run.step + 1) % self.image_steps == 0:
            for _ in range(self.kernel_steps):
                k = run.kernel()
                loss = energy.data(done.x, k, run.variance, run.step)[0]
                (loss + energy.weighted_kernel(k, run.variance)).backward()
                adam_step(run.kernel_adam, run.kernel)
        return done


@dataclass(frozen=True)
class Joint(Optimizer):
    """Both blocks step on the same loss at every step (Double-DIP). With a fixed kernel: image only (DIP).

    Parameters
    ----------
    kernel_from : int
        Steps before the kernel's first: the image alone until then. FKP-DIP: 75.
    """

    kernel_from: int = 0

    def __post_init__(self) -> None:
        if self.kernel_from < 0:
            raise ValueError("joint descent: kernel_from must be 0 or more")

    def step(self, run: Run, energy: Energy) -> Pass:
        """One step on x and, where it takes part, on k."""
        done = image_step(run, energy)
        if run.step >= self.kernel_from:
            adam_step(run.kernel_adam, run.kernel)
        elif run.kernel_adam is not None:
            run.kernel_adam.zero_grad(set_to_none=True)
        return done
