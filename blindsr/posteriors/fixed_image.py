"""Target (b): the posterior of a kernel given y and one fixed image x, by the exact quadratic form of the LR error.

With kernels k(z), a prior density p(z) that does not depend on y, n values of y, and the mean squared LR error e(k),

    log π(z, log σ) = log p(z) + log p(log σ) - n e(k(z)) / 2v - (n/2) log 2πv,        v = σ² + m².

σ is the noise level and m (`model_error`) the standard deviation of the errors of the fixed image. This is the Gaussian
likelihood of y at a given x. The quadratic form costs one K² x K² product per kernel, whatever the size of the image
(`likelihood.quadratic`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blindsr.likelihood.quadratic import LrErrorForm
from blindsr.operators.degradation import Degradation
from blindsr.posteriors.base import check_prior, coordinate_names
from blindsr.posteriors.laplace import minimise
from blindsr.posteriors.log_noise import LOG_2PI, LogNoisePrior
from blindsr.priors.base import KernelDensity

SMALLEST = 1e-300
"""Smallest variance: a chain that proposes log σ = -400 must not divide by zero."""


class FixedImageTarget:
    """p(z | y, x) or p(z, log σ | y, x): a `BayesTarget` and a `KernelTarget`.

    Parameters
    ----------
    x, y : Tensor
        HR (1, C, H, W) and LR (1, C, h, w), values 0..1. The borders of a photo are not circular, and nothing is known
        beyond them: give the part of y that x explains without its border, and `Padding.VALID`
        (`estimators.interior.interior` cuts it out).
    degradation : Degradation
        The operator.
    prior : KernelDensity
        p(z) over the kernel's parameters.
    noise_std : float, optional
        σ if it is known, in units of 0..1. Default: unknown, and sampled as the coordinate "log_noise".
    model_error : float
        m, in units of 0..1. An estimated image is not the true one. Its errors resemble noise but are not white, so the
        posterior is too narrow, and biased towards the kernel that x was estimated with. An unknown σ absorbs the size
        of these errors, not their correlation; m > 0 is meant for a known σ, or as a lower bound.
    noise_prior : LogNoisePrior, optional
        Prior of log σ, if σ is unknown.

    Attributes
    ----------
    names : tuple of str
        Coordinates: those of the prior, then "log_noise" (σ in units of 0..1) if the noise level is unknown.
    dim : int
        Number of coordinates.

    Raises
    ------
    ValueError
        If shapes do not fit together, values are not finite, the prior has no density, or a noise level is out of
        range.

    Notes
    -----
    Priors over two axes and an angle (`GaussianKernelPrior`) contain each kernel twice, with the axes exchanged and
    rotated by 90 degrees: two modes. `GaussianShape` contains each kernel once.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        degradation: Degradation,
        prior: KernelDensity,
        noise_std: float | None = None,
        *,
        model_error: float = 0.0,
        noise_prior: LogNoisePrior | None = None,
    ) -> None:
        check_prior(prior)
        if prior.kernel_size != degradation.kernel_size:
            raise ValueError(
                f"fixed image: the prior's kernels have side {prior.kernel_size}, not {degradation.kernel_size}"
            )
        _check_noise(noise_std, model_error)
        if len(x) != 1 or not (torch.isfinite(x).all() and torch.isfinite(y).all()):
            raise ValueError(f"fixed image: one image (1, C, H, W) of finite values is needed, got {tuple(x.shape)}")
        self.x, self.y = x.detach().cpu().double(), y.detach().cpu().double()
        self.degradation, self.prior = degradation, prior
        self.form = LrErrorForm.build(degradation, self.x, self.y)
        self.noise_std, self.model_error = noise_std, model_error
        self.noise_prior = noise_prior or LogNoisePrior()
        names = coordinate_names(prior)
        self.names = names if noise_std is not None else (*names, "log_noise")
        self.dim = len(self.names)
        if not self.names:
            raise ValueError(
                "fixed image: the kernel and the noise level are both fixed, so there is nothing to sample"
            )

    def given(self, y: Tensor) -> FixedImageTarget:
        """Return the same model for another y."""
        parts = (self.x, y, self.degradation, self.prior, self.noise_std)
        return FixedImageTarget(*parts, model_error=self.model_error, noise_prior=self.noise_prior)

    def _log_noise(self, z: Tensor) -> Tensor | None:
        return z[:, self.prior.dim] if self.noise_std is None else None

    def noise_level(self, z: Tensor) -> Tensor:
        """Square root of v, (n,) or (1,), of positions (n, dim): units of 0..1, float64."""
        return self.variance(self._log_noise(z.double())).sqrt()

    def variance(self, log_noise: Tensor | None) -> Tensor:
        """Return v = σ² + m²: (n,) of log σ (n,), (1,) of a known σ."""
        known = self.noise_std or 0.0
        square = torch.tensor([known**2], dtype=torch.float64) if log_noise is None else (2 * log_noise.double()).exp()
        return (square + self.model_error**2).clamp_min(SMALLEST)

    def kernel(self, z: Tensor) -> Tensor:
        """Kernels (n, 1, K, K) of positions (n, dim)."""
        return self.prior.kernel(z[:, : self.prior.dim])

    def _gaussian(self, error: Tensor, variance: Tensor) -> Tensor:
        return -0.5 * self.form.n * (error / variance + variance.log() + LOG_2PI)

    def log_likelihood(self, z: Tensor) -> Tensor:
        """Log likelihood of z (n, dim), normalised over y: (n,)."""
        z = z.double()
        return _no_nan(self._gaussian(self.form(self.kernel(z).double()), self.variance(self._log_noise(z))))

    def log_prior(self, z: Tensor) -> Tensor:
        """Normalised log prior of z (n, dim): (n,)."""
        z = z.double()
        log_noise = self._log_noise(z)
        total = self.prior.log_prob(z[:, : self.prior.dim])
        return _no_nan(total if log_noise is None else total + self.noise_prior.log_prob(log_noise))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (n, dim): (n,). Its normalising constant is the evidence p(y | x)."""
        return _no_nan(self.log_prior(z) + self.log_likelihood(z))

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log density (n,) and its gradient (n, dim), detached; only the formula of the kernel needs autograd."""
        with torch.enable_grad():
            at = z.detach().double().requires_grad_()
            kernels, log_prior = self.kernel(at), self.log_prior(at)
            fixed = kernels.detach()
            log_noise = self._log_noise(at.detach())
            variance, error = self.variance(log_noise), self.form(fixed)
            pull = self.form.gradient(fixed) * (-0.5 * self.form.n / variance)[:, None, None, None]
            through = log_prior.sum() + (kernels * pull).sum()
            (gradient,) = torch.autograd.grad(through, at)
        if log_noise is not None:
            slope = self.form.n * (error / variance - 1) * (2 * log_noise).exp() / variance
            gradient[:, self.prior.dim] += slope
        return _no_nan(log_prior.detach() + self._gaussian(error, variance)), gradient

    def sample_prior(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw n positions (n, dim) from the prior, float64."""
        z = self.prior.sample_z(n, generator=generator).double()
        if self.noise_std is not None:
            return z
        white = torch.randn(n, 1, generator=generator, dtype=torch.float64)
        return torch.cat([z, self.noise_prior.mean + self.noise_prior.std * white], 1)

    @torch.no_grad()
    def initial(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Starting points (n, dim), float64: kernels from the prior, with log σ within ±1 of that of their residuals.

        The prior is wider than the posterior, and its draws reach every mode.
        """
        z = self.sample_prior(n, generator=generator)
        if self.noise_std is None:
            residual = 0.5 * self.form(self.kernel(z)).clamp_min(1e-12).log()
            spread = 2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1
            z[:, -1] = residual + spread
        return z

    def mode(self, starts: int = 8) -> Tensor:
        """Highest mode found (dim,), by L-BFGS from draws of the prior (with a fixed seed).

        From each of `starts` draws ten steps are made; the best two are then continued to convergence.
        """
        generator = torch.Generator().manual_seed(0)
        points = self.initial(max(starts, 1), generator=generator)
        rough = [minimise(self._energy, p, steps=10) for p in points]
        best = sorted(rough, key=lambda pair: pair[0])[:2]
        found = [minimise(self._energy, p, steps=1000) for _, p in best]
        return min(found, key=lambda pair: pair[0])[1]

    def _energy(self, z: Tensor) -> Tensor:
        return -self.log_prob(z[None])[0]

    def laplace(self, starts: int = 8) -> tuple[Tensor, Tensor]:
        """Laplace approximation: mode (dim,) and covariance (dim, dim), float64.

        Curvatures below 1e-3 (standard deviations above 30) are raised to that value.
        """
        mode = self.mode(starts)
        hessian = torch.autograd.functional.hessian(self._energy, mode)
        values, vectors = torch.linalg.eigh(0.5 * (hessian + hessian.T))
        return mode, (vectors / values.clamp_min(1e-3)) @ vectors.T

    def observed(self) -> dict[str, Tensor]:
        """Return the observed data: {"lr_image": (C, h, w)}."""
        return {"lr_image": self.y[0]}

    def blurred(self, z: Tensor) -> Tensor:
        """Noise-free LR images (n, C, h, w) of positions (n, dim); float64, differentiable."""
        return self.degradation.each(self.x, self.kernel(z.double()))[:, 0]

    @torch.no_grad()
    def predict(self, z: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Posterior-predictive LR images, with noise and model error: {"lr_image": (n, C, h, w)}, float64."""
        clean = self.blurred(z)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        return {"lr_image": clean + self.noise_level(z)[:, None, None, None] * noise}

    def simulate(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Simulate y (1, C, h, w), float64, at a position (dim,) or (1, dim): for simulation-based calibration."""
        return self.predict(z.reshape(1, -1), generator)["lr_image"]

    @torch.no_grad()
    def pointwise_log_likelihood(self, z: Tensor, chunk: int = 64) -> dict[str, Tensor]:
        """Log likelihood of each value of y: {"lr_image": (n, C h w)}, float32, whose rows sum to `log_likelihood`.

        The result takes 4 n C h w bytes: thin the draws of a large image first. `chunk` positions at a time are
        evaluated, which bounds the memory beyond that.
        """
        rows = []
        for part in z.double().split(chunk):
            variance = self.variance(self._log_noise(part))[:, None]
            square = (self.blurred(part) - self.y[0]).flatten(1).square()
            rows.append((-0.5 * (square / variance + variance.log() + LOG_2PI)).float())
        return {"lr_image": torch.cat(rows)}


def _no_nan(value: Tensor) -> Tensor:
    """Log densities with -inf in place of what is not a number."""
    return value.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def _check_noise(noise_std: float | None, model_error: float) -> None:
    if noise_std is not None and not 0 <= noise_std < math.inf:
        raise ValueError(f"fixed image: noise level {noise_std}: a number of 0 or more, or None, is needed")
    if not 0 <= model_error < math.inf:
        raise ValueError(f"fixed image: model error {model_error}: a number of 0 or more is needed")
    if noise_std == 0 and model_error == 0:
        raise ValueError("fixed image: noise_std and model_error are both 0: one must be above 0")
