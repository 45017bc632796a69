"""`blindsr methods`: the table of methods and their parts."""

from __future__ import annotations

from blindsr.methods.parts import IMAGE_PRIORS, NOISES, OPTIMIZERS, PRIORS, RESTORERS
from blindsr.methods.table import METHODS, Method
from blindsr.priors.families import FAMILIES

COLUMNS = ("method", "image", "kernel", "prior", "optimizer", "image prior", "noise", "restorer", "what it is")


def _row(m: Method) -> tuple[str, ...]:
    noise = m.noise.name if m.noise else "preset's" if m.composed else "from y" if m.has_kernel else "-"
    steps = (m.prior.name, m.optimizer.name, m.image_prior.name) if m.composed else ("-", "-", "-")
    image = m.image.name if m.composed else "-"
    return (m.name, image, m.kernel.name, *steps, noise, m.restorer.name, m.summary)


def methods_table() -> str:
    """Return the table as aligned text, the parts that can be combined below it."""
    rows = [COLUMNS, *(_row(m) for m in METHODS.values())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    lines.append("")
    priors = [*PRIORS, "flow.safetensors"]
    tables = (("--prior", priors), ("--optimizer", OPTIMIZERS), ("--image-prior", IMAGE_PRIORS), ("--noise", NOISES))
    lines += [
        f"{option}: {', '.join(table)}{', VALUE' if option == '--noise' else ', my_file.py:MyPart'}"
        for option, table in tables
    ]
    lines.append(
        f"--restorer: {', '.join(RESTORERS)}, usrnet (--weights FILE), model.pt, model.onnx, weights.pth, "
        "my_file.py:restore"
    )
    lines += ["", "Kernel families (run --prior, degrade --kernel, train-flow --prior, bench):"]
    wide = max(map(len, FAMILIES))
    lines += [f"  {name.ljust(wide)}  {family.summary}" for name, family in FAMILIES.items()]
    return "\n".join(lines)
