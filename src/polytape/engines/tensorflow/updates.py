"""What a training step changes, and how it is run."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from polytape.engines.absent import present
from polytape.engines.contract import Tensor, Variable


def island(function: Callable[..., Any]) -> Callable[..., Any]:
    # The T x T algebra is a few hundred tiny operations: one XLA kernel instead.
    return tf.function(function, jit_compile=True, autograph=False)


def aside(function: Callable[[], Any], changing: Sequence[Variable]) -> Any:
    kept = [tf.identity(variable.value) for variable in changing]
    found = function()
    for variable, value in zip(changing, kept, strict=True):
        variable.assign(value)
    return found


def assign(variables: Sequence[Variable], values: Sequence[Tensor], accept: Tensor) -> None:
    for variable, value in zip(variables, values, strict=True):
        kept = variable.value
        variable.assign(tf.where(accept, tf.cast(value, kept.dtype), kept))


def apply(
    optimizer: Any,
    gradients: Sequence[Tensor | None],
    variables: Sequence[Variable],
    accept: Tensor,
) -> None:
    def update() -> Tensor:
        optimizer.apply(*present(gradients, variables))
        return tf.constant(True)

    if not optimizer.built:
        optimizer.build(variables)
    tf.cond(accept, update, lambda: tf.constant(False))


def prepare(model: Any) -> None:
    del model  # nothing to settle


def keep(model: Any) -> None:
    del model  # variables are updated in place and never taken away


def recover(kept: None) -> None:
    del kept


def train_step(model: Any, step: Callable[[Any], Any], data: Any) -> Any:
    del model
    return step(data)
