"""Image priors: energies against plain loops and finite differences, proximal maps against independent minimisers."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from skimage.restoration import denoise_tv_chambolle

from blindsr.likelihood.data_term import GaussianLikelihood
from blindsr.operators.degradation import Degradation
from blindsr.optimizers.base import Energy
from blindsr.priors import HyperLaplacian, ImagePrior, NoPrior, PatchGroups, Tikhonov, TotalVariation
from blindsr.priors.image import shrink
from blindsr.priors.patch_groups import Groups, similar
from blindsr.restorers import MapRestorer
from blindsr.testing import check_image_prior

SHAPE = (2, 3, 6, 5)
LOCAL = [HyperLaplacian(), HyperLaplacian(1.3), TotalVariation(), TotalVariation(coupled=True), Tikhonov()]
SMALL_GROUPS = PatchGroups(patch=4, stride=2, radius=3, members=5)


@pytest.fixture
def x(gen):
    return torch.rand(SHAPE, generator=gen, dtype=torch.float64)


def plane_energy(prior, p):
    """Energy of one plane (a list of rows), pixel by pixel."""
    h, w, total = len(p), len(p[0]), 0.0
    for r in range(h):
        for c in range(w):
            down, right = (r + 1 < h), (c + 1 < w)
            dv = p[r + 1][c] - p[r][c] if down else 0.0
            dh = p[r][c + 1] - p[r][c] if right else 0.0
            if isinstance(prior, TotalVariation):
                total += math.sqrt(dv**2 + dh**2 + 1e-8)
            elif isinstance(prior, Tikhonov):
                total += dv**2 + dh**2
            elif isinstance(prior, HyperLaplacian):
                steps = [d for d, there in ((dv, down), (dh, right)) if there]
                if down and right:
                    steps += [p[r + 1][c + 1] - p[r][c], p[r + 1][c] - p[r][c + 1]]
                total += sum((abs(d) + 1e-8) ** prior.gamma for d in steps)
    return total


@pytest.mark.parametrize("prior", [*LOCAL[:3], Tikhonov(), NoPrior()], ids=repr)
def test_energy_equals_a_loop_over_pixels(prior, x):
    expected = [sum(plane_energy(prior, plane.tolist()) for plane in image) for image in x]
    torch.testing.assert_close(prior.energy(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_coupled_total_variation_is_that_of_the_gradients_of_all_channels(x):
    """Two equal channels cost √2 of one, and one channel what it costs alone."""
    one, coupled = x[:, :1], TotalVariation(coupled=True)
    torch.testing.assert_close(coupled.energy(one), TotalVariation().energy(one))
    torch.testing.assert_close(coupled.energy(one.repeat(1, 2, 1, 1)), 2**0.5 * coupled.energy(one), rtol=1e-5, atol=0)


def test_gradients_by_finite_differences(x):
    """Of patch groups for the groups of the image, which the gradient holds fixed."""
    wide = torch.rand(1, 2, 9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for energy, image in [*((p.energy, x) for p in LOCAL), (SMALL_GROUPS.at(wide).energy, wide)]:
        assert torch.autograd.gradcheck(energy, (image.clone().requires_grad_(),), eps=1e-7, atol=1e-4)


def test_gradients_are_finite_on_a_flat_image():
    for prior in (*LOCAL, SMALL_GROUPS):
        x = torch.full((1, 1, 8, 8), 0.5, requires_grad=True)
        prior.energy(x).sum().backward()
        assert torch.isfinite(x.grad).all(), prior


def test_a_sharp_edge_costs_less_than_noise_of_the_same_range(gen):
    edge = torch.zeros(1, 1, 16, 16)
    edge[..., 8:] = 1
    noise = edge.flatten()[torch.randperm(256, generator=gen)].view_as(edge)
    for prior in (*LOCAL, SMALL_GROUPS):
        assert float(prior.energy(edge)) < float(prior.energy(noise)) / 3, prior


def test_only_an_exponent_below_one_prefers_one_step_to_a_ramp():
    """What sets the hyper-Laplacian apart: a step is cheaper than the same rise spread out; Tikhonov the opposite."""
    step, ramp = (torch.tensor(v).expand(1, 1, 4, 5) for v in ([0.0, 0, 0, 1, 1], [0.0, 0.25, 0.5, 0.75, 1]))
    assert HyperLaplacian(0.67).energy(step) < HyperLaplacian(0.67).energy(ramp)
    assert Tikhonov().energy(step) > Tikhonov().energy(ramp)
    torch.testing.assert_close(TotalVariation().energy(step), TotalVariation().energy(ramp), rtol=0, atol=0.01)


def test_shrinkage_against_a_search():
    v = torch.linspace(0, 2, 41, dtype=torch.float64)
    grid = torch.linspace(0, 2, 200001, dtype=torch.float64)
    for weight, exponent in product((0.0, 1e-3, 0.05, 0.5), (0.3, 0.67, 0.8, 1.0, 1.3, 2.0)):
        w = shrink(v, weight, exponent)
        for size, got in zip(v, w, strict=True):
            least = (weight * grid**exponent + (grid - size) ** 2 / 2).min()
            assert weight * got**exponent + (got - size) ** 2 / 2 <= least + 1e-9, (weight, exponent, size)


# --- proximal maps ------------------------------------------------------------------------------------------------


def objective(prior, v, x, step):
    return prior.energy(v).sum() + (v - x).square().sum() / (2 * step)


def least_found(prior, x, step, starts):
    """Least objective that L-BFGS of SciPy finds from several starts, with where it is."""

    def value(flat):
        v = torch.tensor(flat.reshape(x.shape), requires_grad=True)
        out = objective(prior, v, x, step)
        out.backward()
        return out.item(), v.grad.numpy().ravel()

    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10}
    found = [minimize(value, s.numpy().ravel(), jac=True, method="L-BFGS-B", options=options) for s in starts]
    best = min(found, key=lambda r: r.fun)
    return best.fun, torch.from_numpy(best.x.reshape(x.shape))


def test_proximal_maps_against_brute_force(gen):
    """To 1e-3 where the minimum is unique; below every start of SciPy's where it is not (γ = 0.67)."""
    for prior, step in product(LOCAL, (0.003, 0.03, 0.3)):
        x = torch.rand(1, 2, 5, 4, generator=gen, dtype=torch.float64)
        x[..., 2:] += 0.5
        found = prior.prox(x, step)
        starts = [x, torch.full_like(x, float(x.mean())), torch.rand(x.shape, generator=gen, dtype=torch.float64)]
        unique = prior != HyperLaplacian()
        least, where = least_found(prior, x, step, starts[:1] if unique else starts)
        assert objective(prior, found, x, step) <= least + 2e-4 * least, (prior, step)
        if unique:
            torch.testing.assert_close(found, where, rtol=0, atol=2e-3)


def test_proximal_map_of_total_variation_against_scikit_image(gen):
    """Chambolle's weight w minimises TV + ‖v − x‖²/(2 w)."""
    x = torch.rand(1, 1, 24, 20, generator=gen, dtype=torch.float64)
    for step in (0.002, 0.02):
        other = denoise_tv_chambolle(x[0, 0].numpy(), weight=step, eps=1e-12, max_num_iter=20000)
        np.testing.assert_allclose(TotalVariation().prox(x, step)[0, 0].numpy(), other, atol=2e-4)


def test_proximal_map_of_tikhonov_solves_its_linear_system(x):
    flat = torch.zeros(1, 1, 6, 5, dtype=torch.float64)
    matrix = torch.autograd.functional.hessian(lambda v: Tikhonov().energy(v).sum(), flat)
    system = torch.eye(30, dtype=torch.float64) + 0.7 * matrix.view(30, 30)
    expected = torch.linalg.solve(system, x.reshape(6, 30).T).T.view(SHAPE)
    torch.testing.assert_close(Tikhonov().prox(x, 0.7), expected)


@pytest.mark.parametrize("shape", [(32, 32), (31, 37), (9, 8)])
def test_patch_groups_keep_a_clean_image_and_lower_noise(shape, gen):
    prior = PatchGroups(radius=8, members=8)
    r, c = np.mgrid[:40, :40] / 40
    clean = 0.25 + 0.5 * (r + 0.4 * c > 0.6) - 0.2 * ((r - 0.6) ** 2 + (c - 0.55) ** 2 < 0.05)
    clean = torch.from_numpy(clean)[None, None, : shape[0], : shape[1]].float()
    torch.testing.assert_close(prior.prox(clean, 1e-12), clean, rtol=0, atol=1e-5)
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=gen)
    error = [float((v - clean).square().mean()) for v in (noisy, prior.prox(noisy, 0.05**2))]
    assert error[1] < error[0] / 10**0.1


def test_the_step_of_patch_groups_is_a_gradient_step_on_their_energy(gen):
    """Of two patches that are each other's nearest and do not overlap: x − a² ∇Ω, some coefficients being kept."""
    prior = PatchGroups(patch=4, stride=4, radius=4, members=2, level=0.01)
    patch = torch.rand(1, 1, 4, 4, generator=gen, dtype=torch.float64)
    x = torch.cat([patch, patch + 0.03 * torch.randn(1, 1, 4, 4, generator=gen)], -1).requires_grad_()
    at = prior.at(x)
    assert at.groups[0].index.tolist() == [[0, 4], [4, 0]]
    at.energy(x).backward()
    assert 0 < int((x.grad != 0).sum()) < 32
    torch.testing.assert_close(at.prox(x.detach(), 0.01**2), (x - 0.01**2 * x.grad).detach())


def test_similar_patches_are_the_nearest(gen):
    image = torch.rand(12, 14, generator=gen)
    found = similar(image, SMALL_GROUPS)
    patches = image.unfold(0, 4, 1).unfold(1, 4, 1)
    assert found.shape == (5 * 6, 5)
    for n, (r, c) in enumerate((r, c) for r in range(0, 9, 2) for c in range(0, 11, 2)):
        near = {
            (i, j): float((patches[i, j] - patches[r, c]).square().sum())
            for i in range(max(r - 3, 0), min(r + 4, 9))
            for j in range(max(c - 3, 0), min(c + 4, 11))
        }
        assert found[n, 0] == r * 14 + c
        got = sorted(near[int(i) // 14, int(i) % 14] for i in found[n])
        np.testing.assert_allclose(got, sorted(near.values())[:5], atol=1e-5)


def test_the_planes_of_an_image_have_groups_of_their_own(gen):
    x = torch.rand(2, 3, 12, 10, generator=gen, dtype=torch.float64)
    alone = [SMALL_GROUPS.prox(plane.view(1, 1, 12, 10), 0.01) for plane in x.flatten(0, 1)]
    assert torch.equal(SMALL_GROUPS.prox(x, 0.01), torch.cat(alone).view_as(x))
    energies = [Groups(plane, SMALL_GROUPS).energy(plane, SMALL_GROUPS.level) for plane in x.flatten(0, 1)]
    torch.testing.assert_close(SMALL_GROUPS.energy(x), torch.stack(energies).view(2, 3).sum(1))


# --- interchangeable ----------------------------------------------------------------------------------------------


class Ridge:
    """A user's own: Ω(x) = Σ (x − ½)², with its closed-form proximal map."""

    def energy(self, x):
        return (x - 0.5).square().sum((1, 2, 3))

    def prox(self, x, step):
        return (x + step) / (1 + 2 * step)


def test_every_image_prior_serves_in_the_loop_and_in_map_restoration(gen):
    op = Degradation(2, 5)
    kernel = torch.full((1, 1, 5, 5), 1 / 25)
    y = op(torch.rand(1, 3, 16, 18, generator=gen), kernel)
    priors = [*LOCAL, NoPrior(), SMALL_GROUPS, Ridge()]
    images = []
    for prior in priors:
        assert isinstance(prior, ImagePrior)
        check_image_prior(prior)
        check_image_prior(prior, for_map=True)
        loop = Energy(y, op, GaussianLikelihood(), prior, 0.2)
        x = torch.rand(1, 3, 16, 18, generator=gen, requires_grad=True)
        run = loop.data(x, kernel, torch.tensor(5e-4), 0)[0] + loop.prior(x, torch.tensor(5e-4))
        run.backward()
        assert torch.isfinite(x.grad).all(), prior
        images.append(MapRestorer(prior)(y, kernel, op, 0.02))
        assert images[-1].shape == (1, 3, 16, 18), prior
    pairs = [(i, j) for i in range(len(priors)) for j in range(i) if {i, j} != {2, 3}]  # coupled: the luma is alone
    assert not any(torch.equal(images[i], images[j]) for i, j in pairs)


@pytest.mark.parametrize(
    "build",
    [
        *(lambda g=g: HyperLaplacian(g) for g in (0, -1, 2.1, float("nan"))),
        lambda: PatchGroups(stride=9),
        lambda: PatchGroups(members=1),
        lambda: PatchGroups(threshold=-1.0),
        lambda: PatchGroups(level=0.0),
    ],
)
def test_impossible_settings_are_refused(build):
    with pytest.raises(ValueError, match="hyper-Laplacian exponent|patch groups: "):
        build()
