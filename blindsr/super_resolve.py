"""One call from an LR image to an HR image and a kernel, for scripts and notebooks."""

from __future__ import annotations

import torch
from torch import Tensor

from blindsr.estimators.kernelgan.solver import KernelGan, KernelGanSolver
from blindsr.estimators.loop import Estimate, RunSolver, Solver
from blindsr.estimators.spectral import KernelEstimate
from blindsr.methods.presets import PRESETS, Preset
from blindsr.methods.table import DEFAULT_METHOD, METHODS, Method, assemble, known_noise
from blindsr.operators.degradation import Degradation
from blindsr.posteriors.spectral_laplace import SpectralPrior
from blindsr.restorers.tiled import restore


def super_resolve(
    y: Tensor,
    degradation: Degradation,
    method: Method = METHODS[DEFAULT_METHOD],
    preset: Preset = PRESETS["balanced"],
    *,
    seed: int = 0,
    device: str = "cpu",
) -> Estimate:
    """Estimate image and kernel.

    Parameters
    ----------
    y : Tensor
        LR image (1, C, h, w), values 0..1.
    degradation : Degradation
        Scale, kernel size, alignment, padding.
    method : Method
        A row of `METHODS`, or your own.
    preset : Preset
        Sizes, steps and rates of the methods that make steps.
    seed : int
        Of everything random.
    device : str
        Where networks are computed.

    Returns
    -------
    Estimate
        Image (1, C, s h, s w) in [0, 1] and kernel (1, 1, K, K): a stand-in where the method has none
        (`Method.has_kernel`).

    Raises
    ------
    ValueError
        If y has the wrong shape or holds values that are not finite.
    """
    solver = make_solver(method, degradation, preset, y, device)
    run = solver.init(y, seed)
    for _ in solver.iterate(run, y, preset.steps if method.steps is None else method.steps):
        pass
    image, kernel = solver.estimate(run)
    if method.restorer.value is not None:
        restorer = method.restorer.value.with_seed(seed)
        image = restore(restorer, y, kernel, degradation, restoration_noise(method, degradation, solver.found, y))
    return Estimate(image, kernel)


def make_solver(
    method: Method, degradation: Degradation, preset: Preset, y: Tensor, device: torch.device | str = "cpu"
) -> RunSolver:
    """Make what steps through a method: the loop that methods share, or a solver of the method's own.

    Parameters
    ----------
    method, degradation, preset, y
        As for `assemble`.
    device : torch.device or str
        Where networks are computed.

    Raises
    ------
    ValueError
        If the method cannot serve this degradation.
    """
    if isinstance(method.kernel.value, KernelGan):
        return KernelGanSolver(method.kernel.value, degradation, device)
    return Solver(assemble(method, degradation, preset, y), device)


def check_method(method: Method, degradation: Degradation, y: Tensor) -> None:
    """Check, before anything is computed, that a method can serve a picture and a degradation.

    Raises
    ------
    ValueError
        If not.
    """
    if isinstance(method.kernel.value, KernelGan):
        method.kernel.value.sides(degradation, *y.shape[-2:])


def restoration_noise(method: Method, degradation: Degradation, found: KernelEstimate | None, y: Tensor) -> float:
    """Noise level for the restorer: a known one where the method has it, else what the spectra of y show.

    0 where the restorer does not use it.
    """
    if method.restorer.value is not None and not method.restorer.value.needs_noise:
        return 0.0
    known = known_noise(method)
    if known is not None:
        return known
    if found is not None:
        return found.noise_std
    return SpectralPrior.fit(y, degradation).noise_std
