"""`blindsr methods`: the table of methods and their parts."""

from __future__ import annotations

from blindsr.methods import IMAGE_PRIORS, METHODS, NOISES, OPTIMIZERS, PRIORS

COLUMNS = ("method", "prior", "optimizer", "image prior", "noise", "what it is")


def methods_table() -> str:
    """Return the table as aligned text, the parts that can be combined below it."""
    rows = [COLUMNS] + [
        (m.name, m.prior.name, m.optimizer.name, m.image_prior.name, m.noise.name if m.noise else "preset's", m.summary)
        for m in METHODS.values()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    lines.append("")
    tables = (("--prior", PRIORS), ("--optimizer", OPTIMIZERS), ("--image-prior", IMAGE_PRIORS), ("--noise", NOISES))
    lines += [
        f"{option}: {', '.join(table)}{', VALUE' if option == '--noise' else ', my_file.py:MyPart'}"
        for option, table in tables
    ]
    return "\n".join(lines)
