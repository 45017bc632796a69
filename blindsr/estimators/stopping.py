"""When a run has settled: the windowed moving variance of its image.

Reference
---------
Wang, Li, Zhuang, Chen, Liang, Sun, "Early Stopping for Deep Image Prior", TMLR 2023: the variance over a window of the
last images falls while the image forms and rises when noise is fitted; the run ends where it has not fallen for long.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from blindsr.optimizers.base import Run


@dataclass(frozen=True)
class MovingVariance:
    """Stop when the variance of the last `window` images has not fallen for `patience` steps."""

    # window, patience: Steps
    window: int = 30
    patience: int = 60
    side: int = 64  # Images are averaged down to at most this side before they are kept

    def __post_init__(self) -> None:
        if self.window < 2 or min(self.patience, self.side) < 1:
            raise ValueError("moving variance: need a window of at least 2, patience and side of at least 1")

    def update(self, run: Run) -> bool:
        """Record the image of the last pass; return whether the run has settled.

        What it keeps stands in `run.memory`, so that a resumed run stops where it would have.
        """
        assert run.x is not None
        h, w = (min(self.side, n) for n in run.x.shape[-2:])
        small = F.adaptive_avg_pool2d(run.x, (h, w))
        recent = [*_images(run), small][-self.window :]
        run.memory["recent"] = recent
        if len(recent) < self.window:
            return False
        variance = _variance(recent)
        lowest, since = run.memory.get("lowest"), run.memory.get("since", 0)
        assert isinstance(since, int)
        if not isinstance(lowest, Tensor) or bool(variance < lowest):
            run.memory["lowest"], run.memory["since"] = variance, 0
            return False
        run.memory["since"] = since + 1
        return since + 1 >= self.patience


def _images(run: Run) -> list[Tensor]:
    recent = run.memory.get("recent", [])
    return recent if isinstance(recent, list) else []


def _variance(images: list[Tensor]) -> Tensor:
    return torch.stack(images).var(0, correction=0).mean()
