"""Losses that are linear in their variables: the rows of the Jacobian are whatever one likes."""

from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import ops

import polytape as pt

Array = np.ndarray
Rows = Mapping[str, list[Array | None]]  # path of a variable: its row in each objective, or None


def variables_of(rows: Rows, dtype: str = "float32") -> list[keras.Variable]:
    """One variable of ones per path, `network/name`."""
    found = []
    for path, columns in rows.items():
        network, name = path.split("/")
        shape = next(row.shape for row in columns if row is not None)
        with keras.name_scope(network):
            found.append(keras.Variable(np.ones(shape), dtype=dtype, name=name))
    return found


def objective(
    rows: Rows, variables: list[keras.Variable], names: str = "abc"
) -> Callable[[], dict[str, object]]:
    """losses() -> {name: sum_v <row, v>}, so that the gradient by v is the row."""

    def losses() -> dict[str, object]:
        found = {}
        for t, name in enumerate(names):
            pairs = [(columns[t], v) for columns, v in zip(rows.values(), variables, strict=True)]
            terms = [ops.sum(v * row.astype("float32")) for row, v in pairs if row is not None]
            found[name] = ops.sum(ops.stack(terms))
        return found

    return losses


def updates(method: object, *steps: Rows, names: str = "abc", **options: object) -> list[Array]:
    """The combined update of the last of some steps, by variable; nothing is applied."""
    variables = variables_of(steps[0])
    combiner = pt.Combiner(method, **options)
    for rows in steps:
        update = combiner(pt.gradients(objective(rows, variables, names), variables))
    return [None if part is None else ops.convert_to_numpy(part) for part in update]


def random_rows(seed: int = 0, count: int = 3) -> dict[str, list[Array]]:
    """Three objectives over two networks with three variables, sizes about 1 to 3."""
    rng = np.random.default_rng(seed)
    shapes = {"encoder/kernel": (2, 3), "encoder/bias": (3,), "decoder/kernel": (5,)}
    sizes = (1.0, 0.3, 2.0)[:count]
    return {path: [size * rng.normal(size=s) for size in sizes] for path, s in shapes.items()}
