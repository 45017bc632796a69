"""What a run can sample: the posteriors of its kernel, or of a kernel network's weights, as targets of samplers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from blindsr.estimators.base import Estimate
from blindsr.estimators.interior import interior
from blindsr.generators.kernel import KernelNetwork
from blindsr.likelihood.quadratic import LrErrorForm
from blindsr.operators.degradation import Degradation
from blindsr.operators.kernels import framed
from blindsr.posteriors.base import Target, coordinate_names
from blindsr.posteriors.fixed_image import FixedImageTarget
from blindsr.posteriors.laplace_map import SHAPE_UP_TO, nested_laplace
from blindsr.posteriors.network import FlatNetwork, NetworkTarget
from blindsr.posteriors.spectral import SpectralTarget
from blindsr.posteriors.spectral_laplace import SpectralPosterior
from blindsr.posteriors.transport import Transport
from blindsr.priors.base import KernelDensity
from blindsr.priors.free import FreeKernels
from blindsr.priors.normal import GaussianShape
from blindsr.random import seeded

HIDDEN, INPUTS, INPUT_STD, LAYER_STD = (32,), 8, 1.0, (3.0, 3.0)
"""Kernel network of the target "network", and its prior's standard deviations: the "small" one of docs/langevin.md."""


@dataclass(frozen=True)
class Scene:
    """The data and results of a run that a target is built from."""

    y: Tensor
    image: Tensor
    kernel: Tensor
    """LR image (1, C, h, w), SR image (1, C, s h, s w) and estimated kernel (1, 1, K, K), on the CPU."""
    degradation: Degradation
    found: SpectralPosterior | None
    """The Laplace approximation of p(k | y), if the method makes one."""
    true_kernel: Tensor | None
    """(1, 1, K, K), if it is known."""
    free: bool = False
    """Whether the kernel is a free-form estimate, which belongs to no parametric family."""

    @classmethod
    def of(
        cls, y: Tensor, image: Tensor, kernel: Tensor, degradation: Degradation, found: Estimate, truth: Tensor | None
    ) -> Scene:
        """Return the scene of an estimate with the image and the kernel that were made of it.

        The true kernel is padded or cut to the side of the estimated one.
        """
        truth = None if truth is None else framed(truth, kernel.shape[-1])
        free = (found.description or {}).get("family") == "free"
        return cls(y, image.cpu(), kernel.cpu(), degradation.for_kernel(kernel), found.posterior, truth, free)


@dataclass(frozen=True)
class Prepared:
    """A target, the names of its kernel coordinates, and what helps to sample it: a covariance, a transport map."""

    target: Target
    kernel_coordinates: tuple[str, ...] = ()
    covariance: Tensor | None = None
    transport: Callable[[], Transport] | None = None


def _spectral(scene: Scene, family: KernelDensity) -> Prepared:
    target = SpectralTarget(scene.y, scene.degradation, family)
    # With many parameters each point of the map takes as long as the mode, unless the prior is narrow.
    few = target.n_kernel <= SHAPE_UP_TO or isinstance(family, FreeKernels)
    transport = (lambda: nested_laplace(target)) if few else None
    return Prepared(target, coordinate_names(family), target.laplace()[1], transport)


def _image(scene: Scene, family: KernelDensity) -> Prepared:
    degradation, x, y = interior(scene.image, scene.y, scene.degradation)
    target = FixedImageTarget(x, y, degradation, family)
    return Prepared(target, coordinate_names(family), target.laplace()[1])


def _network(scene: Scene, family: KernelDensity) -> Prepared:
    degradation, x, y = interior(scene.image, scene.y, scene.degradation)
    form = LrErrorForm.build(degradation, x.double(), y.double())
    variance = float(form(scene.kernel.double())[0])  # the mean squared residual, as in Eq. 40 of the MLMC paper
    with seeded(0):
        network = FlatNetwork.of(KernelNetwork(degradation.kernel_size, HIDDEN, INPUTS, INPUT_STD))
    return Prepared(NetworkTarget(network, form, variance, LAYER_STD, family))


TARGETS: dict[str, Callable[[Scene, KernelDensity], Prepared]] = {
    "spectral": _spectral,
    "image": _image,
    "network": _network,
}
"""Posteriors that a run can sample: of the kernel given y, with the image integrated out; of the kernel given y and the
SR image; of the weights of a kernel network given y and the SR image."""


def kernel_family(family_named: bool, factory: Any, scene: Scene) -> KernelDensity:
    """Return the kernel prior of a target: the one named, else that of the estimate, else Gaussians.

    That of a free-form estimate is `FreeKernels` about it.
    """
    if family_named and factory is not None:
        named: KernelDensity | None = factory.density(scene.degradation)
        if named is not None:
            return named
    if scene.found is not None:
        return scene.found.family
    if scene.free:
        return FreeKernels(scene.kernel[0, 0], scene.degradation.scale)
    return GaussianShape(scene.degradation.kernel_size, scene.degradation.scale)
