"""Super-resolve your own photo from Python: image and kernel in one call.

python examples/own_photo.py photo.jpg --scale 4 --output out
"""

import argparse
from pathlib import Path

from blindsr import METHODS, PRESETS, super_resolve


def main() -> None:
    """Estimate, save, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--method", default="fast-map", choices=list(METHODS))
    parser.add_argument("--preset", default="fast", choices=list(PRESETS), help="for methods that make steps")
    parser.add_argument("--output", type=Path, default=Path("blindsr-out"))
    args = parser.parse_args()

    result = super_resolve(
        args.photo, args.scale, method=args.method, preset=args.preset, alignment="centered", padding="valid"
    )
    folder = result.save(args.output, overwrite=True)
    line = f"{folder / 'sr.png'}: {result.image.width}x{result.image.height} pixels in {result.seconds:.0f} s"
    if result.kernel is not None:
        line += f"; the kernel is {result.record['metrics']['kernel_width']:.2f} pixels wide (rms)"
    print(line)


if __name__ == "__main__":
    main()
