import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray
from toy_chains import DEGRADATION, ToyTarget, toy_chains, toy_draws

from blindsr.diagnostics import PosteriorResult, arviz_io, posterior, to_arviz
from blindsr.diagnostics.arviz_io import Group
from blindsr.diagnostics.moments import RunningMoments, kernel_moments, unwrapped
from blindsr.operators.kernels import center_of_mass, covariance
from blindsr.priors.normal import GaussianShape

FAMILY = GaussianShape(11, 2)


class Tree1x(SimpleNamespace):
    """Stands in for ArviZ 1.x, which hands out xarray's trees."""

    def from_netcdf(self, path, engine):
        return xarray.open_datatree(path, engine=engine)


ARVIZ_1 = Tree1x(__version__="1.3.0")


def result(**changes):
    chains = changes.pop("chains", None) or toy_chains(toy_draws())
    given = {
        "chains": chains,
        "target": ToyTarget(),
        "kernel_coordinates": FAMILY.names,
        "degradation": DEGRADATION,
        "truth": FAMILY.kernel(torch.tensor([[0.8, 0.1, -0.2]])),
        "label": "image",
        "draws_asked": 500,
        "prior_draws": 50,
    }
    return PosteriorResult(**given | changes)


@pytest.fixture(params=[None, ARVIZ_1], ids=["installed", "1.x"])
def library(request):
    return request.param


def test_round_trip_through_netcdf(tmp_path, library):
    r = result()
    data = arviz_io.build(posterior.groups(r), library)
    arviz_io.save(data, tmp_path / "a.nc")
    again = arviz_io.load(tmp_path / "a.nc", library)
    (tmp_path / "a.nc").unlink()  # everything is in memory
    assert set(arviz_io.group_names(again)) == {
        "posterior", "sample_stats", "kernel", "prior", "posterior_predictive", "observed_data", "log_likelihood",
        "constant_data",
    }  # fmt: skip
    group = {name: arviz_io.group(again, name) for name in arviz_io.group_names(again)}
    post = group["posterior"]
    assert dict(post.sizes) == {"chain": 4, "draw": 500, "parameter": 1}
    for j, name in enumerate(FAMILY.names):
        assert np.array_equal(post[name].values, r.chains.draws[..., j].numpy())
    assert list(post["parameter"].values) == ["log_noise"]
    assert np.array_equal(post["nuisance"].values[..., 0], r.chains.draws[..., 3].numpy())
    assert post.attrs["sampler"] == "hmc" and post.attrs["complete"] == 1 and post.attrs["valid"] == 1
    assert (post.attrs["scale"], post.attrs["alignment"], post.attrs["warmup"]) == (2, "fkp", 500)
    assert post.attrs["tuning_trajectory_length"] == 1.5
    stats = group["sample_stats"]
    assert np.array_equal(stats["energy"].values, r.chains.energy.numpy()) and stats["diverging"].dtype == bool
    assert np.allclose(stats["step_size"].values[:, 7], r.chains.step_size.numpy())
    assert group["kernel"]["draws"].dims == ("chain", "draw", "row", "column")
    assert group["posterior_predictive"]["lr_image"].dims == ("chain", "draw", "channel", "lr_row", "lr_column")
    assert group["observed_data"]["lr_image"].shape == (1, 2, 3)
    assert group["prior"].sizes["draw"] == 50 and "width_1" in group["prior"]
    assert group["constant_data"]["true_kernel"].shape == (11, 11)
    assert arviz_io.group(again, "predictions") is None


def test_both_versions_hold_the_same():
    old, new = (arviz_io.build(posterior.groups(result()), library) for library in (None, ARVIZ_1))
    assert isinstance(new, xarray.DataTree)
    assert arviz_io.group_names(old) and set(arviz_io.group_names(old)) == set(arviz_io.group_names(new))
    for name in arviz_io.group_names(old):
        assert arviz_io.group(old, name).identical(arviz_io.group(new, name))


def test_arviz_reads_the_groups_itself():
    arviz = arviz_io._arviz()
    data = to_arviz(result())
    table = arviz.summary(data, round_to="none")
    assert {"width_1", "orientation", "log_variance", "nuisance[log_noise]"} <= set(table.index)
    posterior_group = arviz_io.group(data, "posterior")
    assert table.loc["width_1", "mean"] == pytest.approx(float(posterior_group["width_1"].mean()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pareto k of this toy
        assert arviz.loo(data).n_data_points == 6


def test_running_moments_equal_brute_force():
    z = toy_draws(draws=250).reshape(-1, 4)[:, :3]
    found = kernel_moments(FAMILY.kernel, z, batch=77)
    kernels = FAMILY.kernel(z)
    assert np.allclose(found.mean, kernels.mean(0)[0], atol=1e-12)
    assert np.allclose(found.std, kernels.std(0, correction=0)[0], atol=1e-12)
    values = torch.linalg.eigvalsh(covariance(kernels))
    assert np.allclose(found.columns["width_1"], values[:, 1].sqrt(), atol=1e-10)
    assert np.allclose(found.columns["width_2"], values[:, 0].sqrt(), atol=1e-10)
    assert np.allclose(found.columns["centroid_column"], center_of_mass(kernels)[:, 0], atol=1e-12)
    assert np.allclose(found.columns["centroid_row"], center_of_mass(kernels)[:, 1], atol=1e-12)
    _, vectors = torch.linalg.eigh(covariance(kernels))
    axis = torch.stack([torch.cos(t := torch.from_numpy(found.columns["orientation"])), torch.sin(t)], 1)
    assert torch.allclose((axis * vectors[:, :, 1]).sum(1).abs(), torch.ones(len(z), dtype=torch.float64), atol=1e-9)


def test_running_moments_of_large_offsets_and_bad_use():
    values = 1e6 + torch.randn(1000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    running = RunningMoments()
    for part in values.split(33):
        running.add(part)
    running.add(values[:0])
    assert running.count == 1000 and torch.allclose(running.mean, values.mean(0), rtol=1e-14)
    assert torch.allclose(running.std(), values.std(0, correction=0), rtol=1e-8)
    assert torch.allclose(running.std(1), values.std(0), rtol=1e-8)
    with pytest.raises(ValueError, match="nothing was added"):
        _ = RunningMoments().mean
    single = RunningMoments()
    single.add(values[:1])
    with pytest.raises(ValueError, match="1 arrays were added; at least 2 are needed"):
        single.std(1)
    with pytest.raises(ValueError, match="kernel moments: no draws"):
        kernel_moments(FAMILY.kernel, torch.zeros(0, 3))


def test_the_kernels_in_memory_are_bounded():
    asked = []

    def kernel(z):
        asked.append(len(z))
        return FAMILY.kernel(z)

    kernel_moments(kernel, toy_draws(draws=500).reshape(-1, 4)[:, :3])
    assert max(asked) <= 256 and sum(asked) == 2000


def test_orientation_does_not_jump():
    angles = np.random.default_rng(0).normal(np.pi / 2, 0.2, 1000)  # around the place where atan2 jumps
    found = unwrapped(np.cos(2 * angles), np.sin(2 * angles))
    assert found.std() == pytest.approx(angles.std(), rel=1e-9)
    assert np.allclose(np.cos(2 * found), np.cos(2 * angles))


def test_kernel_draws_and_predictions_are_thinned(monkeypatch):
    made = posterior.groups(result(chains=toy_chains(toy_draws(draws=700)), draws_asked=700))
    axes, kernels = made["kernel"].values["draws"]
    assert kernels.shape == (4, 50, 11, 11) and made["kernel"].coords["draw"][-1] == 699
    expected = FAMILY.kernel(toy_draws(draws=700)[2, made["kernel"].coords["draw"][13], :3][None])
    assert np.allclose(kernels[2, 13], expected[0, 0], atol=1e-7)
    assert made["posterior_predictive"].values["lr_image"][1].shape[:2] == (4, 50)
    assert made["log_likelihood"].values["lr_image"][1].shape[:2] == (4, 700)
    monkeypatch.setattr(posterior, "VALUES", 240)  # 40 draws of six numbers
    assert posterior.groups(result())["log_likelihood"].values["lr_image"][1].shape == (4, 10, 6)


def test_a_target_without_extras_needs_none():
    class Bare:
        names = ("a", "b")

    chains = toy_chains(toy_draws(dim=2), names=Bare.names)
    made = posterior.groups(PosteriorResult(chains, Bare()))
    assert set(made) == {"posterior", "sample_stats"}
    assert made["posterior"].values["z"][1].shape == (4, 500, 2)
    assert list(made["posterior"].coords["parameter"]) == ["a", "b"]


def test_draws_that_are_no_sample_are_not_called_posterior():
    made = posterior.groups(result(chains=toy_chains(toy_draws(), valid=False, sampler="sgld")))
    assert "posterior" not in made and made["trace"].attrs["valid"] == 0


def test_weighted_draws_are_resampled():
    draws = toy_draws(draws=2000)
    weights = (draws[..., 0] > 0.8).double()  # half of them count for nothing
    weights /= weights.sum(1, keepdim=True)
    made = posterior.groups(result(chains=toy_chains(draws, weights=weights, sampler="smc"), draws_asked=2000))
    kept = made["posterior"].values["log_variance"][1]
    assert kept.min() > 0.8 and made["posterior"].attrs["resampled"] == 1
    expected = float((draws[..., 0] * weights).sum(1).mean())
    assert kept.mean() == pytest.approx(expected, abs=4 * 0.1 / np.sqrt(2000))


def test_no_draws_are_refused():
    with pytest.raises(ValueError, match="chains without a single draw"):
        to_arviz(result(chains=toy_chains(toy_draws(draws=1)[:, :0])))


def test_incomplete_runs_say_so():
    made = posterior.groups(replace(result(), draws_asked=501))
    assert made["posterior"].attrs["complete"] == 0 and made["posterior"].attrs["draws_asked"] == 501


def test_files_that_are_not_netcdf(tmp_path, library):
    (tmp_path / "a.nc").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(ValueError, match="not a netCDF file of ArviZ"):
        arviz_io.load(tmp_path / "a.nc", library)
    whole = tmp_path / "b.nc"
    arviz_io.save(to_arviz(result()), whole)
    (tmp_path / "c.nc").write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(ValueError, match="not a netCDF file of ArviZ"):
        arviz_io.load(tmp_path / "c.nc", library)


def test_statistics_are_those_of_arviz():
    arviz = arviz_io._arviz()
    x = np.random.default_rng(0).normal(size=(4, 300)).cumsum(1)
    assert arviz_io.rhat(x) == pytest.approx(float(arviz.rhat(x)))
    assert arviz_io.ess_bulk(x) == pytest.approx(float(arviz.ess(x)))
    assert arviz_io.mcse_mean(x) == pytest.approx(float(arviz.mcse(x)))
    assert np.allclose(arviz_io.bfmi(x), arviz.bfmi(x))
    low, high = (float(arviz.ess(x, method="quantile", prob=p)) for p in (0.05, 0.95))
    assert arviz_io.ess_tail(x) == pytest.approx(min(low, high))


def test_statistics_of_too_little():
    assert np.isnan(arviz_io.rhat(np.random.default_rng(0).normal(size=(1, 100))))
    assert np.isnan(arviz_io.ess_bulk(np.zeros((4, 3)))) and np.isnan(arviz_io.ess_tail(np.full((4, 100), np.nan)))
    assert np.isnan(arviz_io.bfmi(np.zeros((2, 10)))).all() and np.isnan(arviz_io.bfmi(np.zeros((2, 1)))).all()


def test_only_one_module_imports_arviz():
    root = arviz_io.Path(arviz_io.__file__).parents[1]
    found = [p.name for p in root.rglob("*.py") if "import arviz\n" in p.read_text() or "from arviz " in p.read_text()]
    assert found == ["arviz_io.py"]


def test_group_labels_only_what_it_has():
    data = arviz_io.build({"posterior": Group({"a": (("chain", "draw"), np.zeros((2, 3)))}, {"row": np.arange(9)})})
    assert "row" not in arviz_io.group(data, "posterior").coords
