"""Unfolded half-quadratic splitting: data steps in closed form, and one small denoiser for all of them.

    z_i = argmin_z ‖y − (z ⊗ k)↓s‖² + α_i ‖z − x_{i-1}‖²,        x_i = D(z_i, β_i)

as in USRNet (Zhang et al. 2020), with fewer weights. The schedule of α and β is that of plug-and-play restoration
(Zhang et al. 2021), in which β falls geometrically to a level that the scale and the noise decide and α_i = λ σ²/β_i²,
times a correction by a small network that is told σ and s. Before training there is no correction.

The noise level σ that the network is told includes the error of the kernel: σ² is the mean square of y − (x ⊗ k)↓s for
the kernel that is *given*. Training on wrong kernels (`unfolded_training`) makes the network trust y less the larger
σ is, whatever caused it.

References
----------
Zhang, Van Gool, Timofte, "Deep Unfolding Network for Image Super-Resolution", CVPR 2020 (USRNet);
Zhang, Zuo, Zhang, "FFDNet: Toward a fast and flexible solution for CNN-based image denoising", IEEE TIP 2018 (pixels
folded into channels, the noise level as a channel);
Zhang, Li, Zuo, Zhang, Van Gool, Timofte, "Plug-and-play image restoration with deep denoiser prior", TPAMI 2021 (DPIR:
the schedule, and the residual U-net, of which the denoiser is a smaller relative).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blindsr.restorers.usrnet_net import data_step, transfer_function

FIRST, LAST, WEIGHT = 49 / 255, 0.75 / 255, 0.23
"""β_1, and λ, of Zhang et al. 2021; β_n for each unit of the scale, as in `splitting.PlugAndPlay`."""
CORRECTION = 0.3
"""Factor of what the correction's network says, before the exponential: its steps of training are that much smaller."""


class Residual(nn.Module):
    """x + conv(relu(conv(x))), 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, channels, H, W)."""
        out: Tensor = x + self.last(torch.relu(self.first(x)))
        return out


class DenoiserNet(nn.Module):
    """Denoiser of three-channel images for any noise level: a residual U-net.

    It works at half and a quarter of the resolution; pixels are folded 2x2 into channels, so that few weights see far.
    The noise level σ is one more input channel, and the output is x − σ n(x, σ), where n is the network's estimate of
    the noise in units of σ, so that nothing changes at σ = 0. A grey image goes through as three equal channels.

    Parameters
    ----------
    fine, coarse : int
        Feature channels at half and at a quarter of the resolution.
    fine_blocks, coarse_blocks : int
        Residual blocks there: `fine_blocks` before the quarter and as many after it.
    """

    def __init__(self, fine: int = 32, coarse: int = 64, fine_blocks: int = 2, coarse_blocks: int = 4) -> None:
        super().__init__()
        self.head = nn.Conv2d(13, fine, 3, padding=1)
        self.before = nn.Sequential(*[Residual(fine) for _ in range(fine_blocks)])
        self.down = nn.Conv2d(fine, coarse, 2, 2)
        self.body = nn.Sequential(*[Residual(coarse) for _ in range(coarse_blocks)])
        self.up = nn.ConvTranspose2d(coarse, fine, 2, 2)
        self.after = nn.Sequential(*[Residual(fine) for _ in range(fine_blocks)])
        self.tail = nn.Conv2d(fine, 12, 3, padding=1)

    def forward(self, x: Tensor, noise_std: Tensor) -> Tensor:
        """Denoise x (B, 3, H, W) at the levels (B, 1, 1, 1), both in units of 0..1; any H and W."""
        h, w = x.shape[-2:]
        whole = F.pad(x, (0, -w % 4, 0, -h % 4), mode="replicate")
        folded = F.pixel_unshuffle(whole, 2)
        level = noise_std.expand(-1, -1, *folded.shape[-2:])
        fine = self.before(self.head(torch.cat([folded, level], 1)))
        coarse = self.body(self.down(fine))
        noise = F.pixel_shuffle(self.tail(self.after(self.up(coarse) + fine)), 2)
        return x - noise_std * noise[..., :h, :w]


class UnfoldedNet(nn.Module):
    """The whole network.

    Parameters
    ----------
    denoiser : DenoiserNet
        D, the same in each round.
    rounds : int
        Rounds of data step and denoiser.
    hidden : int
        Units in each of the two hidden layers of the correction's network.
    """

    def __init__(self, denoiser: DenoiserNet, rounds: int = 6, hidden: int = 32) -> None:
        super().__init__()
        self.rounds, self.denoiser = rounds, denoiser
        last = nn.Linear(hidden, 2 * rounds)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.correction = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last)

    @classmethod
    def of(cls, shape: Mapping[str, int]) -> UnfoldedNet:
        """Build a network of a `shape`; KeyError if a number is missing."""
        denoiser = DenoiserNet(**{n: shape[n] for n in ("fine", "coarse", "fine_blocks", "coarse_blocks")})
        return cls(denoiser, shape["rounds"], shape["hidden"])

    @property
    def shape(self) -> dict[str, int]:
        """What `of` needs."""
        d, first = self.denoiser, self.correction[0]
        assert isinstance(first, nn.Linear)
        return {
            "fine": d.head.out_channels,
            "coarse": d.down.out_channels,
            "fine_blocks": len(d.before),
            "coarse_blocks": len(d.body),
            "rounds": self.rounds,
            "hidden": first.out_features,
        }

    def schedule(self, noise_std: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """α and β (B, rounds, 1, 1) for noise levels (B, 1, 1, 1), units of 0..1."""
        sigma = noise_std[:, 0, 0]  # (B, 1)
        told = torch.cat([(sigma * 255 + 0.3).log(), torch.full_like(sigma, math.log(scale))], 1)
        more = CORRECTION * self.correction(told)
        last = sigma.clamp_min(LAST * scale).clamp_max(FIRST)
        share = torch.linspace(0, 1, self.rounds, device=sigma.device)
        beta = FIRST * (last / FIRST) ** share * more[:, : self.rounds].exp()
        alpha = WEIGHT * sigma.square() / beta.square() * more[:, self.rounds :].exp()
        return alpha[:, :, None, None], beta[:, :, None, None]

    def forward(self, y: Tensor, kernel: Tensor, scale: int, noise_std: Tensor, offset: int = 0) -> Tensor:
        """Restore y (B, 3, h, w), values 0..1, with a circular border: (B, 3, s h, s w), not clipped.

        The kernel (B, 1, K, K) is applied by correlation, the noise level (B, 1, 1, 1), in units of 0..1, is above 0,
        and `offset` is the HR index of the first sample.
        """
        x = y.repeat_interleave(scale, -2).repeat_interleave(scale, -1).roll((offset, offset), (-2, -1))
        transfer = transfer_function(kernel, x.shape[-2], x.shape[-1], offset)
        alpha, beta = self.schedule(noise_std, scale)
        for i in range(self.rounds):
            x = data_step(x, y, transfer, alpha[:, i : i + 1], scale)
            x = self.denoiser(x.contiguous(memory_format=torch.channels_last), beta[:, i : i + 1]).float()
        return x
