"""How a comparison reads a problem: the same batches for all, one value a loss."""

from typing import Any

import keras
import numpy as np
from keras import ops

from polytape.problems.problem import count
from polytape.training.losses.keras_losses import resolve_loss
from polytape.training.losses.missing_labels import masked


class Batches(keras.utils.PyDataset):
    """Shuffled batches of one size, whose order depends on the seed alone, on every backend.

    Examples that are left over are not seen in that epoch: JAX would compile the step for them once
    more.
    """

    def __init__(self, x: Any, y: dict[str, Any], batch_size: int, seed: int) -> None:
        super().__init__()
        self.x, self.y, self.batch_size = x, y, batch_size
        self._random = np.random.default_rng(seed)
        self._examples = count(x)
        self.order = self._random.permutation(self._examples)

    def __len__(self) -> int:
        return max(1, self._examples // self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return rows(self.x, chosen), rows(self.y, chosen)

    def on_epoch_end(self) -> None:
        self.order = self._random.permutation(self._examples)


def rows(arrays: Any, chosen: Any) -> Any:
    """The same examples of every array in a structure."""
    return keras.tree.map_structure(lambda array: array[chosen], arrays)


def mean_loss(loss: Any, targets: Any, outputs: Any) -> Any:
    """Mean of a Keras loss over the labels there are, (); 0 if there are none."""
    return ops.mean(masked(resolve_loss(loss), np.asarray(targets), outputs)[0])
