"""Gradients of tables of which a forward pass has looked up some entries, kept by entry.

A table of a million words of which a batch uses a thousand has a gradient of a thousand entries.
TensorFlow gives it as such. Elsewhere it is kept so for each objective, and becomes a table once:
as the update of all of them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import keras
import numpy as np

from polytape.engines.contract import Rows, Tensor

# By so many numbers the gradient of an objective must be shorter than the table.
WORTH = 2**16


def pays(count: int, shape: Sequence[int]) -> bool:
    """Whether the gradients by a table are kept by entry.

    count  of the entries that were looked up, repeated ones included;  shape  of the table
    """
    return (shape[0] - count) * math.prod(shape[1:]) >= WORTH


@dataclass(frozen=True)
class Gathered:
    """The gradient of a table, which is zero but for some entries along its first axis.

    places  (n,) int, sorted. What was looked up several times has its values at the first of its
            places and zeros at the others. All gradients of one recording by one table share them
    values  (n, *entry) float32, or float64 if the table is
    shape, dtype  of the table
    """

    places: Tensor
    values: Tensor
    shape: tuple[int, ...]
    dtype: Any


class GatheredRows(ABC):
    """Gradients of one table as rows, some or all of them `Gathered`: a `Rows`."""

    sliced = False

    def __init__(self, gradients: Sequence[Any]) -> None:
        self._gradients = gradients
        self._sparse = [i for i, each in enumerate(gradients) if isinstance(each, Gathered)]
        self._dense = [i for i, each in enumerate(gradients) if not isinstance(each, Gathered)]
        self._like: Gathered = gradients[self._sparse[0]]
        self._entries = self.rows_of([gradients[index].values for index in self._sparse])

    @abstractmethod
    def rows_of(self, gradients: Sequence[Tensor]) -> Rows:
        """Dense gradients as rows."""

    @abstractmethod
    def table(self, gradient: Any) -> Tensor:
        """A gradient, sparse or not, in the shape and type of the table."""

    @abstractmethod
    def entries(self, table: Tensor) -> Tensor:
        """(n, *entry) those of a dense gradient that were looked up, like `Gathered.values`."""

    @cached_property
    def _tables(self) -> Rows:
        """All of them, dense."""
        return self.rows_of([self.table(gradient) for gradient in self._gradients])

    @cached_property
    def _rest(self) -> Rows:
        return self.rows_of([self._gradients[index] for index in self._dense])

    def gram(self, mixed: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        if not self._dense:
            return self._entries.gram(mixed, kept)
        if mixed is not None or kept is not None:
            return self._tables.gram(mixed, kept)
        count = len(self._sparse)
        values = [self._gradients[index].values for index in self._sparse]
        seen = [self.entries(self._gradients[index]) for index in self._dense]
        upper = self.rows_of([*values, *seen]).gram()[:count]
        across = keras.ops.transpose(upper[:, count:])
        lower = keras.ops.concatenate([across, self._rest.gram()], axis=1)
        found = keras.ops.concatenate([upper, lower])
        order = np.argsort([*self._sparse, *self._dense])
        return keras.ops.take(keras.ops.take(found, order, axis=0), order, axis=1)

    def squares(self) -> list[Tensor]:
        found = dict(zip(self._sparse, self._entries.squares(), strict=True))
        if self._dense:
            found.update(zip(self._dense, self._rest.squares(), strict=True))
        return [found[index] for index in range(len(found))]

    def matrix(self) -> Tensor:
        return self._tables.matrix()

    def weighted_sum(self, weights: Tensor, kept: Tensor | None) -> Any:
        if not self._dense:
            return replace(self._like, values=self._entries.weighted_sum(weights, kept))

        def of(rows: Rows, indices: Sequence[int]) -> Tensor:
            places = np.array(indices)
            chosen = None if kept is None else keras.ops.take(kept, places)
            return rows.weighted_sum(keras.ops.take(weights, places), chosen)

        values = of(self._entries, self._sparse)
        return self.table(replace(self._like, values=values)) + of(self._rest, self._dense)

    def unflatten(self, flat: Tensor) -> Tensor:
        kind = keras.backend.standardize_dtype(self._like.dtype)
        return keras.ops.cast(keras.ops.reshape(flat, self._like.shape), kind)


def alike(gradients: Sequence[Any]) -> bool:
    """Whether what is kept by entry among gradients is kept by the same entries."""
    places = [gradient.places for gradient in gradients if isinstance(gradient, Gathered)]
    return all(each is places[0] for each in places)
