"""Evidence of two half batches, by hand."""

from typing import Any

import numpy as np
from keras import ops

from polytape.contract import Evidence, Products, Seed

Array = np.ndarray


def halves(seed: int, count: int) -> tuple[Array, Array]:
    """Gradients (T, n) of two halves that differ by noise."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 6))
    return rows + 0.3 * rng.normal(size=rows.shape), rows + 0.3 * rng.normal(size=rows.shape)


def evidence(cross: Any, active: Any) -> Evidence:
    """Of objectives a, b, c, ... with losses of one; the Gramian is nobody's business."""
    count = cross.shape[-1]
    names = tuple("abcdefgh"[:count])
    step = ops.zeros((), "int32")
    losses = ops.ones((count,))
    return Evidence(
        losses, ops.eye(count), active, names, step, Seed(0), readings={"cross": Products(cross)}
    )
