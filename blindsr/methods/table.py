"""The table of methods, and the one door to it: `compose`.

A new method of the joint loop is one `LoopRow` here; another way to find the kernel is one file in `estimators` and one
`OtherRow`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from blindsr.errors import UserError
from blindsr.estimators.assumed import NoKernel
from blindsr.estimators.base import Estimator
from blindsr.estimators.free_form import FreeFormEstimator
from blindsr.estimators.kernelgan.game import KernelGan
from blindsr.estimators.spectral import KernelEstimator
from blindsr.estimators.stopping import MovingVariance
from blindsr.likelihood.data_term import GaussianLikelihood, SsimThenMse
from blindsr.methods.base import Method
from blindsr.methods.loop_row import LoopRow
from blindsr.methods.parts import IMAGE_PRIORS, IMAGES, KERNELS, NOISES, OPTIMIZERS, PRIORS, RESTORERS
from blindsr.methods.presets import BSRDM, find_preset
from blindsr.methods.rows import Choice, OtherRow, Row, SpectralRow
from blindsr.methods.words import estimator_part, is_reference
from blindsr.operators.degradation import Degradation

DEFAULT_METHOD = "free-unfolded"
"""The method where none is named."""
MAP_METHOD = "free-map"
"""The method where none is named and an image prior for MAP images is."""
LOOP_METHOD = "mlmc"
"""The method where none is named and a part of the joint loop is."""
MAP_PRIORS = ("patch-groups",)
"""Image priors that, named alone, are for MAP images; they are slow in the joint loop."""

_MLMC = LoopRow(
    "mlmc",
    "the paper's method (Xia et al. 2024)",
    PRIORS["gaussian"],
    OPTIMIZERS["meta"],
    IMAGE_PRIORS["hyper-laplacian"],
)

METHODS: dict[str, Row] = {
    m.name: m
    for m in (
        SpectralRow(
            "free-unfolded",
            "a kernel of any shape, where y asks for one; the image by a network trained on photographs",
            restorer=RESTORERS["unfolded"],
            free=FreeFormEstimator(),
        ),
        SpectralRow(
            "free-map", "the same kernel, then a MAP image: nothing trained beforehand", free=FreeFormEstimator()
        ),
        SpectralRow("fast-map", "kernel of a parametric family from the spectra of y, then a MAP image"),
        _MLMC,
        replace(_MLMC, name="mlmc-no-mc", summary="no Monte Carlo step, no warm-up", prior=PRIORS["none"]),
        replace(_MLMC, name="mlmc-no-meta", summary="plain alternating minimisation", optimizer=OPTIMIZERS["am"]),
        replace(_MLMC, name="mlmc-tv", summary="total variation", image_prior=IMAGE_PRIORS["tv"]),
        replace(_MLMC, name="mlmc-tikhonov", summary="Tikhonov", image_prior=IMAGE_PRIORS["tikhonov"]),
        replace(_MLMC, name="mlmc-no-image-prior", summary="no image prior", image_prior=IMAGE_PRIORS["none"]),
        replace(_MLMC, name="mlmc-motion", summary="random camera shake sampled", prior=PRIORS["motion"]),
        LoopRow(
            "double-dip",
            "two deep image priors, joint descent (Ren et al. 2020)",
            PRIORS["none"],
            noise=NOISES["none"],
            own={"data_term": SsimThenMse(80)},
        ),
        LoopRow(
            "pam",
            "projected alternating minimisation, total variation (Perrone & Favaro 2016)",
            PRIORS["none"],
            OPTIMIZERS["projected"],
            IMAGE_PRIORS["tv"],
            NOISES["none"],
            IMAGES["pixels"],
            KERNELS["pixels"],
            own={"data_term": GaussianLikelihood(), "steps": 1500},
        ),
        LoopRow(
            "dip",
            "deep image prior, kernel assumed (Ulyanov et al. 2018)",
            PRIORS["none"],
            noise=NOISES["none"],
            kernel=KERNELS["isotropic"],
            own={"data_term": GaussianLikelihood()},
        ),
        LoopRow(
            "fkp-dip",
            "the latent of a trained flow of kernels (Liang et al. 2021)",
            PRIORS["flow"],
            OPTIMIZERS["image-first"],
            noise=NOISES["none"],
            kernel=KERNELS["latent"],
            own={"data_term": SsimThenMse(80), "kernel_lr": 0.5},
        ),
        LoopRow(
            "spectral-dip",
            "the kernel of fast-map, and a skip network that its MAP image guides",
            PRIORS["none"],
            OPTIMIZERS["refit"],
            IMAGE_PRIORS["hyper-laplacian"],
            kernel=KERNELS["spectral"],
            own={
                "kernel_estimator": KernelEstimator(),
                "guide": RESTORERS["map"].value,
                "steps": 240,
                "stopping": MovingVariance(),
            },
        ),
        LoopRow(
            "bsrdm",
            "Monte Carlo EM, latent Langevin, noise by patches (Yue et al. 2022)",
            PRIORS["none"],
            OPTIMIZERS["em"],
            IMAGE_PRIORS["hyper-laplacian"],
            NOISES["patch"],
            kernel=KERNELS["gaussian"],
            numbers=BSRDM,
            own={"data_term": GaussianLikelihood()},
        ),
        OtherRow(
            "kernelgan",
            "kernel by an internal GAN, then ZSSR (Bell-Kligler et al. 2019)",
            "internal GAN",
            KernelGan(),
            RESTORERS["zssr"],
        ),
        OtherRow("bicubic", "interpolation (Keys 1981)", "none", NoKernel(), RESTORERS["bicubic"]),
        OtherRow("external", "a model of your own, by --restorer", "none", NoKernel(), RESTORERS["none"]),
    )
}
"""Every method by its name."""


def compose(choice: Choice, degradation: Degradation) -> Method:
    """Return the method that a user asks for.

    Where no method is named, a part of the joint loop (a kernel prior, an optimizer, an image prior, a noise model)
    replaces that of MLMC, and an image prior for MAP images that of free-map; else the default method is taken.

    Parameters
    ----------
    choice : Choice
        A row, and what replaces its parts.
    degradation : Degradation
        Forward operator, for parts that depend on it.

    Raises
    ------
    UserError
        If a name is unknown, a user's part does not keep its contract, or parts cannot be combined.
    """
    name = choice.method
    notes: tuple[str, ...] = ()
    if name is None:
        given = _loop_parts(choice)
        name = LOOP_METHOD if given else MAP_METHOD if choice.image_prior is not None else DEFAULT_METHOD
        if given:
            notes = (f"{', '.join(given)}: composed into the joint loop, --method {LOOP_METHOD}",)
    own = not isinstance(name, str) or is_reference(name)
    row = _user_row(name) if own else METHODS.get(str(name))
    if row is None:
        raise UserError(f"--method {name}: unknown; `blindsr methods` lists them: {', '.join(METHODS)}")
    find_preset(choice.preset)  # also where the method makes no use of it
    return replace(row.compose(choice, degradation, METHODS.values()), notes=notes)


def _loop_parts(choice: Choice) -> list[str]:
    """Options that name a part of the joint loop."""
    words: dict[str, Any] = {
        "prior": choice.prior,
        "optimizer": choice.optimizer,
        "image-prior": None if choice.image_prior in MAP_PRIORS else choice.image_prior,
        "noise": choice.noise if choice.noise in ("patch", "none") else None,
    }
    return [f"--{n} {w if isinstance(w, str) else type(w).__name__}" for n, w in words.items() if w is not None]


def _user_row(word: str | Estimator) -> Row:
    """Return the row of a user's estimator: its kernel, and the MAP image unless it makes its own."""
    part = estimator_part(word)
    restorer = RESTORERS["none" if part.value.makes_image else "map"]
    return OtherRow(part.name, "an estimator of your own", part.name, part.value, restorer, part.file)
