"""A method asked step by step, as training would."""

from typing import Any

import keras
import numpy as np
from keras import ops

import polytape as pt
from compiled import compiled

Array = np.ndarray


def history(method: Any, losses: Array, active: Array | None = None, rows: Any = None) -> Array:
    """Weights (N, T) over N steps with losses (N, T) and, if there are any, rows (N, T, n)."""
    losses = np.asarray(losses, "float64")
    active = np.ones(losses.shape, bool) if active is None else active

    @compiled
    def evaluate(state: Any, loss: Any, mask: Any, gramian: Any, step: Any) -> Any:
        return pt.weigh(method, gramian, loss, state, active=mask, step=step)

    names = tuple(map(str, range(losses.shape[1])))
    state = keras.tree.map_structure(ops.convert_to_tensor, method.init(names))
    found = []
    for step, (loss, mask) in enumerate(zip(losses, active, strict=True)):
        gramian = None if rows is None else tensor(np.float32(rows[step] @ rows[step].T))
        inputs = (tensor(np.float32(loss * mask)), tensor(mask), gramian, tensor(np.int32(step)))
        weights, state = evaluate(state, *inputs)
        for leaf in keras.tree.flatten(state):
            assert np.isfinite(ops.convert_to_numpy(leaf)).all()
        found.append(ops.convert_to_numpy(weights))
    return np.array(found, "float64")


def tensor(value: Any) -> Any:
    return ops.convert_to_tensor(value)


def wandering(steps: int, count: int, seed: int = 0) -> tuple[Array, Array]:
    """Positive losses (N, T) of very different size, and who is active (N, T): all at the end."""
    rng = np.random.default_rng(seed)
    walk = np.exp(np.cumsum(rng.normal(-0.05, 0.3, size=(steps, count)), axis=0))
    active = rng.random((steps, count)) > 0.25
    active[:, 0] |= ~active.any(1)
    active[-1] = True
    return walk * np.logspace(-3, 3, count), active
