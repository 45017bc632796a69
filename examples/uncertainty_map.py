"""Where is a restored image to be trusted? A map of its standard deviation, checked against the truth.

python examples/uncertainty_map.py --side 192 --scale 4 --output uncertainty
"""

import argparse
from pathlib import Path

import skimage.data
import torch

from blindsr import Degradation
from blindsr.estimators.spectral import KernelEstimator
from blindsr.io.images import read_image
from blindsr.operators.luma import luma
from blindsr.priors import GaussianKernelPrior
from blindsr.random import generator
from blindsr.restorers.map import MapRestorer
from blindsr.simulate import degrade
from blindsr.uncertainty.image_posterior import MODEL_ERROR, restoration_uncertainty
from blindsr.uncertainty.maps import draw_sparsification, draw_uncertainty, save_uncertainty, sparsification


def main() -> None:
    """Degrade a photo, restore it blindly, map the uncertainty, compare with the error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=192, help="pixels of the HR crop")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("uncertainty"))
    args = parser.parse_args()

    photo = read_image(Path(skimage.data.__file__).parent / "astronaut.png").pixels
    photo = photo[..., : args.side, 150 : 150 + args.side]
    degradation = Degradation(args.scale)
    test = degrade(photo, degradation, GaussianKernelPrior.truth(args.scale), seed=args.seed)

    found = KernelEstimator()(test.y, degradation)
    draws = found.spectral.sample(args.draws, generator=generator(args.seed)).float()
    image = MapRestorer(model_error=MODEL_ERROR)(test.y, found.kernel, degradation, found.noise_std)
    uncertainty = restoration_uncertainty(
        test.y,
        draws,
        degradation,
        found.noise_std,
        n=args.draws,
        generator=generator(args.seed),
        image=image,
        kernel=found.kernel,
    )
    save_uncertainty(args.output, uncertainty)

    error = luma(image - test.x)
    gradient = torch.hypot(*torch.gradient(luma(image)[0, 0]))
    curves = {
        "uncertainty map": sparsification(uncertainty.std, error),
        "gradient of the result": sparsification(gradient[None, None], error),
    }
    for name, curve in curves.items():
        print(f"{name}: rank correlation with the error {curve.spearman:.3f}, area of the curve {curve.ause:.3f}")
    held = float((error.abs() < 2 * uncertainty.std).float().mean())
    print(f"{100 * held:.1f} % of the errors are below two standard deviations")
    draw_uncertainty(uncertainty, test.x).savefig(args.output / "error.png")
    draw_sparsification(curves).savefig(args.output / "curves.png")


if __name__ == "__main__":
    main()
