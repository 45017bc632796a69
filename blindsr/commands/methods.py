"""`blindsr methods`: the table of methods and of the parts that they are made of."""

from __future__ import annotations

from blindsr.diagnostics.summary import aligned
from blindsr.methods.parts import IMAGE_PRIORS, NOISES, OPTIMIZERS, PRIORS, RESTORERS
from blindsr.methods.table import METHODS
from blindsr.priors.families import FAMILIES

LOOP_COLUMNS = ("method", "image", "kernel", "prior", "optimizer", "image prior", "noise", "what it is")


def methods_table() -> str:
    """Return the methods as aligned text, each in the words of what it is, and the parts that can be combined."""
    loop = [m for m in METHODS.values() if m.loop_columns]
    rest = [m for m in METHODS.values() if not m.loop_columns]
    lines = ["An estimator finds the kernel, a restorer makes the image:", ""]
    lines += aligned(
        [("method", "kernel by", "image by", "what it is"), *((m.name, *m.columns, m.summary) for m in rest)]
    )
    lines += ["", "The joint loop estimates kernel and image in turn; each of its methods is a row of parts:", ""]
    lines += aligned([LOOP_COLUMNS, *((m.name, *m.loop_columns, m.summary) for m in loop)])
    lines += ["", "Kernel families, for --prior, degrade --kernel, train-flow --prior and bench:", ""]
    lines += aligned([("family", "what it is"), *((name, family.summary) for name, family in FAMILIES.items())])
    own = "my_file.py:MyPart"
    tables = (
        ("--prior", ["mcmc (gaussian)", *PRIORS, "flow.safetensors", own]),
        ("--optimizer", [*OPTIMIZERS, own]),
        ("--image-prior", [*IMAGE_PRIORS, own]),
        ("--noise", [*NOISES, "VALUE"]),
        (
            "--restorer",
            [*RESTORERS, "usrnet (--weights FILE)", "model.pt", "model.onnx", "weights.pth", "my_file.py:restore"],
        ),
        ("--method", ["a row above", "my_file.py:MyEstimator"]),
    )
    return "\n".join([*lines, "", *(f"{option}: {', '.join(names)}" for option, names in tables)])
