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
    if not optimizer.built:
        optimizer.build(variables)
    given, owners = present(gradients, variables)
    if not tf.inside_function():
        if accept:
            optimizer.apply(given, owners)
        return
    # `tf.cond` would be taken apart into a switch for every tensor that goes in, and those cost
    # more than the update of a small layer. As a function of its own it is called or not.
    update = tf.function(lambda: optimizer.apply(given, owners), autograph=False)
    taken = update.get_concrete_function()
    going_in = taken.captured_inputs
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in going_in]
    skip = tf.function(lambda *_: None, input_signature=specs, autograph=False)
    branches = {"then_branch": taken, "else_branch": skip.get_concrete_function()}
    tf.raw_ops.If(cond=accept, input=going_in, Tout=[], output_shapes=[], **branches)


def prepare(model: Any) -> None:
    del model  # nothing to settle


def keep(model: Any) -> None:
    del model  # variables are updated in place and never taken away


def recover(kept: None) -> None:
    del kept


def train_step(model: Any, step: Callable[[Any], Any], data: Any) -> Any:
    del model
    return step(data)
