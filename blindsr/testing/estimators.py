"""The contract of an estimator."""

from __future__ import annotations

from typing import Any

import torch

from blindsr.estimators.base import Estimate, Estimation, Estimator, Metrics
from blindsr.operators.degradation import Degradation
from blindsr.testing.base import call, global_state_kept, need
from blindsr.testing.kernels import need_kernels


def check_estimator(estimator: Any) -> None:
    """Check that an estimator starts, advances, resumes to the bit and returns a kernel, on a small LR image.

    `start(y, degradation, seed=, device=)` must return an `Estimation`; the same seed must give the same estimate, and
    torch's global random state must be left alone. An estimation that can be resumed from its `state_dict` must go on
    as if it had never been interrupted.
    """
    need(isinstance(estimator, Estimator), "an estimator derives from blindsr.estimators.Estimator")
    degradation = Degradation(2)
    y = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(3))
    steps = call("steps_for(degradation)", estimator.steps_for, degradation)
    need(isinstance(steps, int) and steps >= 0, "steps_for(degradation) must return a number of steps, 0 or more")
    few = min(steps, 4)

    def run(upto: int) -> Any:
        begun = call("start(y, degradation, ...)", estimator.start, y, degradation, seed=3, device="cpu")
        need(isinstance(begun, Estimation), f"start() returns {type(begun).__name__}, not an Estimation")
        for metrics in call("iterate(steps)", lambda: list(begun.iterate(upto))):
            need(isinstance(metrics, Metrics), f"advance() returns {type(metrics).__name__}, not Metrics")
        return begun

    with global_state_kept("the estimator draws from torch's global random state"):
        first, second = run(few), run(few)
        a, b = (call("estimate()", v.estimate) for v in (first, second))
    need(isinstance(a, Estimate), f"estimate() returns {type(a).__name__}, not an Estimate")
    need(a.image is not None or not estimator.makes_image, "makes_image is set, but estimate() holds no image")
    if a.image is not None:
        shape = (1, 1, *(degradation.scale * n for n in y.shape[-2:]))
        need(tuple(a.image.shape) == shape, f"the image has shape {tuple(a.image.shape)}; {shape} is needed")
    need((a.kernel is not None) == estimator.has_kernel, "has_kernel does not say whether estimate() holds a kernel")
    if a.kernel is not None:
        size = max(a.kernel.shape[-1] | 1, degradation.kernel_size)  # may be larger than the nominal one, and odd
        need_kernels(a.kernel, 1, size, "the estimated kernel")
        need(torch.equal(a.kernel, b.kernel), "the same seed gives another kernel")
    if few > 1:
        begun = run(few // 2)
        state = call("state_dict()", begun.state_dict)
        resumed = call("resume(y, degradation, state, ...)", estimator.resume, y, degradation, state, device="cpu")
        call("iterate(steps) after resume", lambda: list(resumed.iterate(few)))
        same = a.kernel is None or torch.equal(a.kernel, resumed.estimate().kernel)
        need(same, "an estimation that was resumed does not end as one that was not interrupted")
