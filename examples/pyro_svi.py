"""Pyro's variational inference on the posterior of a kernel given the sharp image: a normal fitted by its ELBO.

python examples/pyro_svi.py --side 128 --steps 300
"""

import argparse
from pathlib import Path

import pyro
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, init_to_value
from pyro.optim import ClippedAdam

from blindsr import Degradation
from blindsr.io.images import read_image
from blindsr.posteriors.fixed_image import FixedImageTarget
from blindsr.posteriors.pyro_models import fixed_image_model
from blindsr.priors import GaussianKernelPrior, GaussianShape
from blindsr.random import seeded
from blindsr.simulate import degrade


def main() -> None:
    """Blur and subsample a photo, then fit a normal to the kernel's posterior and compare it with Laplace's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128, help="pixels of the HR crop")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()

    import skimage.data

    photo = read_image(Path(skimage.data.__file__).parent / "astronaut.png").pixels[..., : args.side, 150:]
    degradation = Degradation(2)
    test = degrade(photo[..., : args.side], degradation, GaussianKernelPrior.truth(2), noise_std=0.02, seed=3)
    target = FixedImageTarget(test.x, test.y, degradation, GaussianShape(11, 2))
    mode, covariance = target.laplace()

    model = fixed_image_model(target)
    start = {name: mode[j] for j, name in enumerate(target.names)}
    with seeded(0):  # Pyro draws from torch's global state
        pyro.clear_param_store()
        guide = AutoMultivariateNormal(model, init_loc_fn=init_to_value(values=start), init_scale=0.01)
        elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=0)
        svi = SVI(model, guide, ClippedAdam({"lr": 0.01, "lrd": 0.99}), elbo)
        losses = [svi.step() for _ in range(args.steps)]
        normal = guide.get_posterior()
        mean, std = normal.mean.detach(), normal.stddev.detach()
    for j, name in enumerate(target.names):
        found = f"{float(mean[j]):+.3f} ± {float(std[j]):.3f}"
        print(f"{name}: {found} (Laplace {float(mode[j]):+.3f} ± {float(covariance[j, j].sqrt()):.3f})")
    print(f"log evidence at least {-sum(losses[-20:]) / len(losses[-20:]):.1f}")


if __name__ == "__main__":
    main()
