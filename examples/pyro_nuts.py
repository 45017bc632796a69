"""Pyro's NUTS on the posterior of a kernel given y alone, the image integrated out.

python examples/pyro_nuts.py --side 128 --draws 200
"""

import argparse
from pathlib import Path

import pyro
from pyro.infer import MCMC, NUTS

from blindsr import Degradation
from blindsr.io.images import read_image
from blindsr.operators.kernels import covariance
from blindsr.posteriors.pyro_models import spectral_model
from blindsr.posteriors.spectral import SpectralTarget
from blindsr.priors import GaussianKernelPrior, GaussianShape
from blindsr.priors.normal import log_covariance
from blindsr.random import seeded
from blindsr.simulate import degrade


def main() -> None:
    """Blur and subsample a photo, then sample the kernel's posterior."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128, help="pixels of the HR crop")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=100)
    args = parser.parse_args()

    import skimage.data

    photo = read_image(Path(skimage.data.__file__).parent / "astronaut.png").pixels[..., : args.side, 150:]
    degradation = Degradation(2)
    test = degrade(photo[..., : args.side], degradation, GaussianKernelPrior.truth(2), seed=3)
    prior = GaussianShape(degradation.kernel_size, degradation.scale)
    target = SpectralTarget(test.y, degradation, prior)
    mode, _ = target.laplace()

    start = {name: mode[j] for j, name in enumerate(prior.names)}
    with seeded(0):  # Pyro draws from torch's global state
        pyro.clear_param_store()
        kernel = NUTS(spectral_model(target), init_strategy=pyro.infer.autoguide.init_to_value(values=start))
        run = MCMC(kernel, args.draws, warmup_steps=args.warmup, disable_progbar=True)
        run.run()
    draws = run.get_samples()
    truth = log_covariance(covariance(test.kernel.double()))[0]
    for name, true in zip(prior.names, truth, strict=True):
        print(f"{name}: {draws[name].mean():+.2f} ± {draws[name].std():.2f} (truth {true:+.2f})")


if __name__ == "__main__":
    main()
