"""How a bench makes LR images: which true kernels, how much noise, which 8-bit rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from blindsr.bench.toml_table import Places, read_fields
from blindsr.errors import UserError
from blindsr.io.kernels import KERNEL_SUFFIXES, read_kernel
from blindsr.methods.words import family_named
from blindsr.operators.degradation import Alignment, Degradation, Padding
from blindsr.priors.base import KernelPrior
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.simulate import Quantize

WIDE = (2.5, 4.0)
"""Variances of `wide`, in units of s HR pixels²: beyond the test protocol's, which end at min(2.5 s, 10)."""


def _is_kernel_file(word: str) -> bool:
    return Path(word).suffix.lower() in KERNEL_SUFFIXES


@dataclass(frozen=True)
class Degrading:
    """One degradation of a bench, on the pixel grid of the test protocol, with circular borders.

    Raises UserError if a value makes no sense.
    """

    name: str
    """Name in tables."""
    kernel: str = "gaussian"
    """A kernel family (`blindsr methods` lists them), whose law of true kernels is drawn from; a flow's file;
    `my_file.py:MyKernels`; or a kernel file."""
    variance: tuple[float, ...] | None = None
    """Range of the variances of the Gaussians in place of the protocol's, in units of s HR pixels²."""
    noise: float = 0.0
    """Standard deviation of white Gaussian noise, units of 0..1."""
    quantize: str = "round"
    """8-bit rule, a `Quantize`; not `none`, since LR images go through a file."""
    kernel_size: int = 0
    """Side of the kernels, odd; 0 for the usual one, min(4 s + 3, 21), or the size of a kernel file."""

    def __post_init__(self) -> None:
        where = f"degradation {self.name}"
        try:
            _ = self.file
        except UserError as error:
            raise UserError(f"{where}: kernel {error}, or a kernel file ({', '.join(KERNEL_SUFFIXES)})") from error
        if self.variance is not None:
            if self.kernel != "gaussian":
                raise UserError(f"{where}: variance goes with the kernel gaussian, not with {self.kernel}")
            if len(self.variance) != 2 or not 0 < self.variance[0] < self.variance[1]:
                raise UserError(f"{where}: variance {list(self.variance)}: two rising numbers above 0 are needed")
        if not 0 <= self.noise < 1:
            raise UserError(f"{where}: noise {self.noise}: a standard deviation in units of 0..1 is needed")
        if self.quantize not in (Quantize.ROUND, Quantize.TRUNCATE):
            raise UserError(f"{where}: quantize {self.quantize}: choose round or truncate")
        if self.kernel_size and _is_kernel_file(self.kernel):
            raise UserError(f"{where}: kernel_size goes with a kernel family; {self.kernel} has a size of its own")
        if self.kernel_size < 0 or (self.kernel_size and self.kernel_size % 2 == 0):
            raise UserError(f"{where}: kernel_size {self.kernel_size}: an odd number above 0 is needed, or 0")

    @classmethod
    def of(cls, word: str) -> Degrading:
        """Read `KERNEL[+NOISE]`, as on the command line: `gaussian`, `wide`, `motion+0.0392`, `kernel.mat`.

        Raises UserError if the word has another form.
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
        """Read a `[[degradations]]` table; UserError if a key is unknown or a value makes no sense."""
        given = read_fields(cls, table, where, places, optional=("name",))
        kernel, noise = given.get("kernel", "gaussian"), given.get("noise")
        size = f"-{given['kernel_size']}" if given.get("kernel_size") else ""
        default = {"name": Path(kernel).stem + size + (f"+{noise:g}" if noise else "")}
        made = cls(**default | given)
        return made if made.file is None else replace(made, kernel=places.find(kernel))

    @property
    def file(self) -> str | None:
        """The file that holds the kernel or its law, if there is one."""
        return self.kernel if _is_kernel_file(self.kernel) else family_named(self.kernel).file

    def content(self, hashed: Callable[[str], str]) -> str:
        """Return what stands for the kernel in the key of a run: a family's name, or the file's hash and the part."""
        if self.file is None:
            return self.kernel
        _, colon, part = self.kernel.rpartition(".py:")
        return f"{hashed(self.file)}:{part}" if colon else hashed(self.file)

    def given(self, scale: int) -> Tensor | None:
        """Return the kernel (1, 1, K, K) of a kernel file, or None where kernels are drawn."""
        return read_kernel(Path(self.kernel), scale=scale)[0] if _is_kernel_file(self.kernel) else None

    def operator(self, scale: int) -> Degradation:
        """Return the forward operator for a scale."""
        given = self.given(scale)
        size = self.kernel_size if given is None else given.shape[-1]
        return Degradation(scale, size, Alignment.FKP, Padding.CIRCULAR)

    def source(self, degradation: Degradation) -> KernelPrior | Tensor:
        """Return the law of the true kernels, or the kernel itself (1, 1, K, K)."""
        s = degradation.scale
        given = self.given(s)
        if given is not None:
            return given
        if self.variance is not None:
            low, high = self.variance
            return GaussianKernelPrior.uniform(degradation.kernel_size, low * s, high * s, degradation.center)
        return family_named(self.kernel).truth(degradation)

    @classmethod
    def made(cls, plain: dict[str, Any]) -> Degrading:
        """Return the degradation of these plain values, those of `dataclasses.asdict`."""
        variance = plain["variance"]
        return cls(**plain | {"variance": None if variance is None else tuple(variance)})
