"""What `blindsr.super_resolve` gives back: the image in the user's own kind, the kernel, files, samples, a picture."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from blindsr.diagnostics.overview import as_png, draw_strip
from blindsr.diagnostics.posterior import to_arviz
from blindsr.errors import UserError
from blindsr.estimators.base import Estimate, Metrics
from blindsr.generators.starts import pixel_average
from blindsr.io.files import as_path
from blindsr.io.picture import Picture
from blindsr.methods.base import Method
from blindsr.operators.degradation import Degradation
from blindsr.results.files import (
    Result,
    Truth,
    enlarged_picture,
    estimate_record,
    image_hash,
    method_record,
    overview_of,
    save_result,
    score,
    surroundings,
)
from blindsr.results.posterior import draw, forget
from blindsr.results.sampling import Sampling, SamplingOptions, read_sampling
from blindsr.results.targets import Scene

NO_TRUTH = Truth(None, None)


@dataclass(frozen=True)
class Task:
    """What is to be done with each picture."""

    method: Method
    degradation: Degradation
    seed: int
    device: torch.device
    prior: Any
    """The kernel prior that the user named, if any: the kernel's posterior is sampled with it."""
    back: Callable[[Picture], Any]
    """Turns a `Picture` into the kind that came in."""
    name: str

    def __call__(self, picture: Picture) -> SuperResolved:
        """Super-resolve one picture; UserError if the method cannot serve the picture, or the estimation diverges."""
        start, method, d, y = time.perf_counter(), self.method, self.degradation, picture.pixels
        try:
            method.check(y, d, self.device)
            run = method.estimator.start(y, d, seed=self.seed, device=self.device)
        except ValueError as error:
            raise UserError(str(error)) from error
        trace: list[Metrics] = []
        for metrics in run.iterate(method.steps_for(d)):
            if not math.isfinite(metrics.loss):
                raise UserError(f"diverged at step {metrics.step} (the loss is not finite); try another seed")
            trace.append(metrics)
        found = method.restored(run.estimate(), y, d, seed=self.seed)
        assert found.image is not None
        result = Result(picture, found.image, found.kernel, trace, d, self.name, method.estimator.loss_name)
        seconds = round(time.perf_counter() - start, 3)
        record = method_record(method, d, self.seed) | {"image_sha256": image_hash(y)}
        record |= estimate_record(run, found, method.restorer) | surroundings(self.device)
        record |= {"image": self.name, "noise_std": found.noise_std, "seconds": seconds, "complete": True}
        record |= {"stopped": run.settled or "finished", "metrics": score(result, NO_TRUTH, lambda line: None)}
        return SuperResolved(
            image=self.back(enlarged_picture(result)),
            kernel=None if found.kernel is None else found.kernel[0, 0].double().numpy(),
            noise_std=found.noise_std,
            method=method.name,
            seconds=seconds,
            notes=(*method.notes, *picture.notes),
            record=record,
            task=self,
            result=result,
            estimate=found,
        )


@dataclass(frozen=True, repr=False)
class SuperResolved:
    """A super-resolved picture.

    Attributes
    ----------
    image : PIL.Image.Image, ndarray or Tensor
        s times as high and as wide as the picture, and of the same kind (see `blindsr.super_resolve`).
    kernel : ndarray or None
        (K, K), float64, non-negative, sum one; applied by correlation. None where the method has none.
    noise_std : float or None
        Standard deviation of the noise, units of 0..1, where the method knows or estimates it.
    method : str
        Name of the method.
    seconds : float
        Wall-clock time.
    notes : tuple of str
        What was changed when the picture was read, and how the method was composed.
    record : dict
        What `save` writes to run.json.
    task, result, estimate
        What was asked for, and the result in the package's own terms.
    """

    image: Any
    kernel: NDArray[np.float64] | None
    noise_std: float | None
    method: str
    seconds: float
    notes: tuple[str, ...]
    record: dict[str, Any]
    task: Task
    result: Result
    estimate: Estimate

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write sr.png, kernel.npy, .mat and .png, trace.csv, overview.png and run.json, as `blindsr run` does.

        sr.png keeps the alpha channel, the colour profile and the bit depth; floating-point values become 16 bits.

        Parameters
        ----------
        folder : str or Path
            Created if it does not exist.
        overwrite : bool
            Whether a result that is there already may be replaced.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        UserError
            If the folder is a file, holds a result already, or cannot be written.
        """
        folder = as_path(folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file; choose another folder")
        there = [name for name in ("sr.png", "run.json") if (folder / name).exists()]
        if there and not overwrite:
            raise UserError(
                f"{folder}: holds a result already ({there[0]}); choose another folder, or give overwrite=True"
            )
        forget(folder)
        save_result(folder, self.result, NO_TRUTH, self.record)
        return folder

    def sample(
        self,
        sampler: Any = "hmc",
        *,
        chains: int = Sampling.chains,
        draws: int = Sampling.draws,
        warmup: int = Sampling.warmup,
        thin: int = Sampling.thin,
        target: str = Sampling.target,
        seed: int | None = None,
    ) -> Any:
        """Sample the kernel's posterior given the LR image, as `blindsr run --sampler` does.

        Parameters
        ----------
        sampler : str or Sampler
            A name in `blindsr.samplers.SAMPLERS`, or a sampler as an object, such as `Hmc()`.
        chains, draws, warmup, thin : int
            Number of chains; draws kept from each, at least 100; warm-up transitions; transitions per kept draw.
        target : str
            "spectral": given y, with the image integrated out; "image": given y and the image of this result.
        seed : int, optional
            Seed of all draws; by default that of the estimate.

        Returns
        -------
        arviz.InferenceData or xarray.DataTree
            As the installed ArviZ has it; groups as in `blindsr.diagnostics.posterior`.

        Raises
        ------
        UserError
            If an option makes no sense, or the target cannot be made or sampled.
        """
        task, d = self.task, self.task.degradation
        asked = SamplingOptions(sampler, chains, draws, warmup, thin, target)
        sampling = read_sampling(asked, task.prior, task.method, d)
        assert sampling is not None  # a sampler was named
        kernel = pixel_average(d) if self.estimate.kernel is None else self.estimate.kernel
        scene = Scene.of(self.result.picture.pixels, self.result.image, kernel, d, self.estimate, None)
        seed = task.seed if seed is None else seed
        return to_arviz(draw(sampling, scene, task.method.estimator.prior, seed))

    def __repr__(self) -> str:
        h, w = self.result.image.shape[-2:]
        parts = [f"{w}x{h} pixels by {self.method}, x{self.task.degradation.scale}, {self.seconds:.1f} s"]
        if self.kernel is not None:
            parts.append(f"kernel {'x'.join(map(str, self.kernel.shape))}")
        if self.noise_std is not None:
            parts.append(f"noise_std {self.noise_std:.4f}")
        return f"<SuperResolved: {'; '.join((*parts, *self.notes))}>"

    def _repr_png_(self) -> bytes:
        """LR image, result and kernel side by side, for a notebook."""
        return as_png(draw_strip(overview_of(self.result, NO_TRUTH, self.record)))


@dataclass(frozen=True, repr=False)
class SuperResolvedBatch(Sequence[SuperResolved]):
    """A batch of super-resolved pictures, each estimated on its own: a sequence of `SuperResolved`.

    Parameters
    ----------
    results : tuple of SuperResolved
        In the order of the batch, at least one.
    """

    results: tuple[SuperResolved, ...]

    @overload
    def __getitem__(self, index: int) -> SuperResolved: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SuperResolved]: ...
    def __getitem__(self, index: int | slice) -> SuperResolved | Sequence[SuperResolved]:
        """Return the result for one picture, or for several."""
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    @property
    def image(self) -> torch.Tensor:
        """Results (B, C, s H, s W)."""
        return torch.stack([result.image for result in self.results])

    @property
    def kernel(self) -> NDArray[np.float64] | None:
        """Kernels (B, K, K); None where the method has none."""
        kernels = [result.kernel for result in self.results if result.kernel is not None]
        return np.stack(kernels) if kernels else None

    @property
    def noise_std(self) -> list[float | None]:
        """Noise level of each picture, units of 0..1."""
        return [result.noise_std for result in self.results]

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.results[0].method

    @property
    def seconds(self) -> float:
        """Wall-clock time of all together."""
        return sum(result.seconds for result in self.results)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write each result to a folder of its own, FOLDER/0, FOLDER/1, ...; see `SuperResolved.save`."""
        folder = as_path(folder)
        return [result.save(folder / str(i), overwrite=overwrite) for i, result in enumerate(self.results)]

    def __repr__(self) -> str:
        return f"<SuperResolvedBatch of {len(self)}: {self.results[0]!r}, ...>"

    def _repr_html_(self) -> str:
        """One strip for each picture, for a notebook."""
        strips = (base64.b64encode(result._repr_png_()).decode("ascii") for result in self.results)
        return "".join(f'<img src="data:image/png;base64,{strip}"><br>' for strip in strips)
