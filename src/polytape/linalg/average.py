"""Exponential moving averages without the bias of their start."""

from typing import NamedTuple

import numpy as np

from polytape.contract import Tensor, ops


class Average(NamedTuple):
    """A moving average per entry: a decayed sum of values over the decayed sum of their weights."""

    total: Tensor
    weight: Tensor

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> "Average":
        return cls(np.zeros(shape, "float32"), np.zeros(shape, "float32"))

    @property
    def mean(self) -> Tensor:
        """The average; zero where nothing was seen."""
        return self.total / ops.where(self.weight > 0, self.weight, 1.0)

    def after(self, value: Tensor, decay: float, seen: Tensor) -> "Average":
        """The average with one more value; entries that are not `seen` stay as they are."""
        return Average(
            ops.where(seen, decay * self.total + (1 - decay) * value, self.total),
            ops.where(seen, decay * self.weight + (1 - decay), self.weight),
        )
