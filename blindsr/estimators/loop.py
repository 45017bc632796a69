"""The loop that every method shares (Eqs. 18, 19): Monte Carlo kernel approximation, then inner steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from blindsr.estimators.spectral import KernelEstimate
from blindsr.estimators.stopping import MovingVariance
from blindsr.likelihood.data_term import DataTerm
from blindsr.likelihood.noise import NoiseModel
from blindsr.operators.degradation import Degradation
from blindsr.operators.kernels import width
from blindsr.optimizers.base import Energy, Optimizer, Pass, Run, adam_step, parameters
from blindsr.priors.base import ImagePrior, KernelEnergy
from blindsr.random import draw_seed, generator, seeded
from blindsr.samplers.mcka import MonteCarloKernelApproximation

ImageFactory = Callable[[Tensor, Degradation], nn.Module]
KernelFactory = Callable[[Tensor, Degradation], nn.Module]


@dataclass(frozen=True)
class Assembly:
    """A method: one part for each place.

    Parameters
    ----------
    degradation : Degradation
        Forward operator.
    image, kernel : callable
        Make the generators: `image(y, degradation)`, `kernel(y, degradation)`.
    optimizer : Optimizer
        How the blocks take turns.
    data_term, image_prior, noise
        The energy's parts.
    rho : float
        Weight ρ of the image prior (Eq. 39).
    monte_carlo : MonteCarloKernelApproximation, optional
        The Monte Carlo step; None leaves it out, its warm-up too.
    inner_steps : int
        Q, inner steps in one outer iteration.
    image_lr, kernel_lr : float
        Adam's learning rates. The Monte Carlo step and the optimizer share the kernel's Adam.
    average : float
        If above 0, the image estimate is a running mean of x with this share of the old mean kept at each step.
    kernel_prior : KernelEnergy, optional
        Φ of Eq. 3, kept in the objective.
    estimate : KernelEstimate, optional
        What was found of the kernel before the run, from y alone.
    anchor : Tensor, optional
        Picture (1, C, s h, s w) that the image estimate is averaged with.
    stopping : MovingVariance, optional
        Ends the run where its image has settled.
    noise_steps : int
        Steps between two updates of the noise variance.
    """

    degradation: Degradation
    image: ImageFactory
    kernel: KernelFactory
    optimizer: Optimizer
    data_term: DataTerm
    image_prior: ImagePrior
    noise: NoiseModel
    rho: float = 0.2
    monte_carlo: MonteCarloKernelApproximation | None = None
    inner_steps: int = 5
    image_lr: float = 5e-3
    kernel_lr: float = 1e-4
    average: float = 0.0
    kernel_prior: KernelEnergy | None = None
    estimate: KernelEstimate | None = None
    anchor: Tensor | None = None
    stopping: MovingVariance | None = None
    noise_steps: int = 1

    def __post_init__(self) -> None:
        if min(self.inner_steps, self.noise_steps) < 1 or not 0 <= self.average < 1 or self.rho < 0:
            raise ValueError("assembly: need inner_steps and noise_steps >= 1, average in [0, 1) and rho >= 0")


class Metrics(NamedTuple):
    """What one step tells; plain numbers."""

    step: int
    loss: float
    """Data term (1 - SSIM or MSE, see the method)."""
    mse: float
    """Mean squared LR error."""
    prior: float
    """Weighted image prior."""
    noise_std: float
    """Noise level in use, units of y."""
    kernel_width: float
    """Root mean square width of the kernel, HR pixels."""
    monte_carlo: float
    """L_MC of this outer iteration; NaN where no Monte Carlo step was made at this step."""


class Estimate(NamedTuple):
    """Image (1, C, s h, s w) in [0, 1] and kernel (1, 1, K, K), both detached, on the CPU."""

    image: Tensor
    kernel: Tensor


class RunSolver(Protocol):
    """What a run is made by: `Solver`, or a solver of a method's own. Its kind of run counts its steps in `step`."""

    @property
    def found(self) -> KernelEstimate | None:
        """What was found of the kernel before the run, from y alone."""
        ...

    def init(self, y: Tensor, seed: int) -> Any:
        """Start a run on y (1, C, h, w)."""
        ...

    def iterate(self, run: Any, y: Tensor, steps: int) -> Iterator[Metrics]:
        """Step until the run has made `steps` steps in all; stop iterating at any time."""
        ...

    def settled(self, run: Any) -> bool:
        """Whether the run has ended by itself."""
        ...

    def estimate(self, run: Any) -> Estimate:
        """Return the current image and kernel."""
        ...

    def state_dict(self, run: Any) -> dict[str, Any]:
        """Return a copy of the run as a plain dict of tensors and numbers."""
        ...

    def load_state_dict(self, y: Tensor, state: dict[str, Any]) -> Any:
        """Rebuild a run on y, to the bit; ValueError where the state does not fit."""
        ...


def _adam(module: nn.Module, lr: float) -> torch.optim.Optimizer | None:
    free = parameters(module)
    return torch.optim.Adam(free, lr=lr, fused=True) if free else None


class Solver:
    """One run of an assembly, step by step.

    Parameters
    ----------
    assembly : Assembly
        The method.
    device : torch.device or str
        Where to compute. Random draws are made on the CPU, so that every device sees the same ones.

    Examples
    --------
    >>> solver = Solver(assembly)                          # doctest: +SKIP
    >>> run = solver.init(y, seed=0)                       # doctest: +SKIP
    >>> for metrics in solver.iterate(run, y, 1000): ...   # doctest: +SKIP
    >>> image, kernel = solver.estimate(run)               # doctest: +SKIP
    """

    def __init__(self, assembly: Assembly, device: torch.device | str = "cpu") -> None:
        self.assembly = assembly
        self.device = torch.device(device)

    @property
    def found(self) -> KernelEstimate | None:
        """What was found of the kernel before the run, from y alone."""
        return self.assembly.estimate

    def init(self, y: Tensor, seed: int) -> Run:
        """Build both generators for y (1, C, h, w), values 0..1, and warm the kernel up.

        Raises
        ------
        ValueError
            If y is not of shape (1, C, h, w) or holds values that are not finite, or a Monte Carlo step is asked for
            with a kernel that has no parameters.
        """
        if y.ndim != 4 or y.shape[0] != 1:
            raise ValueError(f"the LR image has shape {tuple(y.shape)}: (1, C, h, w) is needed")
        if not torch.isfinite(y).all():
            raise ValueError("the LR image holds NaN or infinite values")
        a, source = self.assembly, generator(seed)
        variance = a.noise.initial(y).to(self.device)
        with seeded(draw_seed(source)):
            image = a.image(y, a.degradation).to(self.device)
            kernel = a.kernel(y, a.degradation).to(self.device)
        run = Run(
            image,
            kernel,
            _adam(image, a.image_lr),
            _adam(kernel, a.kernel_lr),
            variance,
            variance,
            source,
        )
        if a.monte_carlo is not None:
            if run.kernel_adam is None:
                raise ValueError("a kernel without parameters learns nothing from the Monte Carlo step: leave it out")
            for target in a.monte_carlo.warmup_kernels(source).to(self.device).split(1):
                (target - run.kernel()).square().mean().backward()
                adam_step(run.kernel_adam, run.kernel)
        return run

    def step(self, run: Run, y: Tensor) -> Metrics:
        """Advance the run by one inner step, in place; an outer iteration begins every Q steps."""
        a, y = self.assembly, y.to(self.device)
        energy = Energy(y, a.degradation, a.data_term, a.image_prior, a.rho, a.kernel_prior)
        monte_carlo = float("nan")
        if run.step % a.inner_steps == 0:
            if a.monte_carlo is not None:
                monte_carlo = self._monte_carlo(run, y, a.monte_carlo)
            a.optimizer.begin_outer(run, energy)
        done = a.optimizer.step(run, energy)
        run.x, run.k = done.x, done.k
        if a.average > 0:
            run.mean_x = done.x.clone() if run.mean_x is None else run.mean_x.lerp_(done.x, self._share(run))
        if (run.step + 1) % a.noise_steps == 0:
            run.variance = a.noise.update(run.variance, done.residual, run.initial_variance)
        metrics = self._metrics(run, done, monte_carlo)
        if a.stopping is not None and a.stopping.update(run):
            run.memory["settled"] = 1
        run.step += 1
        return metrics

    def _share(self, run: Run) -> float:
        """Weight of the newest image: 1 - average, larger while the mean is young."""
        return max(1 - self.assembly.average, 1 / (1 + run.step / 4))

    def _monte_carlo(self, run: Run, y: Tensor, mcka: MonteCarloKernelApproximation) -> float:
        """Run the Monte Carlo simulations of one outer iteration, on the image of the last pass (Eqs. 24-30)."""
        if run.x is None:
            with torch.no_grad():
                run.x = run.image()
        for _ in range(mcka.n_simulations):
            kernel = run.kernel()
            samples, omega = mcka.draw(
                self.assembly.degradation, run.x, y, kernel.detach(), run.variance, run.generator
            )
            loss = mcka.loss(kernel, samples, omega)
            loss.backward()
            adam_step(run.kernel_adam, run.kernel)
        return float(loss.detach())

    @staticmethod
    def _metrics(run: Run, done: Pass, monte_carlo: float) -> Metrics:
        return Metrics(
            step=run.step + 1,
            loss=float(done.data.detach()),
            mse=float(done.residual.square().mean()),
            prior=float(done.prior.detach()),
            noise_std=float(run.variance.mean().sqrt()),
            kernel_width=float(width(done.k)),
            monte_carlo=monte_carlo,
        )

    def iterate(self, run: Run, y: Tensor, steps: int) -> Iterator[Metrics]:
        """Step until the run has made `steps` steps in all; stop iterating at any time."""
        y = y.to(self.device)
        while run.step < steps and not self.settled(run):
            yield self.step(run, y)

    @staticmethod
    def settled(run: Run) -> bool:
        """Whether the run has ended by itself."""
        return bool(run.memory.get("settled", 0))

    def estimate(self, run: Run) -> Estimate:
        """Return the current image and kernel: those of the last pass (or the running mean of the image)."""
        with torch.no_grad():
            x = run.mean_x if run.mean_x is not None else run.x if run.x is not None else run.image()
            k = run.k if run.k is not None else run.kernel()
        image = self.assembly.degradation.crop(x).detach().clamp(0, 1).cpu()
        if self.assembly.anchor is not None and run.x is not None:
            image = image.lerp(self.assembly.anchor, 0.5)
        return Estimate(image, k.detach().clone().cpu())

    def state_dict(self, run: Run) -> dict[str, Any]:
        """Return a copy of the run as a plain dict of tensors and numbers (see `blindsr.io.checkpoint`)."""
        state = {
            "image": run.image.state_dict(),
            "kernel": run.kernel.state_dict(),
            "image_adam": run.image_adam.state_dict() if run.image_adam else None,
            "kernel_adam": run.kernel_adam.state_dict() if run.kernel_adam else None,
            "variance": run.variance,
            "initial_variance": run.initial_variance,
            "generator": run.generator.get_state(),
            "step": run.step,
            "x": run.x,
            "k": run.k,
            "mean_x": run.mean_x,
            "memory": run.memory,
        }
        return copy.deepcopy(state)

    def load_state_dict(self, y: Tensor, state: dict[str, Any]) -> Run:
        """Rebuild a run on y from `state_dict`; going on from it gives the same bits as never having stopped.

        (On a CPU with the same number of threads. Some CUDA kernels add up in no fixed order.)

        Raises
        ------
        ValueError
            If the state belongs to another assembly or image size.
        """
        a, state = self.assembly, copy.deepcopy(state)
        try:
            with seeded(0):
                image, kernel = a.image(y, a.degradation).to(self.device), a.kernel(y, a.degradation).to(self.device)
            image.load_state_dict(state["image"])
            kernel.load_state_dict(state["kernel"])
            run = Run(
                image,
                kernel,
                _adam(image, a.image_lr),
                _adam(kernel, a.kernel_lr),
                state["variance"].to(self.device),
                state["initial_variance"].to(self.device),
                torch.Generator(),
                step=int(state["step"]),
                **{name: _to(state[name], self.device) for name in ("x", "k", "mean_x")},
                memory={n: _to(v, self.device) for n, v in state["memory"].items()},
            )
            run.generator.set_state(state["generator"].cpu())
            for adam, name in ((run.image_adam, "image_adam"), (run.kernel_adam, "kernel_adam")):
                if adam is not None:
                    adam.load_state_dict(state[name])
                    check_adam(adam)
            _check_shapes(run, (*y.shape[:2], *a.degradation.hr_shape(*y.shape[-2:])), a.degradation.kernel_size)
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise ValueError(f"this checkpoint does not fit the method and image: {error}".splitlines()[0]) from error
        return run


def check_adam(adam: torch.optim.Optimizer) -> None:
    """Refuse an optimizer state whose tensors do not fit its parameters: the fused step would not check."""
    for p, state in adam.state.items():
        if set(state) != {"step", "exp_avg", "exp_avg_sq"} or any(
            not isinstance(v, Tensor) or v.dtype != torch.float32 or v.shape != (p.shape if n != "step" else ())
            for n, v in state.items()
        ):
            raise ValueError("the optimizer's state does not fit the parameters")


def _check_shapes(run: Run, image: tuple[int, ...], kernel_size: int) -> None:
    """Refuse images, kernels and accumulated gradients of another size than the generators'."""
    gradients = run.memory.get("gradients", [])
    shapes = [p.shape for p in parameters(run.kernel)]
    fit = all(v is None or v.shape == image for v in (run.x, run.mean_x))
    fit = fit and (run.k is None or run.k.shape == (1, 1, kernel_size, kernel_size))
    if not fit or not isinstance(gradients, list) or (gradients and [g.shape for g in gradients] != shapes):
        raise ValueError("images or gradients of another size")


def _to(value: Any, device: torch.device) -> Any:
    """Move a tensor, or the tensors of a list, to a device; pass anything else."""
    if isinstance(value, Tensor):
        return value.to(device)
    return [_to(v, device) for v in value] if isinstance(value, list) else value
