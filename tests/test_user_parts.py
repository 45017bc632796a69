import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import FAST, call, error_line, run, save_png

HEAD = """
import torch
from dataclasses import dataclass
from blindsr.optimizers.base import adam_step, forward
"""

PRIOR = """
class P:
    def __init__(self, degradation):
        self.kernel_size = degradation.kernel_size
    def sample(self, n, *, generator):
        k = torch.rand(n, 1, self.kernel_size, self.kernel_size, generator=generator)
        {body}
"""

OPTIMIZER = """
class P:
    def begin_outer(self, run, energy):
        pass
    def step(self, run, energy):
        done = forward(run, energy)
        {body}
        return done
"""

IMAGE_PRIOR = """
class P:
    {rho}
    def energy(self, x):
        {body}
"""

NORMAL = "return k / k.sum((2, 3), keepdim=True)"
STEP = (
    "(done.data + done.prior).backward(); adam_step(run.image_adam, run.image); adam_step(run.kernel_adam, run.kernel)"
)
ENERGY = "return x.square().sum((1, 2, 3))"

GOOD = {
    "--prior": PRIOR.format(body=NORMAL),
    "--optimizer": OPTIMIZER.format(body=STEP),
    "--image-prior": IMAGE_PRIOR.format(body=ENERGY, rho="rho = 0.5"),
}


def write(folder: Path, text: str) -> Path:
    path = folder / "my_part_file.py"
    path.write_text(HEAD + text)
    return path


def light(image: Path, output: Path, *words: object, steps: int = 2) -> Any:
    """`blindsr run` by MLMC without its warm-up: no Monte Carlo step."""
    return call("run", image, *FAST, "--prior", "none", "--iterations", steps, "--output", output, *words)


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return content


def test_good_parts_run_and_are_recorded(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png", 16, 16)
    assert light(image, tmp_path / "plain", steps=3).exit_code == 0
    plain = (tmp_path / "plain/a/trace.csv").read_bytes()
    for option, text in GOOD.items():
        word, name = f"{write(tmp_path, text)}:P", option[2:].replace("-", "_")
        result = light(image, tmp_path / name, option, word, steps=3)
        assert result.exit_code == 0, result.stderr
        assert record(tmp_path / name / "a")[name] == word
        assert (tmp_path / name / "a/trace.csv").read_bytes() != plain


def test_weight_of_an_image_prior_counts(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png", 16, 16)
    traces = []
    for rho in ("rho = 0.0", "rho = 0.5", "pass"):
        path = write(tmp_path, IMAGE_PRIOR.format(body=ENERGY, rho=rho))
        assert light(image, tmp_path / rho, "--image-prior", f"{path}:P").exit_code == 0
        traces.append((tmp_path / rho / "a/trace.csv").read_bytes())
    assert len(set(traces)) == 3


def test_a_function_or_an_object_will_do(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD["--image-prior"] + "\nready = P()\ndef make():\n    return P()\n")
    for name in ("ready", "make"):
        words = ("--image-prior", f"{path}:{name}")
        assert light(save_png(tmp_path / "a.png", 16, 16), tmp_path / name, *words, steps=1).exit_code == 0


ESTIMATOR = """
from blindsr.estimators.base import Estimate, Estimation, Estimator, Metrics

class Average(Estimation):
    def __init__(self, degradation, step):
        self.degradation, self.step = degradation, step
    def advance(self):
        self.step += 1
        return Metrics(self.step, 1.0 / self.step, *[float("nan")] * 5)
    def estimate(self):
        from blindsr.generators.starts import pixel_average
        return Estimate(None, pixel_average(self.degradation))
    def state_dict(self):
        return {"step": self.step}

class MyEstimator(Estimator):
    loss_name = "one over the step"
    stochastic = False
    def steps_for(self, degradation):
        return 3
    def start(self, y, degradation, *, seed, device):
        return Average(degradation, 0)
    def resume(self, y, degradation, state, *, device):
        return Average(degradation, state["step"])

class Broken(MyEstimator):
    has_kernel = False
"""


def test_ones_own_estimator_is_a_method(tmp_path: Path) -> None:
    path, image = write(tmp_path, ESTIMATOR), save_png(tmp_path / "a.png", 16, 16)
    words = ("run", image, "--scale", 2, "--restorer", "tv", "--output", tmp_path / "out", "--method")
    result = call(*words, f"{path}:MyEstimator")
    assert result.exit_code == 0, result.stderr
    r, kernel = record(tmp_path / "out/a"), np.load(tmp_path / "out/a/kernel.npy")
    assert r["method"] == f"{path}:MyEstimator" and (r["steps"], r["restorer"]) == (3, "tv")
    assert np.count_nonzero(kernel) == 4 and kernel.sum() == pytest.approx(1)
    assert str(path) in r["files_sha256"], "an edited estimator does not go on with an old run"
    assert len((tmp_path / "out/a/trace.csv").read_text().splitlines()) == 4
    line = error_line(call(*words, f"{path}:Broken", "--overwrite"))
    assert "Broken: has_kernel does not say whether estimate() holds a kernel" in line


BAD_PRIORS = {
    "wrong shape": (
        PRIOR.format(body="return k[:, 0]"),
        "sample(n) has shape (7, 11, 11); (n, 1, K, K) = (7, 1, 11, 11)",
    ),
    "wrong size": (PRIOR.format(body="return k[..., 1:, 1:]"), "sample(n) has shape (7, 1, 10, 10)"),
    "not normalised": (PRIOR.format(body="return k"), "kernels must sum to one; they are off by up to"),
    "negative": (PRIOR.format(body="k = k - 0.5; " + NORMAL), "has negative kernel values"),
    "not finite": (PRIOR.format(body="return k / 0 * 0"), "values that are not finite"),
    "no tensor": (PRIOR.format(body="return [k]"), "sample(n) returns list, not a tensor"),
    "nothing": (PRIOR.format(body="pass"), "returns NoneType, not a tensor"),
    "global random state": (
        PRIOR.format(body="k = torch.rand_like(k); " + NORMAL),
        "draws from torch's global random state; use the generator it is given",
    ),
    "own random state": (
        PRIOR.format(body="import random; k = k + random.random(); " + NORMAL),
        "gives other kernels for the same generator state",
    ),
    "fails": (
        PRIOR.format(body="raise RuntimeError('too\\nbad')"),
        "sample(7, generator=...) fails: RuntimeError: too bad",
    ),
    "no method": ("class P:\n    def __init__(self, d):\n        pass\n", "needs a method sample(n, *, generator)"),
    "no argument": ("class P:\n    pass\n", "fails when called with (Degradation): TypeError"),
    "half a density": (
        PRIOR.format(body=NORMAL) + "    dim = 2\n    def log_prob(self, z):\n        return z\n",
        "needs sample_z",
    ),
    "density of no tensor": (
        PRIOR.format(body=NORMAL)
        + "    dim = 2\n    def log_prob(self, z):\n        return z\n    kernel = log_prob\n"
        + "    def sample_z(self, n, *, generator):\n        return None\n",
        "sample_z(n) returns NoneType, not a tensor",
    ),
}

BAD_OPTIMIZERS = {
    "does nothing": (OPTIMIZER.format(body="pass"), "leave the image block as it was"),
    "image only": (
        OPTIMIZER.format(body="(done.data + done.prior).backward(); adam_step(run.image_adam, run.image)"),
        "leave the kernel as it was",
    ),
    "returns nothing": (OPTIMIZER.format(body="return None"), "returns NoneType, not a blindsr Pass"),
    "fails": (OPTIMIZER.format(body="1 / 0"), "fails: ZeroDivisionError"),
    "no method": ("class P:\n    pass\n", "needs a method begin_outer"),
}

BAD_IMAGE_PRIORS = {
    "one number": (IMAGE_PRIOR.format(body="return x.sum()", rho=""), "must return one energy for each image"),
    "no number": (IMAGE_PRIOR.format(body="return 3", rho=""), "must return one energy for each image"),
    "not finite": (IMAGE_PRIOR.format(body="return (-1 - x).log().sum((1, 2, 3))", rho=""), "is not finite"),
    "no gradient": (IMAGE_PRIOR.format(body="return (x * 0).sqrt().sum((1, 2, 3))", rho=""), "no finite gradient"),
    "fails": (IMAGE_PRIOR.format(body="return x.nonsense()", rho=""), "energy(x) fails: AttributeError"),
    "no method": ("class P:\n    pass\n", "needs a method energy(x)"),
}

BAD = [("--prior", *v) for v in BAD_PRIORS.values()]
BAD += [("--optimizer", *v) for v in BAD_OPTIMIZERS.values()]
BAD += [("--image-prior", *v) for v in BAD_IMAGE_PRIORS.values()]


def test_bad_parts_are_refused_in_one_line(tmp_path: Path) -> None:
    """(test_contracts.py has all of them; here is the way to the user.)"""
    image = save_png(tmp_path / "a.png")
    for option, text, message in BAD:
        word = f"{write(tmp_path, text)}:P"
        line = error_line(run(image, tmp_path / "out", option, word))
        assert message in line and word in line
        assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_imported(tmp_path: Path) -> None:
    image, option = save_png(tmp_path / "a.png"), "--prior"
    good = write(tmp_path, GOOD[option])
    cases = [
        (f"{tmp_path / 'gone.py'}:P", "gone.py: no such file (wanted P from it)"),
        (f"{good}:Q", "has no Q"),
        (f"{good}:", "name the part in it"),
        (f"{good}", "unknown; choose"),
    ]
    for stem, text, message in (
        ("syntax", "def :", "fails when imported (SyntaxError"),
        ("missing", "import no_such_module_here", "fails when imported (ModuleNotFoundError"),
        ("leaves", "raise SystemExit(0)", "fails when imported (SystemExit"),
    ):
        path = tmp_path / f"{stem}_part.py"
        path.write_text(text)
        cases.append((f"{path}:P", message))
    for word, message in cases:
        assert message in error_line(run(image, tmp_path / "out", option, word)), word
    assert not (tmp_path / "out").exists()


def test_a_part_that_fails_during_the_run_is_named_in_one_line(tmp_path: Path) -> None:
    body = "if n > 100: raise RuntimeError('too many')\n        " + NORMAL
    part = f"{write(tmp_path, PRIOR.format(body=body))}:P"
    result = run(save_png(tmp_path / "a.png"), tmp_path / "out", "--prior", part)
    assert "P: fails during the run (RuntimeError: too many)" in error_line(result)


def test_a_part_that_was_edited_does_not_go_on_with_an_old_run(tmp_path: Path) -> None:
    path, image = write(tmp_path, GOOD["--image-prior"]), save_png(tmp_path / "a.png", 16, 16)
    assert light(image, tmp_path / "out", "--image-prior", f"{path}:P").exit_code == 0
    path.write_text(path.read_text() + "# edited\n")
    result = light(image, tmp_path / "out", "--image-prior", f"{path}:P", "--resume", steps=4)
    assert "other settings (files_sha256" in error_line(result)
