"""Recordings: a persistent tape inside the train function, with and without XLA."""

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from polytape.engines.contract import Forward, Measure, Scalars, Tensor, Variable
from polytape.engines.grouped import flattened
from polytape.engines.marking import Marker, listening


class TapeRecording:
    def __init__(
        self,
        tape: tf.GradientTape,
        scalars: Scalars,
        variables: Sequence[Any],
        marked: Sequence[Tensor] = (),
        measure: Measure = "parameters",
        outputs: Any = None,
        stand_ins: Sequence[Tensor] = (),
    ) -> None:
        self.tape, self.outputs = tape, outputs
        self.scalars, self.groups = flattened(scalars)
        self.measure: Measure = measure
        self._variables = [_raw(variable) for variable in variables]
        self._known = [*self._variables, *marked, *stand_ins]
        count = len(self._variables)
        self.marks = range(count, count + len(marked))
        self.stand_ins = range(self.marks.stop, len(self._known))

    def vjp(
        self, cotangents: Mapping[int, Tensor], variables: Sequence[int], last: bool = False
    ) -> list[Tensor | None]:
        del last  # a compiler knows
        targets = [self.scalars[index] for index in cotangents]
        seeds = [
            tf.cast(seed, target.dtype)
            for seed, target in zip(cotangents.values(), targets, strict=True)
        ]
        sources = [self._known[index] for index in variables]
        return self.tape.gradient(targets, sources, output_gradients=seeds)

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        found = [self.tape.gradient(self.scalars[index], self._variables) for index in scalars]
        return np.array([[gradient is not None for gradient in row] for row in found], bool)


def record(
    forward: Forward,
    variables: Callable[[], Sequence[Variable]],
    measure: Measure = "parameters",
    stand_ins: bool = False,
) -> TapeRecording:
    tape = tf.GradientTape(persistent=True)
    marked: list[Tensor] = []
    losses: list[Tensor] = []

    def noting(found: list[Tensor]) -> Marker:
        def mark(tensor: Tensor) -> Tensor:
            stand_in = tf.identity(tensor)  # so that only what is behind the mark counts
            tape.watch(stand_in)
            found.append(stand_in)
            return stand_in

        return mark

    of_losses = noting(losses) if stand_ins else None
    with tape, listening(measure, noting(marked), of_losses):
        scalars, outputs = forward()
    return TapeRecording(tape, scalars, variables(), marked, measure, outputs, losses)


class _Tape:
    def __init__(self) -> None:
        self._tape = tf.GradientTape(persistent=True)

    def open(self) -> None:
        self._tape.__enter__()

    def close(self) -> None:
        self._tape.__exit__(None, None, None)
        self._end = tf.constant(0.0)  # what comes later was not recorded

    def watch(self, tensor: Tensor) -> None:
        self._tape.watch(_raw(tensor))

    def read(self) -> Sequence[Variable]:
        return self._tape.watched_variables()

    def has_read(self, source: Any) -> bool:
        raw = _raw(source)
        return any(variable is raw for variable in self.read())

    def path(self, variable: Variable) -> str:
        holders = [item for item in gc.get_referrers(variable) if isinstance(item, keras.Variable)]
        return str(holders[0].path if holders else variable.name.removesuffix(":0"))

    def finished(self, scalar: Tensor) -> bool:
        if not tf.is_symbolic_tensor(scalar):
            return tf.is_symbolic_tensor(self._end) or scalar._id < self._end._id
        if not tf.is_symbolic_tensor(self._end) or scalar.graph is not self._end.graph:
            return True
        order = scalar.graph.get_operations()
        return order.index(scalar.op) < order.index(self._end.op)

    def recording(self, scalars: Scalars, sources: Sequence[Any]) -> TapeRecording:
        return TapeRecording(self._tape, scalars, sources)


def parameters(module: Any) -> dict[str, Variable] | None:
    if not isinstance(module, tf.Module):
        return None
    return {variable.name.removesuffix(":0"): variable for variable in module.trainable_variables}


def trains(source: Any) -> bool | None:
    if isinstance(source, tf.Variable):
        return source.trainable
    return True if isinstance(source, tf.Tensor) else None


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


def _raw(variable: Variable) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
