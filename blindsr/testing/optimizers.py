"""The contract of an optimizer of the joint loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from blindsr.generators.kernel import KernelNetwork
from blindsr.generators.pixels import Pixels
from blindsr.likelihood.data_term import GaussianLikelihood
from blindsr.operators.degradation import Degradation
from blindsr.optimizers.base import Energy, Pass, Run, parameters
from blindsr.priors.image import NoPrior
from blindsr.testing.base import call, need

STEPS = 80
"""Steps that an optimizer is tried for."""


def check_optimizer(optimizer: Any) -> None:
    """Check that an optimizer's `step(run, energy)` returns a `Pass` and moves the parameters of both blocks."""
    for name in ("begin_outer", "step"):
        need(hasattr(optimizer, name), f"an optimizer needs a method {name}")
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
            call("begin_outer(run, energy)", optimizer.begin_outer, run, energy)
        done = call("step(run, energy)", optimizer.step, run, energy)
        need(isinstance(done, Pass), f"step(run, energy) returns {type(done).__name__}, not a blindsr Pass")
        run.step += 1
    new = [p for m in (image, kernel) for p in parameters(m)]
    need(all(torch.isfinite(p).all() for p in new), "step(run, energy) makes parameters that are not finite")
    need(not torch.equal(old[0], new[0]), f"{STEPS} steps leave the image block as it was")
    need(
        any(not torch.equal(a, b) for a, b in zip(old[1:], new[1:], strict=True)),
        f"{STEPS} steps leave the kernel as it was",
    )
