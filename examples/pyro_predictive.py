"""Pyro's HMC and Predictive on the posterior given the sharp image, to check simulated images against y.

python examples/pyro_predictive.py --side 96 --draws 100
"""

import argparse
from pathlib import Path

import pyro
from pyro.infer import HMC, MCMC, Predictive
from pyro.infer.autoguide import init_to_value

from blindsr import Degradation
from blindsr.io.images import read_image
from blindsr.posteriors.fixed_image import FixedImageTarget
from blindsr.posteriors.pyro_models import fixed_image_model
from blindsr.priors import GaussianKernelPrior, LineKernelPrior
from blindsr.random import seeded
from blindsr.simulate import degrade


def main() -> None:
    """Blur a photo by a Gaussian kernel; fit kernels of the right and of a wrong family; check their predictions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=96, help="pixels of the HR crop")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--warmup", type=int, default=50)
    args = parser.parse_args()

    import skimage.data

    photo = read_image(Path(skimage.data.__file__).parent / "astronaut.png").pixels[..., : args.side, 150:]
    degradation = Degradation(2)
    test = degrade(photo[..., : args.side], degradation, GaussianKernelPrior.truth(2), noise_std=0.01, seed=3)
    for prior in (GaussianKernelPrior.truth(2), LineKernelPrior.protocol(2)):
        target = FixedImageTarget(test.x, test.y, degradation, prior, noise_std=0.01)
        model = fixed_image_model(target)
        theta = prior.parameters.theta(target.mode()[None])[0]
        start = init_to_value(values={prior.names[j]: theta[j] for j in prior.parameters.free})
        with seeded(0):  # Pyro draws from torch's global state
            pyro.clear_param_store()
            kernel = HMC(model, trajectory_length=1.0, init_strategy=start)
            run = MCMC(kernel, args.draws, warmup_steps=args.warmup, disable_progbar=True)
            run.run()
            images = Predictive(model, run.get_samples())(predict=True)["lr_image"]
        clean = images.mean(0)
        residual = (test.y[0] - clean).square().mean()
        n = len(images)  # the mean of n images scatters by 1/n of their variance, and takes as much from theirs
        expected = (images - clean).square().mean() * (n + 1) / (n - 1)
        ratio = float((residual / expected).sqrt())
        print(f"{type(prior).__name__}: residual of y {ratio:.2f} times that of simulated images")


if __name__ == "__main__":
    main()
