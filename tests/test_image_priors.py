"""Image priors against plain loops; their gradients by finite differences."""

import math

import pytest
import torch

from blindsr.priors.base import ImagePrior
from blindsr.priors.image import HyperLaplacian, NoPrior, Tikhonov, TotalVariation

SHAPE = (2, 3, 6, 5)
PRIORS = [HyperLaplacian(), HyperLaplacian(1.3), TotalVariation(), Tikhonov(), NoPrior()]


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


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_energy_equals_a_loop_over_pixels(prior, x):
    expected = [sum(plane_energy(prior, plane.tolist()) for plane in image) for image in x]
    torch.testing.assert_close(prior.energy(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert isinstance(prior, ImagePrior)


@pytest.mark.parametrize("prior", PRIORS[:-1], ids=repr)
def test_gradient_by_finite_differences(prior, x):
    assert torch.autograd.gradcheck(prior.energy, (x.requires_grad_(),), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("prior", PRIORS[:-1], ids=repr)
def test_gradient_is_finite_on_a_flat_image(prior):
    x = torch.full((1, 1, 8, 8), 0.5, requires_grad=True)
    prior.energy(x).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("prior", PRIORS[:-1], ids=repr)
def test_a_sharp_edge_costs_no_more_than_noise_of_the_same_range(prior, gen):
    edge = torch.zeros(1, 1, 16, 16)
    edge[..., 8:] = 1
    noise = edge.flatten()[torch.randperm(256, generator=gen)].view_as(edge)
    assert float(prior.energy(edge)) < float(prior.energy(noise)) / 3


def test_only_an_exponent_below_one_prefers_one_step_to_a_ramp():
    """What sets the hyper-Laplacian apart: a step is cheaper than the same rise spread out; Tikhonov the opposite."""
    step, ramp = (torch.tensor(v).expand(1, 1, 4, 5) for v in ([0.0, 0, 0, 1, 1], [0.0, 0.25, 0.5, 0.75, 1]))
    assert HyperLaplacian(0.67).energy(step) < HyperLaplacian(0.67).energy(ramp)
    assert Tikhonov().energy(step) > Tikhonov().energy(ramp)
    torch.testing.assert_close(TotalVariation().energy(step), TotalVariation().energy(ramp), rtol=0, atol=0.01)


@pytest.mark.parametrize("gamma", [0, -1, 2.1, float("nan")])
def test_impossible_exponents_are_refused(gamma):
    with pytest.raises(ValueError, match="hyper-Laplacian exponent"):
        HyperLaplacian(gamma)
