"""Do your own parts keep the contract? Each check raises `ContractError` with one line that says what is wrong."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from blindsr.errors import UserError
from blindsr.estimators.base import Estimate, Estimation, Estimator, Metrics
from blindsr.generators.kernel import KernelNetwork
from blindsr.generators.pixels import Pixels
from blindsr.likelihood.data_term import GaussianLikelihood
from blindsr.likelihood.quadratic import LrErrorForm
from blindsr.operators.degradation import Degradation
from blindsr.optimizers.base import Energy, Pass, Run, parameters
from blindsr.posteriors.base import Target
from blindsr.posteriors.network import FlatNetwork, NetworkTarget
from blindsr.priors.image import NoPrior
from blindsr.priors.normal import GaussianShape
from blindsr.random import seeded
from blindsr.samplers.chains import Chains
from blindsr.samplers.sampler import Sampler
from blindsr.samplers.table import sample

STEPS = 80
"""Steps that an optimizer is tried for."""
MANY = 100
"""Kernels in the largest draw by which a kernel prior is checked: a fault that one kernel in 20 has is missed with
probability 0.95^100 < 0.006."""

CHECKED_DRAWS, LEAST_ESS = 1000, 100
"""Draws of each chain in the statistical check of a sampler, and the effective sample size that they must have."""


class ContractError(TypeError):
    """A part does not do what its place in a solver needs."""


def _call(what: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except Exception as error:
        raise ContractError(f"{what} fails: {type(error).__name__}: {error}") from error


def _need(condition: object, message: str) -> None:
    if not bool(condition):
        raise ContractError(message)


def check_kernel_prior(prior: Any, degradation: Degradation) -> None:
    """Check that a kernel prior draws what the Monte Carlo step needs.

    `prior.sample(n, generator=...)` must return (n, 1, K, K) finite, non-negative kernels that sum to one, the same
    for the same generator state, and must leave torch's global random state alone. Draws of 7, 1 and `MANY` kernels
    are looked at. A prior with any of `sample_z`, `log_prob`, `kernel` must have them all, and is checked as a density
    too.

    Raises
    ------
    ContractError
        If not.
    """
    _need(hasattr(prior, "sample"), "a kernel prior needs a method sample(n, *, generator)")
    k, n = degradation.kernel_size, 7

    def draw() -> Any:
        return _call("sample(7, generator=...)", prior.sample, n, generator=torch.Generator().manual_seed(3))

    before = torch.random.get_rng_state()
    first, second = draw(), draw()
    _need(
        torch.equal(before, torch.random.get_rng_state()),
        "sample() draws from torch's global random state; use the generator it is given",
    )
    _check_kernels(first, n, k, "sample(n)")
    _need(torch.equal(first, second), "sample() gives other kernels for the same generator state")
    generator = torch.Generator().manual_seed(4)
    for count in (1, MANY):
        more = _call(f"sample({count}, generator=...)", prior.sample, count, generator=generator)
        _check_kernels(more, count, k, f"sample({count})")
    if any(hasattr(prior, name) for name in ("sample_z", "log_prob", "kernel")):
        check_kernel_density(prior, degradation)


def _check_kernels(kernels: Any, n: int, size: int, what: str) -> None:
    _need(isinstance(kernels, Tensor), f"{what} returns {type(kernels).__name__}, not a tensor")
    shape = tuple(kernels.shape)
    _need(shape == (n, 1, size, size), f"{what} has shape {shape}; (n, 1, K, K) = {(n, 1, size, size)} is needed")
    _need(kernels.is_floating_point() and torch.isfinite(kernels).all(), f"{what} holds values that are not finite")
    least = kernels.amin((1, 2, 3))
    negative = int((least < -1e-6).sum())
    _need(
        negative == 0,
        f"{what} has negative kernel values (down to {float(least.min()):g}, in {negative} of {n} kernels); "
        "clamp them at 0 and divide each kernel by its sum",
    )
    off = float((kernels.sum((1, 2, 3)) - 1).abs().max())
    _need(
        off < 1e-3,
        f"{what}: kernels must sum to one; they are off by up to {off:.3g}: divide each kernel by its sum",
    )


def check_kernel_density(prior: Any, degradation: Degradation) -> None:
    """Check `sample_z`, `log_prob` and `kernel` of a kernel prior with a density over an unconstrained z.

    Raises
    ------
    ContractError
        If one is missing, shapes do not fit, or `log_prob` and `kernel` have no gradient in z.
    """
    for name in ("dim", "sample_z", "log_prob", "kernel"):
        _need(hasattr(prior, name), f"a kernel prior with a density needs {name}")
    n = 7
    z = _call("sample_z(7, generator=...)", prior.sample_z, n, generator=torch.Generator().manual_seed(3))
    _need(isinstance(z, Tensor), f"sample_z(n) returns {type(z).__name__}, not a tensor")
    _need(
        tuple(z.shape) == (n, prior.dim),
        f"sample_z(n) has shape {tuple(z.shape)}; (n, dim) = {(n, prior.dim)} is needed",
    )
    z = z.detach().requires_grad_()
    log_p, kernels = _call("log_prob(z)", prior.log_prob, z), _call("kernel(z)", prior.kernel, z)
    for what, value in (("log_prob(z)", log_p), ("kernel(z)", kernels)):
        _need(isinstance(value, Tensor), f"{what} returns {type(value).__name__}, not a tensor")
    _need(tuple(log_p.shape) == (n,), f"log_prob(z) has shape {tuple(log_p.shape)}; (n,) = {(n,)} is needed")
    _need(torch.isfinite(log_p).all(), "log_prob is not finite at the prior's own draws")
    _check_kernels(kernels.detach(), n, degradation.kernel_size, "kernel(z)")
    if prior.dim:
        for what, value in (("log_prob(z)", log_p.sum()), ("kernel(z)", kernels.square().sum())):
            _need(value.requires_grad, f"{what} has no gradient in z")
            (g,) = torch.autograd.grad(value, z, retain_graph=True, allow_unused=True)
            _need(g is not None and torch.isfinite(g).all(), f"{what} has no finite gradient in z")


def check_image_prior(prior: Any, *, for_map: bool = False) -> None:
    """Check an image prior: its `energy`, which the joint loop needs, and its `prox`, which MAP restoration needs.

    `prior.energy(x)` must map images (B, C, H, W) to (B,) finite energies with a finite gradient. A `prox(x, step)`
    must return finite images of the shape and type of x, go to x as the step goes to 0, and leave x as it is. One
    without `prox` passes unless `for_map` is set; then it may lack `energy`.

    Raises
    ------
    ContractError
        If not.
    """
    has_prox, has_energy = hasattr(prior, "prox"), hasattr(prior, "energy")
    if for_map:
        _need(
            has_prox, "an image prior needs a method prox(x, step) in MAP restoration; the joint loop needs energy(x)"
        )
    else:
        _need(
            has_energy, "an image prior needs a method energy(x) in the joint loop; MAP restoration needs prox(x, step)"
        )
    if has_energy:
        _check_energy(prior)
    if has_prox:
        _check_prox(prior)


def _check_energy(prior: Any) -> None:
    x = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(3)).requires_grad_()
    e = _call("energy(x)", prior.energy, x)
    _need(isinstance(e, Tensor) and tuple(e.shape) == (2,), "energy(x) must return one energy for each image, (B,)")
    _need(torch.isfinite(e).all(), "energy(x) is not finite")
    if e.requires_grad:
        (g,) = torch.autograd.grad(e.sum(), x, allow_unused=True)
        _need(g is not None and torch.isfinite(g).all(), "energy(x) has no finite gradient")
    else:
        _need(torch.equal(e[0], e[1]), "energy(x) depends on x but has no gradient; keep to torch operations on x")


def _check_prox(prior: Any) -> None:
    x = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    before, step = x.clone(), 0.01
    v = _call("prox(x, 0.01)", prior.prox, x, step)
    _need(isinstance(v, Tensor), f"prox(x, step) returns {type(v).__name__}, not a tensor")
    _need(v.shape == x.shape, f"prox(x, step) has shape {tuple(v.shape)}; that of x, {tuple(x.shape)}, is needed")
    _need(v.dtype == x.dtype, f"prox(x, step) has type {v.dtype}; that of x, {x.dtype}, is needed")
    _need(torch.isfinite(v).all(), "prox(x, step) holds values that are not finite")
    _need(torch.equal(x, before), "prox(x, step) changes x; return another tensor")
    small = _call("prox(x, 1e-12)", prior.prox, x, 1e-12)
    _need((small - x).abs().max() < 1e-3, "prox(x, step) must go to x as step goes to 0")


def check_restorer(restorer: Any) -> None:
    """Check a restorer: what it returns, that it uses what it says it uses, and that it repeats itself.

    `restorer(y, kernel, degradation, noise_std)` must return finite images (1, C, s h, s w) in 0..1 at scales 2 and 3,
    for grey and colour (one that says so by a `UserError` may refuse a scale or a number of channels), twice the same,
    and leave y, the kernel and torch's global random state alone. If its `needs_kernel` is True, another kernel must
    change the image; if its `needs_noise` is False, another noise level must not.
    `blindsr.restorers.CallableRestorer` makes a restorer of a function.

    Raises
    ------
    ContractError
        If not.
    """
    for name in ("needs_kernel", "needs_noise", "parameters", "with_seed"):
        _need(hasattr(restorer, name), f"a restorer needs {name}; subclass blindsr.restorers.Restorer")
    _need(callable(restorer), "a restorer must be callable: restorer(y, kernel, degradation, noise_std)")
    served = sum(
        _restores(restorer, Degradation(scale, 2 * scale + 3), channels) for scale in (2, 3) for channels in (1, 3)
    )
    _need(served, "the restorer refuses every scale and number of channels that it was tried with")


def _restores(restorer: Any, degradation: Degradation, channels: int) -> bool:
    """Check one scale and number of channels; return False where the restorer refuses them."""
    source, size = torch.Generator().manual_seed(3), degradation.kernel_size
    y = torch.rand(1, channels, 18, 15, generator=source)
    kernels = torch.rand(2, 1, size, size, generator=source).pow(4)
    kernels = kernels / kernels.sum((1, 2, 3), keepdim=True)
    kernel, other = kernels.split(1)
    keep, state = (y.clone(), kernel.clone()), torch.random.get_rng_state()
    what = "restorer(y, kernel, degradation, noise_std)"
    try:
        x = restorer(y, kernel, degradation, 0.02)
    except UserError:
        return False
    except Exception as error:
        raise ContractError(f"{what} fails: {type(error).__name__}: {error}") from error
    _need(isinstance(x, Tensor), f"{what} returns {type(x).__name__}, not a tensor")
    wanted = (1, channels, degradation.scale * 18, degradation.scale * 15)
    _need(tuple(x.shape) == wanted, f"{what} has shape {tuple(x.shape)}; (1, C, s h, s w) = {wanted} is needed")
    _need(torch.isfinite(x).all(), f"{what} holds values that are not finite")
    _need(float(x.min()) >= 0 and float(x.max()) <= 1, f"{what} holds values outside 0..1")
    _need(torch.equal(y, keep[0]) and torch.equal(kernel, keep[1]), f"{what} changes y or the kernel")
    _need(
        torch.equal(state, torch.random.get_rng_state()),
        "the restorer draws from torch's global random state; use a generator of its own (`with_seed`)",
    )
    _need(torch.equal(x, restorer(y, kernel, degradation, 0.02)), "the restorer gives another image for the same input")
    if restorer.needs_kernel:
        same = torch.equal(x, restorer(y, other, degradation, 0.02))
        _need(not same, "needs_kernel is True, but another kernel gives the same image")
    if not restorer.needs_noise:
        same = torch.equal(x, restorer(y, kernel, degradation, 0.1))
        _need(same, "needs_noise is False, but the restorer uses the noise level")
    return True


def check_optimizer(optimizer: Any) -> None:
    """Check that an optimizer's `step(run, energy)` returns a `Pass` and moves the parameters of both blocks.

    Raises
    ------
    ContractError
        If not.
    """
    for name in ("begin_outer", "step"):
        _need(hasattr(optimizer, name), f"an optimizer needs a method {name}")
    degradation = Degradation(2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image: nn.Module = Pixels(torch.rand(1, 1, 32, 32))
        kernel: nn.Module = KernelNetwork(degradation.kernel_size, hidden=(8,), inputs=4)
        y = torch.rand(1, 1, 16, 16)
    energy = Energy(y, degradation, GaussianLikelihood(), NoPrior(), 0.0)
    blocks = [torch.optim.Adam(parameters(m), lr=1e-2) for m in (image, kernel)]
    run = Run(image, kernel, blocks[0], blocks[1], y.new_tensor(1e-3), y.new_tensor(1e-3), torch.Generator())
    old = [p.detach().clone() for m in (image, kernel) for p in parameters(m)]
    for _ in range(STEPS):
        if run.step % 3 == 0:
            _call("begin_outer(run, energy)", optimizer.begin_outer, run, energy)
        done = _call("step(run, energy)", optimizer.step, run, energy)
        _need(isinstance(done, Pass), f"step(run, energy) returns {type(done).__name__}, not a blindsr Pass")
        run.step += 1
    new = [p for m in (image, kernel) for p in parameters(m)]
    _need(all(torch.isfinite(p).all() for p in new), "step(run, energy) makes parameters that are not finite")
    _need(not torch.equal(old[0], new[0]), f"{STEPS} steps leave the image block as it was")
    _need(
        any(not torch.equal(a, b) for a, b in zip(old[1:], new[1:], strict=True)),
        f"{STEPS} steps leave the kernel as it was",
    )


class _Normal:
    """N(mean, covariance) in two dimensions as a prior N(0, 9 I) and a likelihood: what samplers are checked on."""

    names = ("z_0", "z_1")

    def __init__(self) -> None:
        self.covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
        self.mean = torch.tensor([0.5, -1.0], dtype=torch.float64)
        self._precision = torch.linalg.inv(self.covariance)

    def log_prob(self, z: Tensor) -> Tensor:
        gap = z - self.mean
        energy: Tensor = 0.5 * ((gap @ self._precision) * gap).sum(1)
        return -energy

    def log_prior(self, z: Tensor) -> Tensor:
        return -z.square().sum(1) / 18 - math.log(18 * math.pi)

    def log_likelihood(self, z: Tensor) -> Tensor:
        return self.log_prob(z) - self.log_prior(z)

    def sample_prior(self, n: int, *, generator: torch.Generator) -> Tensor:
        return 3 * torch.randn(n, 2, generator=generator, dtype=torch.float64)

    def initial(self, n: int, *, generator: torch.Generator) -> Tensor:
        return self.sample_prior(n, generator=generator)


def _network() -> NetworkTarget:
    """Posterior of a small kernel network, given a random picture."""
    degradation, g = Degradation(2, 5), torch.Generator().manual_seed(0)
    x, y = (torch.rand(1, 1, n, n, generator=g, dtype=torch.float64) for n in (16, 8))
    with seeded(0):
        network = FlatNetwork.of(KernelNetwork(5, (4,), 2, 1.0))
    form = LrErrorForm.build(degradation, x, y)
    return NetworkTarget(network, form, 1e-2, (1.0, 1.0), GaussianShape(5, 2))


def check_sampler(sampler: Any) -> None:
    """Check that a sampler keeps its contract, on a normal target in two dimensions (or on a small kernel network).

    `sampler.run(target, request)` must return `Chains` of the requested shapes with the log densities of the draws, the
    same for the same generator state, and must leave torch's global random state alone. If the sampler is `valid`, the
    means and variances of its draws must agree with the target's within 5 standard errors, computed from the effective
    sample size, which must be at least 100.

    Raises
    ------
    ContractError
        If not.
    """
    _need(not isinstance(sampler, type), "a sampler is an object: give MySampler(), not the class")
    _need(
        isinstance(sampler, Sampler),
        f"{type(sampler).__name__} is no sampler: derive it from blindsr.samplers.Sampler or MarkovSampler",
    )
    normal = _Normal()
    target: Target = _network() if sampler.needs_network else normal

    def draw(draws: int = 8, seed: int = 3) -> Any:
        call = {"chains": 4, "draws": draws, "warmup": draws, "generator": torch.Generator().manual_seed(seed)}
        return _call("run(target, request)", sample, target, sampler, **call)

    before = torch.random.get_rng_state()
    first, second = draw(), draw()
    _need(
        torch.equal(before, torch.random.get_rng_state()),
        "run() changes torch's global random state; use request.generator",
    )
    _check_chains(first, target)
    _need(torch.equal(first.draws, second.draws), "run() gives other draws for the same generator state")
    _need(not torch.equal(first.draws, draw(seed=4).draws), "run() gives the same draws for another generator state")
    if sampler.valid and not sampler.needs_network:
        _check_moments(draw(CHECKED_DRAWS).draws, normal)


def _check_chains(chains: Any, target: Target) -> None:
    _need(isinstance(chains, Chains), f"run() returns {type(chains).__name__}, not Chains")
    _need(tuple(chains.names) == target.names, "run() returns chains whose names are not those of the target")
    shape, needed = tuple(chains.draws.shape), (4, 8, len(target.names))
    _need(shape == needed, f"draws have shape {shape}; (chains, draws, dim) = {needed} is needed")
    _need(chains.draws.dtype == torch.float64 and torch.isfinite(chains.draws).all(), "draws must be finite float64")
    for name in ("log_prob", "acceptance", "energy", "divergent"):
        shape = tuple(getattr(chains, name).shape)
        _need(shape == (4, 8), f"{name} has shape {shape}; (chains, draws) = (4, 8) is needed")
    if isinstance(target, _Normal):
        gap = (chains.log_prob - target.log_prob(chains.draws.flatten(0, 1)).view(4, 8)).abs().max()
        _need(gap < 1e-6, f"log_prob is not the log density at the draws; they differ by up to {float(gap):.3g}")


def _check_moments(draws: Tensor, target: _Normal) -> None:
    from blindsr.diagnostics import arviz_io

    for j, name in enumerate(target.names):
        gap = draws[..., j] - target.mean[j]
        for what, series, truth in (("mean", gap, 0.0), ("variance", gap.square(), float(target.covariance[j, j]))):
            ess = arviz_io.ess_bulk(series.numpy())
            _need(
                ess >= LEAST_ESS,
                f"4 chains of {CHECKED_DRAWS} draws have an effective sample size of {ess:.0f} for the {what} of "
                f"{name}; at least {LEAST_ESS} is needed (a sampler whose draws are no sample declares valid = False)",
            )
            error = float(series.std()) / ess**0.5
            off = abs(float(series.mean()) - truth) / error
            _need(
                off < 5,
                f"the {what} of {name} is off by {off:.1f} standard errors; a sampler whose stationary distribution is "
                "not the target declares valid = False",
            )


def check_estimator(estimator: Any) -> None:
    """Check that an estimator starts, advances, resumes to the bit and returns a kernel, on a small LR image.

    `start(y, degradation, seed=, device=)` must return an `Estimation`; the same seed must give the same estimate, and
    torch's global random state must be left alone. An estimation that can be resumed from its `state_dict` must go on
    as if it had never been interrupted.

    Raises
    ------
    ContractError
        If not.
    """
    _need(isinstance(estimator, Estimator), "an estimator derives from blindsr.estimators.Estimator")
    degradation = Degradation(2)
    y = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(3))
    steps = _call("steps_for(degradation)", estimator.steps_for, degradation)
    _need(isinstance(steps, int) and steps >= 0, "steps_for(degradation) must return a number of steps, 0 or more")
    few = min(steps, 4)
    before = torch.random.get_rng_state()

    def run(upto: int) -> Any:
        begun = _call("start(y, degradation, ...)", estimator.start, y, degradation, seed=3, device="cpu")
        _need(isinstance(begun, Estimation), f"start() returns {type(begun).__name__}, not an Estimation")
        for metrics in _call("iterate(steps)", lambda: list(begun.iterate(upto))):
            _need(isinstance(metrics, Metrics), f"advance() returns {type(metrics).__name__}, not Metrics")
        return begun

    first, second = run(few), run(few)
    a, b = (_call("estimate()", v.estimate) for v in (first, second))
    _need(torch.equal(before, torch.random.get_rng_state()), "the estimator draws from torch's global random state")
    _need(isinstance(a, Estimate), f"estimate() returns {type(a).__name__}, not an Estimate")
    _need(a.image is not None or not estimator.makes_image, "makes_image is set, but estimate() holds no image")
    if a.image is not None:
        shape = (1, 1, *(degradation.scale * n for n in y.shape[-2:]))
        _need(tuple(a.image.shape) == shape, f"the image has shape {tuple(a.image.shape)}; {shape} is needed")
    _need((a.kernel is not None) == estimator.has_kernel, "has_kernel does not say whether estimate() holds a kernel")
    if a.kernel is not None:
        _check_kernels(a.kernel, 1, degradation.kernel_size, "the estimated kernel")
        _need(torch.equal(a.kernel, b.kernel), "the same seed gives another kernel")
    if few > 1:
        begun = run(few // 2)
        state = _call("state_dict()", begun.state_dict)
        resumed = _call("resume(y, degradation, state, ...)", estimator.resume, y, degradation, state, device="cpu")
        _call("iterate(steps) after resume", lambda: list(resumed.iterate(few)))
        same = a.kernel is None or torch.equal(a.kernel, resumed.estimate().kernel)
        _need(same, "an estimation that was resumed does not end as one that was not interrupted")
