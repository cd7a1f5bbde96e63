"""Gradients as text: a table of losses, norms and cosines, or what is known of them in a trace."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from polytape.differentiation.jacobian import Jacobian
from polytape.engines import engine

COLUMNS = 8  # so many objectives have their cosines shown one by one
LINES = 16  # so many are shown at all


def shown(gradients: Jacobian, variables: Sequence[Any]) -> str:
    """The loss, the norm of the gradient and the cosines of every objective.

    variables  that the gradients are by: in a trace their shapes are shown, and nothing is computed
    """
    connectivity = gradients.connectivity
    head = (
        f"Gradients of {_number(len(connectivity.names), 'objective')} by "
        f"{_number(len(connectivity.paths), 'variable')}, {len(connectivity.shared)} shared"
    )
    if all(engine().has_value(loss) for loss in gradients.losses.values()):
        lines = _aligned(_values(gradients))
    else:
        head, lines = f"{head}; being traced, without values yet", _shapes(gradients, variables)
    left = len(connectivity.names) - LINES
    more = [f"... and {_number(left, 'objective')} more"] if left > 0 else []
    return "\n".join([head, *lines, *more])


def _values(gradients: Jacobian) -> list[list[str]]:
    names = gradients.connectivity.names
    losses = [f"{float(ops.convert_to_numpy(loss)):.4g}" for loss in gradients.losses.values()]
    norms = [f"{norm:.4g}" for norm in ops.convert_to_numpy(gradients.norms)]
    cosines = np.asarray(ops.convert_to_numpy(gradients.cosines))
    head: list[str] = []
    cells: list[list[str]] = [[]]
    if 1 < len(names) <= COLUMNS:
        head = [f"cos {name}" for name in names]
        cells = [[f"{cosine:.3f}" for cosine in row] for row in cosines]
    elif len(names) > COLUMNS:
        head = ["lowest cos", "with"]
        others = np.where(np.eye(len(names), dtype=bool), np.inf, cosines)
        cells = [[f"{min(row):.3f}", names[int(np.argmin(row))]] for row in others]
    rows = zip(names, losses, norms, cells, strict=True)
    table = [["", "loss", "norm", *head]]
    return table + [[name, loss, norm, *rest] for name, loss, norm, rest in rows][:LINES]


def _shapes(gradients: Jacobian, variables: Sequence[Any]) -> list[str]:
    lines = []
    width = max(map(len, gradients.connectivity.names))
    pairs = zip(gradients.losses.items(), gradients.connectivity.reach, strict=True)
    for (name, loss), reach in [*pairs][:LINES]:
        places = [int(v) for v in np.flatnonzero(reach)]
        paths = gradients.connectivity.paths
        listed = ", ".join(f"{paths[v]} {tuple(variables[v].shape)}" for v in places[:3])
        more = f", ... ({len(places)} in all)" if len(places) > 3 else ""
        kind = f"{tuple(loss.shape)} {keras.backend.standardize_dtype(loss.dtype)}"
        lines.append(f"{name.ljust(width)}  loss {kind}, reaches {listed or 'nothing'}{more}")
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
