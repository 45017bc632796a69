"""The pictures of a bench: a folder of HR images, or of photos without truth."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from blindsr.bench.entry import Entry
from blindsr.errors import UserError
from blindsr.io.images import find_images

SAMPLES = "scikit-image"
"""Name of the set of photos that come with scikit-image."""
PHOTOS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


@dataclass(frozen=True)
class DataSet:
    """A set of pictures.

    Attributes
    ----------
    name : str
        Name in tables.
    folder : str
        Where the pictures are, or "scikit-image" for the six sample photos that come with it.
    crop : int or None
        Side of the central crop in pixels (of the HR image; of the photo itself where there is no truth).
    images : tuple of str or None
        Only these, by name without suffix.
    first : int or None
        Only so many of them.
    truth : bool
        Whether the pictures are HR images to be degraded; False: photos, super-resolved as they are.
    """

    name: str
    folder: str
    crop: int | None = None
    images: tuple[str, ...] | None = None
    first: int | None = None
    truth: bool = True

    @classmethod
    def of(cls, folder: Path, *, crop: int | None, images: tuple[str, ...] | None, truth: bool) -> DataSet:
        """Make the set of a folder that is named on the command line."""
        name = str(folder) if str(folder) == SAMPLES else folder.resolve().name
        return cls(name + (f"-{crop}" if crop else ""), str(folder), crop, images, None, truth)

    @classmethod
    def read(cls, entry: Entry, folder: Path, data: Path | None = None) -> DataSet:
        """Read a `[[data]]` table; its folder is looked for in `data`, then in `folder` (that of the TOML file).

        Raises
        ------
        UserError
            If a key is missing, unknown or of the wrong type.
        """
        named = entry.needed("folder")
        places = [base / named for base in (data, folder) if base is not None]
        place = named if named == SAMPLES else str(next((p for p in places if p.is_dir()), places[0]))
        crop = entry.whole("crop", 16)
        made = cls(
            name=entry.text("name") or Path(named).name + (f"-{crop}" if crop else ""),
            folder=place,
            crop=crop,
            images=entry.words("images"),
            first=entry.whole("first", 1),
            truth=entry.flag("truth", True),
        )
        entry.end()
        return made

    def missing(self) -> str | None:
        """Say in one line where the pictures should be, if they are not there."""
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
        """Return (index in the whole set, picture): the index decides the kernel's seed, whatever is left out.

        Raises
        ------
        UserError
            If the folder is missing or holds no picture, two pictures share a name, or one that is named is not there.
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
            raise UserError(f"data set {self.name}: holds no {absent[0]}; it has {', '.join(names[:8])}")
        return [(i, p) for i, p in every if self.images is None or p.stem in self.images][: self.first]
