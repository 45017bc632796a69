"""How a bench makes LR images: which true kernels, how much noise, which 8-bit rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from blindsr.bench.toml_table import Places, read_fields
from blindsr.errors import UserError
from blindsr.io.kernels import KERNEL_SUFFIXES, read_kernel
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.priors.base import KernelPrior
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.motion import CameraShakePrior, LineKernelPrior
from blindsr.simulate import Quantize

KERNELS = ("gaussian", "motion", "line")
WIDE = (2.5, 4.0)
"""Variances of `wide`, in units of s HR pixels²; the protocol's end at min(2.5 s, 10)."""


@dataclass(frozen=True)
class Degrading:
    """One degradation of a bench, on the grid of the literature's protocol, with circular borders.

    Attributes
    ----------
    name : str
        Name in tables.
    kernel : str
        `gaussian` (the protocol's random Gaussians), `motion` (camera shake), `line` (straight motion), or a kernel
        file; see `blindsr.priors` for each.
    variance : tuple of float or None
        Two numbers: range of the Gaussians' variances instead of the protocol's, in units of s HR pixels².
    noise : float
        Standard deviation of white Gaussian noise, units of 0..1.
    quantize : str
        8-bit rule, a `Quantize`; not `none`: LR images go through a file.
    """

    name: str
    kernel: str = "gaussian"
    variance: tuple[float, ...] | None = None
    noise: float = 0.0
    quantize: str = "round"

    def __post_init__(self) -> None:
        where = f"degradation {self.name}"
        if self.kernel not in KERNELS and Path(self.kernel).suffix.lower() not in KERNEL_SUFFIXES:
            files = ", ".join(KERNEL_SUFFIXES)
            raise UserError(f"{where}: kernel {self.kernel}: choose {', '.join(KERNELS)}, or a file ({files})")
        if self.variance is not None:
            if self.kernel != "gaussian":
                raise UserError(f"{where}: variance goes with the kernel gaussian, not with {self.kernel}")
            if len(self.variance) != 2 or not 0 < self.variance[0] < self.variance[1]:
                raise UserError(f"{where}: variance {list(self.variance)}: two rising numbers above 0 are needed")
        if not 0 <= self.noise < 1:
            raise UserError(f"{where}: noise {self.noise}: a standard deviation in units of 0..1 is needed")
        if self.quantize not in (Quantize.ROUND, Quantize.TRUNCATE):
            raise UserError(f"{where}: quantize {self.quantize}: choose round or truncate")

    @classmethod
    def of(cls, word: str) -> Degrading:
        """Read `KERNEL[+NOISE]`, as on the command line: `gaussian`, `wide`, `motion+0.0392`, `kernel.mat`.

        Raises
        ------
        UserError
            If it cannot be read so.
        """
        kernel, plus, level = word.rpartition("+")
        noise = 0.0
        if plus:
            try:
                noise = float(level)
            except ValueError as error:
                raise UserError(f"--degradations {word}: noise {level}: a number, units of 0..1, is needed") from error
        else:
            kernel = word
        if kernel == "wide":
            return cls(word, variance=WIDE, noise=noise)
        return cls(word, kernel, noise=noise)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str, places: Places) -> Degrading:
        """Read a `[[degradations]]` table.

        Raises
        ------
        UserError
            If a key is unknown or a value makes no sense.
        """
        given = read_fields(cls, table, where, places, optional=("name",))
        kernel, noise = given.get("kernel", "gaussian"), given.get("noise")
        if Path(kernel).suffix.lower() in KERNEL_SUFFIXES:
            given["kernel"] = places.find(kernel)
        default = {"name": Path(kernel).stem + (f"+{noise:g}" if noise else "")}
        return cls(**default | given)

    @property
    def is_file(self) -> bool:
        """Whether the true kernel is one from a file."""
        return self.kernel not in KERNELS

    def given(self, scale: int) -> Tensor | None:
        """Return the kernel (1, 1, K, K) of the file, or None where kernels are drawn."""
        return read_kernel(Path(self.kernel), scale=scale)[0] if self.is_file else None

    def operator(self, scale: int) -> Degradation:
        """Return the forward operator for a scale."""
        given = self.given(scale)
        size = 0 if given is None else given.shape[-1]
        return Degradation(scale, size, Alignment.FKP, Padding.CIRCULAR)

    def source(self, degradation: Degradation) -> KernelPrior | Tensor:
        """Return what true kernels are drawn from, or the kernel itself."""
        s, size = degradation.scale, degradation.kernel_size
        given = self.given(s)
        if given is not None:
            return given
        if self.variance is not None:
            low, high = self.variance
            return GaussianKernelPrior.uniform(size, low * s, high * s, degradation.center)
        if self.kernel == "motion":
            return CameraShakePrior.protocol(s, size)
        if self.kernel == "line":
            return LineKernelPrior.protocol(s, size)
        return GaussianKernelPrior.truth(s, size)

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def made(cls, plain: dict[str, Any]) -> Degrading:
        """Make it again from `plain`."""
        variance = plain["variance"]
        return cls(**plain | {"variance": None if variance is None else tuple(variance)})
