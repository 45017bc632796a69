"""The options of sampling after an estimate, checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from blindsr.errors import UserError
from blindsr.io.files import file_hash
from blindsr.methods.base import Method
from blindsr.methods.words import sampler_part
from blindsr.operators.degradation import Degradation
from blindsr.results.targets import TARGETS
from blindsr.samplers.table import SAMPLERS

MIN_DRAWS = 100
"""With fewer draws of a chain the effective sample size cannot reach its limit (`diagnostics.verdict`)."""


@dataclass(frozen=True)
class Sampling:
    """Which posterior of the kernel is sampled after the estimate, and how."""

    sampler: Any
    """A name in `blindsr.samplers.SAMPLERS`, a user's own, `my_file.py:MySampler`, or a sampler as an object."""
    chains: int = 4
    draws: int = 500
    warmup: int = 200
    thin: int = 1
    """Chains; kept draws of each; transitions left out before; transitions for each kept draw."""
    target: str = "spectral"
    """Which one: "spectral", given y, with the image integrated out; "image", given y and the final image; "network",
    over the weights of a kernel network, given y and the final image."""
    family: str | None = None
    """Name of the kernel prior that was asked for; None: the estimate's family, else Gaussians."""

    def record(self) -> dict[str, Any]:
        """Everything that decides the draws, as plain values; a user's own sampler with the hash of its file."""
        file, _, name = str(self.sampler).rpartition(".py:")
        own = {"sampler_sha256": file_hash(f"{file}.py")} if name and file else {}
        return asdict(self) | own


@dataclass(frozen=True)
class SamplingOptions:
    """The options of sampling as given; None takes the defaults of `Sampling`."""

    sampler: Any = None
    """The kernel's posterior is sampled after the estimate by this one, if any."""
    chains: int | None = None
    draws: int | None = None
    warmup: int | None = None
    thin: int | None = None
    target: str | None = None
    """See `Sampling`."""


def read_sampling(asked: SamplingOptions, prior: Any, method: Method, degradation: Degradation) -> Sampling | None:
    """Check the options of sampling, and fill in the defaults; None where no sampler is asked for.

    Raises UserError if a name is unknown, a number is too small, an option is given without a sampler, the user's
    sampler does not keep its contract, or the kernel prior has no density.
    """
    options = {name: getattr(asked, name) for name in ("chains", "draws", "warmup", "thin", "target")}
    if asked.sampler is None:
        if given := [f"--{name} {value}" for name, value in options.items() if value is not None]:
            raise UserError(f"{', '.join(given)}: needs --sampler; choose one of {', '.join(SAMPLERS)}")
        return None
    sampler = sampler_part(asked.sampler).value
    if asked.target is not None and asked.target not in TARGETS:
        raise UserError(f"--target {asked.target}: unknown; choose {', '.join(TARGETS)}")
    for name, least in (("chains", 1), ("draws", MIN_DRAWS), ("warmup", 1), ("thin", 1)):
        value = options[name]
        if isinstance(value, int) and value < least:
            raise UserError(f"--{name} {value}: at least {least} is needed")
    _check_density(asked.sampler, prior is not None, method, degradation)
    chosen: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if sampler.needs_network:
        chosen.setdefault("target", "network")
    family = prior if isinstance(prior, str) and prior not in ("none", "spectral") else None
    return Sampling(asked.sampler, **chosen, family=family)


def _check_density(sampler: str, named: bool, method: Method, degradation: Degradation) -> None:
    factory = method.estimator.prior
    try:
        if factory is not None:
            factory.density(degradation)
    except UserError as error:
        instead = "leave out --prior" if named else "choose another --method"
        raise UserError(f"--sampler {sampler}: {error}; {instead}, or name such a --prior") from error
