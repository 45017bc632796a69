"""Do your own parts keep the contract? Each check raises `ContractError` with one line that says what is wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from blindsr.errors import UserError
from blindsr.generators.kernel import KernelNetwork
from blindsr.generators.pixels import Pixels
from blindsr.likelihood.data_term import GaussianLikelihood
from blindsr.operators.degradation import Degradation
from blindsr.optimizers.base import Energy, Pass, Run, parameters
from blindsr.priors.image import NoPrior

STEPS = 80
"""Steps that an optimizer is tried for."""


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
    for the same generator state, and must leave torch's global random state alone. A prior with any of `sample_z`,
    `log_prob`, `kernel` must have them all, and is checked as a density too.

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
    if any(hasattr(prior, name) for name in ("sample_z", "log_prob", "kernel")):
        check_kernel_density(prior, degradation)


def _check_kernels(kernels: Any, n: int, size: int, what: str) -> None:
    _need(isinstance(kernels, Tensor), f"{what} returns {type(kernels).__name__}, not a tensor")
    shape = tuple(kernels.shape)
    _need(shape == (n, 1, size, size), f"{what} has shape {shape}; (n, 1, K, K) = {(n, 1, size, size)} is needed")
    _need(kernels.is_floating_point() and torch.isfinite(kernels).all(), f"{what} holds values that are not finite")
    _need(kernels.min() >= -1e-6, f"{what} has negative kernel values (down to {float(kernels.min()):g})")
    off = float((kernels.sum((1, 2, 3)) - 1).abs().max())
    _need(off < 1e-3, f"{what}: kernels must sum to one; they are off by up to {off:.3g}")


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
