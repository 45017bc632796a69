"""Target (c): the posterior of the weights of a kernel network given y and a fixed image.

It is Eq. 17 of the MLMC paper with an explicit prior:

    log π(φ) = -n e(G(φ)) / 2σ² + Σ_l Σ_j log N(φ_lj; 0, τ_l² / f_l) + const,

where e is the mean squared LR error of the kernel G(φ) under the image (`LrErrorForm`, exact), n the number of values
of y, f_l the number of inputs of layer l (its fan-in; the same for weights and biases), and τ_l the scale of the prior
in that layer. The parameters of a chain are one row φ; all rows pass through the network in one batched product per
layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from blindsr.likelihood.quadratic import LrErrorForm
from blindsr.priors.base import KernelPrior

Pullback = Callable[[Tensor], Tensor]
"""dL/dk (n, 1, K, K) -> dL/dφ (n, dim)."""


@dataclass(frozen=True, eq=False)
class FlatNetwork:
    """A kernel network as a function of a flat vector of its parameters, for many vectors at once.

    The order within a row is that of `KernelNetwork.parameters()`: weight (outputs, inputs) and bias of each layer.

    Parameters
    ----------
    z : Tensor
        (inputs,) the fixed input z_k.
    widths : tuple of int
        Inputs, hidden layers, K².
    """

    z: Tensor
    widths: tuple[int, ...]

    @classmethod
    def of(cls, module: nn.Module) -> FlatNetwork:
        """Take the shape and the fixed input of a `KernelNetwork`; `flatten` takes its weights."""
        linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
        widths = (linear[0].in_features, *(m.out_features for m in linear))
        return cls(module.get_buffer("z")[0].detach().double(), widths)

    @staticmethod
    def flatten(module: nn.Module) -> Tensor:
        """The module's parameters as a row (1, dim), float64."""
        return torch.cat([p.detach().flatten() for p in module.parameters()])[None].double()

    @property
    def kernel_size(self) -> int:
        """Side K."""
        return math.isqrt(self.widths[-1])

    @cached_property
    def layers(self) -> tuple[tuple[slice, slice], ...]:
        """Positions of the weight and the bias of each layer within a row."""
        found, at = [], 0
        for inputs, outputs in zip(self.widths, self.widths[1:], strict=False):
            middle, end = at + inputs * outputs, at + inputs * outputs + outputs
            found.append((slice(at, middle), slice(middle, end)))
            at = end
        return tuple(found)

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return int(self.layers[-1][1].stop)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each parameter: weight_1[output,input], ..., bias_1[output], ..., for layers 1, 2, ..."""
        names: list[str] = []
        for layer, (inputs, outputs) in enumerate(zip(self.widths, self.widths[1:], strict=False), start=1):
            names += [f"weight_{layer}[{o},{i}]" for o in range(outputs) for i in range(inputs)]
            names += [f"bias_{layer}[{o}]" for o in range(outputs)]
        return tuple(names)

    def _forward(self, phi: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Pixels (n, K²), and the inputs (n, width) of each layer before ReLU6."""
        if phi.ndim != 2 or phi.shape[1] != self.dim:
            raise ValueError(f"network parameters have shape {tuple(phi.shape)}: (n, {self.dim}) is needed")
        value, values = self.z.to(phi).expand(len(phi), -1), []
        for layer, (weight, bias) in enumerate(self.layers):
            if layer:
                value = nn.functional.relu6(value)
            values.append(value)
            shape = (len(phi), self.widths[layer + 1], self.widths[layer])
            value = torch.baddbmm(phi[:, bias, None], phi[:, weight].view(shape), value[:, :, None]).squeeze(2)
        return torch.softmax(value, dim=1), values

    def kernel(self, phi: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of parameters (n, dim), differentiable, in the dtype of φ; ValueError if dim differs."""
        return self._forward(phi)[0].view(-1, 1, self.kernel_size, self.kernel_size)

    @torch.no_grad()
    def pullback(self, phi: Tensor) -> tuple[Tensor, Pullback]:
        """Kernels (n, 1, K, K), and the function that takes dL/dk to dL/dφ, without autograd."""
        k, values = self._forward(phi)

        def back(cotangent: Tensor) -> Tensor:
            v = cotangent.flatten(1).to(phi)
            d, out = k * (v - (k * v).sum(1, keepdim=True)), torch.empty_like(phi)
            for layer in reversed(range(len(self.layers))):
                weight, bias = self.layers[layer]
                h = nn.functional.relu6(values[layer]) if layer else values[layer]
                shape = (len(phi), self.widths[layer + 1], self.widths[layer])
                out[:, bias] = d
                torch.mul(d[:, :, None], h[:, None, :], out=out[:, weight].view(shape))
                if layer:
                    d = torch.bmm(d[:, None], phi[:, weight].view(shape)).squeeze(1)
                    d = d * ((values[layer] > 0) & (values[layer] < 6))
            return out

        return k.view(-1, 1, self.kernel_size, self.kernel_size), back


@dataclass(frozen=True, eq=False)
class NetworkTarget:
    """The posterior at the top of the module: a `BayesTarget` and a `KernelTarget`.

    Parameters
    ----------
    network : FlatNetwork
        G.
    form : LrErrorForm
        e(k) under the fixed image.
    noise_variance : float
        σ², squared units of y.
    prior_std : tuple of float
        τ_l of each layer. With inputs of unit size, τ_l is about the standard deviation of the layer's outputs under
        the prior; those of the last layer are the logits of the kernel's pixels.
    kernel_prior : KernelPrior or None
        Random kernels for the Monte Carlo loss of `samplers.NetworkLangevin`; no part of the density.

    Raises
    ------
    ValueError
        If the variance or a τ is not positive, there is not one τ for each layer, or the form belongs to another
        kernel size.
    """

    network: FlatNetwork
    form: LrErrorForm
    noise_variance: float
    prior_std: tuple[float, ...]
    kernel_prior: KernelPrior | None = None

    def __post_init__(self) -> None:
        if not (self.noise_variance > 0 and all(t > 0 for t in self.prior_std)):
            raise ValueError("network target: the noise variance and the prior's standard deviations must be above 0")
        if len(self.prior_std) != len(self.network.layers):
            raise ValueError(
                f"network target: {len(self.prior_std)} prior standard deviations for {len(self.network.layers)} layers"
            )
        if len(self.form.b) != self.network.widths[-1]:
            raise ValueError(
                f"network target: the network makes kernels of {self.network.widths[-1]} pixels, "
                f"the quadratic form takes {len(self.form.b)}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each parameter."""
        return self.network.names

    @cached_property
    def scales(self) -> Tensor:
        """Prior standard deviation of each parameter (dim,), float64."""
        scales = torch.empty(self.network.dim, dtype=torch.float64)
        for (weight, bias), tau, inputs in zip(self.network.layers, self.prior_std, self.network.widths, strict=False):
            scales[weight.start : bias.stop] = tau / math.sqrt(inputs)
        return scales

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of parameters (n, dim)."""
        return self.network.kernel(z)

    def log_prior(self, z: Tensor) -> Tensor:
        """Normalised log prior of parameters (n, dim): (n,)."""
        scales = self.scales.to(z)
        constant = float(self.scales.log().sum()) + 0.5 * self.network.dim * math.log(2 * math.pi)
        return -0.5 * (z / scales).square().sum(1) - constant

    def log_likelihood(self, z: Tensor) -> Tensor:
        """-n e(G(φ)) / 2σ² of parameters (n, dim): (n,)."""
        return -0.5 * self.form.n / self.noise_variance * self.form(self.kernel(z))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of parameters (n, dim), up to a constant: (n,)."""
        return self.log_likelihood(z) + self.log_prior(z)

    @torch.no_grad()
    def error_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """L_RE = e(G(φ)) (n,), squared units of y, and its gradient (n, dim): no prior, no σ²."""
        k, back = self.network.pullback(z)
        return self.form(k), back(self.form.gradient(k))

    @torch.no_grad()
    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log density (n,) and its gradient (n, dim), without autograd."""
        error, gradient = self.error_and_gradient(z)
        precision = 0.5 * self.form.n / self.noise_variance
        return self.log_prior(z) - precision * error, -precision * gradient - z / self.scales.to(z).square()

    def sample_prior(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draws (n, dim) from the prior, float64."""
        return self.scales * torch.randn(n, self.network.dim, generator=generator, dtype=torch.float64)

    def initial(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Starting points (n, dim): draws from the prior, which is wider than the posterior."""
        return self.sample_prior(n, generator=generator)
