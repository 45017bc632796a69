"""What the data say: data terms, noise models, the quadratic form of the LR error, and the spectral likelihood."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
