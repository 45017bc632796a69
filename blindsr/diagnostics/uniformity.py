"""Exact statistics of calibration: uniformity of ranks, and intervals of proportions.

The empirical distribution function (ECDF) of n ranks is judged as a whole (Säilynoja, Bürkner, Vehtari, "Graphical test
for discrete uniformity and its applications in goodness-of-fit evaluation and multiple sample comparison", Statistics
and Computing 2022): at points z_k the count N_k of ranks below is Bin(n, z_k), and the least two-sided tail probability
over all k is the test statistic. The counts form a Markov chain, N_{k+1} − N_k ~ Bin(n − N_k, (z_{k+1} − z_k) /
(1 − z_k)), so that the distribution of the statistic, and with it p-value and simultaneous bands, is computed exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

MAX_POINTS = 100
"""Largest number of points at which an ECDF is evaluated."""


def holm(p: Array) -> Array:
    """Adjust p-values (m,) for their number (Holm 1979): (m,), the smallest level at which each would be rejected."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(steps, 1)
    return out


def clopper_pearson(hits: NDArray[np.integer], n: NDArray[np.integer] | int, confidence: float) -> tuple[Array, Array]:
    """Return the exact interval of a proportion from `hits` out of n (Clopper & Pearson 1934): lower and upper ends."""
    from scipy.stats import beta

    tail, h, total = (1 - confidence) / 2, np.asarray(hits, dtype=np.float64), np.asarray(n, dtype=np.float64)
    low = np.where(h > 0, beta.ppf(tail, np.maximum(h, 1), total - h + 1), 0.0)
    high = np.where(h < total, beta.isf(tail, h + 1, np.maximum(total - h, 1)), 1.0)
    return low, high


def binomial_band(n: int, levels: Array, confidence: float) -> tuple[Array, Array]:
    """Return the band (lower, upper) of the proportion in n trials for true proportions `levels` (m,), pointwise."""
    from scipy.stats import binom

    tail = (1 - confidence) / 2
    return binom.ppf(tail, n, levels) / n, binom.isf(tail, n, levels) / n


def histogram_bins(n: int, draws: int) -> int:
    """Return a number of bins for n ranks of 0..L: at most 20, 10 ranks in each; if possible a divisor of L + 1."""
    most = max(min(n // 10, 20, draws + 1), 2)
    even = [b for b in range(most, most // 2, -1) if (draws + 1) % b == 0]
    return even[0] if even else most


def histogram(ranks: Counts, draws: int, bins: int) -> tuple[Counts, Array]:
    """Count ranks (n,) of 0..L in bins: counts and the expected counts (equal where bins divide L + 1)."""
    edges = np.arange(draws + 1) * bins // (draws + 1)
    expected = np.bincount(edges, minlength=bins) * (len(ranks) / (draws + 1))
    return np.bincount(edges[ranks], minlength=bins).astype(np.int64), expected.astype(np.float64)


def chi_square(ranks: Counts, draws: int, bins: int | None = None) -> float:
    """Return the p-value of Pearson's test that ranks (n,) are uniform on 0..L."""
    from scipy.stats import chisquare

    return float(chisquare(*histogram(ranks, draws, bins or histogram_bins(len(ranks), draws))).pvalue)


@dataclass(frozen=True)
class EcdfTest:
    """The ECDF test of n uniform ranks of 0..L."""

    n: int
    draws: int
    """Number of ranks; L."""

    @property
    def places(self) -> Counts:
        """Ranks r_k below which ranks are counted, 1..L, at most `MAX_POINTS` of them."""
        k = min(self.draws, MAX_POINTS)
        return np.unique(np.round(np.linspace(1, self.draws, k)).astype(np.int64))

    @property
    def points(self) -> Array:
        """z_k = r_k / (L + 1)."""
        out: Array = self.places / (self.draws + 1)
        return out

    def counts(self, ranks: Counts) -> Counts:
        """N_k, the number of ranks (n,) below each r_k."""
        return np.searchsorted(np.sort(ranks), self.places, side="left")

    def _tails(self) -> Array:
        """Two-sided tail probability of every count (k, n + 1)."""
        from scipy.stats import binom

        c, z = np.arange(self.n + 1), self.points[:, None]
        out: Array = np.minimum(1, 2 * np.minimum(binom.cdf(c, self.n, z), binom.sf(c - 1, self.n, z)))
        return out

    def _inside(self, allowed: NDArray[np.bool_]) -> float:
        """Probability that the chain of counts stays on allowed places (k, n + 1)."""
        from scipy.stats import binom

        if not allowed.any(1).all():
            return 0.0
        state, weight, before = np.zeros(1, dtype=np.int64), np.ones(1), 0.0
        for z, row in zip(self.points, allowed, strict=True):
            to = np.flatnonzero(row)
            step = binom.pmf(to[None] - state[:, None], self.n - state[:, None], (z - before) / (1 - before))
            state, weight, before = to, weight @ step, z
        return float(weight.sum())

    def p_value(self, ranks: Counts) -> float:
        """Return the probability that uniform ranks have a tail probability as small as the smallest of these (n,)."""
        tails = self._tails()
        least = tails[np.arange(len(tails)), self.counts(ranks)].min()
        return float(np.clip(1 - self._inside(tails > least * (1 + 1e-9)), 0, 1))

    def band(self, confidence: float = 0.95) -> tuple[Array, Array]:
        """Return the simultaneous band (lower, upper) at `points` that holds the whole ECDF with this probability."""
        tails = self._tails()
        low, high = 0.0, 1 - confidence
        for _ in range(30):
            middle = (low + high) / 2
            good = self._inside(tails > middle) >= confidence
            low, high = (middle, high) if good else (low, middle)
        allowed = tails > low
        return allowed.argmax(1) / self.n, (self.n - allowed[:, ::-1].argmax(1)) / self.n
