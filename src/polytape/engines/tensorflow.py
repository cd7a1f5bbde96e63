"""TensorFlow: a persistent tape inside the train function, with and without XLA."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from polytape.engines.absent import present
from polytape.engines.contract import Forward, Measure, Tensor, Variable
from polytape.engines.marking import listening

FUSES = False


class _Recording:
    def __init__(
        self,
        tape: tf.GradientTape,
        scalars: Sequence[Tensor],
        variables: Sequence[Any],
        marked: Sequence[Tensor] = (),
        measure: Measure = "parameters",
        outputs: Any = None,
    ) -> None:
        self._tape, self.scalars, self.outputs = tape, scalars, outputs
        self.measure: Measure = measure
        self._variables = [_raw(variable) for variable in variables]
        self._known = [*self._variables, *marked]
        self.marks = range(len(self._variables), len(self._known))

    def pull(
        self, cotangents: Mapping[int, Tensor], variables: Sequence[int]
    ) -> list[Tensor | None]:
        targets = [self.scalars[index] for index in cotangents]
        seeds = [
            tf.cast(seed, target.dtype)
            for seed, target in zip(cotangents.values(), targets, strict=True)
        ]
        sources = [self._known[index] for index in variables]
        return self._tape.gradient(targets, sources, output_gradients=seeds)

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        found = [self._tape.gradient(self.scalars[index], self._variables) for index in scalars]
        return np.array([[gradient is not None for gradient in row] for row in found], bool)


def record(
    forward: Forward,
    variables: Callable[[], Sequence[Variable]],
    measure: Measure = "parameters",
) -> _Recording:
    tape, marked = tf.GradientTape(persistent=True), []

    def mark(tensor: Tensor) -> Tensor:
        stand_in = tf.identity(tensor)  # so that only what is behind the mark counts
        tape.watch(stand_in)
        marked.append(stand_in)
        return stand_in

    with tape, listening(measure, mark):
        scalars, outputs = forward()
    return _Recording(tape, scalars, variables(), marked, measure, outputs)


class _Tape:
    def __init__(self) -> None:
        self._tape = tf.GradientTape(persistent=True)

    def open(self) -> None:
        self._tape.__enter__()

    def close(self) -> None:
        self._tape.__exit__(None, None, None)

    def watch(self, tensor: Tensor) -> None:
        self._tape.watch(_raw(tensor))

    def read(self) -> Sequence[Variable]:
        return self._tape.watched_variables()

    def recording(self, scalars: Sequence[Tensor], sources: Sequence[Any]) -> _Recording:
        return _Recording(self._tape, scalars, sources)


def tape() -> _Tape:
    return _Tape()


def derivative(
    function: Callable[[list[Tensor]], Tensor], at: Sequence[Tensor]
) -> list[Tensor | None]:
    stand_ins = [tf.identity(value) for value in at]  # so that only what the function does counts
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(stand_ins)
        value = function(stand_ins)
    found = tape.gradient(value, stand_ins)
    return [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in found]


class _Rows:
    def __init__(self, gradients: Sequence[Tensor]) -> None:
        self._like = gradients
        self._sparse = all(isinstance(gradient, tf.IndexedSlices) for gradient in gradients)
        dense = _compact(gradients) if self._sparse else [*map(tf.convert_to_tensor, gradients)]
        # One row, as every private variable has, needs no matrix: a small graph is all overhead.
        self._row = tf.cast(dense[0], tf.float32) if len(dense) == 1 else None
        if self._row is None:
            stacked = tf.cast(tf.stack(dense), tf.float32)
            self._matrix = tf.reshape(stacked, [len(dense), -1])

    def gram(self) -> Tensor:
        matrix = self.matrix()
        return tf.matmul(matrix, matrix, transpose_b=True)

    def sums(self) -> list[Tensor]:
        if self._row is not None:
            return [tf.reduce_sum(self._row)]
        return tf.unstack(tf.reduce_sum(self._matrix, axis=1))

    def matrix(self) -> Tensor:
        return self._matrix if self._row is None else tf.reshape(self._row, [1, -1])

    def blend(self, weights: Tensor, kept: Tensor | None) -> Tensor:
        if self._row is not None:
            flat = weights[0] * self._row
            return self.restore(flat if kept is None else tf.where(kept[0], flat, 0.0))
        matrix = self._matrix if kept is None else tf.where(kept[:, None], self._matrix, 0.0)
        return self.restore(tf.matmul(weights[None, :], matrix)[0])

    def restore(self, flat: Tensor) -> Tensor:
        like = self._like[0]
        if not self._sparse:
            shaped = flat if flat.shape == like.shape else tf.reshape(flat, like.shape)
            return tf.cast(shaped, like.dtype)
        values = tf.cast(tf.reshape(flat, [-1, *like.values.shape[1:]]), like.values.dtype)
        return tf.IndexedSlices(values, _touched(self._like), like.dense_shape)


def rows(gradients: Sequence[Tensor]) -> _Rows:
    return _Rows(gradients)


def _touched(gradients: Sequence[tf.IndexedSlices]) -> Tensor:
    """The table rows that any of the gradients touches, sorted, repeated as often as touched."""
    return tf.sort(tf.concat([gradient.indices for gradient in gradients], axis=0))


def _compact(gradients: Sequence[tf.IndexedSlices]) -> list[Tensor]:
    """Each gradient's values in the layout of `_touched`, all of a table row in its first slot.

    Shapes are static, so this compiles under XLA, and sizes are those of the batch, never of the
    table.
    """
    touched = _touched(gradients)
    return [_place(gradient, touched) for gradient in gradients]


def _place(gradient: tf.IndexedSlices, touched: Tensor) -> Tensor:
    slots = tf.searchsorted(touched, gradient.indices)
    return tf.math.unsorted_segment_sum(gradient.values, slots, tf.shape(touched)[0])


def dense(gradient: Tensor) -> Tensor:
    return tf.cast(tf.convert_to_tensor(gradient), tf.float32)


def add_where(total: Tensor, condition: Tensor, gradient: Tensor) -> Tensor:
    if not isinstance(total, tf.IndexedSlices):
        dense = tf.convert_to_tensor(gradient)
        return total + tf.where(condition, dense, tf.zeros_like(dense))
    values = _place(gradient, total.indices)
    values = total.values + tf.where(condition, values, tf.zeros_like(values))
    return tf.IndexedSlices(values, total.indices, total.dense_shape)


def zeros_like(gradient: Tensor) -> Tensor:
    if not isinstance(gradient, tf.IndexedSlices):
        return tf.zeros_like(gradient)
    values = tf.zeros_like(gradient.values)
    return tf.IndexedSlices(values, _touched([gradient]), gradient.dense_shape)


def finite(gradients: Sequence[Tensor]) -> Tensor:
    # A sum is finite only if every term is, and costs no boolean copy of the gradient.
    sums = [tf.reduce_sum(g.values if isinstance(g, tf.IndexedSlices) else g) for g in gradients]
    return tf.reduce_all(tf.math.is_finite(tf.stack([tf.cast(s, tf.float32) for s in sums])))


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


def _raw(variable: Variable) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
