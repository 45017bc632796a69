"""Imports run one way, every module loads alone, and `import blindsr` stays light."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import blindsr

PACKAGE = Path(blindsr.__file__).parent

LAYERS = [
    {"cli", "__main__"},
    {"bench"},
    {"commands"},
    {"results"},
    {"methods", "testing"},
    {"estimators", "uncertainty", "diagnostics"},
    {"optimizers"},
    {"samplers", "restorers", "simulate"},
    {"posteriors"},
    {"generators", "priors"},
    {"likelihood"},
    {"operators", "random", "threads", "errors"},
]
"""Rooms from top to bottom: a module imports from its own row or from rows below."""

APART = {"io"}
"""Imports nothing but errors, and may be imported by anything above the methods."""


def modules():
    """{dotted name: path}."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("blindsr", *path.relative_to(PACKAGE).with_suffix("").parts)
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def imported(path):
    """Modules of the package that a file imports, at its top or anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            below = {f"{node.module}.{a.name}" for a in node.names}
            found |= (below & MODULES.keys()) or {node.module}
    return {name for name in found if name in MODULES}


def room(name):
    return name.split(".")[1] if "." in name else None


def layer(name):
    return next(i for i, rooms in enumerate(LAYERS) if room(name) in rooms)


def test_every_module_has_its_place():
    unplaced = {name for name in MODULES if room(name) and room(name) not in set().union(*LAYERS, APART)}
    assert not unplaced


def allowed(name, other):
    if room(name) in APART:
        return room(other) in APART | {"errors"}
    return layer(name) <= (5 if room(other) in APART else layer(other))


def test_imports_run_downwards_without_a_cycle():
    graph = {name: imported(path) - {"blindsr"} for name, path in MODULES.items() if name != "blindsr"}
    wrong = [f"{name} imports {other}" for name in graph for other in sorted(graph[name]) if not allowed(name, other)]
    assert not wrong, "\n".join(wrong)
    assert list(TopologicalSorter(graph).static_order())


HEAVY = ["pyro", "arviz", "matplotlib", "skimage", "typer", "rich", "scipy", "tifffile", "PIL"]


def run_python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=1800, cwd=PACKAGE.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_blindsr_loads_nothing_heavy():
    assert run_python(f"import sys, blindsr; print([m for m in {HEAVY} if m in sys.modules])").strip() == "[]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="one interpreter is forked for each module")
@pytest.mark.slow
def test_every_module_loads_alone():
    """One interpreter loads `blindsr`, which always comes first, then forks: each child imports one further module.

    The libraries are loaded before, so that a child reads nothing but modules of the package.
    """
    code = f"""
import importlib, os, sys, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for library in {HEAVY}:
        importlib.import_module(library)
warnings.simplefilter("error")
import blindsr
for name in {sorted(MODULES)}:
    if name in sys.modules:
        continue
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(name, repr(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    assert run_python(code) == ""
