"""A start for a free kernel: blind deconvolution of a picture at its own resolution, coarse to fine.

At the resolution of y there is nothing to super-resolve, the kernel has s² times fewer pixels, and the classic scheme
applies: an image of sparse gradients (L0) and a least-squares kernel in turn, from a small picture to the whole one
(Cho, Lee 2009; Xu, Jia 2010; Pan et al. 2014).

References
----------
Cho, Lee, "Fast motion deblurring", ACM TOG 2009;
Xu, Jia, "Two-phase kernel estimation for robust motion deblurring", ECCV 2010;
Pan, Hu, Su, Yang, "Deblurring text images via L0-regularized intensity and gradient prior", CVPR 2014.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blindsr.estimators.free_steps import (
    ImageStep,
    centered,
    connected,
    differences,
    gradient_form,
    least_squares_kernel,
    resized,
)
from blindsr.likelihood.spectral import SpectralLikelihood, SpectralSettings
from blindsr.posteriors.free_kernel import fit_content, free_kernel_step

COARSEST = 7
"""Side of the kernel from which on the spectra take part in a start: a smaller one has too little to say."""
ITERATIONS = 5
"""Turns of image and kernel at each resolution. As in Pan et al. 2014, like the ridge of 2, the decay of 1.1, the least
λ of 1e-4 and the threshold of 0.05."""


def deconvolved(grey: Tensor, size: int, weight: float, spectra: float = 0.0) -> Tensor:
    """Estimate the kernel of a periodic grey picture at its own resolution.

    Parameters
    ----------
    grey : Tensor
        (h, w), float32, values 0..1.
    size : int
        Side of the kernel, odd.
    weight : float
        λ of the L0 images at first, squared units of `grey`.
    spectra : float
        Weight of the edges against the spectral marginal likelihood at scale 1; 0 leaves the spectra out.

    Returns
    -------
    Tensor
        (size, size), non-negative, sum one, centre of mass in the middle.
    """
    (h, w), kernel = grey.shape, None
    for n in sizes(size):
        y = grey if n == size else resized(grey, *(max(16, round(m * n / size)) for m in (h, w)))
        if kernel is None:
            kernel = torch.zeros(n, n)
            kernel[n // 2, n // 2 : n // 2 + 2] = 0.5  # no blur has no gradient to start from
        kernel = resized(kernel, n, n, antialias=False).clamp_min(0)
        kernel = centered(kernel / kernel.sum(), n // 2)
        images, of_y, content = ImageStep(y, 1, n // 2), differences(y), None
        likelihood = None
        if spectra and n >= COARSEST:
            likelihood = SpectralLikelihood(y[None, None], 1, SpectralSettings(window=64, max_windows=9)).single()
        for _ in range(ITERATIONS):
            x = images(kernel, weight, sparse=True)
            a, b = gradient_form(differences(x), of_y, 1, n, n // 2)
            if likelihood is None:
                kernel = least_squares_kernel(a, b, 2.0).view(n, n)
            else:
                content = fit_content(likelihood, kernel, content, 10 if content is None else 3)[1]
                kernel = free_kernel_step(
                    likelihood,
                    kernel,
                    content,
                    (a.double(), b.double()),
                    share=1.0,
                    edges=spectra,
                    smoothness=200.0,
                    steps=15,
                )
            kernel = centered(connected(kernel, 0.05), n // 2)
            weight = max(weight / 1.1, 1e-4)
    assert kernel is not None
    return kernel


def sizes(size: int) -> list[int]:
    """Odd sides of the kernel from 3 up to `size`, each about √2 times the one before."""
    out = [size]
    while out[0] > 3:
        n = math.ceil(out[0] / math.sqrt(2)) | 1
        out.insert(0, max(min(n, out[0] - 2), 3))
    return out
