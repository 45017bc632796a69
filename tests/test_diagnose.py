import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import call, error_line
from PIL import Image
from toy_chains import DEGRADATION, ToyTarget, toy_chains, toy_draws

from blindsr.commands.restarts import Restart, repeat
from blindsr.diagnostics import PosteriorResult, arviz_io, summary, to_arviz, verdict
from blindsr.diagnostics.arviz_io import Group
from blindsr.diagnostics.chain_plots import autocorrelation
from blindsr.estimators.base import Metrics
from blindsr.priors.normal import GaussianShape

FAMILY = GaussianShape(11, 2)
TRUTH = FAMILY.kernel(torch.tensor([[0.8, 0.1, -0.2]]))
FIGURES = {
    "traces.png", "ranks.png", "autocorrelation.png", "pairs.png", "energy.png", "kernel.png", "kernel_draws.png",
    "predictive.png",
}  # fmt: skip


def posterior(chains, **changes):
    given = {"kernel_coordinates": FAMILY.names, "degradation": DEGRADATION, "truth": TRUTH, "prior_draws": 10}
    return to_arviz(PosteriorResult(chains, ToyTarget(), **given | changes))


def judged(chains, **changes):
    data = posterior(chains, **changes)
    rows = summary.table(data)
    return rows, verdict.judge(data, rows), data


def saved(folder, chains, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    arviz_io.save(posterior(chains, **changes), folder / "posterior.nc")
    return folder


# --- the verdict ------------------------------------------------------------------------------------------------------


def test_good_chains():
    rows, found, data = judged(toy_chains(toy_draws(draws=1000)))
    assert found.converged and not found.reasons and not found.cautions
    assert 0.99 < found.rhat_max < 1.01 and 2500 < found.ess_min < 6000
    line = verdict.words(found, data)[0]
    assert line.startswith("verdict: converged. 4 chains x 1000 draws; worst R-hat 1.0") and found.rhat_of in line


def test_rows_hold_what_the_draws_say():
    draws = toy_draws(draws=1000)
    rows, _, _ = judged(toy_chains(draws))
    row = {r.name: r for r in rows}["log_variance"]
    x = draws[..., 0].numpy()
    assert (row.mean, row.sd) == (pytest.approx(x.mean()), pytest.approx(x.std()))
    assert (row.low, row.high) == tuple(pytest.approx(v) for v in np.quantile(x, (0.05, 0.95)))
    assert row.mcse == pytest.approx(x.std() / np.sqrt(4000), rel=0.1)
    assert [r.name for r in rows][-1] == "log_noise" and rows[-1].nuisance and not rows[0].nuisance


def test_stuck_chain():
    draws = toy_draws()
    draws[2, :, 1] += 0.5
    _, found, data = judged(toy_chains(draws))
    assert not found.converged and found.rhat_max > 1.2
    assert re.search(r"R-hat 1\.\d+ of \w+ \(limit 1\.01\): the chains do not agree", found.reasons[0])
    assert "--sampler tempering" in found.reasons[0] and "parameters in all" in found.reasons[0]
    assert verdict.words(found, data)[0].startswith("verdict: NOT converged. 4 chains x 500 draws")


def test_short_run():
    _, found, _ = judged(toy_chains(toy_draws(draws=30)))
    line = next(r for r in found.reasons if "ESS" in r)
    assert "(limit 400)" in line and "times as many --draws" in line and not found.converged
    times = int(re.search(r"about (\d+) times", line)[1])
    assert times == int(np.ceil(400 / found.ess_min)) >= 3


def test_three_draws_and_one():
    for draws in (3, 1):
        _, found, _ = judged(toy_chains(toy_draws(draws=draws)))
        assert any("too few for R-hat" in r for r in found.reasons) and not found.converged


def test_slow_chains_name_the_parameter():
    draws = toy_draws(draws=1000)
    noise = torch.randn(4, 1000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for i in range(1, 1000):  # an autoregressive process with about 2/200 of the draws' number as effective size
        noise[:, i] = 0.99 * noise[:, i - 1] + (1 - 0.99**2) ** 0.5 * noise[:, i]
    draws[..., 3] = noise
    _, found, _ = judged(toy_chains(draws))
    assert found.ess_of == "log_noise" and any("of log_noise (limit 400)" in r for r in found.reasons)


def test_divergences():
    divergent = torch.zeros(4, 500, dtype=torch.bool)
    divergent[1, 7] = divergent[3, 400] = True
    _, found, _ = judged(toy_chains(toy_draws(), divergent=divergent))
    assert not found.converged and found.reasons[0].startswith("2 divergent transitions (0.1 %)")


def test_energy():
    slow = torch.cumsum(torch.randn(4, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 1)
    _, found, _ = judged(toy_chains(toy_draws(), energy=slow))
    assert not found.converged and re.search(r"E-BFMI 0\.0\d of chain \d \(limit 0.3\)", found.reasons[0])
    _, found, _ = judged(toy_chains(toy_draws(), energy=slow, sampler="rwm"))  # has no kinetic energy
    assert found.converged


def test_few_chains():
    _, found, _ = judged(toy_chains(toy_draws(chains=1)))
    assert any(r.startswith("one chain: without others to compare it with") for r in found.reasons)
    assert np.isnan(found.rhat_max) and not found.converged
    _, found, _ = judged(toy_chains(toy_draws(chains=2, draws=1000)))
    assert found.converged and any(c.startswith("2 chains: a mode that all of them missed") for c in found.cautions)


def test_nothing_moves():
    _, found, _ = judged(
        toy_chains(toy_draws(draws=1).expand(1, 500, 4)[:1] if False else toy_draws(1, 1).expand(4, 500, 4))
    )
    assert any(r.startswith("no parameter moves") for r in found.reasons) and not found.converged
    one_stuck = toy_draws()
    one_stuck[2] = one_stuck[2, :1]  # a chain that never moves
    _, found, _ = judged(toy_chains(one_stuck))
    assert not found.converged and found.rhat_max > 1.1


def test_constants_have_no_rhat():
    draws = toy_draws()
    draws[..., 3] = -4.0
    rows, found, _ = judged(toy_chains(draws))
    row = rows[-1]
    assert row.fixed and np.isnan(row.rhat) and found.converged
    assert "constant in every draw: log_noise" in found.cautions


def test_cautions():
    _, found, _ = judged(toy_chains(toy_draws(), sampler="smc"), draws_asked=900, label="image")
    text = " | ".join(found.cautions)
    assert "incomplete: 500 of 900 draws" in text and "particles of one population" in text
    assert "the image is taken for the truth" in text and found.converged


def test_numbers_that_are_not():
    draws = toy_draws()
    draws[0, 3, 3] = torch.nan
    _, found, _ = judged(toy_chains(draws))
    assert not found.converged and "log_noise" in " ".join(found.reasons)


def test_no_posterior_is_not_judged():
    data = arviz_io.build({"trace": Group({"a": (("restart",), np.zeros(3))})})
    with pytest.raises(ValueError, match="nothing to judge"):
        verdict.judge(data, [])


def test_many_nuisance_parameters_are_one_line():
    class Wide(ToyTarget):
        names = (*FAMILY.names, *(f"level_{j}" for j in range(20)))

    g = torch.Generator().manual_seed(0)
    draws = torch.cat([toy_draws(dim=3), torch.randn(4, 500, 20, generator=g, dtype=torch.float64)], 2)
    draws[1, :, 17] += 3
    chains = toy_chains(draws, names=Wide.names)
    data = to_arviz(PosteriorResult(chains, Wide(), FAMILY.names, prior_draws=0))
    rows = summary.table(data)
    short, long = summary.as_text(rows), summary.as_text(rows, everything=True)
    assert len(long) == len(short) - 1 + 20 and not any(line.startswith("level_14 ") for line in short)
    assert re.match(
        r"20 nuisance parameters: worst R-hat 1\.\d+ \(level_14\), smallest ESS \d+ \(level_14\)", short[-1]
    )
    assert any(line.startswith("level_14 ") for line in long) and "nuisance parameters" not in long[-1]
    assert verdict.judge(data, rows).rhat_of == "level_14"


def test_autocorrelation_is_the_sum():
    x = np.random.default_rng(0).normal(size=50).cumsum()
    c = x - x.mean()
    expected = [np.sum(c[: 50 - lag] * c[lag:]) / np.sum(c * c) for lag in range(50)]
    assert np.allclose(autocorrelation(x), expected)
    assert np.array_equal(autocorrelation(np.ones(5)), np.zeros(5))


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_command_on_a_run(tmp_path):
    folder = saved(tmp_path / "run", toy_chains(toy_draws()), label="image")
    result = call("diagnose", folder)
    assert result.exit_code == 0
    for word in ("parameter", "ESS bulk", "ESS tail", "R-hat", "MCSE", "width_1", "equal-tailed 90 % interval"):
        assert word in result.stdout
    assert "verdict: converged" in result.stdout and "by hmc of the image posterior, warm-up 500" in result.stdout
    assert {p.name for p in (folder / "diagnostics").iterdir()} == FIGURES
    for path in (folder / "diagnostics").iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 300 and np.asarray(image.convert("L")).std() > 5


def test_command_as_json(tmp_path):
    folder = saved(tmp_path / "run", toy_chains(toy_draws()))
    record = json.loads(call("diagnose", folder, "--json", "--no-figures").stdout)["posterior"]
    assert (record["chains"], record["draws"], record["sampler"]) == (4, 500, "hmc")
    assert record["verdict"]["converged"] is True and "figures" not in record
    by_name = {row["name"]: row for row in record["parameters"]}
    assert by_name["log_noise"]["mean"] == pytest.approx(-4, abs=0.05) and by_name["width_1"]["rhat"] < 1.01
    assert not (folder / "diagnostics").exists()
    assert call("diagnose", folder / "posterior.nc", "--no-figures").exit_code == 0


def test_not_converged_is_no_error(tmp_path):
    draws = toy_draws()
    draws[0] += 1
    result = call("diagnose", saved(tmp_path / "run", toy_chains(draws)), "--no-figures")
    assert result.exit_code == 0 and "verdict: NOT converged" in result.stdout and "  - R-hat" in result.stdout


def test_a_file_of_other_software(tmp_path):
    g = np.random.default_rng(0)
    values = {
        "mu": (("chain", "draw"), g.normal(size=(4, 400))),
        "b": (("chain", "draw", "k"), g.normal(size=(4, 400, 2))),
    }
    data = arviz_io.build({"posterior": Group(values, {"k": np.array(["x", "y"])})})
    arviz_io.save(data, tmp_path / "theirs.nc")
    result = call("diagnose", tmp_path / "theirs.nc")
    assert result.exit_code == 0 and "b[y]" in result.stdout and "verdict: converged" in result.stdout
    made = {p.name for p in (tmp_path / "theirs-diagnostics").iterdir()}
    assert made == {"traces.png", "ranks.png", "autocorrelation.png", "pairs.png"}


def test_biased_draws_are_a_trace(tmp_path):
    folder = saved(tmp_path / "run", toy_chains(toy_draws(), valid=False, sampler="sgld"))
    result = call("diagnose", folder)
    assert result.exit_code == 0 and "the draws of sgld are not draws of its target" in result.stdout
    assert "verdict: converged" not in result.stdout and "MCSE" not in result.stdout
    assert [p.name for p in (folder / "diagnostics").iterdir()] == ["trace.png"]


def iterates(n, seed):
    loss = np.random.default_rng(seed).uniform(0.01, 1, n)
    return [Metrics(i + 1, *(float(loss[i]) for _ in Metrics._fields[1:])) for i in range(n)]


def restart(seed, reason="finished", steps=5):
    g = torch.Generator().manual_seed(seed)
    z = torch.tensor([[0.8, 0.1, -0.2]]) + 0.1 * torch.randn(1, 3, generator=g)
    return Restart(seed, torch.rand(1, 3, 8, 8, generator=g), FAMILY.kernel(z), iterates(steps, seed), reason)


def test_restarts_get_no_rhat(tmp_path):
    said = []
    entry = repeat(restart(5), 4, restart, lambda: False, tmp_path, TRUTH, said.append)
    assert entry["complete"] and entry["seeds"] == [5, 6, 7, 8] and said[-1] == "restart 4 of 4, seed 8"
    data = arviz_io.load(tmp_path / "trace.nc")
    assert arviz_io.group_names(data) == ("trace",)
    trace = arviz_io.group(data, "trace")
    kernels = torch.cat([restart(s).kernel for s in range(5, 9)])
    images = torch.cat([restart(s).image for s in range(5, 9)]).double()
    assert np.allclose(trace["kernel"].values, kernels[:, 0]) and list(trace["seed"].values) == [5, 6, 7, 8]
    assert np.allclose(trace["image_sd"].values, images.std(0, correction=0), atol=1e-6)
    rmse = (kernels - TRUTH).square().mean((1, 2, 3)).sqrt()
    assert np.allclose(trace["kernel_psnr"].values, -20 * torch.log10(rmse), atol=1e-3)
    result = call("diagnose", tmp_path)
    assert result.exit_code == 0 and "it gets no R-hat" in result.stdout
    assert "verdict: converged" not in result.stdout and "MCSE" not in result.stdout and "width_1" in result.stdout
    assert (tmp_path / "diagnostics" / "restarts.png").exists()
    record = json.loads(call("diagnose", tmp_path, "--json", "--no-figures").stdout)["restarts"]
    assert '"rhat' not in json.dumps(record) and len(record["spread"]["width_1"]["values"]) == 4


def test_restarts_stopped_early(tmp_path):
    calls = []

    def again(seed):
        calls.append(seed)
        return restart(seed, "interrupted" if len(calls) == 2 else "finished")

    entry = repeat(restart(2**32 - 1), 5, again, lambda: False, tmp_path, None, lambda line: None)
    assert (entry["made"], entry["complete"], entry["seeds"]) == (2, False, [2**32 - 1, 0])
    assert "2 restarts of an optimisation (of 5: incomplete)" in call("diagnose", tmp_path, "--no-figures").stdout


def test_posterior_and_restarts_of_one_run(tmp_path):
    folder = saved(tmp_path / "run", toy_chains(toy_draws()))
    repeat(restart(0), 2, restart, lambda: False, folder, None, lambda line: None)
    result = call("diagnose", folder, "--no-figures")
    assert "verdict: converged" in result.stdout and "it gets no R-hat" in result.stdout


def test_iterates_of_an_optimizer(tmp_path):
    rows = "step,loss,mse\n" + "".join(f"{i},{1 / i},{'' if i == 2 else 0.1}\n" for i in range(1, 30))
    (tmp_path / "trace.csv").write_text(rows)
    result = call("diagnose", tmp_path)
    assert result.exit_code == 0 and "iterates of an optimizer" in result.stdout and "no R-hat" in result.stdout
    assert (tmp_path / "diagnostics" / "optimizer.png").exists()
    (tmp_path / "trace.csv").write_text("step,loss\n")
    assert "made no steps and drew no chains" in call("diagnose", tmp_path).stdout


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone", None, "no such file or folder"),
        ("a.txt", b"x", "neither a run folder nor a netCDF file"),
        ("a.nc", b"x" * 50, "not a netCDF file of ArviZ"),
        ("trace.csv", b"step,loss\n1,much\n", "not a trace of blindsr"),
        ("trace.csv", b"a,b\n1,2\n", "not a trace of blindsr (no column step)"),
    ],
)
def test_bad_input(tmp_path: Path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    line = error_line(call("diagnose", path))
    assert words in line and str(path) in line


def test_empty_folder(tmp_path):
    line = error_line(call("diagnose", tmp_path))
    assert "holds no posterior.nc, trace.nc or trace.csv" in line and "--sampler" in line


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"observed_data": Group({"y": (("i",), np.zeros(3))})}, "neither a posterior nor a trace"),
        ({"posterior": Group({"y": (("i",), np.zeros(3))})}, "has no axes chain and draw"),
        ({"posterior": Group({"y": (("chain", "draw"), np.full((2, 5), "a"))})}, "holds no parameters"),
    ],
)
def test_files_without_chains(tmp_path, groups, words):
    arviz_io.save(arviz_io.build(groups), tmp_path / "a.nc")
    assert words in error_line(call("diagnose", tmp_path / "a.nc"))
