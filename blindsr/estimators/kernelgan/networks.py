"""The two networks: a deep linear generator that downscales patches by 2, and a discriminator of patches.

References
----------
Bell-Kligler, Shocher, Irani, "Blind Super-Resolution Kernel Estimation using an Internal-GAN", NeurIPS 2019, Sec. 4;
Miyato, Kataoka, Koyama, Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

STEP = 2
"""Factor by which the generator downscales."""
GAIN = 0.1
"""Gain of the initial weights (Glorot normal), as published."""


class DeepLinear(nn.Module):
    """A linear network of convolutions: one kernel, written as the product of several layers.

    Without biases and activations, the layers together are one correlation with the kernel k = w_1 ⊗ w_2 ⊗ … ⊗ w_n,
    kept at every second pixel. `forward` applies that kernel directly, which is the same function of the weights, with
    the same gradients, at a fraction of the cost. `layers` are the sides of the filters (as published, for a kernel of
    13x13), and `channels` lie between them. Weights come from torch's global random state: construct inside
    `blindsr.random.seeded`.
    """

    def __init__(self, layers: tuple[int, ...] = (7, 5, 3, 1, 1, 1), channels: int = 64) -> None:
        super().__init__()
        widths = (1, *[channels] * (len(layers) - 1), 1)
        shapes = [(c_out, c_in, n, n) for c_in, c_out, n in zip(widths[:-1], widths[1:], layers, strict=True)]
        self.weights = nn.ParameterList([nn.init.xavier_normal_(torch.empty(shape), GAIN) for shape in shapes])
        self.kernel_size = sum(layers) - len(layers) + 1

    def kernel(self) -> Tensor:
        """Return the kernel (1, 1, K, K), applied by correlation; neither non-negative nor normalised."""
        first, *rest = self.weights
        k: Tensor = first.transpose(0, 1)  # (1, channels, n, n): one filter for each channel of the next layer
        for w in rest:
            # Correlations in turn are a convolution of their kernels: (a ⋆ b)[t] = sum_u a[t - u] b[u].
            k = F.conv2d(F.pad(k, [w.shape[-1] - 1] * 4), w.flip(-1, -2))
        return k

    def forward(self, x: Tensor, kernel: Tensor | None = None) -> Tensor:
        """Downscale planes (N, 1, h, w) to (N, 1, (h - K) // 2 + 1, …), by `kernel` where it is known already."""
        out: Tensor = F.conv2d(x, self.kernel() if kernel is None else kernel, stride=STEP)
        return out


class PatchDiscriminator(nn.Module):
    """A map of the probability that the 7x7 patch around each pixel comes from y: fully convolutional, without pooling.

    One convolution of the patch's side, then 1x1 convolutions with batch normalisation and ReLU, and a sigmoid at the
    end; all weights are spectrally normalised, and the default sizes are as published. Weights come from torch's global
    random state: construct inside `blindsr.random.seeded`.
    """

    def __init__(self, colours: int, channels: int = 64, layers: int = 7, patch: int = 7) -> None:
        super().__init__()
        self.patch = patch
        parts: list[nn.Module] = [_convolution(colours, channels, patch)]
        for _ in range(layers - 2):
            parts += [_convolution(channels, channels, 1), _normalisation(channels), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*parts, _convolution(channels, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Map a picture (B, C, h, w) to (B, 1, h - 6, w - 6), values in 0..1."""
        out: Tensor = self.body(x)
        return out


def _convolution(c_in: int, c_out: int, size: int) -> nn.Module:
    conv = nn.Conv2d(c_in, c_out, size)
    nn.init.xavier_normal_(conv.weight, GAIN)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return spectral_norm(conv)


def _normalisation(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight, 1.0, 0.02)
    return norm
