"""From words on the command line to parts: names in the tables, or a user's own `my_file.py:MyPart`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from blindsr import testing
from blindsr.errors import UserError
from blindsr.estimators.base import Estimator
from blindsr.likelihood.noise import FixedNoise
from blindsr.methods.parts import (
    IMAGE_PRIORS,
    NOISES,
    OPTIMIZERS,
    PRIORS,
    RESTORERS,
    FamilyPrior,
    Part,
    Regularizer,
    noise_level,
)
from blindsr.operators.degradation import DEFAULT_ALIGNMENT, Alignment, Degradation, Padding
from blindsr.priors.base import KernelPrior
from blindsr.priors.families import ALIASES, KernelFamily, kernel_family, smooth_families
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
from blindsr.restorers.unfolded import UnfoldedRestorer
from blindsr.restorers.usrnet import UsrNetRestorer
from blindsr.samplers.sampler import Sampler
from blindsr.samplers.table import SAMPLERS

T = TypeVar("T")


def load_object(reference: str) -> Any:
    """Import what `file.py:Name` names.

    Raises UserError if the file or the name is not there, or the file fails when it is imported.
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


def _checked_part(kind: str, word: Any, table: dict[str, Part[T]], check: Callable[[Any], None]) -> Part[Any]:
    """Return a part by its name, given as an object, or in a user's file: called without arguments and checked."""
    if not isinstance(word, str):
        return _object(word)
    if not is_reference(word):
        return _from_table(kind, word, table)
    own = made(word)
    checked(word, lambda: check(own))
    return Part(word, own, _file(word))


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


def family_named(word: str) -> KernelFamily:
    """Return the kernel family that a word names: one of the registry, a flow's file, or a user's own.

    A file is read only when one of the family's laws is asked for; a user's own class is then called with the
    `Degradation` and checked. Raises UserError if the registry has no family of that name.
    """
    if word.endswith(SUFFIX):
        path = Path(word)
        return KernelFamily(path.name, "a trained flow", cache(lambda d: flow_for(d, path)), file=word)
    if not is_reference(word):
        return kernel_family(word)

    @cache
    def own(degradation: Degradation) -> KernelPrior:
        prior: KernelPrior = made(word, degradation)
        checked(word, lambda: testing.check_kernel_prior(prior, degradation))
        return prior

    return KernelFamily(word, "your own", own, file=_file(word))


def prior_part(word: Any, degradation: Degradation) -> Part[Any]:
    """Return the kernel prior that a word names: one of the table, a flow's file, or a user's own, which is checked."""
    if not isinstance(word, str):
        own = _object(word)
        return replace(own, value=FamilyPrior(KernelFamily(own.name, "your own", lambda d: word)))
    if not word.endswith(SUFFIX) and not is_reference(word):
        return _from_table("prior", ALIASES.get(word, word), PRIORS)
    family = family_named(word)
    family.sampling(degradation)  # a file that cannot be used is refused at once
    return Part(family.name, FamilyPrior(family), family.file)


def family_part(word: Any) -> str:
    """Return the name of the kernel family that a word names, for an estimator that needs its smooth density.

    Raises UserError if there is none of that name, or it has no such density.
    """
    name = ALIASES.get(word, word)
    if name not in smooth_families():
        raise UserError(
            f"--prior {word}: the spectral estimate needs a family with a smooth density in few parameters; choose "
            f"{', '.join(smooth_families())}, or `--method mlmc --prior {word}`, which draws kernels in the joint loop"
        )
    return str(name)


def optimizer_part(word: Any) -> Part[Any]:
    """Return the optimizer that a word names; a user's own is called without arguments and checked."""
    return _checked_part("optimizer", word, OPTIMIZERS, testing.check_optimizer)


def image_prior_part(word: Any, *, for_map: bool = False) -> Part[Any]:
    """Return the image prior that a word names, for the joint loop or for a MAP image; a user's own is checked."""
    part = _checked_part("image-prior", word, IMAGE_PRIORS, partial(testing.check_image_prior, for_map=for_map))
    return part if isinstance(part.value, Regularizer) else replace(part, value=Regularizer.of(part.value))


def sampler_part(word: Any, *, check: bool = True) -> Part[Sampler]:
    """Return the sampler that a word names; a user's own is called without arguments and, by default, checked."""
    table = {name: Part(name, sampler) for name, sampler in SAMPLERS.items()}
    return _checked_part("sampler", word, table, testing.check_sampler if check else lambda sampler: None)


def restorer_part(word: Any, weights: Path | None = None, grid: Grid | None = None) -> Part[Any]:
    """Return the restorer that a word names: one of the table, usrnet, a model file, or a user's `my_file.py:restore`.

    A file or function may be followed by the grid that it was made for, as in `model.pt@centered` (`Grid`); `grid` is
    what is taken where none is named, None the grid of the run. Raises UserError if there is none of that name, or a
    file cannot be used.
    """
    if not isinstance(word, str):
        return _object(word)
    if weights is not None and word not in ("usrnet", "unfolded"):
        raise UserError(f"--weights {weights}: goes with --restorer usrnet or unfolded, not with {word}")
    if word == "usrnet":
        if weights is None:
            raise UserError("--restorer usrnet: needs --weights FILE, the published state dict")
        return Part("usrnet", UsrNetRestorer(weights), str(weights))
    if word == "unfolded" and weights is not None:
        return Part("unfolded", UnfoldedRestorer(weights), str(weights))
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

    Raises UserError if it cannot be loaded or does not keep its contract.
    """
    return _checked_part("method", word, {}, testing.check_estimator)


def default_degradation(
    scale: int, kernel_size: int = 0, alignment: Alignment | None = None, padding: Padding | None = None
) -> Degradation:
    """Build the operator; `DEFAULT_ALIGNMENT`, and the padding that goes with the grid, where none is named.

    Raises UserError if a number does not fit.
    """
    grid = alignment or DEFAULT_ALIGNMENT
    try:
        return Degradation(scale, kernel_size, grid, padding or grid.usual_padding)
    except ValueError as error:
        raise UserError(str(error)) from error
