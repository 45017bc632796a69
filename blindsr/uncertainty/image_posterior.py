"""How uncertain each pixel of a restored image is: draws from a scale mixture, patch groups, and their calibration.

Four indicators of uncertainty are computed from the luma, each in units of the image:

1. D, the standard deviation of draws of x, each with its own kernel draw, under `scale_mixture.ConditionalGaussian` at
   the result x̂. It includes the null space of the operator A, where the draws follow the prior: narrow in flat
   regions, wide at edges;
2. G, the standard deviation within groups of similar patches (`priors.patch_groups`): where patches that look alike
   differ, the detail of each is uncertain;
3. T, the difference between x̂ and the solution under total variation alone: where two priors disagree;
4. V = sqrt(m (1 − m)) for a pixel of value m: no distribution on 0..1 with mean m has a larger standard deviation
   (Bhatia & Davis 2000), and camera noise grows from dark to bright.

None of them is calibrated by itself, since the priors are too simple. The map is the geometric mean of D, G and T
within the bounds V,

    std = c (D G T)^(1/3) V,

which scales with the contrast of the image, as errors do. Its only parameter, c, is fitted to the errors of the photos
that `benchmarks/uncertainty.py --fit` uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from blindsr.diagnostics.moments import RunningMoments
from blindsr.operators.degradation import Degradation
from blindsr.operators.luma import luma, luma_gain
from blindsr.priors.patch_groups import Groups, PatchGroups
from blindsr.restorers.map import MapRestorer
from blindsr.restorers.splitting import QUANTISATION_STD, map_solution
from blindsr.uncertainty.maps import UncertaintyMap, check_inputs
from blindsr.uncertainty.scale_mixture import ConditionalGaussian

MODEL_ERROR = 1 / 255
"""Standard deviation of the model's own error, whose square is added to the variance of the noise."""

FLOOR = 0.5 / 255
"""Indicators below half a grey level count as half a grey level."""


def smooth_rms(v: Tensor, std: float) -> Tensor:
    """Return the root of the local mean square of a map (H, W), in a Gaussian window; `std` in pixels."""
    from scipy.ndimage import gaussian_filter

    reach = min(max(1, round(3 * std)), min(v.shape) - 1)
    return torch.from_numpy(gaussian_filter(v.square().numpy(), std, mode="mirror", radius=reach)).sqrt()


@dataclass(frozen=True)
class Evidence:
    """Indicators of uncertainty of a grey image, see the module: each (H, W), float64, in units of the image."""

    # draws, groups, disagreement, bounds: D, G, T and V
    draws: Tensor
    groups: Tensor
    disagreement: Tensor
    bounds: Tensor
    n: int  # Number of draws behind D

    def std(self, factor: float) -> Tensor:
        """Return c (D G T)^(1/3) V, (H, W), where D, G and T have a smooth lower limit of half a grey level."""
        indicators = torch.stack([self.draws, self.groups, self.disagreement])
        mean = torch.hypot(indicators, torch.full_like(indicators, FLOOR)).log().mean(0).exp()
        return factor * mean * self.bounds


FACTOR = 3.76
"""c, fitted to central 256x256 crops of five scikit-image photos at scales 2 and 4, noise-free, kernels estimated."""


@torch.no_grad()
def gather(
    y: Tensor,
    image: Tensor,
    kernel: Tensor,
    kernel_draws: Tensor,
    degradation: Degradation,
    noise_std: float,
    *,
    n: int,
    generator: torch.Generator,
    interrupt: Callable[[], bool] | None = None,
) -> Evidence:
    """Compute the indicators of a grey result (1, 1, s h, s w); arguments as for `restoration_uncertainty`.

    `noise_std` is the noise level of the grey image y (1, 1, h, w); the square of `MODEL_ERROR` is added to its square.
    """
    if n < 2:
        raise ValueError(f"{n} draws give no standard deviation: at least 2 are needed")
    noise = math.hypot(max(noise_std, QUANTISATION_STD), MODEL_ERROR)
    moments = RunningMoments()
    for i in range(n):
        at = i % len(kernel_draws)
        moments.add(ConditionalGaussian(y, kernel_draws[at : at + 1], degradation, noise, image).draw(generator))
        if interrupt is not None and interrupt() and moments.count >= 2:
            break
    plain = map_solution(y, kernel, degradation, noise).image
    width, picture = degradation.scale / 2, image[0, 0].double()
    return Evidence(
        draws=smooth_rms(moments.std(1)[0], width),
        groups=Groups(image[0, 0].float(), PatchGroups()).std(image[0, 0].float()).double(),
        disagreement=smooth_rms((plain - image)[0, 0].double(), width),
        bounds=(picture.clamp(0.02, 1) * (1 - picture).clamp(0.02, 1)).sqrt(),
        n=moments.count,
    )


@torch.no_grad()
def restoration_uncertainty(
    y: Tensor,
    kernel_draws: Tensor,
    degradation: Degradation,
    noise_std: float,
    *,
    n: int = 16,
    generator: torch.Generator,
    image: Tensor | None = None,
    kernel: Tensor | None = None,
    factor: float = FACTOR,
    interrupt: Callable[[], bool] | None = None,
) -> UncertaintyMap:
    """Standard deviation of every pixel's error in the luma of a restored image, see the module.

    Parameters
    ----------
    y : Tensor
        LR image (1, C, h, w), values 0..1.
    kernel_draws : Tensor
        Posterior draws (m, 1, K, K), m of at least 2.
    degradation : Degradation
        Scale, kernel size, alignment, padding.
    noise_std : float
        Noise level of a channel, units of 0..1.
    n : int
        Draws of the image, at least 2; the kernel draws are used in turn.
    generator : torch.Generator
        For the draws.
    image : Tensor, optional
        The result (1, C, s h, s w) that the map is about. Default: `MapRestorer` with the kernel.
    kernel : Tensor, optional
        The kernel of the result (1, 1, K, K). Default: mean of the draws.
    factor : float
        c.
    interrupt : callable, optional
        Asked after each draw; once it says True, the map is made of the draws so far (two at least).

    Returns
    -------
    UncertaintyMap
        `mean` the result (1, C, s h, s w), `std` (1, 1, s h, s w), of its luma.

    Raises
    ------
    ValueError
        If a shape or a value is bad.
    """
    check_inputs(y, kernel_draws, degradation, noise_std)
    y, kernel_draws = y.detach().cpu(), kernel_draws.detach().cpu()
    kernel = kernel_draws.mean(0, keepdim=True) if kernel is None else kernel.detach().cpu()
    if image is None:
        image = MapRestorer(model_error=MODEL_ERROR)(y, kernel, degradation, noise_std)
    expected = (1, y.shape[1], *(degradation.scale * v for v in y.shape[-2:]))
    if tuple(image.shape) != expected:
        raise ValueError(f"the result has shape {tuple(image.shape)}: {expected} is needed")
    image = image.detach().cpu().clamp(0, 1)
    grey = noise_std * luma_gain(y.shape[1])
    evidence = gather(
        luma(y), luma(image), kernel, kernel_draws, degradation, grey, n=n, generator=generator, interrupt=interrupt
    )
    return UncertaintyMap(image, evidence.std(factor)[None, None].float(), evidence.n)
