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
from blindsr.estimators.base import Estimator
from blindsr.likelihood.noise import FixedNoise
from blindsr.methods.parts import IMAGE_PRIORS, NOISES, OPTIMIZERS, PRIORS, RESTORERS, Part, Regularizer, noise_level
from blindsr.operators.degradation import Degradation
from blindsr.priors.flow import SUFFIX, flow_for
from blindsr.priors.normal import SHAPES
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

OWN_RHO = 0.2
"""Weight ρ of a user's own image prior that has no attribute `rho`."""


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


def is_reference(word: Any) -> bool:
    """Whether a word names a part in a user's Python file."""
    return isinstance(word, str) and ".py:" in word


def _file(word: str) -> str:
    return word.rpartition(":")[0]


def _object(part: Any) -> Part[Any]:
    """Return a part that was given as a Python object, under its class's name."""
    return Part(getattr(part, "__name__", type(part).__name__), part)


def _from_table(kind: str, word: str, table: dict[str, Part[T]]) -> Part[T]:
    if word not in table:
        raise UserError(f"--{kind} {word}: unknown; choose {', '.join(table)}, or my_file.py:MyPart")
    return table[word]


def made(word: str, *arguments: Any) -> Any:
    """Import a user's part; call it if it is a class or a function."""
    thing = load_object(word)
    if not (isinstance(thing, type) or callable(thing)):
        return thing
    try:
        return thing(*arguments)
    except Exception as error:
        given = ", ".join(type(a).__name__ for a in arguments)
        raise UserError(f"{word}: fails when called with ({given}): {type(error).__name__}: {error}") from error


def checked(word: str, check: Callable[[], None]) -> None:
    """Run the check of a user's part; what is wrong with it becomes a user's error."""
    try:
        check()
    except testing.ContractError as error:
        raise UserError(f"{word}: {error}") from error
    except Exception as error:  # it returned something that could not even be looked at
        raise UserError(f"{word}: fails when checked ({type(error).__name__}: {error})") from error


def prior_part(word: Any, degradation: Degradation) -> Part[Any]:
    """Return the kernel prior that a word names: one of the table, a flow's file, or a user's own, which is checked.

    Its value is None, or a function from the problem (`blindsr.estimators.loop.Problem`) to the prior.
    """
    if not isinstance(word, str):
        return replace(_object(word), value=lambda problem: word)
    if word.endswith(SUFFIX):
        flow = flow_for(degradation, Path(word))
        return Part(Path(word).name, lambda problem: flow, word)
    if not is_reference(word):
        return _from_table("prior", word, PRIORS)
    prior = made(word, degradation)
    checked(word, lambda: testing.check_kernel_prior(prior, degradation))
    return Part(word, lambda problem: prior, _file(word))


def family_part(word: Any) -> str:
    """Return the name of the smooth kernel family that a word names, for an estimator that needs its density.

    Raises
    ------
    UserError
        If there is none of that name.
    """
    name = {"mcmc": "gaussian"}.get(word, word)
    if name not in SHAPES:
        raise UserError(
            f"--prior {word}: the spectral estimate needs a family with few parameters and a density; choose "
            f"{', '.join(SHAPES)}, or `--method mlmc --prior {word}` draws from it in the joint loop"
        )
    return str(name)


def optimizer_part(word: Any) -> Part[Any]:
    """Return the optimizer that a word names; a user's own is called without arguments and checked."""
    if not isinstance(word, str):
        return _object(word)
    if not is_reference(word):
        return _from_table("optimizer", word, OPTIMIZERS)
    optimizer = made(word)
    checked(word, lambda: testing.check_optimizer(optimizer))
    return Part(word, optimizer, _file(word))


def image_prior_part(word: Any) -> Part[Any]:
    """Return the image prior that a word names; a user's own is called without arguments and checked."""
    if not isinstance(word, str):
        return Part(type(word).__name__, Regularizer(word, float(getattr(word, "rho", OWN_RHO))))
    if not is_reference(word):
        return _from_table("image-prior", word, IMAGE_PRIORS)
    prior = made(word)
    checked(word, lambda: testing.check_image_prior(prior))
    return Part(word, Regularizer(prior, float(getattr(prior, "rho", OWN_RHO))), _file(word))


def restorer_part(word: Any, weights: Path | None = None, grid: Grid | None = None) -> Part[Any]:
    """Return the restorer that a word names: one of the table, usrnet, a model file, or a user's `my_file.py:restore`.

    A file or function may be followed by the grid that it was made for, as in `model.pt@centered` (`Grid`); `grid` is
    what is taken where none is named, None the grid of the run.

    Raises
    ------
    UserError
        If there is none of that name, or a file cannot be used.
    """
    if not isinstance(word, str):
        return _object(word)
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
    if is_reference(word):
        thing = load_object(word)
        restorer = made(word) if isinstance(thing, type) else thing
        if not callable(restorer):
            raise UserError(f"{word}: not a function; restore(y, kernel, degradation, noise_std) is needed")
        return Part(word, CallableRestorer(restorer, word), _file(word))
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


def noise_part(word: Any) -> Part[Any]:
    """Return the noise model that a word names: iid, patch, none, or a standard deviation in units of 0..1."""
    if not isinstance(word, str | float | int):
        return _object(word)
    if word in NOISES:
        return NOISES[str(word)]
    try:
        return noise_level(float(word))
    except ValueError as error:
        raise UserError(
            f"--noise {word}: choose {', '.join(NOISES)}, or a standard deviation of 0 or more in units of 0..1"
        ) from error


def known_level(part: Part[Any] | None) -> float | None:
    """Return the noise level where a noise part states it, units of 0..1; None where it is estimated or left out."""
    return part.value.std if part and part.name != "none" and isinstance(part.value, FixedNoise) else None


def estimator_part(word: str | Estimator) -> Part[Estimator]:
    """Return the estimator in a user's file, which is called without arguments and checked, or one given as an object.

    Raises
    ------
    UserError
        If it cannot be loaded or does not keep its contract.
    """
    if isinstance(word, Estimator):
        return _object(word)
    estimator = made(word)
    checked(word, lambda: testing.check_estimator(estimator))
    return Part(word, estimator, _file(word))
