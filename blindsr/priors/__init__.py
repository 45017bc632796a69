"""Kernel and image priors, none of which sees y.

The public names stand in `__init__.pyi`; each is imported when it is first used, so that Pyro is loaded only by flows.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
