"""Start runs and kill them: argv is the picture, the output folder, steps, seed, then the moments.

A moment is `call:N` for the N-th call of any function, or `replace:N` / `fsync:N` for the N-th such call, before or
after it (`replace-after:N`). After each death every file must be whole. Each life resumes the one before; the last is
left to finish. Prints how each ended, as JSON; on standard error, how many calls a life made that `call:N` did not end.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from itertools import count as counting
from pathlib import Path
from typing import Any

import matplotlib.figure  # noqa: F401  (loaded once, not in every life; the next ones too)
import numpy as np
import scipy.io
import torch
from PIL import Image

import blindsr.commands.batch  # noqa: F401
import blindsr.diagnostics.overview  # noqa: F401
from blindsr.cli.root import app


def die_at(name: str, number: int) -> None:
    operation = name.removesuffix("-after")
    real = getattr(os, operation)
    count = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == number and operation == name:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(os, operation, deadly)


def die_at_call(number: int) -> Iterator[int]:
    """Count calls, and die at the one of this number; return the counter."""
    calls = counting(1)

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event.endswith("call") and next(calls) >= number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(profile)
    return calls


def live(words: list[str], moment: str) -> int:
    child = os.fork()
    if child == 0:
        code = 70
        name, _, number = moment.partition(":")
        calls = die_at_call(int(number)) if name == "call" else None
        if name and calls is None:
            die_at(name, int(number))
        try:
            app(words)
        except SystemExit as leave:
            code = int(leave.code or 0)
        finally:
            sys.setprofile(None)
            if calls is not None:
                print("calls", next(calls), file=sys.stderr)
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def check_whole(folder: Path) -> None:
    for path in folder.glob("[!.]*"):
        match path.suffix:
            case ".png":
                with Image.open(path) as image:
                    image.load()
            case ".npy":
                np.load(path)
            case ".pt":
                torch.load(path)
            case ".json":
                json.loads(path.read_text(encoding="utf-8"))
            case ".mat":
                scipy.io.loadmat(path)


def main() -> None:
    image, output, steps, seed, *moments = sys.argv[1:]
    words = [
        "run",
        image,
        "--scale",
        "2",
        "--method",
        "mlmc",
        "--preset",
        "fast",
        "--iterations",
        steps,
        "--seed",
        seed,
    ]
    words += ["--output", output, "--resume", "--checkpoint-every", "0"]
    ends = []
    for moment in [*moments, ""]:
        ends.append(live(words, moment))
        check_whole(Path(output) / Path(image).stem)
    print(json.dumps(ends))


main()
