"""The one face of everything that finds a kernel: settings that start, or resume, an estimation made step by step."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from blindsr.operators.degradation import Degradation


class Metrics(NamedTuple):
    """What one step reports; plain numbers, NaN where an estimator has no such quantity."""

    step: int
    loss: float
    """The objective's data term (1 - SSIM or mean squared error), or what the estimator minimises in its place."""
    mse: float = math.nan
    """Mean squared LR error."""
    prior: float = math.nan
    """Weighted image prior."""
    noise_std: float = math.nan
    """Noise level in use, units of y."""
    kernel_width: float = math.nan
    """Root mean square width of the kernel, HR pixels."""
    monte_carlo: float = math.nan
    """L_MC of this outer iteration; NaN where no Monte Carlo step was made at this step."""


@dataclass(frozen=True)
class Estimate:
    """The result of an estimation, detached, on the CPU.

    Attributes
    ----------
    image : Tensor or None
        (1, C, s h, s w) in [0, 1]; None where the image is left to a restorer.
    kernel : Tensor or None
        (1, 1, K, K); None where the method has no kernel. K is that of the degradation, or larger (and odd) where the
        kernel does not fit in it: see `Degradation.for_kernel`.
    noise_std : float or None
        Noise level, units of 0..1, where the estimator knows or estimates it.
    assumed : bool
        Whether the kernel was assumed, not estimated.
    posterior : SpectralPosterior or None
        Laplace approximation of p(k | y), where the estimator makes one.
    description : dict or None
        What was found of the kernel, in plain values, for records.
    """

    image: Tensor | None
    kernel: Tensor | None
    noise_std: float | None = None
    assumed: bool = False
    posterior: Any = None
    description: dict[str, Any] | None = None


class Estimation(ABC):
    """An estimation under way: everything that changes, advanced one step at a time.

    Attributes
    ----------
    step : int
        Steps made so far.
    settled : str or None
        Why the estimation has ended by itself before its last step, None where it has not.
    """

    step: int
    settled: str | None = None

    @abstractmethod
    def advance(self) -> Metrics:
        """Make one step."""

    @abstractmethod
    def estimate(self) -> Estimate:
        """Return the current image and kernel; may be called after any step, also before the first."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state as a plain dict of tensors and numbers (see `blindsr.io.checkpoint`)."""

    def load(self, state: dict[str, Any]) -> None:
        """Take over a state of `state_dict`; see `Estimator.resume`."""
        raise ValueError("this estimator keeps no state to resume from")

    def facts(self) -> dict[str, Any]:
        """Return what else belongs on record: plain values, such as `parameters`, the number of fitted values."""
        return {"parameters": 0}

    def coming_kernels(self) -> tuple[Tensor, Tensor] | None:
        """Return the kernels (L, 1, K, K) that the next Monte Carlo step draws, and their LR errors (L,).

        The random numbers of the estimation itself are left as they are.
        """
        return None

    def iterate(self, steps: int) -> Iterator[Metrics]:
        """Advance until `steps` steps have been made in all; the caller may stop at any time."""
        while self.step < steps and self.settled is None:
            yield self.advance()


Loaded = TypeVar("Loaded", bound=Estimation)


class Finished(Estimation):
    """An estimation without steps: its estimate is there at once."""

    step = 0

    def __init__(self, estimate: Estimate) -> None:
        self._estimate = estimate

    def advance(self) -> Metrics:
        """Refuse: there is no step to make."""
        raise ValueError("this estimation has no steps")

    def estimate(self) -> Estimate:
        """Return the result."""
        return self._estimate

    def state_dict(self) -> dict[str, Any]:
        """Return that no step was made."""
        return {"step": 0}


class Estimator(ABC):
    """Settings of a way to find the kernel, and perhaps the image, of an LR image.

    A subclass is a frozen dataclass; nothing is computed before `start`.

    Attributes
    ----------
    stochastic : bool
        Whether the result depends on the seed.
    has_kernel : bool
        Whether a kernel is estimated or assumed at all.
    inner_steps : int
        Steps that belong together: one outer iteration.
    takes_steps : bool
        Whether `with_steps` sets the number of steps; else the estimator decides on it itself.
    makes_image : bool
        Whether the estimate holds an image; else a restorer must make it.
    loss_name : str or None
        Words for `Metrics.loss` where its curve is worth a figure.
    prior : callable or None
        Makes the kernel prior, where the estimator has one, from a `blindsr.estimators.problem.Problem`.
    """

    stochastic: bool = True
    has_kernel: bool = True
    inner_steps: int = 1
    takes_steps: bool = False
    makes_image: bool = False
    loss_name: str | None = None
    prior: Any = None

    def steps_for(self, degradation: Degradation) -> int:
        """Steps of a whole estimation; 0 for one that is `Finished` at once."""
        return 0

    def with_steps(self, steps: int) -> Estimator:
        """Return the same estimator with another number of steps; ValueError if it decides on that itself."""
        raise ValueError("it has no steps, or finds their number itself")

    def check(self, y: Tensor, degradation: Degradation, device: torch.device) -> None:  # noqa: B027
        """Check, before anything is computed, that an LR image (1, C, h, w) can be served; ValueError if not."""

    @abstractmethod
    def start(self, y: Tensor, degradation: Degradation, *, seed: int, device: torch.device | str) -> Estimation:
        """Begin on an LR image (1, C, h, w), values 0..1.

        Raises ValueError if y has another shape, holds values that are not finite, or cannot be served.
        """

    def resume(
        self, y: Tensor, degradation: Degradation, state: dict[str, Any], *, device: torch.device | str
    ) -> Estimation:
        """Rebuild an estimation from `Estimation.state_dict`; going on from it gives the bits of an unbroken run.

        Raises ValueError if the state does not fit.
        """
        raise ValueError("this estimator keeps no state to resume from")


def check_image(y: Tensor) -> None:
    """Raise ValueError unless y is one finite LR image (1, C, h, w)."""
    if y.ndim != 4 or y.shape[0] != 1:
        raise ValueError(f"the LR image has shape {tuple(y.shape)}: (1, C, h, w) is needed")
    if not torch.isfinite(y).all():
        raise ValueError("the LR image holds NaN or infinite values")


def loaded(estimation: Loaded, state: dict[str, Any]) -> Loaded:
    """Let an estimation take over a copy of a state; ValueError, in one line, if the state does not fit."""
    try:
        estimation.load(copy.deepcopy(state))
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise ValueError(f"this checkpoint does not fit the method and image: {error}".splitlines()[0]) from error
    return estimation


def check_adam(adam: torch.optim.Optimizer) -> None:
    """Raise ValueError if an optimizer's state does not fit its parameters, which the fused step would not check."""
    for p, state in adam.state.items():
        if set(state) != {"step", "exp_avg", "exp_avg_sq"} or any(
            not isinstance(v, Tensor) or v.dtype != torch.float32 or v.shape != (p.shape if n != "step" else ())
            for n, v in state.items()
        ):
            raise ValueError("the optimizer's state does not fit the parameters")
