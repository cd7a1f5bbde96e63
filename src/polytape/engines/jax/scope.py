"""Where JAX keeps what a step assigns: values in a scope instead of in the variables."""

from typing import Any

import jax.numpy as jnp
import keras

from polytape.engines.contract import Tensor, Variable


class Scope(keras.StatelessScope):
    """A stateless scope that sees the enclosing one and remembers which variables were assigned.

    condition  () bool: whether a variable takes what it is assigned, or stays as it is
    """

    state_mapping: dict[int, Tensor]

    def __init__(self, mapping: Any = None, condition: Tensor | None = None) -> None:
        super().__init__(state_mapping=mapping, collect_losses=True)
        self._condition = condition
        self.touched: dict[int, Variable] = {}

    def __enter__(self) -> "Scope":
        super().__enter__()
        if self.original_scope is not None:
            self.state_mapping = {**self.original_scope.state_mapping, **self.state_mapping}
        return self

    def get_current_value(self, variable: Variable) -> Tensor | None:
        found = super().get_current_value(variable)
        if found is None and self.original_scope is not None:
            return self.original_scope.get_current_value(variable)
        return found

    def add_update(self, update: tuple[Variable, Tensor]) -> None:
        variable, value = update
        self.touched[id(variable)] = variable
        if self._condition is not None:
            value = jnp.where(self._condition, value, variable.value)
        super().add_update((variable, value))

    def updates(self) -> list[tuple[Variable, Tensor]]:
        return [(v, self.get_current_value(v)) for v in self.touched.values()]
