"""`blindsr diagnose`: what a run's chains say and whether they have converged; anything else is shown as a trace."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from blindsr.diagnostics import arviz_io, chain_plots, kernel_plots, summary
from blindsr.diagnostics import verdict as verdicts
from blindsr.diagnostics.moments import NAMES, principal_axes
from blindsr.errors import UserError
from blindsr.io.files import atomic_path
from blindsr.results.posterior import BIASED, DIAGNOSTICS, POSTERIOR, RESTARTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]
Figures = dict[str, Callable[[], "Figure"]]
"""Functions that draw the figures, by file name."""

TRACE = "trace.csv"
NO_SAMPLE = "no verdict: {what}; a trace is not a sample of a posterior, so it gets no R-hat, ESS or interval"


def diagnose(path: Path, *, everything: bool = False, figures: bool = True) -> tuple[dict[str, Any], list[str]]:
    """Diagnose a run folder or a netCDF file; return plain values for JSON, and lines to print.

    A folder holds posterior.nc, trace.nc or trace.csv; a file is one that ArviZ can read. With `everything` the table
    lists every nuisance parameter; with `figures`, figures are drawn into `diagnostics` beside the file. Raises
    UserError if there is nothing to diagnose.
    """
    files = _files(path)
    record: dict[str, Any] = {"run": str(path)}
    lines: list[str] = []
    for file in files:
        part, words, drawn = _trace_file(file) if file.suffix == ".csv" else _chains_file(file, everything)
        own = file.name in (POSTERIOR, BIASED, RESTARTS, TRACE)
        folder = file.parent / (DIAGNOSTICS if own else f"{file.stem}-{DIAGNOSTICS}")
        if figures and drawn:
            part["figures"] = [str(_drawn(folder / name, make)) for name, make in drawn.items()]
            words.append(f"figures: {folder}: {', '.join(drawn)}")
        record[{POSTERIOR: "posterior", RESTARTS: "restarts", TRACE: "trace"}.get(file.name, "posterior")] = part
        lines += ([""] if lines else []) + words
    return record, lines


def _files(path: Path) -> list[Path]:
    """Files to diagnose: chains, then restarts; the optimizer's trace only if there are neither."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        if path.suffix not in (".nc", ".csv"):
            raise UserError(f"{path}: neither a run folder nor a netCDF file (.nc)")
        return [path]
    found = [path / name for name in (POSTERIOR, BIASED, RESTARTS) if (path / name).is_file()]
    if not found and (path / TRACE).is_file():
        found = [path / TRACE]
    if not found:
        raise UserError(
            f"{path}: holds no {POSTERIOR}, {RESTARTS} or {TRACE}; give the folder of a run, made with "
            "`blindsr run --sampler hmc` for a posterior"
        )
    return found


def _drawn(path: Path, make: Callable[[], Figure]) -> Path:
    """Save a figure to a file."""
    with atomic_path(path) as temporary:
        make().savefig(temporary, format="png")
    return path


def read_chains(file: Path) -> Any:
    """Read a netCDF file of chains; UserError if it cannot be read."""
    try:
        return arviz_io.load(file)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error


def _chains_file(file: Path, everything: bool) -> tuple[dict[str, Any], list[str], Figures]:
    """Diagnose a netCDF file, which holds a posterior or a trace."""
    data = read_chains(file)
    posterior, trace = arviz_io.group(data, "posterior"), arviz_io.group(data, "trace")
    if posterior is not None:
        if not {"chain", "draw"} <= set(posterior.dims):
            raise UserError(f"{file}: the group posterior has no axes chain and draw")
        return _posterior(file, data, posterior, everything)
    if trace is None:
        names = ", ".join(arviz_io.group_names(data)) or "none"
        raise UserError(f"{file}: holds neither a posterior nor a trace (groups: {names})")
    return _restarts(file, trace) if "restart" in trace.dims else _biased(file, trace, data)


def _posterior(file: Path, data: Any, posterior: Any, everything: bool) -> tuple[dict[str, Any], list[str], Figures]:
    rows = summary.table(data)
    if not rows:
        raise UserError(f"{file}: the group posterior holds no parameters")
    verdict, attrs = verdicts.judge(data, rows), posterior.attrs
    head = f"{file}: {posterior.sizes['chain']} chains x {posterior.sizes['draw']} draws"
    if "sampler" in attrs:
        head += f" by {attrs['sampler']} of the {attrs.get('target', '')} posterior, warm-up {attrs.get('warmup', '?')}"
    record = {
        "file": str(file),
        "sampler": attrs.get("sampler"),
        "target": attrs.get("target"),
        "chains": posterior.sizes["chain"],
        "draws": posterior.sizes["draw"],
        "interval": "equal-tailed, 5 % to 95 %",
        "parameters": [asdict(row) for row in rows],
        "verdict": asdict(verdict),
    }
    note = (
        "5 % to 95 %: equal-tailed 90 % interval; MCSE: of the mean; widths and centroid in HR pixels, angle in radians"
    )
    table = summary.as_text(rows, everything=everything)
    lines = [head, "", *table, "", note, *verdicts.words(verdict, data)]
    return record, lines, _chain_figures(data, file)


def _biased(file: Path, trace: Any, data: Any) -> tuple[dict[str, Any], list[str], Figures]:
    """Draws of a sampler whose stationary distribution is not the target."""
    what = f"the draws of {trace.attrs.get('sampler', 'this sampler')} are not draws of its target"
    line = NO_SAMPLE.format(what=what)
    draws = {name: values for name, (values, nuisance) in summary.columns(data, "trace").items() if not nuisance}
    title = f"{file.parent.name}: trace, not a posterior sample"
    return {"file": str(file), "verdict": line}, [line], {"trace.png": lambda: chain_plots.traces(draws, title)}


def _restarts(file: Path, trace: Any) -> tuple[dict[str, Any], list[str], Figures]:
    """Numbers and figures on the spread of restarts, without statistics of chains."""
    count = trace.sizes["restart"]
    spread = {
        name: {"mean": float(trace[name].mean()), "sd": float(trace[name].std()), "values": trace[name].values.tolist()}
        for name in (*NAMES, "kernel_width", "kernel_psnr")
        if name in trace
    }
    asked = int(trace.attrs.get("restarts_asked", count))
    head = f"{file}: {count} restarts of an optimisation" + (f" (of {asked}: incomplete)" if count < asked else "")
    line = NO_SAMPLE.format(what="restarts show where an optimizer ends, not how likely that is")
    width = max(len(name) for name in spread)
    rows = [
        f"{name.ljust(width)}  {v['mean']:10.4f} +- {v['sd']:.4f}   {' '.join(f'{x:.3f}' for x in v['values'])}"
        for name, v in spread.items()
    ]
    arrays = (trace["kernel"].values, trace["loss"].values, trace["kernel_width"].values)
    title = f"{file.parent.name}: {count} restarts (not a posterior sample)"
    record = {"file": str(file), "restarts": count, "spread": spread, "verdict": line}
    return record, [head, "", *rows, "", line], {"restarts.png": lambda: kernel_plots.restart_spread(*arrays, title)}


def _trace_file(file: Path) -> tuple[dict[str, Any], list[str], Figures]:
    """The iterates of an optimizer."""
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
        columns = {name: np.array([float(row[name] or "nan") for row in rows]) for name in (rows[0] if rows else ())}
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a trace of blindsr ({error})") from error
    if rows and "step" not in columns:
        raise UserError(f"{file}: not a trace of blindsr (no column step)")
    hint = "; for a posterior: `blindsr run --sampler hmc`"
    if not rows:
        line = NO_SAMPLE.format(what="this run made no steps and drew no chains") + hint
        return {"file": str(file), "steps": 0, "verdict": line}, [line], {}
    line = NO_SAMPLE.format(what="these are the iterates of an optimizer") + hint
    title = f"{file.parent.name}: iterates of the optimizer (not a posterior sample)"
    record = {
        "file": str(file),
        "steps": len(rows),
        "last": {n: float(v[-1]) for n, v in columns.items()},
        "verdict": line,
    }
    head = f"{file}: {len(rows)} steps of an optimizer"
    return record, [head, line], {"optimizer.png": lambda: kernel_plots.optimizer_trace(columns, title)}


FEW = 3
"""Nuisance parameters that figures show beside the kernel's; if there are more, none are shown."""
SMALL = 0.01
"""A centroid whose standard deviation is below this many HR pixels is left out of the figures."""


def _moving(data: Any) -> dict[str, Array]:
    """Draws of what varies: the kernel's quantities and a few others or, in a file without a kernel, everything."""
    columns = summary.columns(data)
    others = sum(nuisance for _, nuisance in columns.values())
    every = {name: d for name, (d, _) in columns.items()}
    chosen = {name: d for name, d in every.items() if not columns[name][1] or others <= FEW} or every
    moving = {name: d for name, d in chosen.items() if summary.varies(float(d.std()), float(d.mean()))}
    still = {name for name in NAMES[:2] if "width_1" in moving and name in moving and float(moving[name].std()) < SMALL}
    return {name: d for name, d in moving.items() if name not in still}


def _true_values(data: Any, draws: dict[str, Array]) -> tuple[Array | None, dict[str, float]]:
    """The true kernel and its moments, if the file has it, with the orientation in the period nearest to the draws."""
    constant = arviz_io.group(data, "constant_data")
    if constant is None or "true_kernel" not in constant:
        return None, {}
    kernel = constant["true_kernel"].values
    row = principal_axes(torch.from_numpy(np.ascontiguousarray(kernel))[None, None])[0].tolist()
    values = dict(zip(NAMES[:4], row[:4], strict=True))
    if "orientation" in draws:
        angle, middle = np.arctan2(row[5], row[4]) / 2, float(draws["orientation"].mean())
        values["orientation"] = float(middle + (angle - middle + np.pi / 2) % np.pi - np.pi / 2)
    return kernel, values


def _chain_figures(data: Any, file: Path) -> Figures:
    """All figures that the file has data for."""
    draws, name = _moving(data), file.parent.name or str(file)
    stats = arviz_io.group(data, "sample_stats")
    divergent = None if stats is None or "diverging" not in stats else stats["diverging"].values.astype(bool)
    kernel, truth = _true_values(data, draws)
    moments = {name: d for name, d in draws.items() if name in NAMES}
    made: Figures = {}
    if draws:
        made |= {
            "traces.png": lambda: chain_plots.traces(draws, f"{name}: traces", divergent),
            "ranks.png": lambda: chain_plots.ranks(draws, f"{name}: ranks (flat where the chains agree)"),
            "autocorrelation.png": lambda: chain_plots.autocorrelations(draws, f"{name}: autocorrelation"),
            "pairs.png": lambda: chain_plots.pairs(moments or draws, f"{name}: kernel parameters", truth),
        }
    mixing = verdicts.energy_mixing(data)
    if mixing is not None and stats is not None:
        energy = stats["energy"].values
        made["energy.png"] = lambda: chain_plots.energies(energy, mixing, f"{name}: energy")
    kernels = arviz_io.group(data, "kernel")
    if kernels is not None:
        mean, sd, shown = (kernels[key].values for key in ("mean", "sd", "draws"))
        made["kernel.png"] = lambda: kernel_plots.kernel_mean(mean, sd, f"{name}: kernel", kernel)
        made["kernel_draws.png"] = lambda: kernel_plots.kernel_draws(shown, mean, f"{name}: kernel draws")
    return made | _predictive_figures(data, name)


def _predictive_figures(data: Any, name: str) -> Figures:
    """A figure for each observed variable that was also predicted."""
    observed, predicted = arviz_io.group(data, "observed_data"), arviz_io.group(data, "posterior_predictive")
    made: Figures = {}
    if observed is None or predicted is None:
        return made
    for variable in (str(v) for v in observed.data_vars if v in predicted):
        values = observed[variable].values
        drawn = predicted[variable].values.reshape(-1, *values.shape)
        file = "predictive.png" if not made else f"predictive_{variable}.png"
        title = f"{name}: data and posterior predictions ({variable})"
        if variable.startswith("lr_image"):
            made[file] = partial(kernel_plots.predicted_image, values, drawn, title)
        else:
            made[file] = partial(kernel_plots.predicted_values, values, drawn, title, variable.replace("_", " "))
    return made
