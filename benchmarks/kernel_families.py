"""Which kernel family the spectra choose for true kernels of each kind: Set5c, noise-free, one kernel an image.

python benchmarks/kernel_families.py --data DIR
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from set5c import load

from blindsr import Degradation, KernelEstimator
from blindsr.priors import CameraShakePrior, DiskShape, GaussianKernelPrior, LineKernelPrior
from blindsr.simulate import degrade


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scales", nargs="+", type=int, default=[2, 4])
    args = parser.parse_args()
    print("| true kernel | scale | gaussian | line | disk |")
    print("|---|---|---|---|---|")
    estimator = KernelEstimator(rounds=0)
    for scale in args.scales:
        d = Degradation(scale)
        truths = {
            "gaussian": GaussianKernelPrior.truth(scale),
            "line": LineKernelPrior.protocol(scale),
            "disk": DiskShape(d.kernel_size, scale),
            "camera shake": CameraShakePrior.protocol(scale),
        }
        for name, prior in truths.items():
            chosen: Counter[str] = Counter()
            for index, path in enumerate(sorted((args.data / "Set5").glob("*.png"))):
                test = degrade(load(path, 192), d, prior, seed=index)
                chosen[estimator(test.y, d).family] += 1
            print(f"| {name} | {scale} | {chosen['gaussian']} | {chosen['line']} | {chosen['disk']} |", flush=True)


if __name__ == "__main__":
    main()
