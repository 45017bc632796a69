"""Kernel generators k = G_k(z_k, φ_k): FC network, explicit Gaussian, any parametric family, simplex, fixed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blindsr.generators.base import Generator
from blindsr.generators.pixels import Pixels
from blindsr.priors.base import KernelDensity
from blindsr.priors.gaussian import gaussian_kernel


class KernelNetwork(Generator):
    """The published kernel generator (Eq. 20): fixed z_k → Linear → ReLU6 → Linear → softmax.

    Parameters
    ----------
    kernel_size : int
        Side K; the output has K² entries, positive and summing to one.
    hidden : tuple of int
        Widths of the hidden layers. Published code: (1000,); the paper's text: (1000, 1000).
    inputs : int
        Length of z_k.
    input_std : float
        z_k is uniform on [0, `input_std`).

    Notes
    -----
    Weights and z_k come from torch's global random state: construct inside `blindsr.random.seeded`.
    """

    z: Tensor

    def __init__(
        self, kernel_size: int, hidden: tuple[int, ...] = (1000,), inputs: int = 200, input_std: float = 0.1
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.register_buffer("z", torch.rand(1, inputs) * input_std)
        layers: list[nn.Module] = []
        for a, b in zip((inputs, *hidden), hidden, strict=False):
            layers += [nn.Linear(a, b), nn.ReLU6()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1] if hidden else inputs, kernel_size**2))

    def forward(self) -> Tensor:
        """Return the kernel (1, 1, K, K)."""
        k = self.kernel_size
        return torch.softmax(self.layers(self.z), dim=1).view(1, 1, k, k)


class GaussianKernel(Generator):
    """An explicit Gaussian with Σ⁻¹ = L Lᵀ (the parametrisation of BSRDM); parameters: L (lower triangle), the centre.

    Parameters
    ----------
    kernel_size : int
        Side K.
    center : float
        Initial centre on both axes, pixels from index 0.
    std : float
        Initial standard deviation, pixels.
    free_center : bool
        Whether the centre is a parameter too.
    """

    center: Tensor

    def __init__(self, kernel_size: int, center: float, std: float = 2.0, *, free_center: bool = False) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.factor = nn.Parameter(torch.eye(2) / std)
        mid = torch.full((2,), float(center))
        if free_center:
            self.center = nn.Parameter(mid)
        else:
            self.register_buffer("center", mid)

    def precision(self) -> Tensor:
        """Σ⁻¹ (2, 2), axes (column, row), in 1 / pixels²."""
        factor = self.factor.tril()
        return factor @ factor.T

    def forward(self) -> Tensor:
        """Return the kernel (1, 1, K, K)."""
        size = self.kernel_size
        axis = torch.arange(size, dtype=self.center.dtype, device=self.center.device)
        dy, dx = torch.meshgrid(axis - self.center[1], axis - self.center[0], indexing="ij")
        p = self.precision()
        log_k = -0.5 * (p[0, 0] * dx**2 + 2 * p[0, 1] * dx * dy + p[1, 1] * dy**2)
        return torch.softmax(log_k.flatten(), dim=0).view(1, 1, size, size)


class ParametricKernel(Generator):
    """A kernel of a family k(z); its parameter is z.

    Parameters
    ----------
    family : KernelDensity
        What z means.
    start : Tensor
        Initial z (dim,).
    """

    def __init__(self, family: KernelDensity, start: Tensor) -> None:
        super().__init__()
        self.family = family
        self.z = nn.Parameter(start.detach().clone().float())

    def forward(self) -> Tensor:
        """Return the kernel (1, 1, K, K)."""
        return self.family.kernel(self.z[None])


def project_simplex(v: Tensor) -> Tensor:
    """Project each row of v (n, d) onto {w ≥ 0, Σ w = 1} in Euclidean distance (Held, Wolfe, Crowder 1974)."""
    u = v.sort(dim=1, descending=True).values
    excess = u.cumsum(1) - 1
    count = torch.arange(1, v.shape[1] + 1, dtype=v.dtype, device=v.device)
    rho = (u * count > excess).sum(1, keepdim=True)
    return F.relu(v - excess.gather(1, rho - 1) / rho)


class SimplexKernel(Pixels):
    """A free kernel: K² pixels kept on the simplex by projection after each step (Eqs. 4, 5).

    Parameters
    ----------
    kernel_size : int
        Side K.
    center, std : float
        The Gaussian that it starts from.
    """

    def __init__(self, kernel_size: int, center: float, std: float = 2.0) -> None:
        var, middle = torch.full((1,), std**2), torch.full((1, 2), float(center))
        super().__init__(gaussian_kernel(kernel_size, var, var, torch.zeros(1), middle))

    @classmethod
    def at(cls, kernel: Tensor) -> SimplexKernel:
        """Start from a given kernel (1, 1, K, K)."""
        made = cls(kernel.shape[-1], 0.0)
        made.pixels.data.copy_(kernel)
        return made

    @torch.no_grad()
    def retract_(self) -> None:
        """Project the pixels onto the simplex."""
        self.pixels.copy_(project_simplex(self.pixels.flatten(1)).view_as(self.pixels))


class ScaledKernel(SimplexKernel):
    """A free kernel that is put back on the simplex by two moves in turn: negative pixels to zero, then k / Σ k.

    This is not the Euclidean projection of `SimplexKernel`, whose arguments it takes. With it alternating minimisation
    has other fixed points: while the regularised image lacks contrast, neighbours of a single peak gain on it, so the
    peak (the blurred image explaining itself) is left behind (the "delayed scaling" of Perrone and Favaro, "A Clearer
    Picture of Total Variation Blind Deconvolution", TPAMI 2016).
    """

    @torch.no_grad()
    def retract_(self) -> None:
        """Clip, then scale; a kernel without a positive pixel becomes uniform."""
        self.pixels.clamp_(min=0)
        total = self.pixels.sum()
        self.pixels.copy_(self.pixels / total if total > 0 else torch.full_like(self.pixels, 1 / self.pixels.numel()))


class FixedKernel(Generator):
    """A given kernel (1, 1, K, K), without parameters."""

    kernel: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel.clone())

    def forward(self) -> Tensor:
        """Return the kernel."""
        return self.kernel
