"""Super-resolve your own photo from Python: image and kernel in one call.

python examples/own_photo.py photo.jpg --scale 4 --output out
"""

import argparse
from pathlib import Path

from blindsr import METHODS, PRESETS, Alignment, Degradation, Padding, super_resolve
from blindsr.io.images import Picture, read_image, write_png
from blindsr.operators.kernels import width


def main() -> None:
    """Read, solve, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--method", default="fast-map", choices=list(METHODS))
    parser.add_argument("--preset", default="fast", choices=list(PRESETS), help="for methods that make steps")
    parser.add_argument("--output", type=Path, default=Path("blindsr-out"))
    args = parser.parse_args()

    picture = read_image(args.photo)
    degradation = Degradation(args.scale, alignment=Alignment.CENTERED, padding=Padding.VALID)
    found = super_resolve(picture.pixels, degradation, args.method, preset=args.preset)

    args.output.mkdir(parents=True, exist_ok=True)
    write_png(args.output / "sr.png", Picture(found.image, None, picture.bits, picture.icc))  # without alpha
    print(args.output / "sr.png")
    if found.kernel is not None:
        print(f"the kernel is {float(width(found.kernel)):.2f} pixels wide (rms)")


if __name__ == "__main__":
    main()
