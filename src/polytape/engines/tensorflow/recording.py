"""Recordings: a persistent tape inside the train function, with and without XLA."""

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python import pywrap_tfe  # no public name tells which tapes follow a tensor

from polytape.engines.contract import Forward, Marked, Measure, Scalars, Tensor, Variable
from polytape.engines.grouped import flattened
from polytape.engines.marking import (
    Marker,
    depth,
    differentiated_within,
    listening,
    measured_at,
)


class TapeRecording:
    def __init__(
        self,
        tape: tf.autodiff.GradientTape,
        scalars: Scalars,
        variables: Sequence[Any],
        marked: Sequence[Tensor] = (),
        measure: Marked = "parameters",
        outputs: Any = None,
        stand_ins: Sequence[Tensor] = (),
    ) -> None:
        self.tape, self.outputs = tape, outputs
        self.scalars, self.groups = flattened(scalars)
        self.measure: Measure = measured_at(measure)
        self._variables = [raw(variable) for variable in variables]
        self._known = [*self._variables, *marked, *stand_ins]
        count = len(self._variables)
        self.marks = range(count, count + len(marked))
        self.stand_ins = range(self.marks.stop, len(self._known))

    def vjp(
        self,
        cotangents: Mapping[int, Tensor],
        variables: Sequence[int],
        last: bool = False,
        sparse: bool = False,
    ) -> list[Tensor | None]:
        del last, sparse  # a compiler knows, and it has sparse ones of its own
        targets = [self.scalars[index] for index in cotangents]
        seeds = [
            tf.cast(seed, target.dtype)
            for seed, target in zip(cotangents.values(), targets, strict=True)
        ]
        sources = [self._known[index] for index in variables]
        return self.tape.gradient(targets, sources, output_gradients=seeds)

    def zeros(self, variable: int) -> Tensor:
        return tf.zeros_like(self._known[variable])

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        found = [self.tape.gradient(self.scalars[index], self._variables) for index in scalars]
        return np.array([[gradient is not None for gradient in row] for row in found], bool)


def record(
    forward: Forward,
    variables: Callable[[], Sequence[Variable]],
    measure: Marked = "parameters",
    stand_ins: bool = False,
) -> TapeRecording:
    tape = tf.autodiff.GradientTape(persistent=True)
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
        token = _recording.set(tape)
        try:
            scalars, outputs = forward()
        finally:
            _recording.reset(token)
    return TapeRecording(tape, scalars, variables(), marked, measure, outputs, losses)


_recording: ContextVar[tf.autodiff.GradientTape | None] = ContextVar("recording", default=None)

# Within these a function runs, to run again elsewhere, in the graph of its caller.
_ELSEWHERE = ("/custom_gradient.py", "/parallel_for/control_flow_ops.py")


def context(used: Sequence[Tensor | Variable] = ()) -> Any:
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    frame, within = inspect.currentframe(), 0
    while frame is not None:
        within += frame.f_code.co_filename.endswith(_ELSEWHERE)
        frame = frame.f_back
    return id(graph), within, depth(), _followed(used)


def _followed(used: Sequence[Tensor | Variable]) -> bool:
    """Whether another tape than the recording's is to differentiate by some of these."""
    tape = _recording.get()
    with tape.stop_recording() if tape else contextlib.nullcontext():
        known = [t.value() if isinstance(t, tf.Variable) else t for t in map(raw, used)]
        return bool(pywrap_tfe.TFE_Py_TapeSetPossibleGradientTypes(known))


def parameters(module: Any) -> dict[str, Variable] | None:
    if not isinstance(module, tf.Module):
        return None
    return {variable.name.removesuffix(":0"): variable for variable in module.trainable_variables}


def trains(source: Any) -> bool | None:
    if isinstance(source, tf.Variable):
        return source.trainable
    return True if isinstance(source, tf.Tensor) else None


def derivative(
    function: Callable[[list[Tensor]], Tensor], at: Sequence[Tensor]
) -> list[Tensor | None]:
    stand_ins = [tf.identity(value) for value in at]  # so that only what the function does counts
    with tf.autodiff.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(stand_ins)
        with differentiated_within():
            value = function(stand_ins)
    found = tape.gradient(value, stand_ins)
    return [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in found]


def pullbacks(
    function: Callable[[list[Tensor]], Sequence[Tensor]],
    at: Sequence[Tensor],
    cotangents: Sequence[Sequence[Tensor]],
) -> list[list[Tensor | None]]:
    stand_ins = [tf.identity(value) for value in at]
    with tf.autodiff.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(stand_ins)
        outputs = list(function(stand_ins))
    found = []
    for seeds in cotangents:
        cast = [tf.cast(seed, out.dtype) for seed, out in zip(seeds, outputs, strict=True)]
        found.append(tape.gradient(outputs, stand_ins, output_gradients=cast))
    return found


def jacobian(
    function: Callable[[list[Tensor]], Tensor], at: Sequence[Tensor]
) -> list[Tensor | None]:
    stand_ins = [tf.identity(value) for value in at]
    with tf.autodiff.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(stand_ins)
        value = function(stand_ins)
    # One after the other: all at once, TensorFlow 2.21 takes grouped convolutions for others.
    return list(tape.jacobian(value, stand_ins, experimental_use_pfor=False))


def raw(variable: Variable) -> Any:
    """The variable of TensorFlow that a variable of Keras holds, or what else was given."""
    return variable.value if isinstance(variable, keras.Variable) else variable
