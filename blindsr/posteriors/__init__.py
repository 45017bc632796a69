"""Posteriors: targets for samplers, Laplace approximations and transport maps.

A target is a log density over named, unconstrained parameters: `SpectralTarget` (a) given y alone, `FixedImageTarget`
(b) given y and an image, `NetworkTarget` (c) over the weights of a kernel network.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
