"""How often objectives were left out of a step."""

from collections.abc import Sequence

import keras
from keras import ops

from polytape.contract import Tensor
from polytape.contract.types import Anything, Numbers


class Dropped(keras.metrics.Metric):
    """How often each objective was left out since the epoch began, because it was not finite.

    counts  (T,) float32
    idle    () float32: phases of a step without an active objective
    rows    (T,) float32: steps in a row up to now in which an objective was left out
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(name="dropped")
        self.names = tuple(names)
        # Of steps, not of samples: replicas count the same, and their counts are not added up.
        same: Anything = {"initializer": "zeros", "aggregation": "only_first_replica"}
        self.counts = self.add_variable((len(names),), name="counts", **same)
        self.idle = self.add_variable((), name="idle", **same)
        self.rows = self.add_variable((len(names),), name="rows", **same)

    def reset_state(self) -> None:
        """Begin an epoch, which interrupts no row."""
        for variable in (self.counts, self.idle):
            variable.assign(ops.zeros(variable.shape, variable.dtype))

    def update_state(self, dropped: Tensor, wanted: Tensor, present: Tensor | None) -> None:
        """dropped, wanted  (T,) bool: of all objectives those left out, and those of this phase

        present  (P,) bool: of the objectives of this phase those of this step; None: all of them
        """
        self.counts.assign_add(ops.cast(dropped, "float32"))
        rows = self.rows.value
        self.rows.assign(ops.where(dropped, rows + 1.0, ops.where(wanted, 0.0, rows)))
        if present is not None:
            self.idle.assign_add(ops.cast(~ops.any(present), "float32"))

    def result(self) -> dict[str, Tensor]:
        return {}  # told at the end of an epoch, and only if there is something to tell

    def total(self) -> int:
        return int(self._found().sum())

    def idle_steps(self) -> int:
        """How often there was nothing to do."""
        return int(self.idle.numpy())

    def _found(self) -> Numbers:
        return self.counts.numpy()

    def in_a_row(self) -> dict[str, int]:
        """The steps in a row up to now in which each objective was left out."""
        rows = self.rows.numpy()
        return {name: int(count) for name, count in zip(self.names, rows, strict=True)}

    def describe(self) -> str:
        """The objectives and how often, as text; empty if none was left out."""
        return ", ".join(f"{name!r} ({count} x)" for name, count in self.left_out().items())

    def left_out(self) -> dict[str, int]:
        """The objectives that were left out, and how often."""
        named = zip(self.names, self._found(), strict=True)
        return {name: int(count) for name, count in named if count}
