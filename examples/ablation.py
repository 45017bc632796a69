"""The paper's ablation on one photo: full MLMC, without Monte Carlo, without meta-learning.

python examples/ablation.py --steps 300
"""

import argparse
from pathlib import Path

import skimage.data

from blindsr import PRESETS, Choice, Degradation, compose
from blindsr.diagnostics.metrics import kernel_psnr, psnr
from blindsr.io.images import read_image
from blindsr.priors import GaussianKernelPrior
from blindsr.simulate import degrade


def main() -> None:
    """Run the three rows on the same LR image with the same seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=PRESETS["fast"].steps)
    parser.add_argument("--side", type=int, default=192, help="pixels of the HR crop")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    photo = read_image(Path(skimage.data.__file__).parent / "astronaut.png").pixels
    photo = photo[..., : args.side, 150 : 150 + args.side]
    degradation = Degradation(args.scale)
    test = degrade(photo, degradation, GaussianKernelPrior.truth(args.scale), seed=args.seed)

    for name in ("mlmc", "mlmc-no-mc", "mlmc-no-meta"):
        method = compose(Choice(name, preset="fast", iterations=args.steps), degradation)
        found = method.solve(test.y, degradation, seed=args.seed)
        a, b = (v[0].permute(1, 2, 0).double().numpy() for v in (found.image, test.x))
        kernels = (v[0, 0].double().numpy() for v in (found.kernel, test.kernel))
        print(f"{name:14s} image {psnr(a, b, args.scale):.2f} dB  kernel {kernel_psnr(*kernels):.2f} dB")


if __name__ == "__main__":
    main()
