"""A kernel prior learned from kernels: white noise z through a normalizing flow (`flow_net`).

    z ~ N(0, I) in R^(K²),    k = decode(flow(z))

z is what a sampler moves and what FKP-DIP optimises: its density is the standard normal's. `log_prob_kernels` is the
density of given kernels, for held-out kernels. Flows for x2, x3 and x4 come with the package; `blindsr train-flow`
makes others. Pyro loads when a flow is read or trained, not before.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from blindsr.errors import UserError, check_file
from blindsr.operators.degradation import Degradation
from blindsr.priors.base import standard_normal
from blindsr.random import seeded

if TYPE_CHECKING:
    from blindsr.priors.flow_net import KernelFlow, Logits

FORMAT = "blindsr-flow-1"
SUFFIX = ".safetensors"
WEIGHTS = Path(__file__).parent / "weights"
"""Flows that come with the package: FAMILY-xSCALE.safetensors."""


class FlowPrior:
    """Kernels from a trained flow: a `KernelDensity`.

    Parameters
    ----------
    flow : KernelFlow
        The map from white noise to logits, trained.
    logits : Logits
        The map between kernels and logits.
    scale : int
        s for which it was trained.
    recipe : dict
        How it was trained; plain values.
    """

    def __init__(self, flow: KernelFlow, logits: Logits, scale: int, recipe: dict[str, Any]) -> None:
        self.flow = flow.eval().requires_grad_(False)
        self.logits, self.scale, self.recipe = logits, scale, dict(recipe)
        self._copies: dict[tuple[torch.device, torch.dtype], KernelFlow] = {}

    @property
    def kernel_size(self) -> int:
        """Side K."""
        return self.flow.shape.kernel_size

    @property
    def dim(self) -> int:
        """Dimension of z, K²."""
        return self.flow.shape.dim

    def _flow_for(self, tensor: Tensor) -> KernelFlow:
        """The flow on a tensor's device and in its precision."""
        place = (tensor.device, tensor.dtype)
        if place not in self._copies:
            self._copies[place] = copied(self.flow).to(tensor)
        return self._copies[place]

    def sample_z(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n latents (n, dim) from N(0, I)."""
        return torch.randn(n, self.dim, generator=generator)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n kernels (n, 1, K, K), non-negative, each summing to one."""
        return self.kernel(self.sample_z(n, generator=generator))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (n, dim), the standard normal's: (n,)."""
        return standard_normal(z)

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of latents z (n, dim), differentiable."""
        return self.logits.decode(self._flow_for(z)(z))

    @torch.no_grad()
    def log_prob_kernels(self, kernels: Tensor, *, generator: torch.Generator) -> Tensor:
        """Log density (n,), nats, of the dequantised logits of kernels (n, 1, K, K); the generator draws their noise.

        Densities of two models can be compared where `logits` are the same. Kernels of another size raise ValueError.
        """
        if kernels.shape[1:] != (1, self.kernel_size, self.kernel_size):
            k = self.kernel_size
            raise ValueError(f"flow: kernels of shape {tuple(kernels.shape)}; (n, 1, {k}, {k}) is needed")
        return self.log_prob_logits(self.logits.encode(kernels.double(), generator=generator))

    @torch.no_grad()
    def log_prob_logits(self, v: Tensor) -> Tensor:
        """Log density (n,), nats, of dequantised logits (n, K²)."""
        return self._flow_for(v).log_prob(v)


def copied(flow: KernelFlow) -> KernelFlow:
    """Return an independent copy of a flow, in evaluation mode and without gradients."""
    with seeded(0):
        other = type(flow)(flow.shape)
    other.load_state_dict(flow.state_dict())
    return other.eval().requires_grad_(False)


def flow_bytes(prior: FlowPrior) -> bytes:
    """The content of a flow's file: weights, and its shape, logits, scale and recipe as metadata (safetensors).

    The networks' weights take half precision, to which training rounds them; mean, axes and spreads single precision.
    """
    from safetensors.torch import save

    about = {
        "format": FORMAT,
        "scale": prior.scale,
        "shape": asdict(prior.flow.shape),
        "logits": asdict(prior.logits),
        "recipe": prior.recipe,
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in prior.flow.state_dict().items()}
    tensors |= {name: p.detach().cpu().half() for name, p in prior.flow.named_parameters()}
    return save(tensors, {"about": json.dumps(about)})  # one entry: several come in any order


def read_flow(path: Path) -> FlowPrior:
    """Read a flow's file (.safetensors), without running any code in it.

    Raises
    ------
    UserError
        If the file cannot be read, or does not hold a flow.
    """
    from safetensors import SafetensorError, safe_open

    check_file(path, "a flow's file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file, or damaged") from error
    if FORMAT not in (metadata.get("format"), _format(metadata.get("about", ""))):
        raise UserError(f"{path}: not a flow of this version of blindsr; `blindsr train-flow` makes one")
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise UserError(f"{path}: the weights are not all finite numbers")
    try:
        return _rebuilt(json.loads(metadata["about"]), tensors)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path}: the weights do not fit their description; train the flow anew") from error


def _format(about: str) -> object:
    try:
        described = json.loads(about)
    except ValueError:
        return None
    return described.get("format") if isinstance(described, dict) else None


def _rebuilt(about: dict[str, Any], tensors: dict[str, Tensor]) -> FlowPrior:
    from blindsr.priors.flow_net import FlowShape, KernelFlow, Logits

    shape = FlowShape(**about["shape"] | {"levels": tuple(about["shape"]["levels"])})
    if tensors["mean"].shape != (shape.dim,):  # before memory is taken for a size that a damaged file claims
        raise ValueError("another kernel size")
    with seeded(0):
        flow = KernelFlow(shape)
    flow.load_state_dict(tensors)
    return FlowPrior(flow, Logits(**about["logits"]), int(about["scale"]), about["recipe"])


def flow_for(degradation: Degradation, source: str | Path = "gaussian") -> FlowPrior:
    """Return a flow for a degradation: one that comes with the package, or a file's.

    Parameters
    ----------
    degradation : Degradation
        Scale and kernel size.
    source : str or Path
        "gaussian", "motion": what the flow learned; or the path of a flow's file.

    Raises
    ------
    UserError
        If there is none, or it makes kernels for another size or scale.
    """
    size, scale = degradation.kernel_size, degradation.scale
    path = source if isinstance(source, Path) else WEIGHTS / f"{source}-x{scale}{SUFFIX}"
    family = "gaussian" if isinstance(source, Path) else source
    train = (
        f"train one: blindsr train-flow --prior {family} --scale {scale} --kernel-size {size} --out FILE{SUFFIX}, "
        f"and give it as --prior FILE{SUFFIX}"
    )
    if not isinstance(source, Path) and not path.is_file():
        raise UserError(f"no {source} flow for x{scale} comes with blindsr; {train}")
    prior = read_flow(path)
    if (prior.kernel_size, prior.scale) != (size, scale):
        made = f"{prior.kernel_size}x{prior.kernel_size} kernels at x{prior.scale}"
        raise UserError(f"{path.name}: the flow makes {made}, the run wants {size}x{size} at x{scale}; {train}")
    return prior
