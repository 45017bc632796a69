"""Kernels of several kinds: one law of a few at random, and motion and optical blur together.

A photo is rarely blurred by one cause alone: the camera moves while the lens is slightly out of focus. The kernel of
two independent causes is the convolution of their kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blindsr.operators.degradation import Degradation
from blindsr.priors.base import RecordedKernels
from blindsr.priors.gaussian import GaussianKernelPrior
from blindsr.priors.motion import ExposedShakePrior, LineKernelPrior
from blindsr.priors.normal import DiskShape
from blindsr.priors.shaped import DiskKernelPrior

Motion = type[LineKernelPrior] | type[ExposedShakePrior]

OPTICAL_RADIUS = (0.05, 0.1)
"""Range of the radius of the optical blur that is added to motion, in units of K: 1.6 to 3.1 pixels for K = 31. It is
small, so that motion remains the chief cause; disks and Gaussians alone have laws of their own. Chosen here, since we
know of no published law of both together."""


class MixtureKernelPrior(RecordedKernels):
    """Kernels of one of several laws, each equally likely. They have no density.

    Parameters
    ----------
    parts : mapping of str to RecordedKernels
        The laws by name, at least one, all of one kernel size.

    Raises
    ------
    ValueError
        If there is no law, or the kernel sizes differ.
    """

    def __init__(self, parts: Mapping[str, RecordedKernels]) -> None:
        sizes = {part.kernel_size for part in parts.values()}
        if len(sizes) != 1:
            raise ValueError(f"mixture: laws of one kernel size are needed, not of {sorted(sizes) or 'none at all'}")
        self.parts, self.kernel_size = dict(parts), sizes.pop()

    @classmethod
    def protocol(cls, degradation: Degradation) -> MixtureKernelPrior:
        """Return lines, shake, disks and Gaussians, and each of the two motions with an optical blur: six parts.

        Raises ValueError if the kernel has no room for a motion with an optical blur.
        """
        s, k = degradation.scale, degradation.kernel_size
        motions: dict[str, Motion] = {"line": LineKernelPrior, "shake": ExposedShakePrior}
        return cls(
            {name: motion.protocol(s, k) for name, motion in motions.items()}
            | {"disk": DiskKernelPrior.protocol(degradation), "gaussian": GaussianKernelPrior.truth(s, k)}
            | {
                f"{name}+optics": ConvolvedKernelPrior.with_optics(name, motion, s, k)
                for name, motion in motions.items()
            }
        )

    def sample_recorded(self, n: int, *, generator: torch.Generator) -> tuple[Tensor, list[dict[str, Any]]]:
        """Draw kernels as `sample` does; for each, also the name of its law (`family`) and what that drew."""
        which = torch.randint(len(self.parts), (n,), generator=generator)
        kernels = torch.empty(n, 1, self.kernel_size, self.kernel_size)
        records: list[dict[str, Any]] = [{}] * n
        for i, (name, part) in enumerate(self.parts.items()):
            rows = (which == i).nonzero()[:, 0]
            if len(rows):
                kernels[rows], drawn = part.sample_recorded(len(rows), generator=generator)
                for row, record in zip(rows.tolist(), drawn, strict=True):
                    records[row] = {"family": name} | record
        return kernels, records


class ConvolvedKernelPrior(RecordedKernels):
    """Motion and optical blur together: the convolution of two independent kernels. They have no density.

    Parameters
    ----------
    motion, optics : RecordedKernels
        Laws of kernels of sides M and O. The kernels of `optics` are point-symmetric about the middle of their grid, so
        that the convolution, of side K = M + O - 1, loses nothing and has its centre of mass at that of the motion plus
        (O - 1)/2.
    names : tuple of str
        Names of the two, for the record.
    """

    def __init__(self, motion: RecordedKernels, optics: RecordedKernels, names: tuple[str, str]) -> None:
        self.motion, self.optics, self.names = motion, optics, names
        self.kernel_size = motion.kernel_size + optics.kernel_size - 1

    @classmethod
    def with_optics(cls, name: str, motion: Motion, scale: int, kernel_size: int) -> ConvolvedKernelPrior:
        """Return a motion with an optical blur, which is a disk or a Gaussian at random, centred at (K - s)/2.

        The disk's radius R is uniform over `OPTICAL_RADIUS`; the Gaussian's variances are uniform over the range of
        R²/4, those of such disks. The optical kernel reaches 1.5 R on each side, three standard deviations, and the
        motion follows its usual law in a kernel that is smaller by so much. Raises ValueError if there is no room.
        """
        low, high = (share * kernel_size for share in OPTICAL_RADIUS)
        margin = math.ceil(1.5 * high)
        room, side = kernel_size - 2 * margin, 2 * margin + 1
        if room <= scale + 1:
            raise ValueError(
                f"a kernel of {kernel_size} pixels has no room for motion and optical blur at x{scale}; "
                "choose a larger kernel"
            )
        optics = MixtureKernelPrior(
            {
                "disk": DiskKernelPrior(DiskShape(side, 1), low, high),  # at x1 the nominal centre is the middle
                "gaussian": GaussianKernelPrior.uniform(side, low**2 / 4, high**2 / 4, float(margin)),
            }
        )
        return cls(motion.protocol(scale, room), optics, (name, "optics"))

    def sample_recorded(self, n: int, *, generator: torch.Generator) -> tuple[Tensor, list[dict[str, Any]]]:
        """Draw kernels as `sample` does; for each, also what was drawn for both parts, under their names.

        Centres are those on each part's own, smaller grid.
        """
        motion, of_motion = self.motion.sample_recorded(n, generator=generator)
        optics, of_optics = self.optics.sample_recorded(n, generator=generator)
        k = F.conv2d(motion.transpose(0, 1), optics, padding=optics.shape[-1] - 1, groups=n).transpose(0, 1)
        pairs = zip(of_motion, of_optics, strict=True)
        return k / k.sum((1, 2, 3), keepdim=True), [dict(zip(self.names, pair, strict=True)) for pair in pairs]
