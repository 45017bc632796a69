"""What the data say: data terms, noise models, the quadratic form of the LR error, and the spectral likelihood."""

from blindsr.likelihood.content import PHOTOGRAPH, POWER_LAW, Term
from blindsr.likelihood.data_term import DataTerm, GaussianLikelihood, SsimThenMse
from blindsr.likelihood.fields import degraded_field, random_field
from blindsr.likelihood.noise import FixedNoise, IidNoise, NoiseModel, PatchNoise
from blindsr.likelihood.quadratic import LrErrorForm, lr_errors
from blindsr.likelihood.spectral import SpectralLikelihood, SpectralSettings

__all__ = [
    "PHOTOGRAPH",
    "POWER_LAW",
    "DataTerm",
    "FixedNoise",
    "GaussianLikelihood",
    "IidNoise",
    "LrErrorForm",
    "NoiseModel",
    "PatchNoise",
    "SpectralLikelihood",
    "SpectralSettings",
    "SsimThenMse",
    "Term",
    "degraded_field",
    "lr_errors",
    "random_field",
]
