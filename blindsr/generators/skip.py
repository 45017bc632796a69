"""The image generator: the encoder-decoder of the deep image prior with skip connections and non-local blocks.

References
----------
Ulyanov, Vedaldi, Lempitsky, "Deep Image Prior", CVPR 2018 (the encoder-decoder with skip connections);
Wang, Girshick, Gupta, He, "Non-local Neural Networks", CVPR 2018 (the embedded-Gaussian block);
Xia et al., "Blind Super-Resolution via Meta-learning and Markov Chain Monte Carlo Simulation", 2024.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_MAP = 4
"""Smallest height or width of the deepest feature map; deeper levels are left out."""


@dataclass(frozen=True)
class SkipSettings:
    """Architecture of the skip network; the defaults are the published ones.

    Parameters
    ----------
    channels : int
        Number of feature channels in the encoder and the decoder.
    skip_channels : int
        Number of channels of the 1×1 skip connections.
    levels : int
        Number of resolutions; a small image gets fewer (see `MIN_MAP`).
    non_local_from : int or None
        First level, counted from 1, with a non-local block; None for no such blocks.
    input_channels : int
        Number of channels of the fixed input z_x.
    input_std : float
        z_x is uniform on [0, `input_std`), or normal with this standard deviation if `normal_input` is set.
    normal_input : bool
        Draw z_x from a normal distribution, which makes it a latent variable that `optimizers.em` samples.
    bf16 : bool
        Use mixed precision (bfloat16) if the device supports it; parameters stay float32.

    Raises
    ------
    ValueError
        If a number of channels or levels is below 1.
    """

    channels: int = 128
    skip_channels: int = 16
    levels: int = 5
    non_local_from: int | None = 3
    input_channels: int = 3
    input_std: float = 0.1
    bf16: bool = False
    normal_input: bool = False

    def __post_init__(self) -> None:
        if min(self.channels, self.skip_channels, self.levels, self.input_channels) < 1:
            raise ValueError("skip network: channels, skip_channels, levels and input_channels must be at least 1")


def _conv(c_in: int, c_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, size, stride, padding=size // 2, padding_mode="reflect" if size > 1 else "zeros")


def _block(c_in: int, c_out: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(c_in, c_out, size, stride), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2, inplace=True))


class NonLocalBlock(nn.Module):
    """Embedded-Gaussian non-local block: x + W softmax(θ(x)ᵀ φ(x)) g(x), with half the channels inside.

    The batch normalisation after W is initialised to zero, so that the block begins as the identity (Wang et al.,
    Sec. 4.1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.theta, self.phi, self.g = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.out = nn.Sequential(nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels))
        nn.init.zeros_(self.out[1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.out[1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C, H, W) to features of the same shape."""
        # (B, 1, H W, C/2): with an axis for the heads torch takes its fused path and never stores the HW × HW matrix.
        q, k, v = (conv(x).flatten(2).transpose(1, 2).unsqueeze(1) for conv in (self.theta, self.phi, self.g))
        y = F.scaled_dot_product_attention(q, k, v, scale=1.0).squeeze(1)
        out: Tensor = x + self.out(y.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:]))
        return out


class _Level(nn.Module):
    """One resolution: a skip connection parallel to the deeper levels, concatenated and convolved."""

    def __init__(self, c_in: int, settings: SkipSettings, level: int, levels: int) -> None:
        super().__init__()
        s, c = settings, settings.channels
        self.skip = _block(c_in, s.skip_channels, 1)
        down = [_block(c_in, c, 3, stride=2)]
        if s.non_local_from is not None and level >= s.non_local_from:
            down.append(nn.Sequential(NonLocalBlock(c)))
        self.down = nn.Sequential(*down, _block(c, c, 3))
        self.deeper = _Level(c, s, level + 1, levels) if level < levels else nn.Identity()
        self.join = nn.BatchNorm2d(s.skip_channels + c)
        self.up = nn.Sequential(_block(s.skip_channels + c, c, 3), _block(c, c, 1))

    def forward(self, x: Tensor) -> Tensor:
        deep = self.deeper(self.down(x))
        deep = F.interpolate(deep, scale_factor=2.0, mode="bilinear", align_corners=False)
        deep = deep[..., : x.shape[-2], : x.shape[-1]]  # odd sizes: 2 ceil(n/2) >= n
        out: Tensor = self.up(self.join(torch.cat([self.skip(x), deep], dim=1)))
        return out


def has_bf16(device: torch.device) -> bool:
    """Whether a device has bfloat16 arithmetic, rather than emulating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):  # oneDNN also says yes on plain AVX-512, where it emulates
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def usable_levels(height: int, width: int, wanted: int) -> int:
    """Number of levels, at least 1 and at most `wanted`, that an image of this size allows."""
    side, levels = min(height, width), 0
    while levels < wanted and -(-side // 2) >= MIN_MAP:
        side, levels = -(-side // 2), levels + 1
    return max(levels, 1)


class SkipNetwork(nn.Module):
    """x = G_x(z_x, φ_x): an image from the weights φ_x of the network and a fixed random input z_x.

    Parameters
    ----------
    channels : int
        Colour channels of the image.
    height, width : int
        Size of the image in pixels.
    settings : SkipSettings
        Architecture; the default is `SkipSettings()`.

    Notes
    -----
    Weights and z_x are drawn from torch's global random state; construct the network inside `blindsr.random.seeded`.
    """

    z: Tensor

    def __init__(self, channels: int, height: int, width: int, settings: SkipSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or SkipSettings()
        self.levels = usable_levels(height, width, self.settings.levels)
        self.body = _Level(self.settings.input_channels, self.settings, 1, self.levels)
        self.head = nn.Conv2d(self.settings.channels, channels, 1)
        draw = torch.randn if self.settings.normal_input else torch.rand
        z = draw(1, self.settings.input_channels, height, width) * self.settings.input_std
        self.register_buffer("z", z.contiguous(memory_format=torch.channels_last))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self) -> Tensor:
        """Return the image (1, C, H, W), float32, values in (0, 1)."""
        device = self.z.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.bf16 and has_bf16(device)):
            x = self.head(self.body(self.z))
        return torch.sigmoid(x.float())
