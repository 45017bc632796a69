"""Measures of a result, chains as ArviZ data, and pages to look at."""

from blindsr.diagnostics.posterior import PosteriorResult, to_arviz

__all__ = ["PosteriorResult", "to_arviz"]
