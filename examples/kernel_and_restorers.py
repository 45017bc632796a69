"""Estimate a kernel from an LR image alone, see how sure it is, and compare restorers that are given it.

python examples/kernel_and_restorers.py --side 192
"""

import argparse
from pathlib import Path

import torch

from blindsr import Degradation, KernelEstimator
from blindsr.diagnostics.metrics import kernel_psnr, psnr
from blindsr.io.images import read_image
from blindsr.priors import GaussianKernelPrior
from blindsr.priors.image import TotalVariation
from blindsr.restorers.bicubic import BicubicRestorer
from blindsr.restorers.map import MapRestorer
from blindsr.simulate import degrade


def main() -> None:
    """Degrade a photo, recover the kernel, restore."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=192, help="pixels of the HR crop")
    parser.add_argument("--scale", type=int, default=4)
    args = parser.parse_args()

    import skimage.data

    photo = read_image(Path(skimage.data.__file__).parent / "astronaut.png").pixels
    photo = photo[..., : args.side, 150 : 150 + args.side]
    degradation = Degradation(args.scale)
    test = degrade(photo, degradation, GaussianKernelPrior.truth(args.scale), seed=3)

    found = KernelEstimator()(test.y, degradation)
    sd = torch.linalg.inv(found.spectral.precision).diagonal().sqrt()
    for name, value, spread in zip(found.spectral.family.names, found.z, sd, strict=True):
        print(f"{name}: {float(value):+.2f} (spectra alone: ± {float(spread):.2f})")
    score = kernel_psnr(found.kernel[0, 0].double().numpy(), test.kernel[0, 0].double().numpy())
    print(f"family {found.family}, noise {255 * found.noise_std:.2f} grey levels, kernel PSNR {score:.1f} dB")

    for restorer in (BicubicRestorer(), MapRestorer(TotalVariation()), MapRestorer()):
        image = restorer(test.y, found.kernel, degradation, found.noise_std)
        value = psnr(image.clamp(0, 1), test.x, args.scale**2)
        print(f"{type(restorer).__name__}: {value:.2f} dB")


if __name__ == "__main__":
    main()
