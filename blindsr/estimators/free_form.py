"""A kernel of any shape from y alone: sharp edges tell its phase, the spectra tell its magnitude.

1. Starts: y is deconvolved blindly at its own resolution, coarse to fine, with images of sparse gradients (L0), at
   several weights. At one of them the spectral marginal likelihood at scale 1 takes part.
2. Each start is enlarged to the HR grid and refined: a total-variation image at the current kernel, then a kernel step
   that lowers, over the simplex,

       −share · log L(k) + edges · ‖∇y − (∇x ⊗ k)↓s‖² + smoothness · ‖∇k‖²,

   with L the marginal likelihood of `likelihood.spectral`, in which the image is integrated out. Without L, the image
   and the kernel drift together towards no blur (Levin et al. 2009).
3. The starts are ranked by −log L(k) + sparsity · ‖∇x‖₁/‖∇x‖₂ (Krishnan, Tay, Fergus 2011), and the best ones go on.

The weights were chosen on 12 pictures (every fourth of the odd-numbered files of data/dev) with the four motion kernels
of KAIR and eight drawn ones, x2; `benchmarks/motion.py` measures the result on the even-numbered files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blindsr.estimators.base import Estimate, Estimation, Estimator, Metrics, check_image, loaded
from blindsr.estimators.free_steps import (
    ImageStep,
    centered,
    connected,
    differences,
    gradient_form,
    least_squares_kernel,
    resized,
)
from blindsr.estimators.interior import detailed_crop
from blindsr.likelihood.spectral import SpectralLikelihood, SpectralSettings
from blindsr.operators.degradation import Degradation, Padding
from blindsr.operators.kernels import framed, width
from blindsr.operators.luma import luma
from blindsr.posteriors.free_kernel import fit_content, free_kernel_step
from blindsr.restorers.usrnet import close_border
from blindsr.threads import one_thread

LARGEST = {2: 31, 3: 35, 4: 41, 8: 61}
"""Side of the kernel that is searched for, by scale, unless a larger one is asked for."""
COARSEST = 7
"""Side of the LR kernel from which on the spectra take part in a start: a smaller one has too little to say."""
SMALLEST = 24
"""Least side of y, LR pixels."""


@dataclass(frozen=True)
class FreeFormEstimator(Estimator):
    """Blind deconvolution with a kernel of any shape; see the top of the module.

    Its steps are the starts, one each, and then `rounds` more on the best of them.

    Parameters
    ----------
    weights : tuple of float
        λ of the L0 images, one start each, squared units of y.
    with_spectra : float
        Weight `edges` of one more start in which the spectra take part.
    trial, rounds : int
        Refinement rounds of every start, and of the `kept` best afterwards.
    kept : int
        Starts that go on.
    first, last, decay : float
        λ of the total-variation images: from `first`, divided by `decay` at each round, to `last`.
    share, edges, smoothness : float
        Weights of the kernel step's terms.
    threshold : float
        Pixels below this share of the kernel's peak are cut.
    sparsity : float
        Weight of ‖∇x‖₁/‖∇x‖₂ in the ranking, nats.
    image_error : float
        Standard deviation of what an estimated kernel leaves unexplained, units of 0..1; added to the noise level in
        squares for the restorer.
    side : int
        A larger y is cut to its most detailed square of this side (HR pixels).

    Raises
    ------
    ValueError
        If a number lies outside its range.
    """

    weights: tuple[float, ...] = (8e-3, 4e-3, 2e-3, 1e-3)
    with_spectra: float = 300.0
    trial: int = 3
    rounds: int = 5
    kept: int = 2
    first: float = 2e-3
    last: float = 3e-4
    decay: float = 1.3
    share: float = 0.3
    edges: float = 2000.0
    smoothness: float = 3e4
    threshold: float = 0.02
    sparsity: float = 10.0
    image_error: float = 3 / 255
    side: int = 320
    stochastic = False

    def __post_init__(self) -> None:
        positive = (*self.weights, self.first, self.last, self.edges, self.side, self.kept, self.trial)
        if not self.weights or not min(positive) > 0 or not self.decay >= 1:
            raise ValueError("free-form kernel: need weights, rounds and a side above 0, and a decay of at least 1")
        if not min(self.with_spectra, self.share, self.smoothness, self.sparsity, self.image_error, self.rounds) >= 0:
            raise ValueError("free-form kernel: need weights and errors of 0 or more")

    def steps_for(self, degradation: Degradation) -> int:
        """One for each start, and the rounds after them."""
        return len(self.weights) + (self.with_spectra > 0) + self.rounds

    def check(self, y: Tensor, degradation: Degradation, device: torch.device) -> None:
        """Refuse pictures that are too small to hold edges."""
        if min(y.shape[-2:]) < SMALLEST:
            h, w = y.shape[-2:]
            raise ValueError(f"{w}x{h} pixels: a free kernel needs a picture of at least {SMALLEST}x{SMALLEST}")

    def start(
        self, y: Tensor, degradation: Degradation, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> FreeFormEstimation:
        """Begin on an LR image (1, C, h, w); nothing is drawn, and everything is computed on the CPU."""
        check_image(y)
        self.check(y, degradation, torch.device("cpu"))
        return FreeFormEstimation(self, y.detach().cpu(), degradation)

    def resume(
        self, y: Tensor, degradation: Degradation, state: dict[str, Any], *, device: torch.device | str = "cpu"
    ) -> FreeFormEstimation:
        """Rebuild an estimation; it goes on where it was."""
        return loaded(self.start(y, degradation), state)


@dataclass(frozen=True)
class _Candidate:
    """A kernel under refinement; `energy` ranks it, `rounds` counts its refinements."""

    kernel: Tensor
    content: Tensor | None = None
    rounds: int = 0
    energy: float = math.inf
    nats: float = math.inf
    start: str = ""


class FreeFormEstimation(Estimation):
    """A free-form estimation under way."""

    def __init__(self, settings: FreeFormEstimator, y: Tensor, degradation: Degradation) -> None:
        self.settings, self.channels, self.wanted = settings, y.shape[1], degradation.kernel_size
        s = degradation.scale
        most = s * min(y.shape[-2:]) // 2 - 1 | 1
        self.size = min(max(degradation.kernel_size, LARGEST[s]), max(most, degradation.kernel_size))
        part, cut = detailed_crop(luma(y), degradation, settings.side // s)
        whole = Degradation(s, self.size, degradation.alignment, Padding.CIRCULAR)
        self.scale, self.center, self.before = s, whole.center, whole.margins[0]
        self.band = 0 if cut.padding is Padding.CIRCULAR else math.ceil(self.size / s)
        self.grey = (close_border(part, self.band) if self.band else part)[0, 0].float()
        self.edges = self._edges(self.grey)
        self.images = ImageStep(self.grey, s, self.before)
        self.likelihood = SpectralLikelihood(y, s, SpectralSettings(window=64, max_windows=9)).single()
        self.candidates: list[_Candidate] = []
        self.step = 0

    def _edges(self, y: Tensor) -> Tensor:
        """Differences of y, none where its border was made up."""
        out = differences(y)
        if self.band:
            seen = torch.zeros_like(y)
            seen[self.band : -self.band - 1, self.band : -self.band - 1] = 1
            out = out * seen
        return out

    @torch.no_grad()
    def advance(self) -> Metrics:
        """Find and try one start, or refine the best candidates by one round."""
        s = self.settings
        starts = [*s.weights, *([None] if s.with_spectra else [])]
        with one_thread():
            if self.step < len(starts):
                candidate = self._begin(starts[self.step])
                for _ in range(s.trial):
                    candidate = self._refined(candidate)
                self.candidates.append(self._ranked(candidate))
            else:
                best = sorted(self.candidates, key=lambda c: c.energy)[: s.kept]
                self.candidates = [self._ranked(self._refined(c)) for c in best]
        self.step += 1
        best_now = self._best
        spread = float(width(best_now.kernel[None, None]))
        return Metrics(self.step, best_now.energy, noise_std=self._noise(best_now), kernel_width=spread)

    def _begin(self, weight: float | None) -> _Candidate:
        """Blind deconvolution at the resolution of y, its kernel enlarged to the HR grid."""
        small = -(-self.size // self.scale) | 1
        kernel = self._deconvolved(small, 4e-3 if weight is None else weight, with_spectra=weight is None)
        side = small * self.scale
        wide = resized(kernel, side | 1, side | 1, antialias=False).clamp_min(0)
        wide = framed(centered(wide, (wide.shape[-1] - 1) / 2), self.size)
        name = "spectra" if weight is None else f"{weight:g}"
        return _Candidate(centered(wide / wide.sum(), self.center), start=name)

    def _deconvolved(self, size: int, weight: float, *, with_spectra: bool) -> Tensor:
        """Kernel (size, size) at LR resolution, coarse to fine; λ falls from `weight` as in Pan et al. 2014."""
        (h, w), kernel = self.grey.shape, None
        for n in _sizes(size):
            y = self.grey if n == size else resized(self.grey, *(max(16, round(m * n / size)) for m in (h, w)))
            if kernel is None:
                kernel = torch.zeros(n, n)
                kernel[n // 2, n // 2 : n // 2 + 2] = 0.5  # no blur has no gradient to start from
            kernel = resized(kernel, n, n, antialias=False).clamp_min(0)
            kernel = centered(kernel / kernel.sum(), n // 2)
            images, of_y, content = ImageStep(y, 1, n // 2), differences(y), None
            likelihood = None
            if with_spectra and n >= COARSEST:
                likelihood = SpectralLikelihood(y[None, None], 1, SpectralSettings(window=64, max_windows=9)).single()
            for _ in range(5):
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
                        edges=self.settings.with_spectra,
                        smoothness=200.0,
                        steps=15,
                    )
                kernel = centered(connected(kernel, 0.05), n // 2)
                weight = max(weight / 1.1, 1e-4)
        assert kernel is not None
        return kernel

    def _image_weight(self, rounds: int) -> float:
        return max(self.settings.first / self.settings.decay**rounds, self.settings.last)

    def _refined(self, candidate: _Candidate) -> _Candidate:
        """One round: the image at the kernel, then the kernel that lowers the objective."""
        s = self.settings
        x = self.images(candidate.kernel, self._image_weight(candidate.rounds), sparse=False)
        a, b = gradient_form(differences(x, self.scale) * self._seen(x), self.edges, self.scale, self.size, self.before)
        first = candidate.content is None
        content = fit_content(self.likelihood, candidate.kernel, candidate.content, 10 if first else 3)[1]
        kernel = free_kernel_step(
            self.likelihood,
            candidate.kernel,
            content,
            (a.double(), b.double()),
            share=s.share,
            edges=s.edges,
            smoothness=s.smoothness,
            steps=25,
        )
        kernel = centered(connected(kernel, s.threshold), self.center)
        return _Candidate(kernel, content, candidate.rounds + 1, start=candidate.start)

    def _seen(self, x: Tensor) -> Tensor:
        """One where x comes from y, zero in the border that was made up."""
        if not self.band:
            return torch.ones(())
        out, band = torch.zeros_like(x), self.scale * self.band
        out[band:-band, band:-band] = 1
        return out

    def _ranked(self, candidate: _Candidate) -> _Candidate:
        """Give a candidate its energy: the spectra's, and the sparsity of the image that belongs to it."""
        nats, content = fit_content(self.likelihood, candidate.kernel, candidate.content)
        x = self.images(candidate.kernel, 1e-3, sparse=False)
        g = torch.hypot(*differences(x)) * self._seen(x)
        energy = nats + self.settings.sparsity * float(g.sum() / g.norm().clamp_min(1e-12))
        return _Candidate(candidate.kernel, content, candidate.rounds, energy, nats, candidate.start)

    @property
    def _best(self) -> _Candidate:
        return min(self.candidates, key=lambda c: c.energy)

    def _noise(self, candidate: _Candidate) -> float:
        """Noise level for the restorer: the spectra's, and what an estimated kernel leaves unexplained."""
        assert candidate.content is not None
        return math.hypot(self.likelihood.noise_std(candidate.content, self.channels), self.settings.image_error)

    def estimate(self) -> Estimate:
        """Return the best kernel, cut to its support; the image is left to a restorer."""
        if self.step == 0:
            self.advance()
        best, order = self._best, sorted(self.candidates, key=lambda c: c.energy)
        kernel = best.kernel
        size = next(
            n for n in range(self.wanted, self.size + 1, 2) if n == self.size or float(framed(kernel, n).sum()) > 0.999
        )
        kernel = framed(kernel, size)
        noise = self._noise(best)
        found = {
            "family": "free",
            "size": size,
            "energy": best.energy,
            "spectral_energy": best.nats,
            "start": best.start,
            "runner_up": None if len(order) < 2 else {"start": order[1].start, "energy": order[1].energy},
            "noise_std": noise,
        }
        return Estimate(None, (kernel / kernel.sum())[None, None], noise, False, None, found)

    def state_dict(self) -> dict[str, Any]:
        """Return the step and the candidates."""
        return {
            "step": self.step,
            "kernels": [c.kernel.clone() for c in self.candidates],
            "contents": [c.content.clone() for c in self.candidates if c.content is not None],
            "facts": [(c.rounds, c.energy, c.nats, c.start) for c in self.candidates],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a state; see `FreeFormEstimator.resume`."""
        made = [
            _Candidate(k, c, *f) for k, c, f in zip(state["kernels"], state["contents"], state["facts"], strict=True)
        ]
        for c in made:
            if c.kernel.shape != (self.size, self.size) or c.content is None:
                raise ValueError("a kernel of another size")
            if len(c.content) != self.likelihood.n_nuisance:
                raise ValueError("content parameters of another picture")
        self.step, self.candidates = int(state["step"]), made


def _sizes(size: int) -> list[int]:
    """Odd sides of the kernel from 3 up to `size`, each about √2 times the one before."""
    out = [size]
    while out[0] > 3:
        n = math.ceil(out[0] / math.sqrt(2)) | 1
        out.insert(0, max(min(n, out[0] - 2), 3))
    return out
