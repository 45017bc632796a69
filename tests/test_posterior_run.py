import json
import os
import re
import signal
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Clock, call, error_line, gaussian_kernel, run, save_png, smooth
from PIL import Image
from toy_chains import ToyTarget

from blindsr.commands import settings
from blindsr.diagnostics import arviz_io
from blindsr.methods.parts import PRIORS
from blindsr.operators.degradation import Degradation
from blindsr.priors.normal import GaussianShape, LineShape
from blindsr.priors.simplex import SimplexPrior
from blindsr.results import posterior
from blindsr.results.posterior import sample_posterior
from blindsr.results.sampling import Sampling
from blindsr.results.targets import Prepared, Scene, kernel_family

SAMPLED = ("--sampler", "hmc", "--draws", 100, "--warmup", 50, "--chains", 2)
MAP = ("--scale", 2, "--method", "fast-map", "--restorer", "bicubic")


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return content


def photo(path: Path, h: int = 40, w: int = 44) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 12, (h, w, 3))
    Image.fromarray(np.clip(smooth(h, w) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


class Watched(ToyTarget):
    """A toy that calls `at_each` at every evaluation."""

    at_each = staticmethod(lambda: None)

    def log_prob(self, z):
        self.at_each()
        return -0.5 * ((z - torch.tensor([0.8, 0.1, -0.2, -4.0])) / 0.1).square().sum(1)

    def initial(self, n, *, generator):
        return torch.tensor([0.8, 0.1, -0.2, -4.0]) + 0.1 * torch.randn(n, 4, generator=generator, dtype=torch.float64)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(scene: Scene, family: Any) -> Prepared:
        return Prepared(Watched(), Watched().names[:3], torch.full((4,), 0.01, dtype=torch.float64))

    monkeypatch.setitem(posterior.TARGETS, "spectral", prepared)


def scene() -> Scene:
    k = torch.from_numpy(gaussian_kernel()).float()[None, None]
    return Scene(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 32, 32), k, Degradation(2), None, None)


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("target", ["spectral", "image"])
def test_a_run_with_its_posterior(tmp_path: Path, target: str) -> None:
    image = photo(tmp_path / "a.png")
    np.save(tmp_path / "k.npy", gaussian_kernel(11, 1.5))
    words = (*MAP, *SAMPLED, "--target", target, "--true-kernel", tmp_path / "k.npy")
    result = call("run", image, *words, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "out" / "a"
    r = record(folder)
    p = r["posterior"]
    assert (p["sampler"], p["target"], p["chains"], p["draws"], p["warmup"]) == ("hmc", target, 2, 100, 50)
    assert p["complete"] and r["complete"] and r["stopped"] == "finished" and p["family"] == "GaussianShape"
    assert p["verdict"][0].startswith("verdict: ") and p["rhat_max"] > 0.9 and p["ess_min"] > 1 and p["seconds"] > 0
    assert f"R-hat {p['rhat_max']:.3f}" in result.stderr
    data = arviz_io.load(folder / "posterior.nc")
    assert {
        "posterior", "sample_stats", "prior", "posterior_predictive", "observed_data", "log_likelihood", "kernel",
        "constant_data",
    } <= set(arviz_io.group_names(data))  # fmt: skip
    post = arviz_io.group(data, "posterior")
    assert {"log_variance", "stretch", "diagonal_stretch", "width_1", "nuisance"} <= set(post.data_vars)
    assert np.isfinite(post["width_1"].values).all()
    looked = call("diagnose", folder)
    assert looked.exit_code == 0 and "verdict: " in looked.stdout
    assert (folder / "diagnostics" / "predictive.png").exists()
    done = call("run", image, *words, "--output", tmp_path / "out", "--resume")
    assert done.exit_code == 0 and "already finished" in done.stderr
    assert record(folder) == r


@pytest.mark.slow
def test_the_same_seed_gives_the_same_draws(tmp_path: Path, toy: None) -> None:
    image = save_png(tmp_path / "a.png")
    draws = []
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        words = (*MAP, *SAMPLED, "--seed", seed, "--output", tmp_path / name)
        assert call("run", image, *words).exit_code == 0
        group = arviz_io.group(arviz_io.load(tmp_path / name / "a" / "posterior.nc"), "posterior")
        draws.append(group["log_variance"].values)
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])


@pytest.mark.slow
def test_a_posterior_can_be_added_to_a_finished_run(tmp_path: Path, toy: None) -> None:
    image = save_png(tmp_path / "a.png")
    assert run(image, tmp_path / "out", steps=2).exit_code == 0
    before = (tmp_path / "out/a/sr.png").read_bytes()
    added = run(image, tmp_path / "out", *SAMPLED, "--resume", steps=2)
    assert added.exit_code == 0 and "resumed at step 2" in added.stderr
    assert (tmp_path / "out/a/posterior.nc").exists() and (tmp_path / "out/a/sr.png").read_bytes() == before
    # and is not lost unless that is asked for
    line = error_line(run(image, tmp_path / "out", "--resume", steps=2))
    assert "holds chains or restarts of other settings" in line and "--overwrite" in line
    line = error_line(run(image, tmp_path / "out", steps=2))
    assert "a result of other settings" in line and (tmp_path / "out/a/posterior.nc").exists()
    assert call("diagnose", tmp_path / "out/a").exit_code == 0
    assert run(image, tmp_path / "out", "--overwrite", steps=2).exit_code == 0
    assert not (tmp_path / "out/a/posterior.nc").exists() and not (tmp_path / "out/a/diagnostics").exists()


def test_other_draws_are_other_settings(tmp_path: Path, toy: None) -> None:
    image = save_png(tmp_path / "a.png")
    assert run(image, tmp_path / "out", *SAMPLED, steps=1).exit_code == 0
    before = (tmp_path / "out/a/posterior.nc").read_bytes()
    for words in (("--chains", 3), ("--draws", 150), ("--thin", 2), ("--target", "image"), ("--sampler", "rwm")):
        line = error_line(run(image, tmp_path / "out", *SAMPLED, *words, steps=1))
        assert "a result of other settings" in line
    assert (tmp_path / "out/a/posterior.nc").read_bytes() == before


@pytest.mark.slow
def test_without_a_transport_map_the_chains_are_made_all_the_same(tmp_path: Path, monkeypatch: Any) -> None:
    def none(_: object) -> object:
        raise ValueError("no transport map: on purpose")

    monkeypatch.setattr("blindsr.results.targets.nested_laplace", none)
    image = photo(tmp_path / "a.png")
    result = call("run", image, *MAP, *SAMPLED, "--output", tmp_path / "out")
    assert result.exit_code == 0 and "no transport map: on purpose; sampling without it" in result.stderr
    assert record(tmp_path / "out/a")["posterior"]["complete"]


# --- stopping early ---------------------------------------------------------------------------------------------------


def test_time_limit_leaves_what_was_drawn(
    tmp_path: Path, toy: None, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def takes_a_while() -> None:
        clock.now += 0.01

    monkeypatch.setattr(Watched, "at_each", staticmethod(takes_a_while))
    image = save_png(tmp_path / "a.png")
    result = run(
        image, tmp_path / "out", "--sampler", "rwm", "--draws", 50000, "--warmup", 10, "--time-limit", 10, steps=1
    )
    assert result.exit_code == 0 and "incomplete" in result.stderr
    folder = tmp_path / "out" / "a"
    p = record(folder)["posterior"]
    assert not p["complete"] and 0 < p["draws"] < 50000 and not record(folder)["complete"]
    post = arviz_io.group(arviz_io.load(folder / "posterior.nc"), "posterior")
    assert post.sizes["draw"] == p["draws"] and post.attrs["complete"] == 0
    assert f"incomplete: {p['draws']} of 50000 draws" in call("diagnose", folder, "--no-figures").stdout


def test_no_time_for_a_single_draw(tmp_path: Path, toy: None) -> None:
    image = save_png(tmp_path / "a.png")
    result = run(image, tmp_path / "out", *SAMPLED, "--time-limit", 0, steps=1)
    assert result.exit_code == 0 and "no draws: the time limit was reached before the first" in result.stderr
    assert not (tmp_path / "out/a/posterior.nc").exists() and (tmp_path / "out/a/sr.png").exists()
    assert record(tmp_path / "out/a")["posterior"]["draws"] == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_control_c_while_sampling(tmp_path: Path, toy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    image = save_png(tmp_path / "a.png")
    evaluations = count()

    def interrupted() -> None:
        if next(evaluations) == 400:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Watched, "at_each", staticmethod(interrupted))
    words = ("--sampler", "rwm", "--draws", 5000, "--warmup", 10)
    result = run(image, tmp_path / "out", *words, steps=1)
    assert result.exit_code == 130
    folder = tmp_path / "out" / "a"
    r = record(folder)
    assert r["stopped"] == "interrupted" and not r["complete"] and 0 < r["posterior"]["draws"] < 5000
    assert "incomplete" in call("diagnose", folder, "--no-figures").stdout
    line = error_line(run(image, tmp_path / "out", *words, steps=1))
    assert "an unfinished run; --resume goes on with it" in line
    resumed = run(image, tmp_path / "out", *words, "--resume", steps=1)
    assert resumed.exit_code == 0 and record(folder)["posterior"]["complete"] and record(folder)["complete"]


# --- what is sampled --------------------------------------------------------------------------------------------------


def test_the_family_of_the_kernel() -> None:
    assert kernel_family(False, None, scene()) == GaussianShape(11, 2)
    for name, shape in (("gaussian", GaussianShape), ("line", LineShape), ("simplex", SimplexPrior)):
        assert isinstance(kernel_family(True, PRIORS[name].value, scene()), shape)


def test_a_bad_target_is_one_line(tmp_path: Path) -> None:
    bad = replace(scene(), image=torch.full((1, 1, 32, 32), torch.nan))
    with pytest.raises(posterior.UserError, match="--target image: .*finite"):
        sample_posterior(tmp_path, Sampling("hmc", target="image"), bad, None, 0, lambda: None, lambda line: None)


def test_a_sampler_that_needs_prior_and_likelihood(tmp_path: Path, toy: None) -> None:
    with pytest.raises(posterior.UserError, match="'smc': Watched has no log_prior, log_likelihood; choose a sampler"):
        sample_posterior(tmp_path, Sampling("smc"), scene(), None, 0, lambda: None, lambda line: None)


OWN = """
from dataclasses import dataclass
import torch
from blindsr.samplers import Hmc, MarkovSampler, Sgld
from blindsr.samplers.metropolis import value_only, accept, choose, start
from blindsr.samplers.rwm import RandomWalkTransition


class Walk(MarkovSampler):
    needs_gradient = False

    def transition(self, target, metric, request):
        return RandomWalkTransition(value_only(target), metric, torch.tensor(1.2).double())


class Wrong(Walk):
    def transition(self, target, metric, request):
        return Sgld(2.0).on(lambda z: (value_only(target)(z), -z))


class Forgetful(Walk):
    def run(self, target, request):
        torch.rand(1)
        return super().run(target, request)


class Bare:
    pass


small = Sgld(0.05)
"""


def test_ones_own_sampler(tmp_path: Path, toy: None, monkeypatch: Any) -> None:
    """A class or an object of the user's file; each that breaks its contract is one line."""
    (tmp_path / "mine.py").write_text(OWN)
    image, words = save_png(tmp_path / "a.png"), ("--draws", 100, "--warmup", 50, "--chains", 2)
    for name, said in (
        ("Wrong", "the mean of z_0 is off by|the variance of z_0 is off by"),
        ("Forgetful", "changes torch's global random state"),
        ("Bare", "Bare is no sampler: derive it from blindsr.samplers.Sampler"),
        ("Nothing", "has no Nothing"),
    ):
        line = error_line(run(image, tmp_path / "out", "--sampler", f"{tmp_path / 'mine.py'}:{name}", *words))
        assert re.search(said, line) and not (tmp_path / "out").exists()
    for name, file in (("Walk", "posterior.nc"), ("small", "sampler_trace.nc")):
        result = run(image, tmp_path / name, "--sampler", f"{tmp_path / 'mine.py'}:{name}", *words, steps=1)
        assert result.exit_code == 0 and (tmp_path / name / "a" / file).exists()
        assert record(tmp_path / name / "a")["posterior"]["file"] == file
        assert "sampler_sha256" in record(tmp_path / name / "a")["sampling"]


@pytest.mark.parametrize(("sampler", "target"), [("sgld", "image"), ("network-langevin", "network")])
@pytest.mark.slow
def test_a_biased_sampler_leaves_a_trace(tmp_path: Path, sampler: str, target: str) -> None:
    image = photo(tmp_path / "a.png")
    words = ("--sampler", sampler, "--target", target, "--draws", 100, "--warmup", 20, "--chains", 2)
    result = call("run", image, *MAP, *words, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    sentence = f"{sampler} is biased: its draws are a trace, not a posterior"
    p = record(tmp_path / "out/a")["posterior"]
    assert sentence in result.stderr and p["verdict"] == [sentence] and "rhat_max" not in p and not p["converged"]
    assert not (tmp_path / "out/a/posterior.nc").exists()
    data = arviz_io.load(tmp_path / "out/a/sampler_trace.nc")
    trace = arviz_io.group(data, "trace")
    assert "posterior" not in arviz_io.group_names(data) and trace.sizes["draw"] == 100 and trace.attrs["valid"] == 0
    assert "it gets no R-hat" in call("diagnose", tmp_path / "out/a", "--no-figures").stdout


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--chains", 4), "--chains 4: needs --sampler; choose one of rwm, mala, hmc"),
        (("--draws", 200, "--thin", 2), "--draws 200, --thin 2: needs --sampler"),
        (("--target", "image"), "--target image: needs --sampler"),
        (("--sampler", "gibbs"), "--sampler gibbs: unknown; choose rwm, mala, hmc"),
        (("--sampler", "hmc", "--target", "pixels"), "--target pixels: unknown; choose spectral, image, network"),
        (("--sampler", "hmc", "--draws", 50), "--draws 50: at least 100 is needed"),
        (("--sampler", "hmc", "--chains", 0), "--chains 0: at least 1 is needed"),
        (("--sampler", "hmc", "--warmup", 0), "--warmup 0: at least 1 is needed"),
        (("--sampler", "hmc", "--thin", -1), "--thin -1: at least 1 is needed"),
        (
            ("--sampler", "hmc", "--prior", "motion"),
            "the kernel family motion has no density, only random draws; gaussian, line",
        ),
        (
            ("--sampler", "hmc", "--method", "mlmc-motion"),
            "the kernel family motion has no density, only random draws; gaussian, line",
        ),
        (("--restarts", 1), "--restarts 1: at least 2 are needed"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, words: tuple[object, ...], said: str) -> None:
    line = error_line(run(save_png(tmp_path / "a.png"), tmp_path / "out", *words))
    assert said in line and not (tmp_path / "out").exists()


def test_restarts_of_a_method_without_steps(tmp_path: Path) -> None:
    line = error_line(call("run", save_png(tmp_path / "a.png"), *MAP, "--restarts", 3, "--output", tmp_path / "out"))
    assert "--restarts 3: " in line and "draws nothing, so all would be the same" in line


def test_ones_own_prior_needs_a_density(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from blindsr.priors.motion import CameraShakePrior\n"
        "from blindsr.priors.normal import GaussianShape\n"
        "def Bare(d):\n    return CameraShakePrior.protocol(d.scale, d.kernel_size)\n"
        "def Dense(d):\n    return GaussianShape(d.kernel_size, d.scale)\n"
    )
    image = save_png(tmp_path / "a.png")
    line = error_line(run(image, tmp_path / "out", *SAMPLED, "--prior", f"{tmp_path / 'own.py'}:Bare"))
    assert "own.py:Bare has no density" in line
    found = run(image, tmp_path / "out", *SAMPLED, "--target", "image", "--prior", f"{tmp_path / 'own.py'}:Dense")
    assert found.exit_code == 0, found.stderr
    assert record(tmp_path / "out/a")["posterior"]["family"] == "GaussianShape"
    assert record(tmp_path / "out/a")["sampling"]["family"].endswith("own.py:Dense")


def test_records_of_runs_without_sampling_are_as_before() -> None:
    assert settings.AFTERWARDS == ("sampling", "restarts")
    plain = settings.RunSettings(scale=2)
    assert plain.record()["sampling"] is None and plain.record()["restarts"] is None


# --- restarts ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_restarts_of_a_run(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    result = run(image, tmp_path / "out", "--restarts", 3, "--seed", 7, steps=2)
    assert result.exit_code == 0 and "3 of 3 restarts" in result.stderr
    r = record(tmp_path / "out/a")
    assert r["restarts_made"]["seeds"] == [7, 8, 9] and r["complete"] and "posterior" not in r
    trace = arviz_io.group(arviz_io.load(tmp_path / "out/a/trace.nc"), "trace")
    assert trace["loss"].shape == (3, 2) and trace["kernel"].shape == (3, 11, 11)
    # each restart is the run of its seed
    for row, seed in ((0, 7), (1, 8)):
        assert run(image, tmp_path / str(seed), "--seed", seed, steps=2).exit_code == 0
        alone = np.load(tmp_path / str(seed) / "a" / "kernel.npy")
        assert np.allclose(trace["kernel"].values[row], alone, atol=1e-7)
    looked = call("diagnose", tmp_path / "out/a")
    assert looked.exit_code == 0 and "it gets no R-hat" in looked.stdout
    assert not re.search(r"verdict: (NOT )?converged", looked.stdout)
    again = run(image, tmp_path / "out", "--restarts", 3, "--seed", 7, "--resume", steps=2)
    assert "already finished" in again.stderr
    line = error_line(run(image, tmp_path / "out", "--restarts", 2, "--seed", 7, "--resume", steps=2))
    assert "holds chains or restarts of other settings" in line
