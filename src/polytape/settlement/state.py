"""A method's state held in Keras variables, so that jit, checkpoints and resume need no case."""

import copy
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from polytape.contract import State
from polytape.engines import engine


class StateVariables:
    """A pytree of arrays kept in non-trainable variables of an owner.

    add_weight  creates one: the owner's `add_weight`, or `keras.Variable` itself
    """

    def __init__(self, initial: State, add_weight: Callable[..., Any]) -> None:
        self._template = keras.tree.map_structure(lambda _: 0, initial)
        paths = keras.tree.flatten_with_path(initial)
        self._paths = [path for path, _ in paths]
        self.variables = [
            add_weight(
                name="_".join(["method", *map(str, path)]),
                shape=np.shape(leaf),
                dtype=str(np.asarray(leaf).dtype),
                initializer=_constant(leaf),
                trainable=False,
                autocast=False,
            )
            for path, leaf in paths
        ]

    def read(self) -> State:
        if not self.variables:
            return copy.copy(self._template)
        return keras.tree.pack_sequence_as(self._template, [v.value for v in self.variables])

    def named(self, key: str) -> list[Any]:
        """The variables whose place in the pytree ends with `key`."""
        pairs = zip(self._paths, self.variables, strict=True)
        return [variable for path, variable in pairs if path[-1:] == (key,)]

    def write(self, state: State, accept: Any) -> None:
        """Take over a new state where `accept` () bool is true."""
        if not self.variables:
            return
        pairs = zip(self.variables, keras.tree.flatten(state), strict=True)
        changed = [(variable, leaf) for variable, leaf in pairs if leaf is not variable.value]
        if changed:
            variables, values = zip(*changed, strict=True)
            engine().assign(variables, values, accept)


def _constant(leaf: Any) -> Callable[..., Any]:
    def initializer(shape: Any, dtype: Any = None) -> Any:
        del shape
        return ops.convert_to_tensor(np.asarray(leaf), dtype=dtype)

    return initializer
