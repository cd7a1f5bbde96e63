"""What a training step changes, and how it is run."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from polytape.engines.absent import present
from polytape.engines.contract import Tensor, Variable
from polytape.engines.tensorflow.gradients import where
from polytape.engines.tensorflow.recording import raw
from polytape.engines.tensorflow.replicas import on_own_copies, own, replica_count

_compiled_by_xla = contextvars.ContextVar("whether XLA compiles the step", default=False)


def compiled(function: Callable[..., Any], arrays: bool = False) -> Callable[..., Any]:
    del arrays
    # The T x T algebra is a few hundred tiny operations: one XLA kernel instead.
    run = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if tf.distribute.has_strategy():
            # Given a variable of a strategy, a function would take another one of the same shape
            # for it, that of the first call.
            args = tf.nest.map_structure(_read, args)
        return run(*args)

    return call


def _read(leaf: Any) -> Any:
    return tf.identity(leaf) if isinstance(leaf, tf.distribute.DistributedValues) else leaf


def evaluated(function: Callable[..., Any], *given: Any) -> Any:
    return function(*given)


def survey(function: Callable[[], Any]) -> None:
    function()


def compiled_step(step: Callable[..., Any], variables: Sequence[Variable]) -> Callable[..., Any]:
    del variables  # they are updated in place
    return tf.function(step, autograph=False)


def choose(first: Tensor, one: Callable[[], Tensor], other: Callable[[], Tensor]) -> Tensor:
    return tf.cond(first, one, other)


def either(first: Tensor, one: Callable[[], Any], other: Callable[[], Any]) -> Any:
    # Replicas meet for a sum in the graph that they began in, and not in that of a branch.
    if replica_count() == 1 or not tf.inside_function():
        return keras.ops.cond(first, one, other)
    both = one(), other()
    tf.nest.assert_same_structure(*both)
    pairs = zip(*map(tf.nest.flatten, both), strict=True)
    return tf.nest.pack_sequence_as(both[0], [where(first, *pair) for pair in pairs])


def without_side_effects(function: Callable[[], Any], changing: Sequence[Variable]) -> Any:
    copies = [own(variable) for variable in changing]
    kept = [tf.identity(raw(copy)) for copy in copies]
    found = function()
    for copy, value in zip(copies, kept, strict=True):
        copy.assign(value)
    return found


def assign(variables: Sequence[Variable], values: Sequence[Tensor], accept: Tensor) -> None:
    for variable, value in zip(variables, values, strict=True):
        copy = own(variable)
        kept = raw(copy)
        copy.assign(tf.where(accept, tf.cast(value, kept.dtype), kept))


def restore_if_nonfinite(variable: Variable, value: Tensor) -> None:
    # In this order of the choice, or XLA's last bits are not those of Keras.
    copy = own(variable)
    fine = tf.reduce_all(tf.math.is_finite(raw(copy)))
    copy.assign(tf.where(fine, raw(copy), value))


def apply(
    optimizer: Any,
    gradients: Sequence[Tensor | None],
    variables: Sequence[Variable],
    accept: Tensor,
    exact: bool = False,
) -> None:
    if not optimizer.built:
        optimizer.build(variables)
    given, owners = present(gradients, variables)
    updating = on_own_copies(optimizer)

    def update() -> Tensor:
        updating.apply(given, owners)
        return tf.constant(True)

    def skip(*unused: Tensor) -> Tensor:
        del unused
        return tf.constant(False)

    # An accumulating optimizer has a condition of its own, whose arithmetic TensorFlow would
    # simplify in another way: the last bits would no longer be Keras's.
    accumulates = getattr(optimizer, "gradient_accumulation_steps", None)
    if accumulates or not tf.inside_function():
        tf.cond(accept, update, skip)
    elif _compiled_by_xla.get() and not exact:
        # XLA turns a condition into a choice for every entry, and copies all slots for it. A loop
        # of one turn at most stays what it is; but gradients are rounded before they go in, which
        # in plain Keras they need not be.
        tf.while_loop(lambda due: due, lambda _: [tf.logical_not(update())], [accept])
    else:
        _called_or_not(accept, update, skip)


def _called_or_not(
    condition: Tensor, update: Callable[[], Tensor], skip: Callable[..., Tensor]
) -> None:
    # `tf.cond` would be taken apart into a switch for every tensor that goes in, and those cost
    # more than the update of a small layer. As a function of its own it is called or not.
    taken = tf.function(update, autograph=False).get_concrete_function()
    going_in = taken.captured_inputs
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in going_in]
    left = tf.function(skip, input_signature=specs, autograph=False).get_concrete_function()
    branches = {"then_branch": taken, "else_branch": left}
    tf.raw_ops.If(cond=condition, input=going_in, Tout=[tf.bool], output_shapes=[()], **branches)


def prepare(model: Any) -> None:
    del model  # nothing to settle


def snapshot(model: Any) -> None:
    del model  # variables are updated in place and never taken away


def restore_snapshot(kept: None) -> None:
    del kept


def readable(variable: Variable) -> bool:
    del variable  # it is updated in place and never taken away
    return True


def train_step(
    model: Any, step: Callable[[Any], Any], data: Any, same: Sequence[Variable] | None = None
) -> Any:
    del same
    if tf.inside_function():
        _build(model, data)
    token = _compiled_by_xla.set(bool(model.jit_compile))
    try:
        return step(data)
    finally:
        _compiled_by_xla.reset(token)


def _build(model: Any, data: Any) -> None:
    """Make the variables of model, metrics and optimizer before the step, if that is possible.

    Where a step makes some, TensorFlow traces it twice. So the forward side is traced alone, and
    thrown away; where that fails the step makes its variables itself, or says what is wrong.
    """
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    if model.optimizer.built or not all(isinstance(leaf, tf.Tensor) for leaf in leaves):
        return  # nothing to make; or ragged and sparse data

    def forward(batch: Any) -> None:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        with keras.StatelessScope():
            y_pred = model.compilation.outputs(x)
            model.compute_loss(x, y, y_pred, sample_weight)
            model.compute_metrics(x, y, y_pred, sample_weight)

    def spec(leaf: Tensor | None) -> Any:
        return None if leaf is None else tf.TensorSpec(leaf.shape, leaf.dtype)

    with contextlib.suppress(Exception), tf.init_scope(), tf.variable_creator_scope(_unlifted):
        specs = keras.tree.map_structure(spec, data)
        tf.function(forward, autograph=False).get_concrete_function(specs)
        model.optimizer.build(model.trainable_variables)


def _unlifted(create: Callable[..., Any], **kwargs: Any) -> Any:
    """A variable that the function being traced need not initialize."""
    return create(**{**kwargs, "experimental_enable_variable_lifting": False})
