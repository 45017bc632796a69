"""The network of USRNet: restoration for any kernel, any scale and any noise level in one set of weights.

It unfolds half-quadratic splitting of ½‖y − (x ⊗ k)↓s‖² / σ² + λ Ω(x) into a fixed number of rounds; each is

    z_i = argmin_z ‖y − (z ⊗ k)↓s‖² + α_i ‖z − x_{i-1}‖²     closed form in the Fourier domain (`data_step`)
    x_i = ResUNet(z_i, β_i)                                   a learned denoiser for the noise level β_i

and α, β come from a small network that is told (σ, s).

References
----------
Zhang, Van Gool, Timofte, "Deep Unfolding Network for Image Super-Resolution", CVPR 2020;
Zhao, Wei, Basarab, Dobigeon, Kouamé, Tourneret, "Fast Single Image Super-Resolution Using a New Analytical Solution
for l2-l2 Problems", IEEE TIP 2016 (the closed form).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Residual(nn.Module):
    """x + conv(relu(conv(x))), 3x3, without bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, last = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.res = nn.Sequential(first, nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.res(x)
        return out


def _residuals(channels: int, n: int) -> list[nn.Module]:
    return [_Residual(channels) for _ in range(n)]


class ResUNet(nn.Module):
    """Denoiser: a U-net of four resolutions with residual blocks; the skip connections are added.

    The noise level is one input channel beside those of the image; `channels` are the feature channels of the four
    resolutions, and `n_blocks` counts the residual blocks for each resolution and direction.
    """

    def __init__(self, image_channels: int, channels: tuple[int, int, int, int], n_blocks: int) -> None:
        super().__init__()
        c = channels

        def down(i: int) -> nn.Sequential:
            return nn.Sequential(*_residuals(c[i], n_blocks), nn.Conv2d(c[i], c[i + 1], 2, 2, bias=False))

        def up(i: int) -> nn.Sequential:
            enlarge = nn.ConvTranspose2d(c[i + 1], c[i], 2, 2, bias=False)
            return nn.Sequential(enlarge, *_residuals(c[i], n_blocks))

        self.m_head = nn.Conv2d(image_channels + 1, c[0], 3, padding=1, bias=False)
        self.m_down1, self.m_down2, self.m_down3 = down(0), down(1), down(2)
        self.m_body = nn.Sequential(*_residuals(c[3], n_blocks))
        self.m_up3, self.m_up2, self.m_up1 = up(2), up(1), up(0)
        self.m_tail = nn.Conv2d(c[0], image_channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, noise_level: Tensor) -> Tensor:
        """Denoise x (B, C, H, W) at the level (B, 1, 1, 1), in units of 0..1."""
        h, w = x.shape[-2:]
        x = torch.cat([x, noise_level.expand(-1, -1, h, w)], dim=1)
        x1 = self.m_head(F.pad(x, (0, -w % 8, 0, -h % 8), mode="replicate"))
        x2 = self.m_down1(x1)
        x3 = self.m_down2(x2)
        x4 = self.m_down3(x3)
        u3 = self.m_up3(self.m_body(x4) + x4)
        u1 = self.m_up1(self.m_up2(u3 + x3) + x2)
        out: Tensor = self.m_tail(u1 + x1)[..., :h, :w]
        return out


class HyperNetwork(nn.Module):
    """From (σ, s) to the weights α_1..α_n of the data steps and the noise levels β_1..β_n of the denoiser."""

    def __init__(self, n_iter: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(2, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, 2 * n_iter, 1),
            nn.Softplus(),
        )

    def forward(self, sigma: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """Return α and β, (B, n, 1, 1) each, for σ (B, 1, 1, 1) in units of 0..1."""
        out = self.mlp(torch.cat([sigma, torch.full_like(sigma, scale)], dim=1)) + 1e-6
        alpha, beta = out.chunk(2, dim=1)
        return alpha, beta


def transfer_function(kernel: Tensor, height: int, width: int, offset: int = 0) -> Tensor:
    """Fourier transform of circular correlation with a kernel, its pixel K//2 - offset at the origin.

    This is the transfer function of the flipped kernel in the paper's terms, as USRNet applies kernels by convolution.
    A kernel (B, 1, K, K) larger than the image wraps around; `offset` is the HR index of the first sample
    (`Degradation.offset`). The result is (B, 1, height, width), complex.
    """
    for axis, n in ((-2, height), (-1, width)):
        size = kernel.shape[axis]
        index = (torch.arange(size, device=kernel.device) - size // 2 + offset) % n
        shape = list(kernel.shape)
        shape[axis] = n
        kernel = kernel.new_zeros(shape).index_add(axis, index, kernel)
    transfer: Tensor = torch.fft.fft2(kernel).conj()
    return transfer


def alias_mean(spectrum: Tensor, scale: int) -> Tensor:
    """Spectrum (B, C, H, W) after keeping every s-th pixel: the mean over the s² aliases of each LR frequency."""
    h, w = spectrum.shape[-2] // scale, spectrum.shape[-1] // scale
    blocks: Tensor = spectrum.unflatten(-1, (scale, w)).unflatten(-3, (scale, h))
    return blocks.mean((-4, -2))


def data_step(x: Tensor, y: Tensor, transfer: Tensor, alpha: Tensor, scale: int) -> Tensor:
    """Solve min over z of ‖y − S B z‖² + α ‖z − x‖², B circular blur, S every s-th pixel from index 0.

    By the matrix inversion lemma (Zhao et al. 2016, Theorem 1, written for the change of x),

        z = x + Bᴴ Sᵀ (S B Bᴴ Sᵀ + α)⁻¹ (y − S B x),

    where S B Bᴴ Sᵀ is diagonal in the LR Fourier domain: the mean of |B|² over the aliases of a frequency. The form in
    the paper divides a small difference by α; this one does not, which matters in float32 where α is small.

    x and z are (B, C, s h, s w), y (B, C, h, w), the transfer function B (B, 1, s h, s w), and α > 0 (B, 1, 1, 1).
    """
    fx = torch.fft.fft2(x)
    missing = torch.fft.fft2(y) - alias_mean(transfer * fx, scale)
    power = alias_mean(transfer.real.square() + transfer.imag.square(), scale)
    gain = (missing / (power + alpha)).repeat(1, 1, scale, scale)
    z: Tensor = torch.fft.ifft2(fx + transfer.conj() * gain).real
    return z


class UsrNet(nn.Module):
    """Unfolded restoration network; the names of its parameters are those of the published weights.

    It makes `n_iter` rounds of data step and denoiser (`ResUNet`); `hidden` is the width of the network for α and β.
    """

    def __init__(
        self,
        n_iter: int = 6,
        channels: tuple[int, int, int, int] = (16, 32, 64, 64),
        n_blocks: int = 2,
        hidden: int = 32,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        self.n_iter, self.image_channels = n_iter, image_channels
        self.p = ResUNet(image_channels, channels, n_blocks)
        self.h = HyperNetwork(n_iter, hidden)

    def forward(self, y: Tensor, kernel: Tensor, scale: int, sigma: Tensor, offset: int = 0) -> Tensor:
        """Restore y (B, C, h, w), values 0..1, with a circular border: (B, C, s h, s w), not clipped.

        The kernel (B, 1, K, K) is applied by correlation, σ (B, 1, 1, 1) is in units of 0..1, and `offset` is the HR
        index of the first sample: 0, the grid of the training, or any other, by which the scene is shifted. The
        published weights were trained on scales 1 to 4.
        """
        x = y.repeat_interleave(scale, -2).repeat_interleave(scale, -1).roll((offset, offset), (-2, -1))
        transfer = transfer_function(kernel, x.shape[-2], x.shape[-1], offset)
        alpha, beta = self.h(sigma, scale)
        for i in range(self.n_iter):
            x = data_step(x, y, transfer, alpha[:, i : i + 1], scale)
            x = self.p(x, beta[:, i : i + 1])
        return x
