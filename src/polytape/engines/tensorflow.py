"""TensorFlow: a persistent tape inside the train function, with and without XLA."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from polytape.engines.contract import Forward, Tensor, Variable


class _Recording:
    def __init__(self, forward: Forward, variables: Sequence[Variable]) -> None:
        self._variables = [_raw(variable) for variable in variables]
        with tf.GradientTape(persistent=True) as self._tape:
            self.scalars, self.outputs = forward()

    def pull(
        self, cotangents: Mapping[int, Tensor], variables: Sequence[int]
    ) -> list[Tensor | None]:
        targets = [self.scalars[index] for index in cotangents]
        seeds = [
            tf.cast(seed, target.dtype)
            for seed, target in zip(cotangents.values(), targets, strict=True)
        ]
        sources = [self._variables[index] for index in variables]
        return self._tape.gradient(targets, sources, output_gradients=seeds)

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        found = [self._tape.gradient(self.scalars[index], self._variables) for index in scalars]
        return np.array([[gradient is not None for gradient in row] for row in found], bool)


def record(forward: Forward, variables: Sequence[Variable]) -> _Recording:
    return _Recording(forward, variables)


def flatten(rows: Sequence[Tensor]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    if all(isinstance(row, tf.IndexedSlices) for row in rows):
        return _flatten_sparse(rows)
    dense = [tf.convert_to_tensor(row) for row in rows]
    shape, dtype = dense[0].shape, dense[0].dtype
    matrix = tf.cast(tf.stack([tf.reshape(row, [-1]) for row in dense]), tf.float32)
    return matrix, lambda flat: tf.cast(tf.reshape(flat, shape), dtype)


def _flatten_sparse(
    rows: Sequence[tf.IndexedSlices],
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    # Every touched table row gets one slot, the place of its first occurrence among the sorted
    # indices of all objectives; shapes stay static, so this compiles under XLA, and the size is
    # that of the batch, never that of the table.
    indices = tf.sort(tf.concat([row.indices for row in rows], axis=0))
    slots = tf.shape(indices)[0]
    tail = rows[0].values.shape[1:]
    compact = [
        tf.math.unsorted_segment_sum(
            tf.cast(row.values, tf.float32), tf.searchsorted(indices, row.indices), slots
        )
        for row in rows
    ]
    matrix = tf.stack([tf.reshape(values, [-1]) for values in compact])

    def restore(flat: Tensor) -> tf.IndexedSlices:
        values = tf.cast(tf.reshape(flat, [-1, *tail]), rows[0].values.dtype)
        return tf.IndexedSlices(values, indices, rows[0].dense_shape)

    return matrix, restore


def finite(gradients: Sequence[Tensor]) -> Tensor:
    # A sum is finite only if every term is, and costs no boolean copy of the gradient.
    sums = [
        tf.reduce_sum(g.values if isinstance(g, tf.IndexedSlices) else g) for g in gradients
    ]
    return tf.reduce_all(tf.math.is_finite(tf.stack([tf.cast(s, tf.float32) for s in sums])))


def island(function: Callable[..., Any]) -> Callable[..., Any]:
    # The T x T algebra is a few hundred tiny operations: one XLA kernel instead.
    return tf.function(function, jit_compile=True, autograph=False)


def apply(
    optimizer: Any,
    gradients: Sequence[Tensor | None],
    variables: Sequence[Variable],
    accept: Tensor,
) -> None:
    def update() -> Tensor:
        optimizer.apply(gradients, variables)
        return tf.constant(True)

    if not optimizer.built:
        optimizer.build(variables)
    tf.cond(accept, update, lambda: tf.constant(False))


def train_step(model: Any, step: Callable[[Any], Any], data: Any) -> Any:
    del model
    return step(data)


def _raw(variable: Variable) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
