"""Inner products of gradients, and the weights by which they make up an update."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from polytape.differentiation.table import Table
from polytape.engines import engine
from polytape.explanation.explanation import Products

_EXACT = 1e-3  # of the squared length of an update that may be no combination of gradients


def products_of(
    rows: Table, directions: Sequence[Any] | None, blocks: Sequence[int] | None = None
) -> Products:
    """Of T gradients, rows[t][v], and of the update that a method made of them.

    directions  the update by variable; None: unknown
    blocks      the number of the block of each variable that has weights of its own
    """
    count, variables = len(rows), len(rows[0])
    found = np.zeros((variables, count, count))
    update, square = np.zeros((variables, count)), np.zeros(variables)
    for v in range(variables):
        flat = [_flat(rows[t][v]) for t in range(count)]
        size = next((len(each) for each in flat if each is not None), 0)
        matrix = np.stack([np.zeros(size) if each is None else each for each in flat])
        with np.errstate(invalid="ignore", over="ignore"):
            found[v] = matrix @ matrix.T
            direction = None if directions is None else _flat(directions[v])
            if direction is not None and size:
                update[v], square[v] = matrix @ direction, direction @ direction
    reach = np.array([[gradient is not None for gradient in row] for row in rows])
    weights = _weights(found, update, square, reach, blocks)
    return Products(found, update, square, weights)


def _flat(gradient: Any) -> np.ndarray | None:
    if gradient is None:
        return None
    dense = ops.cast(engine().dense(gradient), "float32")
    return np.asarray(ops.convert_to_numpy(dense), "float64").ravel()


def _weights(
    rows: np.ndarray,
    update: np.ndarray,
    square: np.ndarray,
    reach: np.ndarray,
    blocks: Sequence[int] | None,
) -> np.ndarray:
    """(V, T): least squares, over all variables that the same objectives reach in a block."""
    found = np.full(update.shape, np.nan)
    shared = reach.sum(axis=0) >= 2
    keys = [
        (blocks[v] if blocks else 0, bool(shared[v]), () if shared[v] else tuple(reach[:, v]))
        for v in range(len(square))
    ]
    for key in dict.fromkeys(keys):
        own = [v for v, each in enumerate(keys) if each == key]
        gramian, right = rows[own].sum(axis=0), update[own].sum(axis=0)
        whole = square[own].sum()
        if not (np.isfinite(gramian).all() and np.isfinite(right).all()):
            continue
        size = np.sqrt(np.diagonal(gramian))
        scale = np.where(size > 0, size, 1.0)
        normal = gramian / scale[:, None] / scale[None, :]
        solution = np.linalg.lstsq(normal, right / scale, rcond=1e-10)[0]
        if abs(whole - solution @ (right / scale)) <= _EXACT * whole:
            found[own] = solution / scale
    return found
