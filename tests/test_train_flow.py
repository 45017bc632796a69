"""`blindsr train-flow`: the file it writes, its use as --prior, and every error a user can make."""

import json

import pytest
from helpers import call, error_line, run, save_png

from blindsr.commands.train_flow import train_flow_file
from blindsr.priors.flow import read_flow

SHORT = ("--scale", 2, "--kernel-size", 7, "--steps", 3)

OWN = """
import torch

class Ring:
    kernel_size = 7
    def __init__(self, degradation): pass
    def sample(self, n, *, generator):
        k = torch.rand(n, 1, 7, 7, generator=generator) + 0.1
        return k / k.sum((1, 2, 3), keepdim=True)

class One(Ring):
    def sample(self, n, *, generator):
        return torch.full((n, 1, 7, 7), 1 / 49)
"""


@pytest.fixture
def quick(monkeypatch):
    """Few kernels: these tests look at files, not at what was learned."""
    from dataclasses import replace

    from blindsr.priors import flow_training

    small = {name: replace(r, batch=20, pool=60, held_out=20, hidden=4) for name, r in flow_training.RECIPES.items()}
    monkeypatch.setattr(flow_training, "RECIPES", small)


def test_it_writes_a_flow_with_its_recipe_and_the_flow_runs(quick, tmp_path):
    out = tmp_path / "new" / "mine.safetensors"
    done = call("train-flow", "--out", out, *SHORT, "--seed", 5, "--json")
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    flow = read_flow(out)
    assert (flow.kernel_size, flow.scale) == (7, 2)
    assert {**flow.recipe, "seconds": record["seconds"], "bytes": out.stat().st_size} == record
    assert (record["seed"], record["prior"], record["settings"]["steps"]) == (5, "gaussian", 3)
    assert [f.name for f in out.parent.iterdir()] == [out.name]
    assert "step 3/3" in done.stderr
    image = save_png(tmp_path / "a.png")
    result = run(image, tmp_path / "out", "--prior", out, "--kernel-size", 7, steps=1)
    assert result.exit_code == 0, result.stderr
    kept = json.loads((tmp_path / "out" / "a" / "run.json").read_text())
    assert kept["prior"] == "mine.safetensors" and str(out) in kept["files_sha256"]


def test_same_seed_same_file_and_mcmc_is_gaussian(quick, tmp_path):
    def made(name, prior):
        out = tmp_path / f"{name}.safetensors"
        train_flow_file(out, prior=prior, scale=2, kernel_size=7, steps=2, say=lambda _: None)
        return out.read_bytes()

    assert made("a", "motion") == made("b", "motion") != made("c", "disk")
    assert made("d", "gaussian") == made("e", "mcmc")


def test_own_priors_are_learned(quick, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(OWN)
    out = tmp_path / "ring.safetensors"
    assert call("train-flow", "--out", out, *SHORT, "--prior", f"{own}:Ring").exit_code == 0
    assert read_flow(out).recipe["prior"] == f"{own}:Ring"
    line = error_line(call("train-flow", "--out", tmp_path / "one.safetensors", *SHORT, "--prior", f"{own}:One"))
    assert "one and the same kernel" in line
    assert not (tmp_path / "one.safetensors").exists()


def test_bad_options_are_one_line_and_leave_nothing(quick, tmp_path):
    there = tmp_path / "there.safetensors"
    there.write_text("mine")
    out = tmp_path / "f.safetensors"
    cases = {
        "a name that ends with .safetensors": ("--out", tmp_path / "f.pt"),
        "exists; choose another name, or give --overwrite": ("--out", there),
        "--prior blob: unknown kernel family; choose gaussian, motion, shake, line": ("--out", out, "--prior", "blob"),
        "--prior flow-motion: is a trained flow already": ("--out", out, "--prior", "flow-motion", "--kernel-size", 11),
        "no such file (wanted P from it)": ("--out", out, "--prior", f"{tmp_path}/no.py:P"),
        "scale 5": ("--out", out, "--scale", 5),
        "kernel size 8": ("--out", out, "--kernel-size", 8),
        "cannot be written": ("--out", there / "below" / "f.safetensors"),
    }
    for message, words in cases.items():
        assert message in error_line(call("train-flow", *SHORT, *words)), message
    assert there.read_text() == "mine" and [f.name for f in tmp_path.iterdir()] == ["there.safetensors"]
    assert "Missing option '--out'" in error_line(call_main("train-flow"))


def call_main(*words):
    """Run the whole program, usage errors included."""
    import subprocess
    import sys

    class Done:
        pass

    done = subprocess.run([sys.executable, "-m", "blindsr", *words], capture_output=True, text=True, check=False)
    result = Done()
    result.exit_code, result.stderr, result.stdout, result.output = done.returncode, done.stderr, done.stdout, ""
    return result


def test_an_interrupt_leaves_no_file(quick, tmp_path, monkeypatch):
    from blindsr.commands import train_flow as job

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "flow_bytes", stop)
    done = call("train-flow", "--out", tmp_path / "f.safetensors", *SHORT)
    assert done.exit_code == 130 and "interrupted" in done.stderr and not list(tmp_path.iterdir())


def test_flow_files_that_do_not_fit_are_one_line(quick, tmp_path):
    out = tmp_path / "f.safetensors"
    assert call("train-flow", "--out", out, *SHORT).exit_code == 0
    image = save_png(tmp_path / "a.png")
    line = error_line(run(image, tmp_path / "o", "--prior", out))
    assert "the flow makes 7x7 kernels at x2, the run wants 11x11 at x2" in line and "train-flow" in line
    assert "no such file" in error_line(run(image, tmp_path / "o", "--prior", tmp_path / "none.safetensors"))
    assert not (tmp_path / "o").exists()
