"""Windowed moving variance: the number itself, when it ends a run, and that a resumed run ends at the same step."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from blindsr.estimators.problem import MonteCarloSettings
from blindsr.estimators.stopping import MovingVariance
from blindsr.generators.skip import SkipSettings
from blindsr.methods.presets import PRESETS
from blindsr.methods.table import METHODS
from blindsr.operators.degradation import Degradation

TINY = replace(
    PRESETS["fast"],
    skip=SkipSettings(channels=4, skip_channels=2, levels=2),
    monte_carlo=MonteCarloSettings(warmup_steps=2),
)
OP = Degradation(2)


def runs_until(stopping, images):
    """Step at which it says stop, or None."""
    run = SimpleNamespace(x=None, memory={})
    for i, x in enumerate(images):
        run.x = x
        if stopping.update(run):
            return i, run
    return None, run


def test_the_variance_is_that_of_the_window():
    images = [torch.randn(1, 2, 5, 6, generator=torch.Generator().manual_seed(i)) for i in range(7)]
    _, run = runs_until(MovingVariance(window=4, patience=100), images[:4])
    expected = np.var(np.stack([x.numpy() for x in images[:4]]), axis=0).mean()
    assert float(run.memory["lowest"]) == pytest.approx(expected, rel=1e-5)


def test_it_stops_when_the_variance_has_not_fallen_for_the_patience():
    noise = [torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(60)]
    falling = [n / (1 + i) for i, n in enumerate(noise[:30])]
    rising = [n * (i + 1) / 30 for i, n in enumerate(noise[30:])]
    stop, _ = runs_until(MovingVariance(window=5, patience=10), falling + rising)
    assert stop is not None and 38 <= stop <= 46
    assert runs_until(MovingVariance(window=5, patience=10), falling)[0] is None


def test_large_images_are_kept_small():
    _, run = runs_until(MovingVariance(window=3, patience=5, side=16), [torch.rand(1, 3, 100, 40)] * 2)
    assert run.memory["recent"][0].shape == (1, 3, 16, 16)


def test_impossible_settings_are_refused():
    for bad in ({"window": 1}, {"patience": 0}, {"side": 0}):
        with pytest.raises(ValueError, match="moving variance: need a window of at least 2"):
            MovingVariance(**bad)


def test_a_resumed_run_ends_at_the_same_step():
    y = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    loop = replace(METHODS["mlmc"].loop(TINY), stopping=MovingVariance(window=3, patience=2))
    run = loop.start(y, OP, seed=0, device="cpu")
    steps = [m.step for m in run.iterate(200)]
    assert run.settled and 4 < steps[-1] < 200
    half = loop.start(y, OP, seed=0, device="cpu")
    list(half.iterate(steps[-1] - 2))
    again = loop.resume(y, OP, half.state_dict(), device="cpu")
    assert [m.step for m in again.iterate(200)] == steps[-2:]


def test_the_guide_is_the_networks_input_and_half_of_the_result():
    y = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    made = METHODS["spectral-dip"].loop(TINY).start(y, OP, seed=0, device="cpu")
    guide = made.problem.guide
    assert torch.equal(made.run.image.z, guide.expand(1, 3, 32, 32))
    list(made.iterate(2))
    torch.testing.assert_close(made.estimate().image, (made.run.mean_x.clamp(0, 1) + guide) / 2)
