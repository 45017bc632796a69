"""A kernel of any shape from y alone: sharp edges tell its phase, the spectra tell its magnitude.

1. Starts: y is deconvolved blindly at its own resolution, coarse to fine, with images of sparse gradients (L0), at
   several weights. At one of them the spectral marginal likelihood at scale 1 takes part.
2. Each start is enlarged to the HR grid and refined: a total-variation image at the current kernel, then a kernel step
   that lowers, over the simplex,

       −share · log L(k) + edges · ‖∇y − (∇x ⊗ k)↓s‖² + smoothness · ‖∇k‖²,

   with L the marginal likelihood of `likelihood.spectral`, in which the image is integrated out. Without L, the image
   and the kernel drift together towards no blur (Levin et al. 2009).
3. The starts are ranked by E(k) = −log L(k) + sparsity · ‖∇x‖₁/‖∇x‖₂ (Krishnan, Tay, Fergus 2011).
4. A kernel of the parametric families (`estimators.spectral`) competes. A free kernel fits some of the noise of the
   spectra, so it must be better by `margin` in E; and by `evidence` in −log L alone, since ‖∇x‖₁/‖∇x‖₂ takes wide
   kernels, which leave no texture, for good ones. Where neither of two starts is, the parametric kernel is taken.
5. How wrong the kernel is follows from how far the others differ from it: with weights w_i = exp(−E_i/50), summing to
   one over the others,

       e² = least² + 1.5² Σ w_i ‖((k_i − k) ⊗ x)↓s‖² / n

   is added to the noise's variance for the restorer, so that an image is sharpened only as far as the kernels agree; e
   is bounded (`MOST_ERROR`).
   Where the parametric kernel wins, least is 0, and the weights are exp(−(E_i + margin)/5) for free kernels that are
   better by `evidence`, and exp(−E/5) for the parametric one, so that only a narrow win counts.

The weights were chosen on 12 pictures, evenly spread over the odd-numbered files of data/dev, with the four motion
kernels of KAIR and eight drawn ones, x2; `benchmarks/motion.py` measures the result on the even-numbered files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from blindsr.estimators.base import Estimate, Estimation, Estimator, Metrics, check_image, loaded
from blindsr.estimators.free_start import deconvolved
from blindsr.estimators.free_steps import (
    ImageStep,
    centered,
    connected,
    differences,
    gradient_form,
    resized,
)
from blindsr.estimators.interior import detailed_crop
from blindsr.estimators.spectral import KernelEstimator, SpectralEstimation
from blindsr.likelihood.spectral import SpectralLikelihood, SpectralSettings
from blindsr.operators.degradation import Degradation, Padding
from blindsr.operators.kernels import framed, width
from blindsr.operators.luma import luma
from blindsr.posteriors.free_kernel import fit_content, free_kernel_step
from blindsr.restorers.borders import border_width, close_border
from blindsr.threads import one_thread

LEAST_ERROR = {2: 1 / 255, 3: 2.5 / 255, 4: 4 / 255, 8: 4 / 255}
"""`least` of step 5, by scale, units of 0..1."""
MOST_ERROR = 8 / 255
"""Bound of e, units of 0..1: beyond it, an image that the network of `restorers.unfolded` makes loses more detail than
plain interpolation does. By those pictures: 8 grey levels left none below bicubic interpolation, 16 did at x4."""
SPREAD, NATS, NARROW = 1.5, 50.0, 5.0
"""The other numbers of step 5. With the first two, e lies near the root mean square of y − (x ⊗ k)↓s for the true x and
the estimated k on 19 pictures at x2 and 6 at x4, of those named above; x3 lies between, x8 is as x4. With the
last, a free kernel of equal energy weighs e⁻⁴ at the default margin."""
LARGEST = {2: 31, 3: 35, 4: 41, 8: 61}
"""Side of the kernel that is searched for, by scale, unless a larger one is asked for."""
TRIED = 2
"""Starts after which the parametric kernel is taken, if none of them is better."""
SMALLEST = 24
"""Least side of y, LR pixels; a smaller one gets a parametric kernel."""


@dataclass(frozen=True)
class FreeFormEstimator(Estimator):
    """Blind deconvolution with a kernel of any shape; see the top of the module.

    Its steps are the parametric estimate and the starts, one each; or, where the parametric kernel wins, the rounds of
    that.

    Parameters
    ----------
    weights : tuple of float
        λ of the L0 images, one start each, squared units of y.
    with_spectra : float
        Weight `edges` of one more start in which the spectra take part.
    rounds : int
        Refinement rounds of every start. More of them change the PSNR by less than 0.2 dB, in either direction.
    first, decay : float
        λ of the total-variation images: `first`, divided by `decay` after each round.
    share, edges, smoothness : float
        Weights of the kernel step's terms.
    threshold : float
        Pixels below this share of the kernel's peak are cut.
    sparsity : float
        Weight of ‖∇x‖₁/‖∇x‖₂ in the ranking, nats.
    margin : float
        Nats of E by which a free kernel must be better than the parametric one. On 12 odd-numbered pictures under
        Gaussians, x2 and x4, free kernels were better by 11 at most; on 6 under motion, by 26 at least.
    evidence : float
        Nats of −log L by which it must be better. On the same 12 pictures, free kernels were better by 1 at most; under
        motion, on 19 pictures at x2 and 6 at x4, by 50 and by 18 at least.
    parametric : KernelEstimator, optional
        Estimates the kernel that competes; None: the free kernel is taken in any case.
    image_error : float, optional
        e, where it is known, units of 0..1. Default: from the other kernels, see the top of the module.
    side : int
        A larger y is cut to its most detailed square of this side (HR pixels).

    Raises
    ------
    ValueError
        If a number lies outside its range.
    """

    weights: tuple[float, ...] = (8e-3, 4e-3, 2e-3, 1e-3)
    with_spectra: float = 300.0
    rounds: int = 3
    first: float = 2e-3
    decay: float = 1.3
    share: float = 0.3
    edges: float = 2000.0
    smoothness: float = 3e4
    threshold: float = 0.02
    sparsity: float = 10.0
    margin: float = 20.0
    evidence: float = 10.0
    parametric: KernelEstimator | None = field(default_factory=KernelEstimator)
    image_error: float | None = None
    side: int = 320
    stochastic = False

    def __post_init__(self) -> None:
        positive = (*self.weights, self.first, self.edges, self.side, self.rounds)
        if not self.weights or not min(positive) > 0 or not self.decay >= 1:
            raise ValueError("free-form kernel: need weights, rounds and a side above 0, and a decay of at least 1")
        if not min(self.with_spectra, self.share, self.smoothness, self.sparsity, self.image_error or 0) >= 0:
            raise ValueError("free-form kernel: need weights and errors of 0 or more")

    def steps_for(self, degradation: Degradation) -> int:
        """The parametric estimate, and one for each start; or the rounds of the parametric estimate."""
        free = len(self.starts)
        return free if self.parametric is None else max(1 + free, TRIED + self.parametric.steps_for(degradation))

    @property
    def starts(self) -> tuple[float | None, ...]:
        """λ of each start, None for the one in which the spectra take part, which is tried second."""
        first, *rest = self.weights
        return (first, *([None] if self.with_spectra else []), *rest)

    def check(self, y: Tensor, degradation: Degradation, device: torch.device) -> None:
        """Refuse pictures that are too small to hold edges, where no parametric kernel can be taken instead."""
        if min(y.shape[-2:]) < SMALLEST and self.parametric is None:
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
        self.band = border_width(replace(cut, kernel_size=self.size))
        self.grey = (close_border(part, self.band) if self.band else part)[0, 0].float()
        self.edges = self._inside(differences(self.grey), self.band + 1 if self.band else 0)
        self.images = ImageStep(self.grey, s, self.before)
        self.likelihood = SpectralLikelihood(y, s, SpectralSettings(window=64, max_windows=9)).single()
        self.y, self.degradation = y, degradation
        self.starts = settings.starts if min(y.shape[-2:]) >= SMALLEST else ()
        self.parametric: SpectralEstimation | None = None
        self.rival: _Candidate | None = None
        self.candidates: list[_Candidate] = []
        self.step = 0

    def _inside(self, image: Tensor, band: int) -> Tensor:
        """Zero the outermost `band` pixels of an image (..., H, W), where its border was made up."""
        if not band:
            return image
        out = torch.zeros_like(image)
        out[..., band:-band, band:-band] = image[..., band:-band, band:-band]
        return out

    @torch.no_grad()
    def advance(self) -> Metrics:
        """Make the parametric estimate, or a round of it where it has won; else find one start and refine it."""
        starts, free = self.starts, self.step - (self.settings.parametric is not None)
        if free < 0:
            self._fit_parametric()
            if not starts:
                self._settle()
        elif self.parametric is not None and self._parametric_wins():
            with torch.enable_grad():
                self.parametric.advance()
            self._settle()
        else:
            with one_thread():
                candidate = self._begin(starts[free])
                for _ in range(self.settings.rounds):
                    candidate = self._refined(candidate)
                self.candidates.append(self._ranked(candidate))
            if self._parametric_wins():
                self._settle()
            elif free + 1 == len(starts):
                self.settled = "settled: a free kernel"
        self.step += 1
        found = self._found
        return Metrics(self.step, found.energy, kernel_width=float(width(found.kernel[None, None])))

    def _fit_parametric(self) -> None:
        """Estimate the parametric kernel from the spectra, and rank it."""
        assert self.settings.parametric is not None
        self.parametric = self.settings.parametric.start(self.y, self.degradation)
        with torch.enable_grad():
            self.parametric.advance()
        kernel = framed(self.parametric.spectral.mode_kernel[0, 0], self.size)
        with one_thread():
            self.rival = self._ranked(_Candidate(kernel, start=self.parametric.family))

    def _parametric_wins(self) -> bool:
        """Whether, after `TRIED` starts or all of them, no free kernel is better than it; see step 4 at the top."""
        tried = len(self.candidates)
        if self.rival is None or tried < min(TRIED, len(self.starts)):
            return False
        best = min((c.energy for c in self._supported), default=math.inf)
        return best > self.rival.energy - self.settings.margin

    def _settle(self) -> None:
        """End where the parametric estimate has made its rounds."""
        assert self.parametric is not None and self.settings.parametric is not None
        done = self.parametric.step >= self.settings.parametric.steps_for(self.degradation)
        if done or self.parametric.settled is not None:
            self.settled = self.parametric.settled or f"settled: the family {self.parametric.family}"

    @property
    def _found(self) -> _Candidate:
        """What would be returned now; the parametric kernel as its own rounds have left it."""
        if self.rival is not None and (not self.candidates or self._parametric_wins()):
            assert self.parametric is not None
            return replace(self.rival, kernel=self.parametric.found.kernel[0, 0])
        return self._best

    def _begin(self, weight: float | None) -> _Candidate:
        """Blind deconvolution at the resolution of y, its kernel enlarged to the HR grid."""
        small = -(-self.size // self.scale) | 1
        spectra = self.settings.with_spectra if weight is None else 0.0
        kernel = deconvolved(self.grey, small, 4e-3 if weight is None else weight, spectra)
        side = small * self.scale
        wide = resized(kernel, side | 1, side | 1, antialias=False).clamp_min(0)
        wide = framed(centered(wide, (wide.shape[-1] - 1) / 2), self.size)
        name = "spectra" if weight is None else f"{weight:g}"
        return _Candidate(centered(wide / wide.sum(), self.center), start=name)

    def _refined(self, candidate: _Candidate) -> _Candidate:
        """One round: the image at the kernel, then the kernel that lowers the objective."""
        s = self.settings
        x = self.images(candidate.kernel, s.first / s.decay**candidate.rounds, sparse=False)
        of_x = self._inside(differences(x, self.scale), self.scale * self.band)
        a, b = gradient_form(of_x, self.edges, self.scale, self.size, self.before)
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

    def _ranked(self, candidate: _Candidate) -> _Candidate:
        """Give a candidate its energy: the spectra's, and the sparsity of the image that belongs to it."""
        nats, content = fit_content(self.likelihood, candidate.kernel, candidate.content)
        x = self.images(candidate.kernel, 1e-3, sparse=False)
        g = self._inside(torch.hypot(*differences(x)), self.scale * self.band)
        energy = nats + self.settings.sparsity * float(g.sum() / g.norm().clamp_min(1e-12))
        return _Candidate(candidate.kernel, content, candidate.rounds, energy, nats, candidate.start)

    @property
    def _supported(self) -> list[_Candidate]:
        """The free kernels that the marginal likelihood prefers to the parametric one."""
        if self.rival is None:
            return self.candidates
        return [c for c in self.candidates if c.nats < self.rival.nats - self.settings.evidence]

    @property
    def _best(self) -> _Candidate:
        return min(self._supported or self.candidates, key=lambda c: c.energy)

    def _noise(self, candidate: _Candidate) -> float:
        """Noise level for the restorer: the spectra's, and the kernel's error in squares."""
        assert candidate.content is not None
        given, error = self.settings.parametric, self.settings.image_error
        noise = None if given is None else given.noise_std
        if noise is None:
            noise = self.likelihood.noise_std(candidate.content, self.channels)
        return math.hypot(noise, self._kernel_error(candidate) if error is None else error)

    @torch.no_grad()
    def _kernel_error(self, found: _Candidate) -> float:
        """Step 5 at the top of the module, units of 0..1."""
        free = found is not self.rival
        others = self._supported
        if free:
            others = [c for c in (*self.candidates, self.rival) if c is not None and c is not found]
        least = LEAST_ERROR[self.scale] if free else 0.0
        if not others:
            return least
        if free:
            weights = torch.softmax(torch.tensor([-c.energy / NATS for c in others]), 0)
        else:
            behind = [(found.energy - c.energy - self.settings.margin) / NARROW for c in others]
            weights = torch.softmax(torch.tensor([*behind, 0.0]), 0)[:-1]
        x = self.images(found.kernel, 3e-4, sparse=False)
        inside = self._inside(torch.ones_like(self.grey), self.band)
        apart = [self.images.seen(x, c.kernel - found.kernel) * inside for c in others]
        squares = torch.stack([d.square().sum() / inside.sum() for d in apart])
        return min(math.hypot(least, SPREAD * float((weights * squares).sum()) ** 0.5), MOST_ERROR)

    def estimate(self) -> Estimate:
        """Return the kernel, cut to its support where it is free; the image is left to a restorer."""
        if self.step == 0:
            self.advance()
        others = sorted([*self.candidates, *([self.rival] if self.rival else [])], key=lambda c: c.energy)
        ranking = [{"kernel": c.start, "energy": c.energy, "spectral_energy": c.nats} for c in others]
        if self.rival is not None and (not self.candidates or self._parametric_wins()):
            assert self.parametric is not None
            found = self.parametric.estimate()
            noise = math.hypot(self.parametric.noise_std, self._kernel_error(self.rival))
            return replace(found, noise_std=noise, description={**(found.description or {}), "ranking": ranking})
        best = self._best
        sizes = range(self.wanted, self.size + 1, 2)
        size = next(n for n in sizes if n == self.size or float(framed(best.kernel, n).sum()) > 0.999)
        kernel, noise = framed(best.kernel, size), self._noise(best)
        facts = {"family": "free", "size": size, "start": best.start, "noise_std": noise, "ranking": ranking}
        return Estimate(None, (kernel / kernel.sum())[None, None], noise, False, None, facts)

    def state_dict(self) -> dict[str, Any]:
        """Return the step, the candidates, and the state of the parametric estimate."""
        return {
            "step": self.step,
            "settled": self.settled,
            "kernels": [c.kernel.clone() for c in self.candidates],
            "contents": [c.content.clone() for c in self.candidates if c.content is not None],
            "facts": [[c.rounds, c.energy, c.nats, c.start] for c in self.candidates],
            "parametric": None if self.parametric is None else self.parametric.state_dict(),
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
        step = int(state["step"])
        if step > 0 and self.settings.parametric is not None:
            self._fit_parametric()
            assert self.parametric is not None
            self.parametric.load(state["parametric"])
        self.step, self.settled, self.candidates = step, state["settled"], made
