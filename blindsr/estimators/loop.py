"""Joint estimation of image and kernel (Eqs. 18, 19 of Xia et al. 2024): Monte Carlo steps, then inner steps.

MLMC, its ablations and the methods that it is compared with (DIP, Double-DIP, FKP-DIP, BSRDM, PAM) are this loop with
other parts.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from blindsr.estimators.base import Estimate, Estimation, Estimator, Metrics, check_adam, check_image, loaded
from blindsr.estimators.problem import (
    ImageFactory,
    KernelFactory,
    MonteCarloFactory,
    MonteCarloSettings,
    PriorFactory,
    Problem,
)
from blindsr.estimators.spectral import KernelEstimator
from blindsr.estimators.stopping import MovingVariance
from blindsr.likelihood.data_term import DataTerm
from blindsr.likelihood.noise import NoiseModel
from blindsr.likelihood.quadratic import lr_errors
from blindsr.operators.degradation import Degradation
from blindsr.operators.kernels import width
from blindsr.optimizers.base import Energy, Optimizer, Run, adam_step, parameters
from blindsr.priors.base import ImagePrior
from blindsr.random import draw_seed, generator, seeded
from blindsr.restorers.base import Restorer
from blindsr.restorers.tiled import restore
from blindsr.samplers.mcka import MonteCarloKernelApproximation


@dataclass(frozen=True, kw_only=True)
class LoopNumbers:
    """Steps and rates of a joint loop; the defaults are the published ones.

    Parameters
    ----------
    steps : int
        Total number of inner steps.
    inner_steps : int
        Q, the number of inner steps in one outer iteration.
    image_lr, kernel_lr : float
        Adam's learning rates. The Monte Carlo step and the optimizer share the kernel's Adam.
    monte_carlo : callable
        Kernel prior and scale to `MonteCarloKernelApproximation`.
    average : float
        If above 0, the image estimate is a running mean of x with this share of the old mean kept at each step.
    noise_steps : int
        Steps between two updates of the noise variance.
    """

    steps: int = 1000
    inner_steps: int = 5
    image_lr: float = 5e-3
    kernel_lr: float = 1e-4
    monte_carlo: MonteCarloFactory = field(default_factory=MonteCarloSettings)
    average: float = 0.0
    noise_steps: int = 1


@dataclass(frozen=True)
class JointLoop(LoopNumbers, Estimator):
    """Image and kernel generators that descend on one energy in turn; its steps and rates are `LoopNumbers`.

    Parameters
    ----------
    image : callable
        Problem to image generator.
    kernel : callable
        Problem and kernel prior to `KernelBlock`; `free_kernel(make)` wraps a plain generator.
    optimizer : Optimizer
        How the blocks take turns.
    data_term, image_prior, noise
        The energy's parts.
    rho : float
        Weight ρ of the image prior (Eq. 39).
    prior : callable, optional
        Problem to kernel prior: what the Monte Carlo step draws from. None leaves the step and its warm-up out.
    noise_std : float, optional
        Noise level where it is known, units of 0..1.
    kernel_estimator : KernelEstimator
        See `Problem`.
    guide : Restorer, optional
        Makes, with the kernel estimated from y alone, the image that the image generator takes as its input; the
        result is then the mean of that image and the generator's.
    stopping : MovingVariance, optional
        Ends the run when its image has settled.

    Raises
    ------
    ValueError
        If a number lies outside its range.

    Examples
    --------
    >>> run = loop.start(y, Degradation(4), seed=0, device="cpu")   # doctest: +SKIP
    >>> for metrics in run.iterate(1000): ...                       # doctest: +SKIP
    >>> image, kernel = run.estimate().image, run.estimate().kernel  # doctest: +SKIP
    """

    image: ImageFactory
    kernel: KernelFactory
    optimizer: Optimizer
    data_term: DataTerm
    image_prior: ImagePrior
    noise: NoiseModel
    rho: float = 0.2
    prior: PriorFactory | None = None
    noise_std: float | None = None
    kernel_estimator: KernelEstimator = field(default_factory=KernelEstimator)
    guide: Restorer | None = None
    stopping: MovingVariance | None = None
    makes_image = True
    takes_steps = True
    loss_name = "data term (1 - SSIM or mean squared error)"

    def __post_init__(self) -> None:
        if min(self.inner_steps, self.noise_steps) < 1 or not 0 <= self.average < 1 or self.rho < 0:
            raise ValueError("joint loop: need inner_steps and noise_steps >= 1, average in [0, 1) and rho >= 0")

    def steps_for(self, degradation: Degradation) -> int:
        """Inner steps."""
        return self.steps

    def with_steps(self, steps: int) -> JointLoop:
        """Return the same loop with another number of inner steps."""
        return replace(self, steps=steps)

    def check(self, y: Tensor, degradation: Degradation, device: torch.device) -> None:
        """Let the image and kernel factories check what they can: their memory, and the kernel prior."""
        if (check := getattr(self.image, "check", None)) is not None:
            check(*degradation.hr_shape(*y.shape[-2:]), device)
        if (check := getattr(self.kernel, "check", None)) is not None:
            check(None if self.prior is None else self.prior(Problem(y, degradation)))

    def start(self, y: Tensor, degradation: Degradation, *, seed: int, device: torch.device | str) -> LoopEstimation:
        """Build both generators and warm the kernel up."""
        check_image(y)
        made = LoopEstimation(self, y, degradation, device)
        made.begin(seed)
        return made

    def resume(
        self, y: Tensor, degradation: Degradation, state: dict[str, Any], *, device: torch.device | str
    ) -> LoopEstimation:
        """Rebuild a run from its state; going on from it gives the same bits as never having stopped.

        (On a CPU with the same number of threads. Some CUDA kernels add up in no fixed order.)
        """
        return loaded(LoopEstimation(self, y, degradation, device), state)


def _adam(module: nn.Module, lr: float) -> torch.optim.Optimizer | None:
    free = parameters(module)
    return torch.optim.Adam(free, lr=lr, fused=True) if free else None


class LoopEstimation(Estimation):
    """A loop under way on one LR image. Random draws are made on the CPU, so that every device sees the same ones."""

    run: Run

    def __init__(self, loop: JointLoop, y: Tensor, degradation: Degradation, device: torch.device | str) -> None:
        self.loop, self.degradation, self.device = loop, degradation, torch.device(device)
        self.problem = Problem(y, degradation, loop.noise_std, loop.kernel_estimator)
        if loop.guide is not None:
            found = self.problem.spectral
            self.problem.guide = restore(loop.guide, y.cpu(), found.kernel, degradation, found.noise_std)
        self.prior = None if loop.prior is None else loop.prior(self.problem)
        self.y = y.to(self.device)

    def _build(self, seed: int, variance: Tensor, initial: Tensor, source: torch.Generator, **rest: Any) -> None:
        """Make the generators, their optimizers and the run that holds them."""
        with seeded(seed):
            image = self.loop.image(self.problem).to(self.device)
            self.block = self.loop.kernel(self.problem, self.prior)
            kernel = self.block.module.to(self.device)
        adams = _adam(image, self.loop.image_lr), _adam(kernel, self.loop.kernel_lr)
        self.run = Run(image, kernel, *adams, variance.to(self.device), initial.to(self.device), source, **rest)
        draws = self.block.draws
        self.mcka = None if draws is None else self.loop.monte_carlo(draws, self.degradation.scale)
        self.energy = Energy(
            self.y, self.degradation, self.loop.data_term, self.loop.image_prior, self.loop.rho, self.block.energy
        )

    def begin(self, seed: int) -> None:
        """Draw the generators' weights and warm the kernel up."""
        source = generator(seed)
        variance = self.loop.noise.initial(self.problem.y)
        self._build(draw_seed(source), variance, variance, source)
        run = self.run
        if self.mcka is not None:
            if run.kernel_adam is None:
                raise ValueError("a kernel without parameters learns nothing from the Monte Carlo step: leave it out")
            for target in self.mcka.warmup_kernels(source).to(self.device).split(1):
                (target - run.kernel()).square().mean().backward()
                adam_step(run.kernel_adam, run.kernel)

    @property
    def step(self) -> int:  # type: ignore[override]
        """Inner steps made."""
        return self.run.step

    @property
    def settled(self) -> str | None:  # type: ignore[override]
        """Why the run has ended by itself."""
        return "settled: the image's moving variance had stopped falling" if self.run.memory.get("settled", 0) else None

    def advance(self) -> Metrics:
        """Make one inner step; an outer iteration begins every Q steps."""
        loop, run = self.loop, self.run
        monte_carlo = float("nan")
        if run.step % loop.inner_steps == 0:
            if self.mcka is not None:
                monte_carlo = self._monte_carlo(self.mcka)
            loop.optimizer.begin_outer(run, self.energy)
        done = loop.optimizer.step(run, self.energy)
        run.x, run.k = done.x, done.k
        if loop.average > 0:
            share = max(1 - loop.average, 1 / (1 + run.step / 4))  # of the newest image: larger while the mean is young
            run.mean_x = done.x.clone() if run.mean_x is None else run.mean_x.lerp_(done.x, share)
        if (run.step + 1) % loop.noise_steps == 0:
            run.variance = loop.noise.update(run.variance, done.residual, run.initial_variance)
        metrics = Metrics(
            step=run.step + 1,
            loss=float(done.data.detach()),
            mse=float(done.residual.square().mean()),
            prior=float(done.prior.detach()),
            noise_std=float(run.variance.mean().sqrt()),
            kernel_width=float(width(done.k)),
            monte_carlo=monte_carlo,
        )
        if loop.stopping is not None and loop.stopping.update(run):
            run.memory["settled"] = 1
        run.step += 1
        return metrics

    def _monte_carlo(self, mcka: MonteCarloKernelApproximation) -> float:
        """Run the Monte Carlo simulations of one outer iteration, on the image of the last pass (Eqs. 24-30)."""
        run = self.run
        if run.x is None:
            with torch.no_grad():
                run.x = run.image()
        for _ in range(mcka.n_simulations):
            kernel = run.kernel()
            samples, omega = mcka.draw(self.degradation, run.x, self.y, kernel.detach(), run.variance, run.generator)
            loss = mcka.loss(kernel, samples, omega)
            loss.backward()
            adam_step(run.kernel_adam, run.kernel)
        return float(loss.detach())

    def estimate(self) -> Estimate:
        """Return the current image and kernel: those of the last pass (or the running mean of the image)."""
        run, found = self.run, self.problem.estimated
        with torch.no_grad():
            x = run.mean_x if run.mean_x is not None else run.x if run.x is not None else run.image()
            k = run.k if run.k is not None else run.kernel()
        image = self.degradation.crop(x).detach().clamp(0, 1).cpu()
        if self.problem.guide is not None and run.x is not None:
            image = image.lerp(self.problem.guide, 0.5)
        return Estimate(
            image,
            k.detach().clone().cpu(),
            found.noise_std if self.loop.noise_std is None and found is not None else self.loop.noise_std,
            self.block.assumed,
            None if found is None else found.spectral,
            None if found is None else found.described(),
        )

    def coming_kernels(self) -> tuple[Tensor, Tensor] | None:
        """Draw what the coming Monte Carlo step will draw, from a copy of the run's random stream."""
        run = self.run
        if self.mcka is None:
            return None
        stream = torch.Generator()
        stream.set_state(run.generator.get_state())
        with torch.no_grad():
            x = run.image() if run.x is None else run.x
            kernels, _ = self.mcka.draw(self.degradation, x, self.y, run.kernel(), run.variance, stream)
            return kernels, lr_errors(self.degradation, x, self.y, kernels)

    def facts(self) -> dict[str, Any]:
        """Number of fitted values, and whether the image generator computes in bfloat16."""
        count = sum(p.numel() for block in (self.run.image, self.run.kernel) for p in block.parameters())
        return {"parameters": count, "bf16": bool(getattr(self.run.image, "bf16", False))}

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the run as a plain dict of tensors and numbers."""
        run = self.run
        parts = _parts(run).items()
        state: dict[str, Any] = {name: None if part is None else part.state_dict() for name, part in parts}
        state["generator"] = run.generator.get_state()
        plain = ("variance", "initial_variance", "step", "x", "k", "mean_x", "memory")
        return copy.deepcopy(state | {name: getattr(run, name) for name in plain})

    def load(self, state: dict[str, Any]) -> None:
        """Take over a state; see `JointLoop.resume`."""
        rest: dict[str, Any] = {name: _to(state[name], self.device) for name in ("x", "k", "mean_x")}
        rest |= {"memory": {n: _to(v, self.device) for n, v in state["memory"].items()}, "step": int(state["step"])}
        self._build(0, state["variance"], state["initial_variance"], torch.Generator(), **rest)
        run = self.run
        run.generator.set_state(state["generator"].cpu())
        for name, part in _parts(run).items():
            if part is not None:
                part.load_state_dict(state[name])
            if isinstance(part, torch.optim.Optimizer):
                check_adam(part)
        shape = (*self.y.shape[:2], *self.degradation.hr_shape(*self.y.shape[-2:]))
        _check_shapes(run, shape, self.degradation.kernel_size)


def _parts(run: Run) -> dict[str, nn.Module | torch.optim.Optimizer | None]:
    """What of a run has a state dict of its own."""
    return {name: getattr(run, name) for name in ("image", "kernel", "image_adam", "kernel_adam")}


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
