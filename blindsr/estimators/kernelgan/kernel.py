"""From the generator's kernel to that of the operator: clean, centre, convert to the scale, place on the grid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blindsr.estimators.kernelgan.networks import STEP
from blindsr.operators.degradation import Degradation
from blindsr.operators.kernels import center_of_mass

SIGNIFICANT = 40
"""Approximate number of values of a kernel that are kept (the published code keeps 40 of 169)."""
SMALL = 0.75
"""Share of the next smaller value that is subtracted from all values."""
CENTERED = 1e-3
"""Tolerance of the centre of mass, pixels."""


def significant(kernel: Tensor, count: int = SIGNIFICANT) -> Tensor:
    """Subtract 0.75 of the (count + 1)-th largest value from a kernel (1, 1, K, K), clip it at zero, and normalise it.

    Raises ValueError if no value remains positive.
    """
    ordered = kernel.flatten().sort(descending=True).values
    kept = (kernel - SMALL * ordered[min(count, len(ordered) - 1)]).clamp_min(0)
    if not float(kept.sum()) > 0:
        raise ValueError("the generator's kernel has no positive values")
    return kept / kept.sum()


def shifted(kernel: Tensor, center: float) -> Tensor:
    """Shift a kernel (1, 1, K, K) by cubic splines so that its centre of mass is at `center` on both axes.

    Negative values are clipped and the sum is normalised; since clipping moves the centre, this is repeated.
    """
    from scipy.ndimage import shift

    k = kernel[0, 0].double()
    for _ in range(5):
        column, row = (float(c) for c in center_of_mass(k[None, None])[0])
        if max(abs(center - column), abs(center - row)) < CENTERED:
            break
        k = torch.from_numpy(shift(k.numpy(), (center - row, center - column))).clamp_min(0)
        k = k / k.sum()
    return k[None, None].to(kernel)


def analytic(kernel: Tensor, scale: int) -> Tensor:
    """Return the kernel of `scale` = 2^m whose degradation equals m degradations by a kernel of scale 2.

    Correlating after keeping every second pixel is the same as correlating before it with the dilated kernel:
    k_4 = k_2 ⊗ (k_2 with zeros between), k_8 = k_4 ⊗ (k_2 with three zeros between) (KernelGAN paper, supplement).
    A centre of mass at (K - 2)/2 becomes one at (K - scale)/2, K the new side.
    """
    k, step = kernel, STEP
    while step < scale:
        side = (kernel.shape[-1] - 1) * step + 1
        spread = kernel.new_zeros(1, 1, side, side)
        spread[..., ::step, ::step] = kernel
        k = F.conv2d(F.pad(k, [side - 1] * 4), spread.flip(-1, -2))
        step *= STEP
    return k


def placed(kernel: Tensor, degradation: Degradation) -> Tensor:
    """Crop or pad a kernel (1, 1, n, n) centred at (n - s)/2 to the operator's (1, 1, K, K), centred at (K - s)/2."""
    border = (degradation.kernel_size - kernel.shape[-1]) // 2  # n and K are odd
    k = F.pad(kernel, [border] * 4).clamp_min(0)
    return shifted(k / k.sum(), degradation.center)


def finished(kernel: Tensor, degradation: Degradation) -> Tensor:
    """Turn the generator's kernel (1, 1, n, n) of scale 2 into the operator's kernel (1, 1, K, K) of its scale."""
    clean = significant(kernel.detach().double().cpu())
    n = kernel.shape[-1]
    room = n // 2  # so that the shift moves nothing over the edge
    k = shifted(F.pad(clean, [room] * 4), (n - STEP) / 2 + room)
    return placed(analytic(k, degradation.scale), degradation).float()
