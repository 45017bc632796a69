"""The command line: options in, `blindsr.commands` called, one line for each error. No logic of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from blindsr.cli.bench import bench, reproduce
from blindsr.cli.console import one_line_errors, say, show
from blindsr.cli.options import (
    AlignmentOption,
    ChainsOption,
    DrawsOption,
    JsonOption,
    KernelSizeOption,
    PaddingOption,
    RestartsOption,
    RestorerOption,
    SamplerOption,
    ScaleOption,
    SeedOption,
    TargetOption,
    ThinOption,
    WarmupOption,
    WeightsOption,
)
from blindsr.io.files import VERSION
from blindsr.methods.parts import IMAGE_PRIORS, OPTIMIZERS
from blindsr.methods.presets import PRESETS
from blindsr.methods.table import DEFAULT_METHOD
from blindsr.operators.degradation import Padding
from blindsr.simulate import Quantize

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Blind image super-resolution: a sharp image and the blur kernel from one low-resolution picture.",
)


@app.command()
def run(
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.", show_default=False)],
    scale: ScaleOption = 4,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"A row of `blindsr methods`, or my_file.py:MyEstimator. Default: {DEFAULT_METHOD}; the paper's mlmc "
            "where a part of the joint loop is named (--prior, --optimizer, --image-prior, --noise patch).",
            show_default=False,
        ),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="Kernel prior: what the Monte Carlo step draws from, fkp-dip decodes its latent by, or the family of "
            "kernels that fast-map may use: a family of `blindsr methods` (mcmc: gaussian), spectral, none, a flow's "
            "file (.safetensors), my_file.py:MyKernels."
        ),
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help=f"{', '.join(OPTIMIZERS)}, or my_file.py:MyOptimizer.")] = None,
    image_prior: Annotated[
        str | None, typer.Option(help=f"{', '.join(IMAGE_PRIORS)}, or my_file.py:MyImagePrior.")
    ] = None,
    noise: Annotated[
        str | None, typer.Option(help="iid (estimated), none, or a known standard deviation in units of 0..1.")
    ] = None,
    restorer: RestorerOption = None,
    weights: WeightsOption = None,
    preset: Annotated[str, typer.Option(help=f"How much time to take: {', '.join(PRESETS)}.")] = "balanced",
    iterations: Annotated[int | None, typer.Option(min=1, help="Inner steps, instead of the preset's.")] = None,
    time_limit: Annotated[
        float | None, typer.Option(min=0, help="Seconds for each picture; the result so far is saved then.")
    ] = None,
    seed: SeedOption = 0,
    alignment: AlignmentOption = None,
    padding: PaddingOption = None,
    kernel_size: KernelSizeOption = 0,
    ground_truth: Annotated[
        Path | None, typer.Option(help="HR image to score against (for folders: a folder of same-named images).")
    ] = None,
    true_kernel: Annotated[
        Path | None, typer.Option(help="True kernel to score against (for folders: a folder of same-named kernels).")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where results go, a folder for each picture.")] = Path("blindsr-out"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the output folder.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a result of other settings, or an unfinished run.")
    ] = False,
    checkpoint_every: Annotated[float, typer.Option(min=0, help="Seconds between two checkpoints, at least.")] = 15.0,
    sampler: SamplerOption = None,
    chains: ChainsOption = None,
    draws: DrawsOption = None,
    warmup: WarmupOption = None,
    thin: ThinOption = None,
    target: TargetOption = None,
    restarts: RestartsOption = None,
    json: JsonOption = False,
) -> None:
    """Super-resolve pictures: for each a folder with sr.png, the kernel, overview.png, trace.csv and run.json."""
    options = dict(locals())
    from blindsr.commands.batch import Batch, run_batch

    as_json = options.pop("json")
    with one_line_errors():
        code, text = run_batch(Batch(**options), say=say, as_json=as_json)
    if text:
        typer.echo(text)
    raise typer.Exit(code)


@app.command()
def degrade(
    image: Annotated[Path, typer.Argument(help="HR picture.", show_default=False)],
    scale: ScaleOption = 4,
    kernel: Annotated[
        str, typer.Option(help="A kernel family of `blindsr methods`, a kernel file, or my_file.py:MyKernels.")
    ] = "gaussian",
    noise_level: Annotated[float, typer.Option(help="Noise standard deviation, units of 0..1.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of kernel and noise.")] = 0,
    quantize: Annotated[Quantize, typer.Option(help="8-bit rule; the published script truncates.")] = Quantize.ROUND,
    alignment: AlignmentOption = None,
    padding: Annotated[Padding, typer.Option(help="What lies beyond the border.")] = Padding.CIRCULAR,
    kernel_size: KernelSizeOption = 0,
    output: Annotated[Path, typer.Option(help="Folder for lr.png, hr.png and the kernel.")] = Path("blindsr-degraded"),
    json: JsonOption = False,
) -> None:
    """Make a low-resolution test picture and its true kernel by the paper's protocol."""
    options = dict(locals())
    as_json = options.pop("json")
    from blindsr.commands.synthesis import degrade_file

    with one_line_errors():
        record, notes = degrade_file(**options)
    for note in notes:
        say(note)
    show(record, f"{output}: lr.png, hr.png, kernel.mat, degradation.json", as_json=as_json)


@app.command()
def evaluate(
    image: Annotated[Path, typer.Argument(help="Result.", show_default=False)],
    truth: Annotated[Path, typer.Argument(help="HR picture it should be.", show_default=False)],
    scale: ScaleOption = 4,
    kernel: Annotated[Path | None, typer.Option(help="Estimated kernel.")] = None,
    true_kernel: Annotated[Path | None, typer.Option(help="True kernel.")] = None,
    border: Annotated[str, typer.Option(help="Border left out: s, s2 (s squared) or a number of pixels.")] = "s2",
    json: JsonOption = False,
) -> None:
    """PSNR and SSIM on the Y channel, and kernel PSNR."""
    from blindsr.commands.synthesis import evaluate_files

    with one_line_errors():
        record = evaluate_files(image, truth, scale=scale, border=border, kernel=kernel, true_kernel=true_kernel)
    for note in record.get("notes", []):
        say(note)
    where = f"(Y channel, border {border} = {record['border_pixels']} pixels left out)"
    text = f"PSNR {record['psnr']:.2f} dB  SSIM {record['ssim']:.4f}  {where}"
    if "kernel_psnr" in record:
        text += f"\nkernel PSNR {record['kernel_psnr']:.2f} dB (peak 1)"
    show(record, text, as_json=json)


@app.command()
def restore(
    image: Annotated[Path, typer.Argument(help="LR picture.", show_default=False)],
    kernel: Annotated[Path, typer.Option(help="Kernel file (.npy, .mat, .png, .txt).", show_default=False)],
    scale: ScaleOption = 4,
    restorer: RestorerOption = None,
    weights: WeightsOption = None,
    noise: Annotated[
        float | None, typer.Option(min=0, help="Noise standard deviation, units of 0..1; default: estimated.")
    ] = None,
    alignment: AlignmentOption = None,
    padding: PaddingOption = None,
    ground_truth: Annotated[Path | None, typer.Option(help="HR image to score against.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for sr.png and restore.json.")] = Path("blindsr-restored"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier sr.png there.")] = False,
    json: JsonOption = False,
) -> None:
    """Super-resolve a picture whose kernel is known."""
    options = dict(locals())
    as_json = options.pop("json")
    from blindsr.commands.restore import restore_file

    with one_line_errors():
        record, notes = restore_file(**options)
    for note in notes:
        say(note)
    interrupted = record["stopped"] == "interrupted"
    if interrupted:
        say(f"blindsr: interrupted; parts of {output / 'sr.png'} are bicubic")
    score = f"; PSNR {record['psnr_border_s2']:.2f} dB (border s2)" if "psnr_border_s2" in record else ""
    show(record, f"{output / 'sr.png'}: {record['restorer']} in {record['seconds']:.0f} s{score}", as_json=as_json)
    raise typer.Exit(130 if interrupted else 0)


@app.command()
def diagnose(
    result: Annotated[
        Path, typer.Argument(help="Folder of a run, or a netCDF file of chains.", metavar="RUN", show_default=False)
    ],
    everything: Annotated[bool, typer.Option("--all", help="List every nuisance parameter in the table.")] = False,
    figures: Annotated[bool, typer.Option(help="Draw figures into diagnostics/ beside the chains.")] = True,
    json: JsonOption = False,
) -> None:
    """Say whether a run's chains have converged: a table, a verdict, and figures in diagnostics/."""
    from blindsr.commands.diagnose import diagnose as look

    with one_line_errors():
        record, lines = look(result, everything=everything, figures=figures)
    show(record, "\n".join(lines), as_json=json)


@app.command()
def uncertainty(
    result: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN", show_default=False)],
    draws: Annotated[int, typer.Option(min=2, help="Draws of the picture.")] = 16,
    seed: SeedOption = 0,
    ground_truth: Annotated[Path | None, typer.Option(help="HR image: say how well the map ranks the errors.")] = None,
    json: JsonOption = False,
) -> None:
    """Map how uncertain each pixel of a run's picture is: uncertainty.png, .npy and .json in its folder."""
    from blindsr.commands.interrupt import Interrupt
    from blindsr.commands.uncertainty import uncertainty_of_run

    with one_line_errors(), Interrupt().listening() as interrupt:
        record = uncertainty_of_run(
            result, draws=draws, seed=seed, ground_truth=ground_truth, interrupt=interrupt, say=say
        )
    early = "" if record["complete"] else " (interrupted)"
    score = f"; Spearman correlation with the error {record['spearman']:.3f}" if "spearman" in record else ""
    where = f"{result / 'uncertainty.png'}: mean {255 * record['mean_std']:.1f} grey levels, {record['draws']} draws"
    show(record, f"{where}{early}{score}", as_json=json)
    raise typer.Exit(0 if record["complete"] else 130)


@app.command("train-flow")
def train_flow(
    out: Annotated[Path, typer.Option(help="File to write (.safetensors).", show_default=False)],
    prior: Annotated[
        str, typer.Option(help="Kernels to learn: a family of `blindsr methods`, or my_file.py:MyKernels.")
    ] = "gaussian",
    scale: ScaleOption = 4,
    kernel_size: KernelSizeOption = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of Adam.")] = None,
    seed: SeedOption = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    json: JsonOption = False,
) -> None:
    """Train a flow, a kernel prior learned from kernels: then `blindsr run --prior FILE`."""
    options = dict(locals())
    as_json = options.pop("json")
    from blindsr.commands.train_flow import train_flow_file

    with one_line_errors():
        record = train_flow_file(**options, say=say)
    words = f"log-likelihood {record['log_prob_held_out']:.1f} nats a held-out kernel, {record['seconds']:.0f} s"
    show(record, f"{out}: {words}", as_json=as_json)


@app.command("train-restorer")
def train_restorer(
    data: Annotated[Path, typer.Option(help="Folder of pictures, 96x96 or larger.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File to write (.safetensors).", show_default=False)],
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of Adam on blurred pictures; the denoiser gets a share of them more."),
    ] = None,
    seed: SeedOption = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    json: JsonOption = False,
) -> None:
    """Train the network of --restorer unfolded on pictures of your own: then `--restorer unfolded --weights FILE`.

    Hours on a CPU. OUT.part keeps the training every few minutes; the same command goes on from there.
    """
    options = dict(locals())
    as_json = options.pop("json")
    from blindsr.commands.train_restorer import train_restorer_file

    with one_line_errors():
        record = train_restorer_file(**options, say=say)
    words = f"trained on {record['pictures']} pictures, last loss {record['loss']}, {record['seconds']:.0f} s"
    show(record, f"{out}: {words}", as_json=as_json)


@app.command()
def methods() -> None:
    """Print the table of methods and their parts."""
    from blindsr.commands.methods import methods_table

    typer.echo(methods_table())


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("blindsr-out"),
    method: Annotated[str, typer.Option(help="A row of `blindsr methods`.")] = DEFAULT_METHOD,
    seed: SeedOption = 0,
) -> None:
    """Super-resolve a small real photo that comes with scikit-image."""
    from blindsr.commands.batch import run_demo

    with one_line_errors():
        code = run_demo(output, method, seed, say=say)
    raise typer.Exit(code)


app.command()(bench)
app.command()(reproduce)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"blindsr {VERSION}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Blind image super-resolution."""


def main() -> None:
    """Entry point: usage errors and bad input end with one line and exit code 2, an interrupt with 130."""
    try:
        code = app(standalone_mode=False)
    except typer.Exit as error:
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        say("blindsr: interrupted")
        code = 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's usage errors have it, whether typer uses click or a copy
            raise
        message = " ".join(error.format_message().split())
        if message:  # empty where the help was shown instead
            say(f"blindsr: {message}")
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
