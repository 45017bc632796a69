import json
from pathlib import Path

import pytest
from helpers import error_line, run, save_png

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


@pytest.mark.slow
@pytest.mark.parametrize("option", GOOD)
def test_good_parts_run_and_are_recorded(tmp_path: Path, option: str) -> None:
    word = f"{write(tmp_path, GOOD[option])}:P"
    image = save_png(tmp_path / "a.png")
    result = run(image, tmp_path / "out", option, word)
    assert result.exit_code == 0, result.stderr
    record = json.loads((tmp_path / "out/a/run.json").read_text(encoding="utf-8"))
    assert record[option[2:].replace("-", "_")] == word
    assert run(image, tmp_path / "plain").exit_code == 0
    assert (tmp_path / "out/a/trace.csv").read_bytes() != (tmp_path / "plain/a/trace.csv").read_bytes()


@pytest.mark.slow
def test_weight_of_an_image_prior_counts(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    traces = []
    for rho in ("rho = 0.0", "rho = 0.5", "pass"):
        path = write(tmp_path, IMAGE_PRIOR.format(body=ENERGY, rho=rho))
        assert run(image, tmp_path / rho, "--image-prior", f"{path}:P", steps=2).exit_code == 0
        traces.append((tmp_path / rho / "a/trace.csv").read_bytes())
    assert len(set(traces)) == 3


@pytest.mark.slow
def test_a_function_or_an_object_will_do(tmp_path: Path) -> None:
    text = GOOD["--image-prior"] + "\nready = P()\ndef make():\n    return P()\n"
    path = write(tmp_path, text)
    for name in ("ready", "make"):
        assert (
            run(save_png(tmp_path / "a.png"), tmp_path / name, "--image-prior", f"{path}:{name}", steps=1).exit_code
            == 0
        )


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


@pytest.mark.parametrize(("option", "text", "message"), BAD, ids=[*BAD_PRIORS, *BAD_OPTIMIZERS, *BAD_IMAGE_PRIORS])
def test_bad_parts_are_refused_in_one_line(tmp_path: Path, option: str, text: str, message: str) -> None:
    word = f"{write(tmp_path, text)}:P"
    line = error_line(run(save_png(tmp_path / "a.png"), tmp_path / "out", option, word))
    assert message in line and word in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", GOOD)
def test_files_that_cannot_be_imported(tmp_path: Path, option: str) -> None:
    image = save_png(tmp_path / "a.png")
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


@pytest.mark.slow
def test_a_part_that_was_edited_does_not_go_on_with_an_old_run(tmp_path: Path) -> None:
    path, image = write(tmp_path, GOOD["--prior"]), save_png(tmp_path / "a.png")
    assert run(image, tmp_path / "out", "--prior", f"{path}:P", steps=2).exit_code == 0
    path.write_text(path.read_text() + "# edited\n")
    result = run(image, tmp_path / "out", "--prior", f"{path}:P", "--resume", steps=4)
    assert "other settings (files_sha256" in error_line(result)
