"""Statistics that a forward pass keeps (BatchNorm), protected from bad batches."""

from typing import Any

from keras import ops

from polytape.contract import Tensor
from polytape.engines import engine

Kept = list[tuple[Any, Tensor]]


class Statistics:
    """Float variables that a forward pass may change."""

    def __init__(self, plan: Any) -> None:
        self._plan = plan
        self._known: list[Any] | None = None

    def kept(self) -> Kept:
        """They and their values."""
        return [(variable, ops.copy(variable.value)) for variable in self._found()]

    def _found(self) -> list[Any]:
        if self._known is not None:
            return self._known
        own = set(map(id, self._plan.own_variables))  # no forward pass changes these
        found = [
            variable
            for variable in self._plan.model.non_trainable_variables
            if "float" in str(variable.dtype) and id(variable) not in own
        ]
        if self._plan.reaches:  # a step was made: there will be no others
            self._known = found
        return found


def restore(kept: Kept) -> None:
    """Take back statistics that a bad batch made non-finite."""
    for variable, value in kept:
        engine().restore_if_nonfinite(variable, value)
