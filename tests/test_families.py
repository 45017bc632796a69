"""The registry of kernel families: every use of every family, and one added by a file and one entry."""

import json

import numpy as np
import pytest
import torch
from helpers import call, gaussian_kernel, save_png
from scipy import stats

from blindsr import Degradation
from blindsr.bench.degrading import Degrading
from blindsr.errors import UserError
from blindsr.estimators.loop import Problem
from blindsr.methods.words import family_named, prior_part
from blindsr.operators import covariance
from blindsr.operators.degradation import SCALES
from blindsr.priors import (
    DiskKernelPrior,
    GaussianKernelPrior,
    GeneralizedGaussianKernelPrior,
    KernelFamily,
    SimplexPrior,
    kernel_family,
)
from blindsr.priors import families as registry
from blindsr.priors.families import ALIASES, FAMILIES, smooth_families
from blindsr.priors.normal import SmoothKernels
from blindsr.testing import check_kernel_density, check_kernel_prior

OWN = """
import torch

class Mine:
    def __init__(self, degradation):
        self.kernel_size = degradation.kernel_size
    def sample(self, n, *, generator):
        k = torch.rand(n, 1, self.kernel_size, self.kernel_size, generator=generator)
        return k / k.sum((1, 2, 3), keepdim=True)
"""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_its_laws_at_every_scale(name):
    family = kernel_family(name)
    for scale in SCALES if "flow" not in name else (2, 3, 4):
        d = Degradation(scale)
        check_kernel_prior(family.truth(d), d)
        check_kernel_prior(family.sampling(d), d)
        if name not in ("motion", "shake", "mixture"):
            check_kernel_density(family.density(d), d)
        assert isinstance(Degrading.of(f"{name}+0.01").source(d), type(family.truth(d)))
        assert isinstance(prior_part(name, d).value(Problem(torch.zeros(1, 1, 8, 8), d)), type(family.sampling(d)))


def test_a_family_without_a_density_says_so_in_one_sentence():
    with pytest.raises(UserError, match="family motion has no density, only random draws; gaussian, line") as caught:
        kernel_family("motion").density(Degradation(4))
    assert "\n" not in str(caught.value)
    assert smooth_families() == ("gaussian", "line", "disk", "generalized-gaussian")
    assert all(isinstance(kernel_family(n).density(Degradation(2)), SmoothKernels) for n in smooth_families())


def test_mcmc_is_the_gaussian_family():
    assert {name: kernel_family(name) for name in ALIASES} == {"mcmc": FAMILIES["gaussian"]}
    assert prior_part("mcmc", Degradation(2)) == prior_part("gaussian", Degradation(2))
    with pytest.raises(UserError, match="blob: unknown kernel family; choose gaussian, motion, shake, line, disk"):
        kernel_family("blob")


def test_uses_of_gaussians_differ():
    family, d = kernel_family("gaussian"), Degradation(4)
    for law, reference in ((family.truth, GaussianKernelPrior.truth), (family.sampling, GaussianKernelPrior.sampling)):
        assert torch.equal(law(d).sample(3, generator=generator()), reference(4).sample(3, generator=generator()))


@pytest.mark.parametrize("scale", SCALES)
def test_disks_are_as_wide_as_the_protocols_gaussians_and_fit(scale):
    d = Degradation(scale)
    prior = DiskKernelPrior.protocol(d)
    theta = prior.sample_theta(3000, generator=generator()).double().numpy()[:, 0]
    low, high = 2 * np.sqrt([0.175 * scale, min(2.5 * scale, 10.0)])
    assert stats.kstest(theta, stats.uniform(low, high - low).cdf).pvalue > 1e-5
    assert high <= min(d.center, d.kernel_size - 1 - d.center)
    widest = covariance(prior.kernel_of(torch.tensor([[high]])).double())[0]
    np.testing.assert_allclose(widest, np.eye(2) * high**2 / 4, rtol=0.06, atol=2e-2)


def test_generalised_gaussians_are_their_formula_and_follow_their_laws():
    d = Degradation(3)
    prior = GeneralizedGaussianKernelPrior(d)
    theta = prior.sample_theta(3000, generator=generator()).double()
    laws = (
        stats.uniform(0.525, 6.975),
        stats.uniform(0.525, 6.975),
        stats.uniform(0, np.pi),
        stats.uniform(0, np.log(8)),
    )
    for values, law in zip(theta.T, laws, strict=True):
        assert stats.kstest(values, law.cdf).pvalue > 1e-5
    axis = np.arange(d.kernel_size) - d.center
    u = np.stack(np.meshgrid(axis, axis), -1)
    for var1, var2, angle, log_beta in theta[:5].tolist():
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        inverse = np.linalg.inv(turn @ np.diag([var1, var2]) @ turn.T)
        k = np.exp(-0.5 * np.einsum("rci,ij,rcj->rc", u, inverse, u) ** (np.exp(log_beta) / 2))
        found = prior.kernel_of(torch.tensor([[var1, var2, angle, log_beta]], dtype=torch.float64))
        np.testing.assert_allclose(found[0, 0], k / k.sum(), atol=1e-9)


def test_a_family_of_the_user_goes_everywhere(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    word, image = f"{tmp_path / 'own.py'}:Mine", save_png(tmp_path / "a.png", 40, 40)
    degraded = call("degrade", image, "--scale", 2, "--kernel", word, "--output", tmp_path / "lr", "--json")
    assert degraded.exit_code == 0 and json.loads(degraded.stdout)["kernel"] == word
    d = Degradation(2)
    bench = Degrading.of(word)
    assert bench.file == str(tmp_path / "own.py") and bench.content(lambda file: "hash") == "hash:Mine"
    k = bench.source(d).sample(2, generator=generator(1))
    assert torch.equal(
        k, prior_part(word, d).value(Problem(torch.zeros(1, 1, 8, 8), d)).sample(2, generator=generator(1))
    )
    with pytest.raises(UserError, match="own.py:Mine has no density"):
        family_named(word).density(d)


def test_a_family_is_added_by_one_entry(tmp_path, monkeypatch):
    added = KernelFamily("mine", "for this test", lambda d: SimplexPrior.of(d))
    monkeypatch.setitem(registry.FAMILIES, "mine", added)
    image = save_png(tmp_path / "a.png", 40, 40)
    assert call("degrade", image, "--scale", 2, "--kernel", "mine", "--output", tmp_path / "lr").exit_code == 0
    assert isinstance(Degrading.of("mine").source(Degradation(2)), SimplexPrior)
    assert isinstance(family_named("mine").density(Degradation(2)), SimplexPrior)
    assert "for this test" in call("methods").stdout


def test_a_kernel_file_stands_for_itself_in_a_bench(tmp_path):
    np.save(tmp_path / "k.npy", gaussian_kernel(9))
    one = Degrading.of(str(tmp_path / "k.npy"))
    assert one.content(lambda file: f"hash of {file}") == f"hash of {tmp_path / 'k.npy'}"
    assert Degrading.of("disk").content(lambda file: "hash") == "disk"
