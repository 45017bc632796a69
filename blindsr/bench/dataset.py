"""The pictures of a bench: a folder of HR images, or of photos without ground truth."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindsr.bench.toml_table import Places, at_least, read_fields
from blindsr.errors import UserError
from blindsr.io.images import find_images

SAMPLES = "scikit-image"
"""Name of the set of photos that come with scikit-image."""
PHOTOS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


@dataclass(frozen=True)
class DataSet:
    """A set of pictures."""

    folder: str
    """Where the pictures are, or "scikit-image" for the six sample photos that come with it."""
    name: str = ""
    """Name in tables; by default the folder's name, with the size of the crop."""
    crop: int | None = at_least(16)
    """Side of the central crop in pixels, of the HR image or, without ground truth, of the photo itself."""
    images: tuple[str, ...] | None = None
    """Only these pictures, by name without suffix."""
    first: int | None = at_least(1)
    """At most this many of them."""
    truth: bool = True
    """Whether the pictures are HR images to be degraded; False: photos, super-resolved as they are."""

    def __post_init__(self) -> None:
        if not self.name:
            folder = Path(self.folder).name or Path(self.folder).resolve().name
            object.__setattr__(self, "name", folder + (f"-{self.crop}" if self.crop else ""))

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str, places: Places) -> DataSet:
        """Read a `[[data]]` table; UserError if a key is missing or unknown, or a value is of the wrong type."""
        given = read_fields(cls, table, where, places)
        if given["folder"] != SAMPLES:
            given["folder"] = places.find_folder(given["folder"])
        return cls(**given)

    def missing(self) -> str | None:
        """Return one line on where the pictures should be, or None if they are there."""
        if self.folder == SAMPLES or (Path(self.folder).is_dir() and self._all()):
            return None
        what = "HR images" if self.truth else "photos"
        return f"data set {self.name}: skipped, not found; put its {what} into {self.folder}"

    def _all(self) -> list[Path]:
        if self.folder == SAMPLES:
            spec = importlib.util.find_spec("skimage")
            assert spec is not None and spec.origin is not None
            return [Path(spec.origin).parent / "data" / name for name in PHOTOS]
        return find_images([Path(self.folder)])

    def files(self) -> list[tuple[int, Path]]:
        """Return the pictures, each with its index in the whole set, which decides the seed of its kernel.

        Raises UserError if the folder is missing or empty, two pictures share a name, or a picture that is asked for is
        not there.
        """
        if self.folder != SAMPLES and not Path(self.folder).is_dir():
            raise UserError(f"data set {self.name}: {self.folder}: no such folder")
        every = list(enumerate(self._all()))
        names = [path.stem for _, path in every]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise UserError(f"data set {self.name}: two pictures in {self.folder} are called {twice}; rename one")
        absent = [n for n in self.images or () if n not in names]
        if absent:
            raise UserError(f"data set {self.name}: has no picture {absent[0]}; choose among {', '.join(names[:8])}")
        return [(i, p) for i, p in every if self.images is None or p.stem in self.images][: self.first]
