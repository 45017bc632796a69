"""Camera shake against its sources: the published recursion, and four measured kernels."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.io import loadmat

from blindsr.priors.motion import CameraShakePrior, ExposedShakePrior, longer_side, path_length, shake_trajectories

N, STEPS, PIXELS = 1500, 2000, 60
"""Trajectories a side; steps and length of a path in the published generator."""


def published_trajectories(seed, *, pull=True, reversals=True):
    """The recursion of Boracchi & Foi with the ranges of Kupyn et al., in their units, for N paths of 60 pixels.

    Without the pull towards the start, or without the reversals, it is another law.
    """
    rng = np.random.default_rng(seed)
    anxiety, centripetal, p_reversal, gaussian = (
        most * rng.random(N) for most in (0.1, 0.7 * pull, 0.2 * reversals, 10)
    )
    step = PIXELS / (STEPS - 1)
    v = anxiety * np.exp(2j * math.pi * rng.random(N))
    x = np.zeros((N, STEPS), dtype=complex)
    for t in range(STEPS - 1):
        reversed_ = rng.random(N) < p_reversal * anxiety
        turn = np.where(reversed_, 2 * v * np.exp(1j * (math.pi + rng.random(N) - 0.5)), 0)
        kick = gaussian * (rng.standard_normal(N) + 1j * rng.standard_normal(N))
        v = v + turn + anxiety * (kick - centripetal * x[:, t]) * step
        v = v / np.abs(v) * step
        x[:, t + 1] = x[:, t] + v
    return x


def side(x):
    return np.maximum(np.ptp(x.real, axis=1), np.ptp(x.imag, axis=1))


def spread(x):
    return np.sqrt((np.abs(x - x.mean(1, keepdims=True)) ** 2).mean(1))


def turns(x, pieces=40):
    """How often the direction changes by more than a right angle, over so many pieces of one duration."""
    chords = np.diff(x[:, np.linspace(0, x.shape[1] - 1, pieces + 1).astype(int)], axis=1)
    return (np.abs(np.angle(chords[:, 1:] / chords[:, :-1])) > math.pi / 2).sum(1).astype(float)


MEASURES = {
    "side of the bounding box": side,
    "spread about the centroid": spread,
    "turns": turns,
    "distance of the ends": lambda x: np.abs(x[:, -1] - x[:, 0]),
    "direction of the end": lambda x: np.angle(x[:, -1] - x[:, 0]),
}


def p_values(a, b):
    return {name: stats.ks_2samp(measure(a), measure(b)).pvalue for name, measure in MEASURES.items()}


@pytest.fixture(scope="module")
def ours():
    drawn = shake_trajectories(N, generator=torch.Generator().manual_seed(0), steps=STEPS)
    return PIXELS * drawn.numpy().astype(complex)


def test_trajectories_have_the_published_law(ours):
    found = p_values(ours, published_trajectories(5))
    assert min(found.values()) > 0.01, found


@pytest.mark.parametrize(("change", "measure"), [("pull", "spread about the centroid"), ("reversals", "turns")])
def test_the_comparison_would_notice_another_law(ours, change, measure):
    assert p_values(ours, published_trajectories(5, **{change: False}))[measure] < 1e-6


def test_paths_have_the_published_length(ours):
    np.testing.assert_allclose(np.abs(np.diff(ours)).sum(1), PIXELS, rtol=1e-4)
    np.testing.assert_allclose(np.abs(np.diff(published_trajectories(5))).sum(1), PIXELS, rtol=1e-4)
    path = torch.from_numpy(ours)
    np.testing.assert_allclose(path_length(path), PIXELS, rtol=1e-4)
    np.testing.assert_allclose(longer_side(path), side(ours), rtol=1e-12)


def test_an_exposure_is_a_part_of_the_published_trajectory():
    """Length in units of the extent, turns and extent of the parts, against parts cut from the published paths."""
    low, high = 13.0, 27.0
    prior = ExposedShakePrior(61, 30.0, (low, high))
    _, records = prior.sample_recorded(N, generator=torch.Generator().manual_seed(1))
    wound = np.array([r["path_length"] / r["extent"] for r in records])
    share = np.array([r["exposure"] for r in records])
    assert stats.kstest(share, stats.uniform(0.1, 0.4).cdf).pvalue > 0.01
    assert stats.kstest([r["extent"] for r in records], stats.uniform(low, high - low).cdf).pvalue > 0.01
    rng, parts = np.random.default_rng(6), published_trajectories(7)
    caught = [x[STEPS // 4 : STEPS // 4 + int(rng.uniform(0.1, 0.5) * STEPS)] for x in parts]
    expected = np.array([np.abs(np.diff(x)).sum() / max(np.ptp(x.real), np.ptp(x.imag)) for x in caught])
    assert stats.ks_2samp(wound, expected).pvalue > 0.01
    whole = PIXELS / side(parts)
    assert stats.ks_2samp(wound, whole).pvalue < 1e-6


# --- the kernels ---------------------------------------------------------------------------------------------------


def peak(kernels):
    return kernels.reshape(len(kernels), -1).max(1)


def pixels_covered(kernels):
    """1 / Σk²: the number of pixels of a flat kernel of the same energy."""
    return 1 / (kernels**2).sum((1, 2))


def extent(kernels):
    """Longer side, in pixels, of what is above 2 % of the peak."""
    seen = kernels > 0.02 * kernels.max((1, 2), keepdims=True)
    return np.maximum(*(np.array([np.ptp(np.flatnonzero(k.any(axis))) + 1 for k in seen]) for axis in (0, 1)))


def kernels_of(prior, n=1000):
    return prior.sample(n, generator=torch.Generator().manual_seed(2))[:, 0].double().numpy()


@pytest.mark.parametrize(("scale", "size"), [(2, 11), (3, 15), (4, 19), (2, 31), (4, 41)])
def test_an_exposure_is_no_blob_where_a_whole_trajectory_is_one(scale, size):
    whole, part = (kernels_of(law.protocol(scale, size)) for law in (CameraShakePrior, ExposedShakePrior))
    assert np.median(peak(part)) < np.median(peak(whole)) / 2
    assert (peak(part) > 0.25).mean() < 0.01 < 0.15 < (peak(whole) > 0.25).mean()
    assert np.median(pixels_covered(part)) > 3 * np.median(pixels_covered(whole))


def test_an_exposure_resembles_measured_kernels(data_folder: Path):
    """The four motion kernels of KAIR, measured by Levin et al. (2009), among shakes of their extents.

    Whole trajectories fail this: their kernels cover 6 pixels, the measured ones 27 to 46.
    """
    found = loadmat(data_folder / "kernels" / "kernels_12.mat")["kernels"].ravel()[8:12]
    measured = np.stack([k.astype(float) / k.sum() for k in found])
    sides = extent(measured)
    assert sides.min() >= 13 and sides.max() <= 19
    drawn = kernels_of(
        ExposedShakePrior(31, 14.5, (float(sides.min()) - 2, float(sides.max())))
    )  # the footprint adds 2
    for measure in (peak, pixels_covered, lambda k: pixels_covered(k) / extent(k)):
        low, high = np.quantile(measure(drawn), [0.005, 0.995])
        assert low < measure(measured).min() and measure(measured).max() < high
    whole = kernels_of(CameraShakePrior.protocol(2, 31))
    assert np.median(pixels_covered(whole)) < pixels_covered(measured).min() / 3
