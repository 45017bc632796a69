"""Mixed kernels, long lines and large disks: their laws, their records, and every use on the command line."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import call, error_line, save_png
from scipy import stats
from scipy.signal import convolve2d
from test_methods import TINY

from blindsr import Degradation
from blindsr.errors import UserError
from blindsr.estimators.problem import MonteCarloSettings
from blindsr.methods.presets import PRESETS
from blindsr.methods.rows import Choice
from blindsr.methods.table import compose
from blindsr.operators.degradation import SCALES
from blindsr.operators.kernels import center_of_mass
from blindsr.priors import (
    ConvolvedKernelPrior,
    DiskKernelPrior,
    GaussianKernelPrior,
    LineKernelPrior,
    MixtureKernelPrior,
    kernel_family,
)
from blindsr.priors.motion import line_kernel
from blindsr.testing import check_kernel_prior

NAMES = ["line", "shake", "disk", "gaussian", "line+optics", "shake+optics"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- lines and disks in large kernels -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "size", "low", "high"),
    [
        (2, 11, 4.4, 6.6),
        (8, 21, 8.4, 12.6),
        (8, 13, 10 / 3, 5),
        (4, 19, 7.6, 11.4),
        (2, 31, 12.4, 27),
        (2, 35, 14, 31),
        (4, 41, 16.4, 35),
    ],
)
def test_lines_are_as_long_as_the_kernel_allows(scale, size, low, high):
    prior = LineKernelPrior.protocol(scale, size)
    theta = prior.sample_theta(3000, generator=generator()).double().numpy()
    assert stats.kstest(theta[:, 0], stats.uniform(low, high - low).cdf).pvalue > 1e-5
    angle = torch.linspace(0, math.pi, 50)
    center = torch.full((50, 2), (size - scale) / 2)
    longest = line_kernel(size, torch.full((50,), high), angle, center)
    assert float((center_of_mass(longest) - center).abs().max()) < (
        0.01 if scale < 8 else 0.15
    )  # nothing is cut off, or hardly


def test_disks_grow_with_the_kernel_and_fit():
    for scale in SCALES:
        for size in (0, 31, 41):
            d = Degradation(scale, size)
            theta = DiskKernelPrior.protocol(d).sample_theta(3000, generator=generator())
            usual = Degradation(scale).kernel_size
            high = 2 * math.sqrt(min(2.5 * scale, 10)) * d.kernel_size / usual
            assert high - 0.1 < float(theta.max()) <= high < d.center
            assert float(theta.min()) == pytest.approx(2 * math.sqrt(0.175 * scale), abs=0.05)
    small = DiskKernelPrior.protocol(Degradation(2, 7)).parameters.parts[0]
    assert float(small.high) == pytest.approx(2 * math.sqrt(5))


def test_a_line_needs_a_kernel_larger_than_the_scale():
    with pytest.raises(
        UserError, match="family line: a kernel of 3 pixels has no room for a line at x8; choose a larger"
    ):
        kernel_family("line").truth(Degradation(8, 3))


# --- mixtures -------------------------------------------------------------------------------------------------------


def test_every_part_is_drawn_equally_often():
    _, records = MixtureKernelPrior.protocol(Degradation(2)).sample_recorded(800, generator=generator())
    counts = [sum(r["family"] == name for r in records) for name in NAMES]
    assert sum(counts) == 800 and stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("scale", "size"), [(2, 0), (3, 0), (4, 0), (8, 0), (2, 31), (4, 41)])
def test_mixtures_keep_the_contract_and_the_centre(scale, size):
    d = Degradation(scale, size)
    prior = MixtureKernelPrior.protocol(d)
    check_kernel_prior(prior, d)
    kernels, records = prior.sample_recorded(80, generator=generator(3))
    assert torch.equal(kernels, prior.sample(80, generator=generator(3)))
    off = (center_of_mass(kernels) - d.center).abs().amax(1)
    tails_cut = torch.tensor([r["family"] == "gaussian" for r in records])  # the protocol's Gaussians lose a tail
    assert float(off[~tails_cut].max()) < (0.01 if scale < 8 else 0.15) and float(off.max()) < 0.5


def test_what_was_drawn_is_what_the_record_says():
    """Lines, disks, Gaussians and their convolutions, rebuilt from the record alone; the extent of shakes."""
    d = Degradation(2, 31)
    kernels, records = MixtureKernelPrior.protocol(d).sample_recorded(120, generator=generator(4))
    seen = set()
    for kernel, record in zip(kernels[:, 0].double().numpy(), records, strict=True):
        parts = record["family"].split("+")
        own = record if len(parts) == 1 else None
        size = 31 if own else 21
        motion = own or record[parts[0]]
        if parts[0] == "shake":
            seen_pixels = kernel > 1e-3 * kernel.max()
            side = max(np.ptp(np.flatnonzero(seen_pixels.any(axis))) for axis in (0, 1))
            footprint = 2 if own else 12
            assert motion["extent"] - 2 <= side <= motion["extent"] + footprint
            assert motion["path_length"] >= motion["extent"] and 0.1 <= motion["exposure"] <= 0.5
            continue
        expected = rebuilt(parts[0], motion, size, (size - 2) / 2)
        if own is None:
            optics = record["optics"]
            assert 31 * 0.05 <= optics.get("radius", 2) <= 31 * 0.1
            expected = convolve2d(expected, rebuilt(optics["family"], optics, 11, 5.0), mode="full")
        np.testing.assert_allclose(kernel, expected, atol=2e-5)
        seen.add(record["family"])
    assert seen == {name for name in NAMES if "shake" not in name}


def rebuilt(family, drawn, size, center):
    """A kernel from its record, by a formula of its own: a line as a sum of Gaussian footprints."""
    rows, cols = np.mgrid[:size, :size] - center
    if family == "disk":
        k = 1 / (1 + np.exp(-6 * (drawn["radius"] - np.hypot(rows, cols))))
    elif family == "gaussian":
        t = drawn["angle"]
        turn = np.array([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]])
        inverse = np.linalg.inv(turn @ np.diag([drawn["variance_1"], drawn["variance_2"]]) @ turn.T)
        u = np.stack([cols, rows], -1)
        k = np.exp(-0.5 * np.einsum("...i,ij,...j", u, inverse, u))
    else:
        t = (np.arange(1000) + 0.5) / 1000 - 0.5
        along = t * drawn["length"]
        dx, dy = cols[..., None] - along * math.cos(drawn["angle"]), rows[..., None] - along * math.sin(drawn["angle"])
        k = np.exp(-2 * (dx**2 + dy**2)).sum(-1)
    return k / k.sum()


@pytest.mark.parametrize(("scale", "size"), [(2, 5), (3, 7), (4, 9), (8, 13)])
def test_a_kernel_without_room_for_both_is_refused(scale, size):
    with pytest.raises(
        UserError, match=f"mixture: a kernel of {size} pixels has no room .* at x{scale}; choose a larger"
    ):
        kernel_family("mixture").truth(Degradation(scale, size))


def test_a_mixture_needs_laws_of_one_size():
    with pytest.raises(ValueError, match=r"laws of one kernel size are needed, not of \[11, 15\]"):
        MixtureKernelPrior({"a": GaussianKernelPrior.truth(2), "b": GaussianKernelPrior.truth(3)})
    with pytest.raises(ValueError, match="not of none at all"):
        MixtureKernelPrior({})


def test_a_convolution_may_be_composed_by_hand():
    line, blur = LineKernelPrior.protocol(2, 11), GaussianKernelPrior.uniform(5, 0.2, 0.4, 2.0)
    both = ConvolvedKernelPrior(line, blur, ("motion", "lens"))
    kernels, records = both.sample_recorded(3, generator=generator())
    assert kernels.shape == (3, 1, 15, 15) and set(records[0]) == {"motion", "lens"}
    assert torch.allclose(center_of_mass(kernels), torch.tensor(4.5 + 2.0), atol=1e-3)


# --- the command line -----------------------------------------------------------------------------------------------

DRAWN = {
    "motion": {"extent", "path_length"},
    "shake": {"extent", "path_length", "exposure"},
    "line": {"length", "angle", "center_column", "center_row"},
    "disk": {"radius"},
    "mixture": {"family"},
}


@pytest.mark.parametrize("size", [0, 31])
@pytest.mark.parametrize("family", DRAWN)
def test_degrade_records_what_it_drew(tmp_path, family, size):
    image = save_png(tmp_path / "a.png", 40, 40)
    words = ("--scale", 2, "--kernel", family, "--kernel-size", size, "--seed", 5, "--json")
    result = call("degrade", image, "--output", tmp_path / "lr", *words)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert DRAWN[family] <= set(record["kernel_drawn"]) and record["kernel"] == family
    prior = kernel_family(family).truth(Degradation(2, size))
    kernel = prior.sample(1, generator=generator(5))[0, 0]
    np.testing.assert_array_equal(np.load(tmp_path / "lr" / "kernel.npy"), kernel)


def test_a_kernel_too_small_is_one_line(tmp_path):
    image = save_png(tmp_path / "a.png", 40, 40)
    for family, words in (("shake", "the centre of camera shake, -0.5, lies outside"), ("mixture", "has no room")):
        size = 3 if family == "shake" else 5
        named = ("--kernel", family, "--kernel-size", size)
        line = error_line(call("degrade", image, "--scale", 4, *named, "--output", tmp_path / "lr"))
        assert f"the kernel family {family}: " in line and words in line and "choose a larger kernel" in line


def test_the_monte_carlo_step_draws_from_the_mixture(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", replace(TINY, monte_carlo=MonteCarloSettings(warmup_steps=1)))
    method = compose(Choice("mlmc", preset="tiny", prior="mixture"), Degradation(2))
    found = replace(method, estimator=method.estimator.with_steps(2)).solve(torch.rand(1, 1, 16, 16), Degradation(2))
    assert found.kernel.shape == (1, 1, 11, 11) and torch.isfinite(found.image).all()
