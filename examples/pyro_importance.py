"""Pyro's importance sampling on the posterior given the sharp image, to weigh kernel families.

python examples/pyro_importance.py --side 128 --draws 300
"""

import argparse
from pathlib import Path

import pyro
import pyro.distributions as dist
from pyro.infer import Importance

from blindsr import Degradation
from blindsr.io.images import read_image
from blindsr.posteriors.fixed_image import FixedImageTarget
from blindsr.posteriors.pyro_models import fixed_image_model
from blindsr.priors import DiskShape, GaussianKernelPrior, GaussianShape, LineShape
from blindsr.priors.normal import SmoothKernels
from blindsr.random import seeded
from blindsr.simulate import TestImage, degrade


def evidence(test: TestImage, degradation: Degradation, family: SmoothKernels, draws: int) -> tuple[float, float]:
    """Log evidence of a kernel family, and the effective number of draws: the guide is a widened Laplace normal."""
    target = FixedImageTarget(test.x, test.y, degradation, family)
    mode, covariance = target.laplace()

    def guide() -> None:
        z = pyro.sample("z", dist.MultivariateNormal(mode, 1.5 * covariance), infer={"is_auxiliary": True})
        for j, name in enumerate(target.names):
            pyro.sample(name, dist.Delta(z[j]))

    with seeded(0):  # Pyro draws from torch's global state
        run = Importance(fixed_image_model(target), guide, num_samples=draws).run()
    return float(run.get_log_normalizer()), float(run.get_ESS())


def main() -> None:
    """Blur and subsample a photo by a Gaussian kernel, then weigh three families."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128, help="pixels of the HR crop")
    parser.add_argument("--draws", type=int, default=300)
    args = parser.parse_args()

    import skimage.data

    photo = read_image(Path(skimage.data.__file__).parent / "astronaut.png").pixels[..., : args.side, 150:]
    degradation = Degradation(2)
    test = degrade(photo[..., : args.side], degradation, GaussianKernelPrior.truth(2), noise_std=0.02, seed=3)
    for family in (GaussianShape(11, 2), DiskShape(11, 2), LineShape(11, 2)):
        log_evidence, ess = evidence(test, degradation, family, args.draws)
        print(f"{type(family).__name__}: log evidence {log_evidence:.1f} ({ess:.0f} effective draws)")


if __name__ == "__main__":
    main()
