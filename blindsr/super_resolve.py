"""One call from an LR image to an HR image and a kernel, for scripts and notebooks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from blindsr.estimators.base import Estimate
from blindsr.methods.base import Method
from blindsr.methods.rows import Choice
from blindsr.methods.table import compose
from blindsr.operators.degradation import Degradation


def super_resolve(
    y: Tensor,
    degradation: Degradation,
    method: str | Method | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    **parts: Any,
) -> Estimate:
    """Estimate image and kernel (see `Method.solve`); `parts` as in `Choice`."""
    made = method if isinstance(method, Method) else compose(Choice(method, **parts), degradation)
    return made.solve(y, degradation, seed=seed, device=device)
