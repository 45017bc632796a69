"""What a run is asked to do."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from blindsr.errors import UserError
from blindsr.methods.parts import Part
from blindsr.methods.presets import Preset
from blindsr.methods.table import Method
from blindsr.operators.degradation import Alignment, Degradation, Padding


@dataclass(frozen=True)
class Sampling:
    """Which posterior of the kernel is sampled after the estimate, and how.

    Attributes
    ----------
    sampler : str
        A name in `blindsr.samplers.SAMPLERS`, or a user's own, `my_file.py:MySampler`.
    chains, draws, warmup, thin : int
        Chains; kept draws of each; transitions left out before; transitions for each kept draw.
    target : str
        "spectral": given y, the image integrated out; "image": given y and the final image; "network": over the weights
        of a kernel network, given y and the final image.
    family : str or None
        Name of the kernel prior that was asked for; None: the estimate's family, else Gaussians.
    """

    sampler: str
    chains: int = 4
    draws: int = 500
    warmup: int = 200
    thin: int = 1
    target: str = "spectral"
    family: str | None = None

    def record(self) -> dict[str, Any]:
        """Everything that decides the draws, as plain values; a user's own sampler with the hash of its file."""
        file, _, name = self.sampler.rpartition(".py:")
        own = {"sampler_sha256": hashlib.sha256(Path(f"{file}.py").read_bytes()).hexdigest()} if name and file else {}
        return asdict(self) | own


@dataclass(frozen=True)
class RunSettings:
    """What a run is asked to do.

    Attributes
    ----------
    degradation : Degradation
        Scale, kernel size, alignment, padding.
    method : Method
        The row of parts.
    preset_name, preset
        Sizes, steps and rates.
    seed : int
        Of everything random.
    iterations : int or None
        Inner steps instead of the preset's.
    time_limit : float or None
        Seconds after which the result so far is saved.
    checkpoint_seconds : float
        A checkpoint is written at most this often, and at the end.
    even_kernel : bool
        Whether a true kernel of even size may be given, because the user named the alignment.
    overwrite : bool
        Whether a result of other settings, or an unfinished run, in the output folder may be replaced.
    sampling : Sampling or None
        The posterior to sample after the estimate, if any.
    restarts : int or None
        Optimisations in all, each from a seed of its own, if more than one.
    bare : bool
        Whether to leave out what nobody looks at or goes on from: overview.png and the checkpoint of a finished run.
    """

    degradation: Degradation
    method: Method
    preset_name: str
    preset: Preset
    seed: int = 0
    iterations: int | None = None
    time_limit: float | None = None
    device: str = "auto"
    resume: bool = False
    checkpoint_seconds: float = 15.0
    even_kernel: bool = False
    overwrite: bool = False
    sampling: Sampling | None = None
    restarts: int | None = None
    bare: bool = False

    @property
    def steps(self) -> int:
        """Inner steps in all."""
        if self.iterations is not None and self.method.iterates:
            return self.iterations
        return self.preset.steps if self.method.steps is None else self.method.steps

    @property
    def own_parts(self) -> list[str]:
        """The user's own parts, as `my_file.py:MyPart`."""
        m = self.method
        names = [p.name for p in (m.prior, m.optimizer, m.image_prior, m.restorer)]
        names += [] if self.sampling is None else [self.sampling.sampler]
        return [name for name in names if ".py:" in name]

    @property
    def files(self) -> list[str]:
        """Files that decide the result: the user's own parts, models, weights."""
        m = self.method
        return [p.file for p in (m.prior, m.optimizer, m.image_prior, m.restorer) if p.file is not None]

    def record(self) -> dict[str, Any]:
        """Everything that decides the result, as plain values."""
        d, m = self.degradation, self.method
        record = {
            "scale": d.scale,
            "kernel_size": d.kernel_size,
            "alignment": d.alignment,
            "padding": d.padding,
            "prior": m.prior.name,
            "optimizer": m.optimizer.name,
            "image_prior": m.image_prior.name,
            "noise": m.noise.name if m.noise else self.preset.noise,
            "method": m.name,
            "kernel_start": m.kernel.name,
            "restorer": m.restorer.name,
            "preset": self.preset_name if m.composed else None,
            "preset_values": {k: v for k, v in asdict(self.preset).items() if k != "steps"} if m.composed else None,
            "parts": {f.name: _plain(getattr(m, f.name)) for f in fields(m) if f.name not in ("name", "summary")},
            "seed": self.seed,
            "sampling": None if self.sampling is None else self.sampling.record(),
            "restarts": self.restarts,
            "files_sha256": {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in self.files},
        }
        plain: dict[str, Any] = json.loads(json.dumps(record))  # enums to words, tuples to lists
        return plain


AFTERWARDS = ("sampling", "restarts")
"""Entries of `RunSettings.record` that do not touch the first optimisation: its checkpoint serves others too."""


def _plain(part: Any) -> Any:
    """Describe a part by its class and settings; numbers stay numbers."""
    if isinstance(part, Part):
        return {"name": part.name, "value": _plain(part.value)}
    if part is None or isinstance(part, int | float | str):
        return part
    if is_dataclass(part) and not isinstance(part, type):
        return {"class": type(part).__name__} | {f.name: _plain(getattr(part, f.name)) for f in fields(part)}
    return getattr(part, "__name__", type(part).__name__)


def default_degradation(scale: int, *, kernel_size: int = 0, alignment: Alignment, padding: Padding) -> Degradation:
    """Build the operator, with a user's error if a number does not fit."""
    try:
        return Degradation(scale, kernel_size, alignment, padding)
    except ValueError as error:
        raise UserError(str(error)) from error
