"""Options of the command line: types, limits and help texts, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blindsr.operators.degradation import Alignment, Padding

ScaleOption = Annotated[int, typer.Option(help="Scale factor: 2, 3, 4 or 8.")]
AlignmentOption = Annotated[
    Alignment | None,
    typer.Option(
        help="Pixel grid. fkp (default): the paper's protocol, the result lies s-1 pixels up and left of a plain "
        "enlargement. centered: the usual grid.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the record as JSON on standard output.")]
KernelSizeOption = Annotated[int, typer.Option(help="Side of the kernel, odd; 0: min(4 s + 3, 21).")]


RestorerOption = Annotated[
    str | None,
    typer.Option(
        help="What makes the image from the kernel: map, tv, bicubic, zssr, unfolded, usrnet, model.pt, model.onnx, "
        "weights.pth, my_file.py:restore, none; a model's own pixel grid goes behind it, as in model.pt@centered.",
        show_default=False,
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="State dict for --restorer usrnet, or a file of `blindsr train-restorer` for unfolded.", show_default=False
    ),
]

PaddingOption = Annotated[
    Padding | None,
    typer.Option(help="What lies beyond the border; default: circular with fkp, else valid.", show_default=False),
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]

SamplerOption = Annotated[
    str | None,
    typer.Option(
        help="Sample the kernel's posterior after the estimate, by rwm, mala, hmc, tempering, smc, pyro-nuts or "
        "my_file.py:MySampler; `blindsr diagnose` reads it. The biased sgld, psgld and network-langevin give a trace.",
        show_default=False,
    ),
]
ChainsOption = Annotated[
    int | None, typer.Option(help="Chains of --sampler (smc: populations); default 4.", show_default=False)
]
DrawsOption = Annotated[
    int | None, typer.Option(help="Draws kept of each chain (smc: particles); default 500.", show_default=False)
]
WarmupOption = Annotated[
    int | None, typer.Option(help="Transitions of each chain before them, to tune; default 200.", show_default=False)
]
ThinOption = Annotated[int | None, typer.Option(help="Transitions for each kept draw; default 1.", show_default=False)]
TargetOption = Annotated[
    str | None,
    typer.Option(
        help="What is sampled. spectral (default): the kernel given the LR image alone, the HR image integrated out. "
        "image: the kernel given the LR image and the final image. network: the weights of a kernel network, "
        "given both.",
        show_default=False,
    ),
]
RestartsOption = Annotated[
    int | None,
    typer.Option(
        help="Repeat the whole optimisation from this many seeds; their spread goes to trace.nc (no posterior).",
        show_default=False,
    ),
]
