"""Statistics that a forward pass keeps (BatchNorm), protected from bad batches."""

import keras
from keras import ops

from polytape.contract import Tensor
from polytape.engines import engine

Kept = list[tuple[keras.Variable, Tensor]]


class Statistics:
    """Float variables of a model that a forward pass may change."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._known: list[keras.Variable] | None = None

    def kept(self, final: bool) -> Kept:
        """They and their values.

        final  whether a step was made, so that there will be no others
        """
        return [(variable, ops.copy(variable.value)) for variable in self._found(final)]

    def _found(self, final: bool) -> list[keras.Variable]:
        if self._known is not None:
            return self._known
        own = set(map(id, self._model.method_state.variables))  # no forward pass changes these
        found = [
            variable
            for variable in self._model.non_trainable_variables
            if "float" in str(variable.dtype) and id(variable) not in own
        ]
        if final:
            self._known = found
        return found


def restore(kept: Kept) -> None:
    """Take back statistics that a bad batch made non-finite."""
    for variable, value in kept:
        engine().restore_if_nonfinite(variable, value)
