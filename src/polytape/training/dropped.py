"""How often objectives were left out of a step."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from polytape.contract import Tensor


class Dropped(keras.metrics.Metric):
    """How often each objective was left out since the epoch began, because it was not finite.

    counts  (T + 1,) float32, the last: phases of a step without an active objective
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(name="dropped")
        self.names = tuple(names)
        self.counts = self.add_variable((len(names) + 1,), initializer="zeros", name="counts")

    def update_state(self, dropped: Tensor, present: Tensor | None) -> None:
        """dropped, present: (T,) bool; None: all objectives are present."""
        if present is None:
            idle = ops.zeros((1,), "bool")
        else:
            idle = ops.reshape(~ops.any(present), (1,))
        self.counts.assign_add(ops.cast(ops.concatenate([dropped, idle]), "float32"))

    def result(self) -> dict[str, Tensor]:
        return {}  # told at the end of an epoch, and only if there is something to tell

    def total(self) -> int:
        return int(self._found()[:-1].sum())

    def idle_steps(self) -> int:
        """How often there was nothing to do."""
        return int(self._found()[-1])

    def _found(self) -> np.ndarray:
        return ops.convert_to_numpy(self.counts.value)

    def describe(self) -> str:
        """The objectives and how often, as text; empty if none was left out."""
        named = zip(self.names, self._found()[:-1], strict=True)
        return ", ".join(f"{name!r} ({int(count)} x)" for name, count in named if count)
