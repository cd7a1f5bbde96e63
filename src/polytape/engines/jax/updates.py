"""What a training step changes, and how it is run."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from polytape.engines.absent import unwarned
from polytape.engines.contract import Tensor, Variable
from polytape.engines.jax.scope import Scope


def island(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function)


def aside(function: Callable[[], Any], changing: Sequence[Variable]) -> Any:
    del changing  # what happens in the scope stays there
    with Scope():
        return function()


def assign(variables: Sequence[Variable], values: Sequence[Tensor], accept: Tensor) -> None:
    for variable, value in zip(variables, values, strict=True):
        kept = variable.value
        variable.assign(jnp.where(accept, value.astype(kept.dtype), kept))


def apply(
    optimizer: Any,
    gradients: Sequence[Tensor | None],
    variables: Sequence[Variable],
    accept: Tensor,
) -> None:
    if not optimizer.built:
        optimizer.build(variables)
    everything = [*variables, *optimizer.variables]
    before = [jnp.asarray(variable.value) for variable in everything]

    def update(values: list[Tensor]) -> list[Tensor]:
        given = values[len(variables) :], list(gradients), values[: len(variables)]
        with unwarned():
            after = optimizer.stateless_apply(*given)
        found = [*after[0], *after[1]]
        return [new.astype(old.dtype) for new, old in zip(found, values, strict=True)]

    for variable, value in zip(everything, _once_if(accept, update, before), strict=True):
        variable.assign(value)


def _once_if(
    condition: Tensor, function: Callable[[list[Tensor]], list[Tensor]], values: list[Tensor]
) -> list[Tensor]:
    """What a function makes of some values, or these values themselves."""
    if not isinstance(condition, jax.core.Tracer):
        return function(values) if condition else values

    # XLA turns a condition into a choice for every entry, and copies all slots for it. A loop of
    # one turn at most stays what it is.
    def turn(carried: tuple[Tensor, list[Tensor]]) -> tuple[Tensor, list[Tensor]]:
        return jnp.zeros((), bool), function(carried[1])

    return jax.lax.while_loop(lambda carried: carried[0], turn, (condition, values))[1]


def prepare(model: Any) -> None:
    del model  # nothing to settle


def keep(model: Any) -> list[tuple[Variable, Tensor]]:
    return [(variable, variable.value) for group in _state(model) for variable in group]


def recover(kept: list[tuple[Variable, Tensor]] | None) -> None:
    # Keras empties the variables before the first step of `fit` and refills them from its result;
    # if that step fails while it is traced, there is none.
    for variable, value in kept or ():
        try:
            _ = variable.value
        except TypeError:
            if not value.is_deleted():
                variable.assign(value)


def train_step(model: Any, step: Callable[[Any], Any], state: Any, data: Any) -> Any:
    groups = _state(model)
    mapping = [
        pair
        for variables, values in zip(groups, state, strict=True)
        for pair in zip(variables, values, strict=True)
    ]
    with Scope(mapping) as scope:
        logs = step(data)
    return logs, tuple([scope.get_current_value(v) for v in group] for group in groups)


def _state(model: Any) -> tuple[list[Variable], ...]:
    """The variables of a train step, in Keras's four groups."""
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
