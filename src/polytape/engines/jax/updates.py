"""What a training step changes, and how it is run."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras

from polytape.engines.absent import present, unwarned
from polytape.engines.contract import Tensor, Variable
from polytape.engines.jax.scattered import scattered_step
from polytape.engines.jax.scope import Scope


def compiled(function: Callable[..., Any], arrays: bool = False) -> Callable[..., Any]:
    del arrays
    return jax.jit(function)


def evaluated(function: Callable[..., Any], *given: Any) -> Any:
    return function(*given)


def survey(function: Callable[[], Any]) -> None:
    jax.eval_shape(lambda: function() and None)


def compiled_step(step: Callable[..., Any], variables: Sequence[Variable]) -> Callable[..., Any]:
    known = {id(variable) for variable in variables}

    def pure(values: list[Tensor], args: Any, kwargs: Any) -> tuple[list[Tensor], Any]:
        with Scope(list(zip(variables, values, strict=True))) as scope:
            found = step(*args, **kwargs)
        lost = [variable.path for key, variable in scope.touched.items() if key not in known]
        if lost:
            raise ValueError(
                f"The step changes {lost[0]!r}, which it did not meet when its variables were "
                "looked for, before the first step: the losses take another way now. Let them read "
                "the same variables in every step."
            )
        return [scope.get_current_value(variable) for variable in variables], found

    # All state is taken over, as in `fit`: there is no second copy of it.
    run = jax.jit(pure, donate_argnums=0)

    def call(*args: Any, **kwargs: Any) -> Any:
        taken: set[int] = set()
        values = []
        for variable in variables:
            value = variable.value
            shared = id(value) in taken  # by assignment of one variable to another
            taken.add(id(value))
            values.append(jnp.copy(value) if shared else value)
        values, found = run(values, args, kwargs)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return found

    return call


def choose(first: Tensor, one: Callable[[], Tensor], other: Callable[[], Tensor]) -> Tensor:
    if isinstance(first, jax.core.Tracer):
        return jax.lax.cond(first, one, other)
    return one() if bool(first) else other()


def either(first: Tensor, one: Callable[[], Any], other: Callable[[], Any]) -> Any:
    return choose(first, one, other)


def without_side_effects(function: Callable[[], Any], changing: Sequence[Variable]) -> Any:
    del changing  # what happens in the scope stays there
    with Scope():
        return function()


def _once(flag: Tensor) -> Tensor:
    """The same flag, () bool, worked out once by a compiled step.

    XLA copies what leads to a number into every operation that reads it, here into the update of
    each variable, unless there is a function in it that it holds for dear.
    """
    return jnp.exp(jnp.where(flag, 0.0, -1.0)) > 0.5


def assign(variables: Sequence[Variable], values: Sequence[Tensor], accept: Tensor) -> None:
    accept = _once(accept) if len(variables) > 1 else accept
    for variable, value in zip(variables, values, strict=True):
        kept = variable.value
        variable.assign(jnp.where(accept, value.astype(kept.dtype), kept))


def restore_if_nonfinite(variable: Variable, value: Tensor) -> None:
    # In this order of the choice, or XLA's last bits are not those of Keras.
    fine = jnp.all(jnp.isfinite(variable.value))
    variable.assign(jnp.where(fine, variable.value, value))


def apply(
    optimizer: Any,
    gradients: Sequence[Tensor | None],
    variables: Sequence[Variable],
    accept: Tensor,
    exact: bool = False,
) -> None:
    del exact  # it always is
    if not optimizer.built:
        optimizer.build(variables)
    accept = _once(accept)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # On JAX it knows how to skip a step in this form only.
        before = [v.value for v in variables], [v.value for v in optimizer.variables]
        with unwarned():
            after = optimizer.stateless_apply(before[1], list(gradients), before[0])
        for group, values in zip((variables, optimizer.variables), after, strict=True):
            assign(group, values, accept)
        return
    # Guarded one by one as they are assigned: weights are then computed from the slots as they are
    # from now on, as in plain Keras. A choice made afterwards needs both, and XLA copies them.
    with Scope(condition=accept) as scope:
        optimizer.apply(*present(gradients, variables))
    for variable, value in scope.updates():
        variable.assign(value)


def prepare(model: Any) -> None:
    del model  # nothing to settle


def snapshot(model: Any) -> list[tuple[Variable, Tensor]]:
    return [(variable, variable.value) for group in _state(model) for variable in group]


def restore_snapshot(kept: list[tuple[Variable, Tensor]] | None) -> None:
    # Keras empties the variables before the first step of `fit` and refills them from its result;
    # if that step fails while it is traced, there is none.
    for variable, value in kept or ():
        try:
            _ = variable.value
        except TypeError:
            if not value.is_deleted():
                variable.assign(value)


def readable(variable: Variable) -> bool:
    # Keras empties the variables while an epoch runs, and a step is given their arrays for good.
    value = variable._value
    return value is not None and not value.is_deleted()


def train_step(
    model: Any,
    step: Callable[[Any], Any],
    state: Any,
    data: Any,
    same: Sequence[Variable] | None = None,
) -> Any:
    groups = _state(model)
    if same is not None:
        return scattered_step(model, step, groups, state, data, same)
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
