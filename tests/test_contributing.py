"""CONTRIBUTING.md: what it says a new part takes is done to a copy of the package, and every part then runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import save_png

import blindsr

PACKAGE = Path(blindsr.__file__).parent
PAGE = PACKAGE.parent / "CONTRIBUTING.md"
BLOCK = re.compile(r"<!-- (file|entry): (\S+?)(?:, before (.+?))? -->\n```(?:python)?\n(.*?)```", re.DOTALL)

CODE = """
import sys
from typer.testing import CliRunner
import blindsr, blindsr.testing as testing
from blindsr.cli import app
from blindsr.methods import METHODS
from blindsr.methods.parts import IMAGE_PRIORS, RESTORERS
from blindsr.operators.degradation import Degradation
from blindsr.priors.families import kernel_family
from blindsr.samplers import SAMPLERS

assert blindsr.__file__.startswith(sys.argv[1])
d = Degradation(2)
testing.check_kernel_prior(kernel_family("square").truth(d), d)
testing.check_image_prior(IMAGE_PRIORS["bending"].value.prior)
testing.check_sampler(SAMPLERS["barker"])
testing.check_restorer(RESTORERS["back-projection"].value)
testing.check_estimator(METHODS["assumed-width"].method("fast", d).estimator)

def blindsr_(*words):
    result = CliRunner().invoke(app, [*words])
    assert result.exit_code == 0, (words, result.output)
    return result.output

image, out = sys.argv[2:]
few = ("--scale", "2", "--preset", "fast", "--iterations", "2")
listed = blindsr_("methods")
assert all(name in listed for name in ("square", "bending", "back-projection", "assumed-width", "mlmc-lines"))
blindsr_("run", image, *few, "--prior", "square", "--image-prior", "bending", "--output", out + "/loop")
fast = ("--scale", "2", "--method", "fast-map")
blindsr_("run", image, *fast, "--image-prior", "bending", "--output", out + "/map")
blindsr_("run", image, *fast, "--restorer", "back-projection", "--sampler", "barker", "--chains", "2", "--draws", "100",
         "--warmup", "20", "--output", out + "/barker")
blindsr_("run", image, "--scale", "2", "--method", "assumed-width", "--output", out + "/assumed")
blindsr_("run", image, *few, "--method", "mlmc-lines", "--output", out + "/lines")
blindsr_("degrade", image, "--scale", "2", "--kernel", "square", "--output", out + "/degraded")
"""


def entered(text: str, line: str, marker: str) -> str:
    """Put a line before the one that holds the marker, at its indentation."""
    (place,) = (m.start() for m in re.finditer(rf"^ *{re.escape(marker)}", text, re.MULTILINE))
    indent = re.match(" *", text[place:])[0]
    return f"{text[:place]}{indent}{line.strip()}\n{text[place:]}"


@pytest.mark.slow
def test_every_part_of_the_page_is_one_file_and_one_entry(tmp_path):
    copy = tmp_path / "copy" / "blindsr"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    files, tables = {}, set()
    for kind, path, marker, code in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        target = copy / path
        if kind == "file":
            assert not target.exists()
            target.write_text(code, encoding="utf-8")
            files |= {name: path for name in re.findall(r"^class (\w+)", code, re.MULTILINE)}
            continue
        tables.add(path)
        text = entered(target.read_text(encoding="utf-8"), code, marker)
        for name in files:
            if re.search(rf"\b{name}\b", code):
                module = files[name].removesuffix(".py").replace("/", ".")
                text = text.replace("\nfrom blindsr", f"\nfrom blindsr.{module} import {name}\nfrom blindsr", 1)
        target.write_text(text, encoding="utf-8")
    assert len(set(files.values())) == 5
    assert tables == {"priors/families.py", "methods/parts.py", "methods/table.py", "samplers/table.py"}
    image = save_png(tmp_path / "a.png", 24, 24)
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(copy.parent), str(image), str(tmp_path / "out")],
        env=os.environ | {"PYTHONPATH": str(copy.parent)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_run_option_is_a_field_and_a_parameter():
    """The settings object is built from the command's parameters by name."""
    from dataclasses import fields
    from inspect import signature

    from blindsr.cli.root import run
    from blindsr.commands.batch import Batch

    options = set(signature(run).parameters) - {"json"}
    assert options == {f.name for f in fields(Batch)} - {"bare", "n_kernels", "meta_interval"}
