"""Compose a blind super-resolution solver of your own from parts.

Here: a small skip network, the FC kernel network, total variation, a noise level that is estimated, and random
motion lines in the Monte Carlo step.

python examples/compose_solver.py --steps 200
"""

import argparse

from blindsr import Degradation, JointLoop
from blindsr.estimators.problem import free_kernel
from blindsr.generators.kernel import KernelNetwork
from blindsr.generators.skip import SkipSettings
from blindsr.io.images import read_image
from blindsr.likelihood.data_term import GaussianLikelihood
from blindsr.likelihood.noise import IidNoise
from blindsr.methods.parts import SkipImage
from blindsr.optimizers.meta import MetaLearned
from blindsr.priors import LineKernelPrior, TotalVariation
from blindsr.samplers.mcka import MonteCarloKernelApproximation, likelihood_weights
from blindsr.simulate import degrade


def main() -> None:
    """Degrade a photo by a motion line, then recover both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--side", type=int, default=192, help="pixels of the HR crop")
    args = parser.parse_args()

    from pathlib import Path

    import skimage.data

    photo = read_image(Path(skimage.data.__file__).parent / "astronaut.png").pixels
    photo = photo[..., : args.side, 150 : 150 + args.side]

    degradation = Degradation(scale=2)
    lines = LineKernelPrior.protocol(degradation.scale, degradation.kernel_size)
    test = degrade(photo, degradation, lines, noise_std=0.01, seed=1)

    loop = JointLoop(
        image=SkipImage(SkipSettings(channels=16, levels=4)),
        kernel=free_kernel(lambda d: KernelNetwork(d.kernel_size)),
        optimizer=MetaLearned(interval=3),
        data_term=GaussianLikelihood(),
        image_prior=TotalVariation(),
        noise=IidNoise(),
        prior=lambda problem: lines,
        monte_carlo=lambda prior, scale: MonteCarloKernelApproximation(prior, n_kernels=16, weights=likelihood_weights),
    )
    run = loop.start(test.y, degradation, seed=0, device="cpu")
    for metrics in run.iterate(args.steps):
        if metrics.step % 50 == 0 or metrics.step == args.steps:
            print(
                f"step {metrics.step}: LR error {255 * metrics.mse**0.5:.2f}, noise {255 * metrics.noise_std:.2f} "
                f"grey levels, kernel width {metrics.kernel_width:.2f} pixels"
            )
    found = run.estimate()
    print(f"image {tuple(found.image.shape)}, kernel {tuple(found.kernel.shape)}")


if __name__ == "__main__":
    main()
