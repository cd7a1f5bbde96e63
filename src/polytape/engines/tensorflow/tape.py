"""A tape that serves TensorFlow's programs as theirs does, and several losses beside."""

import contextlib
import sys
import weakref
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import keras
import tensorflow as tf

from polytape.engines.contract import Scalars, Tensor, Variable
from polytape.engines.places import Line, of_library, own_line
from polytape.engines.tensorflow.operations import path
from polytape.engines.tensorflow.recording import TapeRecording, raw


class _Tape:
    """TensorFlow's own tape, made as it was asked for; and a second one for several losses.

    Results, errors, warnings and the moment at which memory goes are TensorFlow's, since its own
    methods are called on a tape with the options given. If that serves once only, a persistent one
    can record the same beside it, to be differentiated loss by loss. The first use of either ends
    both. Two tapes make TensorFlow prepare a `tf.function` called in the block for derivatives of
    derivatives: hence the second one is only made where it may be needed.
    """

    def __init__(self, persistent: bool, watch_accessed_variables: bool) -> None:
        self._persistent, self.accessed = persistent, watch_accessed_variables
        self._own = tf.GradientTape(persistent, watch_accessed_variables)
        self._beside: tf.GradientTape | None = None
        self._watched: Sequence[Variable] = ()
        self._open = self._wanted = self.recorded = False
        self._tensors: list[weakref.ref[Tensor]] = []  # those that it was told to watch
        self._end: Any = None

    # -------------------------------------------------------------- recording

    def open(self, several: bool, examine: bool) -> None:
        self._own.__enter__()
        if not self.recorded:
            self._wanted = several or (examine and tf.executing_eagerly())
            self._begin()
        self._resume()

    def close(self) -> None:
        self._own.__exit__(None, None, None)
        self._pause()

    def reset(self) -> None:
        self._own.reset()
        self._pause()
        self._begin()
        self._resume()

    @contextlib.contextmanager
    def stop_recording(self) -> Iterator[None]:
        with self._own.stop_recording():
            self._pause()
            try:
                yield
            finally:
                self._resume()

    def watch(self, tensor: Any) -> None:
        given = tf.nest.map_structure(raw, tensor)
        self._own.watch(given)
        for leaf in tf.nest.flatten(given):
            if tf.is_tensor(leaf) and not isinstance(leaf, tf.Variable):
                self._tensors.append(weakref.ref(leaf))
            if self._beside is not None and self.differentiable(leaf):
                self._beside.watch(leaf)  # of others it would warn a second time

    def _begin(self) -> None:
        self.recorded, self._watched, self._tensors = True, (), []
        if self._wanted and not self._persistent:
            self._beside = tf.GradientTape(True, self.accessed)

    def _resume(self) -> None:
        if self._beside is not None:
            self._beside.__enter__()
        self._open = True

    def _pause(self) -> None:
        if self._open:
            self._open = False
            self._end = _now()  # what comes later is not recorded
            if self._beside is not None:
                self._beside.__exit__(None, None, None)

    # --------------------------------------------------------- differentiating

    @contextlib.contextmanager
    def single(self, keep: bool) -> Iterator[tf.GradientTape]:
        if not self._persistent:
            self._pause()
            if not keep:
                self._beside = None
        yield self._own
        self.recorded = bool(self._persistent)

    def several(self) -> bool:
        if not self._persistent:
            self.close()
        return self.recorded and self._record is not None

    def recording(self, scalars: Scalars, sources: Sequence[Any]) -> TapeRecording:
        return TapeRecording(self._record, scalars, sources)

    def spend(self) -> None:
        if not self._persistent:
            self._watched = self.read()
            self._own = tf.GradientTape(False, self.accessed)
            self.recorded = False
        self.forget()

    def forget(self) -> None:
        self._beside = None

    @property
    def _record(self) -> tf.GradientTape | None:
        """What can be differentiated any number of times."""
        return self._own if self._persistent else self._beside

    # -------------------------------------------------------------- what it saw

    def read(self) -> Sequence[Variable]:
        return self._watched or self._own.watched_variables()

    def has_read(self, source: Any) -> bool:
        own = raw(source)
        return any(variable is own for variable in self.read())

    def follows(self, source: Any) -> bool:
        if self.is_variable(source):
            return self.has_read(source)
        if any(source is known() for known in self._tensors):
            return True
        return any(self.reaches(source, [*self.read(), *self._alive()]) or ())

    def _alive(self) -> list[Tensor]:
        return [tensor for known in self._tensors if (tensor := known()) is not None]

    def reaches(self, target: Tensor, sources: Sequence[Any]) -> list[bool] | None:
        record = self._record
        if record is None:
            return None
        aside = self._persistent and self._open
        with record.stop_recording() if aside else contextlib.nullcontext():
            found = record.gradient(target, [raw(source) for source in sources])
        return [gradient is not None for gradient in found]

    def path(self, variable: Variable) -> str:
        return str(variable.path) if isinstance(variable, keras.Variable) else path(variable)

    def finished(self, scalar: Tensor) -> bool:
        if self._open or self._end is None:
            return True
        if not tf.is_symbolic_tensor(scalar):
            return isinstance(self._end, tf.Operation) or scalar._id < self._end._id
        if not isinstance(self._end, tf.Operation) or scalar.graph is not self._end.graph:
            return True
        order = scalar.graph.get_operations()
        return order.index(scalar.op) <= order.index(self._end)

    @tf.autograph.experimental.do_not_convert
    def line(self) -> Line | None:
        if tf.executing_eagerly():
            frame: FrameType | None = sys._getframe(1)
            while frame is not None and of_library(frame.f_code.co_filename):
                frame = frame.f_back
            return None if frame is None else Line(frame.f_code.co_filename, frame.f_lineno)
        # Within a function being traced the frames are those of code that AutoGraph has written:
        # only an operation knows where its line came from. The user's own graph gets none of ours.
        with tf.Graph().as_default():
            operation = tf.no_op()  # which its frames must not outlive
            lines = [(frame.filename, frame.lineno) for frame in operation.traceback or ()]
        return own_line(reversed(lines))

    def is_variable(self, source: Any) -> bool:
        return isinstance(source, (tf.Variable, keras.Variable))

    def leaves(self, nest: Any) -> list[Any]:
        return list(tf.nest.flatten(nest))

    def differentiable(self, tensor: Any) -> bool:
        dtype = tf.as_dtype(tensor.dtype)
        return dtype.is_floating or dtype.is_complex


def tape(persistent: bool, watch_accessed_variables: bool) -> _Tape:
    return _Tape(persistent, watch_accessed_variables)


def _now() -> Any:
    """Something of this moment, to tell what was there before."""
    if tf.executing_eagerly():
        return tf.constant(0.0)
    operations = tf.compat.v1.get_default_graph().get_operations()
    return operations[-1] if operations else None
