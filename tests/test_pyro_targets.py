"""Targets as Pyro models: the same density, and Pyro's own inference run on them against quadrature."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import run_script
from scipy import stats
from torch.distributions import Beta, LogNormal, Normal, Uniform

from blindsr.operators.degradation import Degradation
from blindsr.posteriors.fixed_image import FixedImageTarget, LogNoisePrior
from blindsr.posteriors.pyro_models import fixed_image_model, spectral_model
from blindsr.posteriors.spectral import SpectralTarget
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.motion import LineKernelPrior
from blindsr.priors.normal import GaussianShape
from blindsr.priors.parametric import Delta
from blindsr.priors.simplex import SimplexPrior
from blindsr.random import seeded

D = Degradation(2)


@pytest.fixture(scope="module")
def pyro():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pyro's own imports
        import pyro
        import pyro.infer.autoguide
        import pyro.infer.mcmc.util
        import pyro.poutine
    return pyro


class RootLaw(Uniform):
    """A law that Pyro does not have: the root of a uniform number."""

    def icdf(self, value):
        return value.sqrt()

    def log_prob(self, value):
        return Beta(2.0, 1.0).log_prob(value)


def double(*numbers):
    return (torch.tensor(v, dtype=torch.float64) for v in numbers)


def exact_uniform(low, high):
    """A uniform law whose bounds are not rounded to single precision."""
    return Uniform(*double(low, high))


PRIORS = {
    "gaussian shape": GaussianShape(11, 2),
    "uniform": GaussianKernelPrior(
        11, exact_uniform(0.35, 5), exact_uniform(1, 3), exact_uniform(0, math.pi), (Delta(4.5), exact_uniform(4, 5))
    ),
    "mixed": GaussianKernelPrior(
        11, LogNormal(*double(0.5, 0.4)), None, Delta(0.0), (Normal(*double(4.5, 1)), Delta(4.5))
    ),
    "own law": GaussianKernelPrior(11, RootLaw(0.0, 1.0), None, Delta(0.0), (Delta(4.5), Delta(4.5))),
    "line": LineKernelPrior.protocol(2),
    "simplex": SimplexPrior(11, 2),
    "fixed": GaussianKernelPrior(11, Delta(2.0), None, Delta(0.0), (Delta(4.5), Delta(4.5))),
}
VECTOR = ("own law", "simplex")
"""Priors that are one site "z"."""


def target(prior, noise_std=None, side=24, noise=0.02, **options):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, side, side, generator=g, dtype=torch.float64)
    y = D(x, GaussianShape(11, 2).kernel(torch.tensor([[0.5, 0.2, -0.1]]).double()))
    y = y + noise * torch.randn(y.shape, generator=g, dtype=torch.float64)
    return FixedImageTarget(x, y, D, prior, noise_std, **options)


def spectral(prior):
    """The spectral posterior of a smooth random field, blurred and subsampled."""
    g = torch.Generator().manual_seed(1)
    x = torch.nn.functional.avg_pool2d(torch.randn(1, 1, 102, 102, generator=g, dtype=torch.float64), 7, 1)
    y = D(0.5 + 0.3 * x, GaussianShape(11, 2).kernel(torch.tensor([[0.5, 0.2, -0.1]]).double()))
    return SpectralTarget(y + 0.003 * torch.randn(y.shape, generator=g, dtype=torch.float64), D, prior)


def sites(t, name, z):
    """Unconstrained values of the sites, for one position (dim,)."""
    dim = t.prior.dim
    kernel = {"z": z[:dim]} if name in VECTOR else dict(zip(t.names[:dim], z, strict=False))
    return kernel | ({"log_noise": z[dim]} if t.noise_std is None else {})


# --- the density --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("noise_std", [None, 0.03])
@pytest.mark.parametrize("name", PRIORS)
def test_log_joint_in_unconstrained_coordinates_is_the_targets(pyro, name, noise_std, pixels):
    if name == "fixed" and noise_std:
        pytest.skip("nothing to sample")
    t = target(PRIORS[name], noise_std, noise_prior=LogNoisePrior(-4.0, 0.7))
    with seeded(0):
        _, potential, _, _ = pyro.infer.mcmc.util.initialize_model(fixed_image_model(t, pixels=pixels))
    z = t.initial(12, generator=torch.Generator().manual_seed(1))
    for row in z:
        at = row.clone().requires_grad_()
        found = -potential(sites(t, name, at))
        (gradient,) = torch.autograd.grad(found, at)
        value, expected = t.log_prob_and_gradient(row[None])
        torch.testing.assert_close(found, value[0], rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(gradient, expected[0], rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_sites_have_names_and_the_parameters_own_units(pyro):
    t = target(PRIORS["uniform"])
    with seeded(3):
        trace = pyro.poutine.trace(fixed_image_model(t)).get_trace()
    free = {n: s["value"] for n, s in trace.nodes.items() if s["type"] == "sample" and not s["is_observed"]}
    assert set(free) == {"variance_1", "variance_2", "angle", "center_row", "log_noise"}
    assert all(v.dtype == torch.float64 for v in free.values())
    assert 0.35 < free["variance_1"] < 5 and 1 < free["variance_2"] < 3 and 4 < free["center_row"] < 5
    theta = torch.stack([free["variance_1"], free["variance_2"], free["angle"], torch.tensor(4.5), free["center_row"]])
    kernel = trace.nodes["kernel"]["value"]
    assert kernel.shape == (1, 1, 11, 11)
    torch.testing.assert_close(kernel, t.prior.kernel_of(theta[None]), rtol=1e-9, atol=1e-12)
    assert torch.equal(trace.nodes["_RETURN"]["value"], kernel)


@pytest.mark.parametrize("name", ["gaussian shape", "uniform", "simplex", "fixed"])
def test_prior_draws_and_predictions_come_in_batches(pyro, name):
    t = target(PRIORS[name])
    model = fixed_image_model(t)
    with seeded(1):
        one = pyro.infer.Predictive(model, num_samples=4)(predict=True)
    assert one["kernel"].shape == (4, 1, 1, 11, 11) and one["lr_image"].shape == (4, 1, 12, 12)
    given = {k: v for k, v in one.items() if k not in ("kernel", "lr_image")}
    with seeded(1):
        many = pyro.infer.Predictive(model, given, parallel=True)(predict=True)
    assert many["lr_image"].shape == (4, 1, 12, 12)
    torch.testing.assert_close(many["kernel"].reshape(-1), one["kernel"].reshape(-1).expand(many["kernel"].numel()))


def test_predicted_images_are_the_targets(pyro):
    """White noise of the right size around the blurred image."""
    t = target(PRIORS["gaussian shape"], 0.03)
    z = torch.tensor([[0.5, 0.2, -0.1]], dtype=torch.float64).expand(300, -1)
    given = {name: z[:, j] for j, name in enumerate(t.names)}
    with seeded(2):
        drawn = pyro.infer.Predictive(fixed_image_model(t), given)(predict=True)["lr_image"]
    white = (drawn - t.blurred(z[:1])) / 0.03
    assert stats.kstest(white.flatten().numpy(), stats.norm().cdf).pvalue > 1e-4


def test_draws_of_a_vector_site_follow_the_prior(pyro):
    prior = SimplexPrior(3, 2, floor=0.5)
    t = FixedImageTarget(torch.rand(1, 1, 12, 12), torch.rand(1, 1, 6, 6), Degradation(2, 3), prior)
    with seeded(5):
        drawn = pyro.infer.Predictive(fixed_image_model(t), num_samples=2000)(predict=True)["kernel"]
    law = stats.dirichlet(prior.alpha.numpy())
    assert (np.abs(drawn.flatten(1).mean(0).numpy() - law.mean()) < 5 * np.sqrt(law.var() / 2000)).all()


@pytest.mark.parametrize("name", ["gaussian shape", "uniform", "simplex"])
def test_spectral_log_joint_in_unconstrained_coordinates_is_the_targets(pyro, name):
    t = spectral(PRIORS[name])
    with seeded(0):
        _, potential, _, trace = pyro.infer.mcmc.util.initialize_model(spectral_model(t))
    latent = {n for n, s in trace.nodes.items() if s["type"] == "sample" and not s["is_observed"]}
    common = t.names[t.prior.dim :][: 1 + len(t.likelihood.shared)]
    kernel = {"z"} if name in VECTOR else set(t.names[: t.prior.dim])
    assert latent - {"kernel"} == kernel | set(common) | {"content"} and "noise" in common
    for row in t.sample_prior(6, generator=torch.Generator().manual_seed(1)):
        at = row.clone().requires_grad_()
        first, rest = at.split([t.prior.dim, len(row) - t.prior.dim])
        values = {"z": first} if name in VECTOR else dict(zip(t.names, first, strict=False))
        values |= dict(zip(common, rest, strict=False)) | {"content": rest[len(common) :]}
        found = -potential(values)
        (gradient,) = torch.autograd.grad(found, at)
        again = row[None].clone().requires_grad_()
        value = t.log_prob(again)
        (expected,) = torch.autograd.grad(value.sum(), again)
        torch.testing.assert_close(found, value[0], rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(gradient, expected[0], rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_spectral_predictions_scatter_as_the_targets_own(pyro):
    t = spectral(PRIORS["gaussian shape"])
    z = t.sample_prior(1, generator=torch.Generator().manual_seed(1)).expand(40, -1)
    common = t.names[t.prior.dim :][: 1 + len(t.likelihood.shared)]
    given = dict(zip((*t.names[:3], *common), z.T, strict=False)) | {"content": z[:, 3 + len(common) :]}
    with seeded(2):
        drawn = pyro.infer.Predictive(spectral_model(t), given)(predict=True)
    assert drawn["kernel"].shape == (40, 1, 1, 11, 11)
    spectra = drawn["log_periodogram"]
    assert spectra.shape == (40, *t.observed()["log_periodogram"].shape)
    theirs = t.predict(z, generator=torch.Generator().manual_seed(9))["log_periodogram"]
    assert stats.ks_2samp(spectra[:, 0, ::7].flatten(), theirs[:, 0, ::7].flatten()).pvalue > 1e-4
    assert not torch.equal(spectra[0], spectra[1])


@pytest.mark.slow
def test_nuts_runs_on_the_spectral_model(pyro):
    """A short run from the mode stays where the normal approximation is: a check of the plumbing, not of mixing."""
    t = spectral(PRIORS["gaussian shape"])
    mode, covariance = t.laplace()
    common = t.names[t.prior.dim :][: 1 + len(t.likelihood.shared)]
    start = dict(zip((*t.names[:3], *common), mode, strict=False)) | {"content": mode[3 + len(common) :]}
    with seeded(0):
        kernel = pyro.infer.NUTS(spectral_model(t), max_tree_depth=5)
        run = pyro.infer.MCMC(kernel, 60, warmup_steps=60, initial_params=start, disable_progbar=True)
        run.run()
    draws = torch.stack([run.get_samples()[n] for n in t.names[:3]], 1)
    assert (((draws.mean(0) - mode[:3]) / covariance.diagonal()[:3].sqrt()).abs() < 3).all()
    assert (draws.std(0) > 0.1 * covariance.diagonal()[:3].sqrt()).all()


# --- inference ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def posterior():
    """A target of three kernel parameters, its means, standard deviations and log evidence by quadrature."""
    t = target(PRIORS["gaussian shape"], 0.03, side=16, noise=0.03)
    mode, covariance = t.laplace()
    sd = covariance.diagonal().sqrt()
    axis = torch.linspace(-7, 7, 41, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis) * sd + mode
    log_p = torch.cat([t.log_prob(part) for part in grid.split(8192)])
    assert log_p.view(41, 41, 41)[[0, -1]].max() < log_p.max() - 15
    p = torch.softmax(log_p, 0)
    mean = p @ grid
    cell = float(sd.log().sum()) + 3 * math.log(float(axis[1] - axis[0]))
    return t, mean, (p @ (grid - mean) ** 2).sqrt(), float(torch.logsumexp(log_p, 0)) + cell, (mode, covariance)


@pytest.mark.slow
def test_nuts_agrees_with_quadrature(pyro, posterior):
    import arviz

    t, mean, sd, _, (mode, _) = posterior
    model = fixed_image_model(t)
    start = {name: mode[j] for j, name in enumerate(t.names)}
    with seeded(0):
        kernel = pyro.infer.NUTS(model, full_mass=True, max_tree_depth=5)
        run = pyro.infer.MCMC(kernel, 400, warmup_steps=150, initial_params=start, disable_progbar=True)
        run.run()
    draws = run.get_samples()
    for j, name in enumerate(t.names):
        chain = draws[name].numpy()[None]
        data = arviz.convert_to_dataset({"v": chain, "v2": (chain - float(mean[j])) ** 2})
        ess = {k: float(v) for k, v in arviz.ess(data, method="mean").items()}
        assert ess["v"] > 80
        assert abs(chain.mean() - float(mean[j])) < 4 * float(sd[j]) / math.sqrt(ess["v"])
        square = data["v2"].values
        assert abs(square.mean() - float(sd[j]) ** 2) < 4 * square.std() / math.sqrt(ess["v2"])


@pytest.mark.slow
def test_svi_comes_near_quadrature(pyro, posterior):
    t, mean, sd, evidence, (mode, _) = posterior
    model = fixed_image_model(t)
    start = pyro.infer.autoguide.init_to_value(values={name: mode[j] for j, name in enumerate(t.names)})
    with seeded(0):
        pyro.clear_param_store()
        guide = pyro.infer.autoguide.AutoMultivariateNormal(model, init_loc_fn=start, init_scale=0.03)
        loss = pyro.infer.Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=0)
        svi = pyro.infer.SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.99}), loss)
        losses = [svi.step() for _ in range(250)]
        drawn = torch.stack([guide()[n] for n in t.names for _ in range(400)]).detach().view(3, 400)
        pyro.clear_param_store()
    assert ((drawn.mean(1) - mean).abs() < 0.4 * sd).all()
    assert ((drawn.std(1) / sd).log().abs() < math.log(1.4)).all()
    bound = -np.mean(losses[-50:])
    assert evidence - 0.5 < bound < evidence + 0.1  # the bound lies below, as far as its own scatter lets one see


@pytest.mark.slow
def test_importance_sampling_finds_the_evidence(pyro, posterior):
    t, _, _, evidence, (mode, covariance) = posterior
    law = pyro.distributions.MultivariateNormal(mode, 1.5 * covariance)

    def guide():
        z = pyro.sample("joint", law, infer={"is_auxiliary": True})
        for j, name in enumerate(t.names):
            pyro.sample(name, pyro.distributions.Delta(z[j]))

    with seeded(0), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found auxiliary vars in the model")
        run = pyro.infer.Importance(fixed_image_model(t), guide, num_samples=600).run()
    weights = (torch.stack(list(run.log_weights)).double() - evidence).exp()
    error = float(weights.std()) / math.sqrt(len(weights))
    assert error < 0.1
    assert abs(float(weights.mean()) - 1) < 4 * error
    assert float(run.get_log_normalizer()) == pytest.approx(math.log(float(weights.mean())) + evidence, abs=1e-6)


EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "lines"),
    [
        ("pyro_nuts", ("--draws", 3, "--warmup", 2), ["log_variance", "stretch", "diagonal_stretch"]),
        (
            "pyro_svi",
            ("--steps", 20),
            ["log_variance", "stretch", "diagonal_stretch", "log_noise", "log evidence at least"],
        ),
        ("pyro_importance", ("--draws", 20), ["GaussianShape", "DiskShape", "LineShape"]),
        ("pyro_predictive", ("--draws", 4, "--warmup", 4), ["GaussianKernelPrior", "LineKernelPrior"]),
    ],
)
def test_examples_run(name, arguments, lines):
    out = run_script(EXAMPLES / f"{name}.py", "--side", 48, *arguments).splitlines()
    assert [line.split(":")[0].split(" -")[0].rstrip("0123456789.- ") for line in out] == lines
