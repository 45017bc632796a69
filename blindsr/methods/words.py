"""From words on the command line to parts: names in the tables, or a user's own `my_file.py:MyPart`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from blindsr import testing
from blindsr.errors import UserError
from blindsr.generators.starts import isotropic_gaussian
from blindsr.methods.parts import IMAGE_PRIORS, NOISES, OPTIMIZERS, PRIORS, RESTORERS, Part, Regularizer, noise_level
from blindsr.methods.table import DEFAULT_METHOD, METHODS, Method
from blindsr.operators.degradation import Degradation
from blindsr.priors.flow import SUFFIX, flow_for
from blindsr.restorers.external import (
    ONNX_SUFFIXES,
    TORCHSCRIPT_SUFFIXES,
    CallableRestorer,
    OnnxRestorer,
    TorchScriptRestorer,
)
from blindsr.restorers.grid import Grid, OnGrid
from blindsr.restorers.spandrel_model import SPANDREL_SUFFIXES, SpandrelRestorer
from blindsr.restorers.usrnet import UsrNetRestorer

T = TypeVar("T")


def load_object(reference: str) -> Any:
    """Import what `file.py:Name` names.

    Raises
    ------
    UserError
        If the file or the name is not there, or the file fails when it is imported.
    """
    file, _, name = reference.rpartition(":")
    path = Path(file)
    if not name:
        raise UserError(f"{reference}: name the part in it, {file}:MyPart")
    if not path.is_file():
        raise UserError(f"{file}: no such file (wanted {name} from it)")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        if sys.modules.get(path.stem) is module:
            del sys.modules[path.stem]
        raise UserError(f"{file}: fails when imported ({type(error).__name__}: {error})") from error
    if not hasattr(module, name):
        raise UserError(f"{file}: has no {name}")
    return getattr(module, name)


def _is_reference(word: str) -> bool:
    return ".py:" in word


def _file(word: str) -> str:
    return word.rpartition(":")[0]


def _from_table(kind: str, word: str, table: dict[str, Part[T]]) -> Part[T]:
    if word not in table:
        raise UserError(f"--{kind} {word}: unknown; choose {', '.join(table)}, or my_file.py:MyPart")
    return table[word]


def _made(word: str, *arguments: Any) -> Any:
    """Import a user's part; call it if it is a class or a function."""
    thing = load_object(word)
    if not (isinstance(thing, type) or callable(thing)):
        return thing
    try:
        return thing(*arguments)
    except Exception as error:
        given = ", ".join(type(a).__name__ for a in arguments)
        raise UserError(f"{word}: fails when called with ({given}): {type(error).__name__}: {error}") from error


def _checked(word: str, check: Callable[[], None]) -> None:
    try:
        check()
    except testing.ContractError as error:
        raise UserError(f"{word}: {error}") from error
    except Exception as error:  # it returned something that could not even be looked at
        raise UserError(f"{word}: fails when checked ({type(error).__name__}: {error})") from error


def prior_part(word: str, degradation: Degradation) -> Part[Any]:
    """Return the kernel prior that a word names: one of the table, a flow's file, or a user's own, which is checked."""
    if word.endswith(SUFFIX):
        flow = flow_for(degradation, Path(word))
        return Part(Path(word).name, lambda _, __: flow, word)
    if not _is_reference(word):
        return _from_table("prior", word, PRIORS)
    prior = _made(word, degradation)
    _checked(word, lambda: testing.check_kernel_prior(prior, degradation))
    return Part(word, lambda _, __: prior, _file(word))


def optimizer_part(word: str) -> Part[Any]:
    """Return the optimizer that a word names; a user's own is called without arguments and checked."""
    if not _is_reference(word):
        return _from_table("optimizer", word, OPTIMIZERS)
    optimizer = _made(word)
    _checked(word, lambda: testing.check_optimizer(optimizer))
    return Part(word, optimizer, _file(word))


def image_prior_part(word: str) -> Part[Any]:
    """Return the image prior that a word names; a user's own is called without arguments and checked."""
    if not _is_reference(word):
        return _from_table("image-prior", word, IMAGE_PRIORS)
    prior = _made(word)
    _checked(word, lambda: testing.check_image_prior(prior))
    return Part(word, Regularizer.of(prior), _file(word))


def restorer_part(word: str, weights: Path | None, grid: Grid | None = None) -> Part[Any]:
    """Return the restorer that a word names: one of the table, usrnet, a model file, or a user's `my_file.py:restore`.

    A file or function may be followed by the grid that it was made for, as in `model.pt@centered` (`Grid`); `grid` is
    what is taken where none is named, None the grid of the run.

    Raises
    ------
    UserError
        If there is none of that name, or a file cannot be used.
    """
    if weights is not None and word != "usrnet":
        raise UserError(f"--weights {weights}: goes with --restorer usrnet, not with {word}")
    if word == "usrnet":
        if weights is None:
            raise UserError("--restorer usrnet: needs --weights FILE, the published state dict")
        return Part("usrnet", UsrNetRestorer(weights), str(weights))
    if word in RESTORERS:
        return RESTORERS[word]
    bare, at, named = word.rpartition("@")
    if at and named in list(Grid):
        word, grid = bare, Grid(named)
    part = _foreign(word)
    return part if grid is None else Part(f"{part.name}@{grid}", OnGrid(part.value, grid), part.file)


def _foreign(word: str) -> Part[Any]:
    """Return the restorer in a file of the user's."""
    if _is_reference(word):
        thing = load_object(word)
        made = _made(word) if isinstance(thing, type) else thing
        if not callable(made):
            raise UserError(f"{word}: not a function; restore(y, kernel, degradation, noise_std) is needed")
        return Part(word, CallableRestorer(made, word), _file(word))
    path = Path(word)
    if path.suffix in ONNX_SUFFIXES:
        return Part(path.name, OnnxRestorer(path), word)
    if path.suffix in TORCHSCRIPT_SUFFIXES:
        return Part(path.name, TorchScriptRestorer(path), word)
    if path.suffix in SPANDREL_SUFFIXES:
        return Part(path.name, SpandrelRestorer(path), word)
    raise UserError(
        f"--restorer {word}: unknown; choose {', '.join(RESTORERS)}, usrnet, a TorchScript or ONNX file, a file of "
        f"weights that spandrel knows, or my_file.py:restore; a file may be followed by its grid, @{', @'.join(Grid)}"
    )


def noise_part(word: str) -> Part[Any]:
    """Return the noise model that a word names: iid, none, or a standard deviation in units of 0..1."""
    if word in NOISES:
        return NOISES[word]
    try:
        return noise_level(float(word))
    except ValueError as error:
        raise UserError(
            f"--noise {word}: choose {', '.join(NOISES)}, or a standard deviation of 0 or more in units of 0..1"
        ) from error


def compose(
    name: str,
    degradation: Degradation,
    *,
    prior: str | None = None,
    optimizer: str | None = None,
    image_prior: str | None = None,
    noise: str | None = None,
    restorer: str | None = None,
    weights: Path | None = None,
) -> Method:
    """Take a method's row and put other parts in the places that are named.

    Raises
    ------
    UserError
        If a name is unknown or a user's part does not keep its contract.
    """
    if name not in METHODS:
        raise UserError(f"--method {name}: unknown; `blindsr methods` lists them: {', '.join(METHODS)}")
    method = METHODS[name]
    if prior is not None:
        method = replace(method, prior=prior_part(prior, degradation))
    if optimizer is not None:
        method = replace(method, optimizer=optimizer_part(optimizer))
    if image_prior is not None:
        method = replace(method, image_prior=image_prior_part(image_prior))
    if noise is not None:
        method = replace(method, noise=noise_part(noise))
    if restorer is not None or weights is not None:
        part = restorer_part(restorer or "usrnet", weights, None if method.has_kernel else Grid.CENTERED)
        if part.value is None and not method.composed:
            raise UserError(f"--restorer {restorer}: {name} makes its image by a restorer; choose one")
        method = replace(method, restorer=part)
    if not METHODS[name].composed and (prior, optimizer, image_prior) != (None, None, None):
        why = "finds its kernel in a way of its own" if method.iterates else "makes no steps"
        raise UserError(f"--method {name}: {why}; leave out --prior, --optimizer and --image-prior")
    _check_parts(method)
    return replace(method, name=_name(method))


def _check_parts(method: Method) -> None:
    """Refuse parts that do not go together."""
    restorer, fixed = method.restorer, method.kernel.value is isotropic_gaussian
    if restorer.value is None and not method.iterates:
        raise UserError(
            f"--method {method.name}: needs --restorer: model.pt, model.onnx, weights.pth or my_file.py:restore"
        )
    if not method.has_kernel and restorer.value is not None and restorer.value.needs_kernel:
        raise UserError(
            f"--restorer {restorer.name}: makes use of a kernel, and --method {method.name} has none; "
            f"--method {DEFAULT_METHOD} estimates one"
        )
    if fixed and method.prior.value is not None:
        raise UserError(f"--prior {method.prior.name}: the kernel of --method {method.name} is fixed; leave it out")


_NONE = RESTORERS["none"]


def _name(method: Method) -> str:
    """Name of the row that has these parts, or "custom"."""
    bare = replace(method, name="", summary="", restorer=_NONE)
    for row in (METHODS[method.name], *METHODS.values()):
        same = replace(row, name="", summary="", restorer=_NONE)
        if replace(same, noise=None) == replace(bare, noise=None) and (same.noise == bare.noise or not row.composed):
            plain = row.restorer.name == method.restorer.name or not row.iterates
            return row.name if plain else f"{row.name}+{Path(method.restorer.name).name}"
    return "custom"
