"""The free-form kernel estimate: its two steps against references, and whole estimations."""

import json
import math

import numpy as np
import pytest
import skimage.data
import torch
from helpers import call
from PIL import Image
from scipy.optimize import minimize

from blindsr import Degradation
from blindsr.estimators.free_form import FreeFormEstimator
from blindsr.estimators.free_start import deconvolved, sizes
from blindsr.estimators.free_steps import (
    ImageStep,
    centered,
    connected,
    differences,
    gradient_form,
    least_squares_kernel,
)
from blindsr.generators.kernel import project_simplex
from blindsr.likelihood.quadratic import LrErrorForm
from blindsr.likelihood.spectral import SpectralLikelihood
from blindsr.operators.degradation import Alignment, Padding
from blindsr.operators.kernels import center_of_mass, framed
from blindsr.posteriors.free_kernel import fit_content, free_kernel_step, roughness
from blindsr.priors.motion import ExposedShakePrior, line_kernel
from blindsr.testing import check_estimator


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def blocks(side, seed=0):
    """A picture of random overlapping rectangles, (1, 1, side, side)."""
    rng, x = np.random.default_rng(seed), np.full((side, side), 0.5)
    for _ in range(60):
        a, b = rng.integers(0, side - 8, 2)
        h, w = rng.integers(6, side // 3, 2)
        x[a : a + h, b : b + w] = rng.uniform(0.05, 0.95)
    return torch.from_numpy(x).float()[None, None]


def similarity(a, b):
    """Cosine of two kernels of one size."""
    return float((a * b).sum() / (a.norm() * b.norm()))


@pytest.mark.parametrize(("scale", "alignment"), [(2, "fkp"), (2, "centered"), (3, "fkp")])
def test_the_form_is_that_of_the_likelihood(scale, alignment):
    d = Degradation(scale, 9, Alignment(alignment))
    x, y = random(1, 2, 10 * scale, 12 * scale), random(1, 2, 10, 12, seed=1)
    a, b = gradient_form(x[0], y[0], scale, 9, d.margins[0])
    k = project_simplex(random(1, 81, seed=2) - 0.4)[0]
    mine = k @ a @ k - 2 * b @ k + y.square().sum()
    assert float(mine) == pytest.approx(float(LrErrorForm.build(d, x, y)(k.view(1, 1, 9, 9))) * y.numel(), rel=1e-4)


@pytest.mark.parametrize("alignment", list(Alignment))
def test_the_image_step_blurs_as_the_operator_does(alignment):
    d = Degradation(2, 7, alignment)
    x, k = random(1, 1, 20, 24), random(7, 7, seed=1)
    k = k / k.sum()
    step = ImageStep(d(x, k[None, None])[0, 0], 2, d.margins[0])
    assert torch.allclose(step.seen(x[0, 0], k), step.y, atol=1e-6)


def test_the_image_of_a_known_kernel_is_sharper_than_its_enlargement():
    x, k = blocks(64), line_kernel(9, *(torch.tensor([v]) for v in (6.0, 0.6)), torch.tensor([[3.5, 3.5]]))
    d = Degradation(2, 9)
    step = ImageStep(d(x, k)[0, 0], 2, d.margins[0])
    errors = {sparse: float((step(k[0, 0], 1e-3, sparse=sparse) - x[0, 0]).square().mean()) for sparse in (True, False)}
    plain = float((step(torch.eye(9)[4:5].T @ torch.eye(9)[4:5], 1e-3, sparse=False) - x[0, 0]).square().mean())
    assert max(errors.values()) < plain / 3


def test_the_least_squares_kernel_is_the_constrained_minimum():
    m = random(40, 9, seed=3).double()
    a, b = (m.T @ m).float(), (m.T @ random(40, seed=4).double()).float()
    k = least_squares_kernel(a, b, 0.5, steps=2000).double().numpy()
    big, at = a.double().numpy() + 0.5 * np.eye(9), b.double().numpy()
    best = minimize(
        lambda v: v @ big @ v - 2 * at @ v,
        np.full(9, 1 / 9),
        jac=lambda v: 2 * (big @ v - at),
        bounds=[(0, None)] * 9,
        constraints={"type": "eq", "fun": lambda v: v.sum() - 1},
        method="SLSQP",
    )
    assert k.sum() == pytest.approx(1, abs=1e-5)
    assert k @ big @ k - 2 * at @ k == pytest.approx(best.fun, abs=1e-4)


def test_small_parts_are_cut_and_the_largest_is_kept():
    k = torch.zeros(11, 11)
    k[2:5, 2:5], k[8, 8], k[6, 1] = 1.0, 0.3, 0.01
    out = connected(k, 0.05)
    assert out[8, 8] == 0 and out[6, 1] == 0 and float(out.sum()) == pytest.approx(1)
    assert torch.allclose(out[2:5, 2:5], torch.full((3, 3), 1 / 9))


def test_centred_and_framed():
    k = centered(framed(random(5, 5) / 12, 15), 6.5)
    assert center_of_mass(k[None, None])[0].tolist() == pytest.approx([6.5, 6.5], abs=0.02)
    assert torch.equal(framed(framed(k, 21), 15), k)


def test_content_is_fitted_as_by_lbfgs():
    y = random(1, 1, 32, 32, seed=5)
    likelihood, k = SpectralLikelihood(y, 2), framed(torch.full((3, 3), 1 / 9), 11)
    energy, u = fit_content(likelihood, k, steps=60)
    power = likelihood.power(k[None, None].double())

    def value(v):
        v = torch.from_numpy(v)
        return float(0.5 * v.square().sum() - likelihood.log_likelihood(power, v[None])[0])

    assert value(u.numpy()) == pytest.approx(energy)
    assert energy <= minimize(value, np.zeros(len(u)), method="L-BFGS-B").fun + 0.05


def test_the_kernel_step_lowers_its_objective_on_the_simplex():
    d, k = Degradation(2, 9), framed(torch.full((3, 3), 1 / 9), 9)
    x = blocks(64)
    y = d(x, k[None, None])
    likelihood = SpectralLikelihood(y, 2)
    a, b = (t.double() for t in gradient_form(differences(x[0, 0], 2), differences(y[0, 0]), 2, 9, d.margins[0]))
    start = torch.full((9, 9), 1 / 81)
    content = fit_content(likelihood, start)[1]

    def objective(kernel, share, edges, smoothness):
        v = kernel.double().flatten()
        whittle = likelihood.log_likelihood(likelihood.power(kernel[None, None]), content[None])[0]
        return float(-share * whittle + edges * (v @ a @ v - 2 * b @ v) + smoothness * roughness(kernel))

    weights = {"share": 0.3, "edges": 2000.0, "smoothness": 10.0}
    found = free_kernel_step(likelihood, start, content, (a, b), steps=60, **weights)
    assert float(found.sum()) == pytest.approx(1, abs=1e-5) and float(found.min()) >= 0
    assert objective(found, **weights) < objective(start, **weights) - 1
    exact = free_kernel_step(likelihood, start, content, (a, b), share=0.0, edges=2e4, smoothness=0.0, steps=400)
    assert similarity(exact, k) > 0.99  # the form alone, with the true image


def test_sizes_go_from_three_to_the_kernel():
    for size in (3, 5, 17, 31):
        found = sizes(size)
        assert (
            found[0] == 3 and found[-1] == size and all(a < b and a % 2 for a, b in zip(found, found[1:], strict=False))
        )


def test_a_start_finds_the_direction_of_a_line():
    k = line_kernel(9, *(torch.tensor([v]) for v in (7.0, math.pi / 4)), torch.tensor([[4.0, 4.0]]))
    x = blocks(96, seed=3)
    y = ImageStep(x[0, 0], 1, 4).seen(x[0, 0], k[0, 0])
    found = deconvolved(y, 9, 4e-3)
    across = deconvolved(y.T.contiguous(), 9, 4e-3)
    other = k[0, 0].flip(0)
    assert similarity(found, k[0, 0]) > similarity(found, other) + 0.2
    assert similarity(across, k[0, 0].T) > similarity(across, other) + 0.2


QUICK = FreeFormEstimator(weights=(4e-3,), with_spectra=0.0, rounds=2, parametric=None)


@pytest.fixture(scope="module")
def moved():
    """A picture of blocks, 128x128, blurred by a line of 15 pixels, at x2."""
    d = Degradation(2, 21)
    k = line_kernel(21, *(torch.tensor([v]) for v in (15.0, 0.7)), torch.tensor([[9.5, 9.5]]))
    return (d(blocks(160, seed=7), k) * 255).round() / 255, k


def test_a_long_line_is_found_and_competes(moved):
    y, k = moved
    estimator, d = FreeFormEstimator(weights=(4e-3, 2e-3), with_spectra=0.0, rounds=2), Degradation(2)
    run = estimator.start(y, d)
    steps = [m.step for m in run.iterate(estimator.steps_for(d))]
    found = run.estimate()
    assert steps == list(range(1, len(steps) + 1)) and run.settled is not None
    names = [entry["kernel"] for entry in found.description["ranking"]]
    assert {"0.004", "0.002"} & set(names) and set(names) & {"gaussian", "line", "disk"}
    size = max(found.kernel.shape[-1], 21)
    assert similarity(framed(found.kernel, size), framed(k, size)) > 0.6


def test_texture_is_not_taken_for_motion():
    """The fur of a sharp photo: a wide kernel leaves a sparse image, but the marginal likelihood is against it."""
    y = torch.from_numpy(skimage.data.chelsea()[70:150, 90:186].copy()).permute(2, 0, 1)[None] / 255
    estimator, d = FreeFormEstimator(), Degradation(4, alignment=Alignment.CENTERED, padding=Padding.VALID)
    run = estimator.start(y, d)
    for _ in run.iterate(estimator.steps_for(d)):
        pass
    found = run.estimate()
    by_energy = found.description["ranking"][0]["kernel"]
    assert by_energy not in ("gaussian", "line", "disk"), "else this picture shows nothing"
    assert found.description["family"] == "gaussian" and found.noise_std < 2 / 255


def test_an_estimation_goes_on_to_the_bit(moved):
    y, d = moved[0], Degradation(2)
    whole, part = QUICK.start(y, d), QUICK.start(y, d)
    for _ in whole.iterate(QUICK.steps_for(d)):
        pass
    for _ in part.iterate(2):
        pass
    again = QUICK.resume(y, d, part.state_dict())
    for _ in again.iterate(QUICK.steps_for(d)):
        pass
    assert torch.equal(again.estimate().kernel, whole.estimate().kernel)
    with pytest.raises(ValueError, match="does not fit"):
        QUICK.resume(y[..., :40, :40], d, part.state_dict())


def test_it_keeps_the_contract_of_an_estimator():
    check_estimator(QUICK)


def test_an_unknown_border_is_left_out(moved):
    y, d = moved[0][..., 4:-4, 4:-4], Degradation(2).for_part()
    run = QUICK.start(y, d)
    assert run.band == 16 and float(run.edges[:, : run.band].abs().max()) == 0
    for _ in run.iterate(2):
        pass
    assert math.isfinite(float(run.estimate().kernel.sum()))


@pytest.mark.parametrize("bad", [{"weights": ()}, {"decay": 0.5}, {"rounds": 0}, {"edges": 0.0}, {"share": -1.0}])
def test_numbers_out_of_range(bad):
    with pytest.raises(ValueError, match="free-form kernel: need"):
        FreeFormEstimator(**bad)


def test_a_small_picture_is_refused():
    with pytest.raises(ValueError, match="23x40 pixels: a free kernel needs a picture of at least 24x24"):
        QUICK.start(random(1, 1, 40, 23), Degradation(2))


def test_a_kernel_that_was_cut_fits_its_operator():
    d = Degradation(2)
    assert d.for_kernel(torch.zeros(1, 1, 11, 11)) is d
    wide = d.for_kernel(torch.zeros(1, 1, 31, 31))
    assert (wide.kernel_size, wide.alignment, wide.padding) == (31, d.alignment, d.padding)
    k, x = framed(random(11, 11) / 60, 31), random(1, 1, 40, 40)
    assert torch.allclose(wide(x, k[None, None]), d(x, framed(k, 11)[None, None]), atol=1e-6)


def test_a_run_with_a_free_kernel(tmp_path, moved):
    picture = (moved[0][0, 0].numpy() * 255).round().astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "y.png")
    words = ("--scale", 2, "--method", "free-map", "--restorer", "bicubic", "--output", tmp_path / "out")
    assert call("run", tmp_path / "y.png", *words).exit_code == 0
    record = json.loads((tmp_path / "out" / "y" / "run.json").read_text())
    assert record["method"] == "free-map" and record["kernel_found"]["ranking"]
    kernel = np.load(tmp_path / "out" / "y" / "kernel.npy")
    assert kernel.shape[-1] % 2 == 1 and kernel.sum() == pytest.approx(1, abs=1e-4)


def test_shake_has_the_extent_that_is_asked_for():
    size, low, high = 41, 13.0, 27.0
    k = ExposedShakePrior(size, 20.0, (low, high)).sample(64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(k.sum((1, 2, 3)), torch.ones(64), atol=1e-5) and float(k.min()) >= 0
    seen = k[:, 0] > 1e-6
    sides = torch.stack([seen.any(axis).sum(1) for axis in (1, 2)]).amax(0)
    assert int(sides.min()) >= low - 1 and int(sides.max()) <= high + 2  # bilinear weights add a pixel at each end
    assert int(sides.max()) > 22 and int(sides.min()) < 18
    assert float((k.amax((1, 2, 3)) > 0.25).float().mean()) < 0.05
    with pytest.raises(ValueError, match="0 < low <= high"):
        ExposedShakePrior(31, 15.0, (20.0, 10.0))
