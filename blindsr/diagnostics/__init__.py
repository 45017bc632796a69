"""Scores of results, statistics of chains, calibration of posteriors, and figures. Nothing here estimates or samples.

The public names stand in `__init__.pyi`; each is imported when it is first used, and ArviZ and matplotlib with it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
