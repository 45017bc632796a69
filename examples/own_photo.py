"""Super-resolve your own photo from Python.

python examples/own_photo.py photo.jpg --scale 4 --preset fast --output out
"""

import argparse
from pathlib import Path

from blindsr import METHODS, PRESETS, Alignment, Degradation, Padding, Solver, assemble
from blindsr.io.images import Picture, read_image, write_png


def main() -> None:
    """Read, solve, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--preset", default="fast", choices=list(PRESETS))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--output", type=Path, default=Path("blindsr-out"))
    args = parser.parse_args()

    picture = read_image(args.photo)
    y = picture.pixels  # (1, C, h, w), values 0..1

    degradation = Degradation(args.scale, alignment=Alignment.CENTERED, padding=Padding.VALID)
    preset = PRESETS[args.preset]
    solver = Solver(assemble(METHODS["mlmc"], degradation, preset))

    run = solver.init(y, seed=0)
    for metrics in solver.iterate(run, y, args.steps or preset.steps):
        if metrics.step % 50 == 0:
            print(f"step {metrics.step}: LR error {255 * metrics.mse**0.5:.2f} grey levels")

    image, kernel = solver.estimate(run)
    args.output.mkdir(parents=True, exist_ok=True)
    write_png(args.output / "sr.png", Picture(image, None, picture.bits, picture.icc))  # without alpha
    print(f"{args.output / 'sr.png'}; the kernel sums to {float(kernel.sum()):.3f}")


if __name__ == "__main__":
    main()
