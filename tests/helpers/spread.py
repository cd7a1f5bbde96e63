"""Trainings that several devices share, and the same on one: models, data and how far they part.

Called with the models built wherever the engine wants them: in a strategy's scope, under a
distribution, in a process of a group.
"""

from typing import Any

import keras
import numpy as np

import polytape as pt
from polytape.catalogue import all_methods
from small import LOSSES, Array, arrays, data, fill, model

STEPS, SIZE = 10, 16  # batches of an epoch, samples of a batch over all devices
CLOSE = 1e-5  # of the distance travelled


def methods() -> dict[str, Any]:
    """Every method of the catalogue as it comes, and stages around some."""
    found = {name: method() for name, method in all_methods().items()}
    found["Every"] = pt.Every(pt.IMTLG(), 2)
    found["Chain"] = pt.Chain(pt.Normalize(), pt.Clip(0.5), pt.UPGrad())
    found["PerNetwork"] = pt.PerNetwork(pt.UPGrad())
    found["Smoothed"] = pt.Smoothed(pt.MGDA())
    return found


def batches(fault: str | None = None) -> tuple[Array, dict[str, Array]]:
    """Inputs (STEPS * SIZE, 4) and the targets of "a", "b" and "c".

    fault  "infinite": a target of "a" in three of the steps, each time in the first quarter of
           the batch; "missing": of "a" all labels in the last half of some batches, all in the
           first half of others, and all of one; of "b" single ones
    """
    x, targets = data(STEPS * SIZE, seed=1)
    a, b = (targets[name].reshape(STEPS, SIZE, 1).copy() for name in "ab")
    if fault == "infinite":
        a[[1, 4, 5], [0, 2, 3]] = np.inf
    if fault == "missing":
        a[[0, 3], SIZE // 2 :] = np.nan
        a[[1, 6], : SIZE // 2] = np.nan
        a[4] = np.nan
        b[np.random.default_rng(2).random(b.shape) < 0.3] = np.nan
    return x, {"a": a.reshape(-1, 1), "b": b.reshape(-1, 1), "c": targets["c"]}


def part(nest: Any, number: int, count: int) -> Any:
    """What process `number` of `count` gets: of each batch its part, in order."""

    def cut(array: Array) -> Array:
        steps = array.reshape(-1, count, SIZE // count, *array.shape[1:])
        return steps[:, number].reshape(-1, *array.shape[1:])

    return keras.tree.map_structure(cut, nest)


def made(combine: Any, optimizer: Any = None, busy: bool = False, **settings: Any) -> Any:
    """A compiled `pt.Model` of three objectives whose weights are always the same.

    busy  with BatchNorm and dropout
    """
    found = model(busy=busy)
    optimizer = optimizer or keras.optimizers.SGD(0.05)
    settings = {"seed": 3, "verbose": 0, **settings}
    found.compile(optimizer, LOSSES, combine=combine, **settings)
    return found


def train(trained: Any, given: Any = None, size: int = SIZE, **options: Any) -> dict[str, Any]:
    """An epoch on `batches()` or others, in order; its logs."""
    x, y = batches() if given is None else given
    options = {"batch_size": size, "shuffle": False, "verbose": 0, **options}
    history = trained.fit(x, y, **options).history
    return {name: values[-1] for name, values in history.items()}


def weights(trained: Any) -> Array:
    """(P,) float64: all trainable variables."""
    return flat(arrays(trained.trainable_variables))


def flat(found: list[Array]) -> Array:
    return np.concatenate([np.ravel(array).astype("float64") for array in found])


def start() -> Array:
    """(P,) the weights that `made` begins with."""
    return flat(arrays(fill(model()).trainable_variables))


def apart(one: Array, other: Array, begun: Array | None = None) -> float:
    """How far two trainings ended from each other, in distances travelled."""
    begun = start() if begun is None else begun
    travelled = np.linalg.norm(other - begun)
    assert travelled > 0, "the training went nowhere"
    return float(np.linalg.norm(one - other) / travelled)
