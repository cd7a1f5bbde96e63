"""A tape that serves TensorFlow's programs as theirs does, and several losses beside."""

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from polytape.engines.contract import Asked, Scalars, Tensor, Variable
from polytape.engines.operations import Trace
from polytape.engines.places import Line, line_of, own_line
from polytape.engines.tensorflow.notes import Notes
from polytape.engines.tensorflow.operations import paths
from polytape.engines.tensorflow.recording import TapeRecording, raw


class _Tape:
    """TensorFlow's own tape, made as it was asked for; and a second one for several losses.

    Results, errors, warnings and the moment at which memory goes are TensorFlow's, since its own
    methods are called on a tape with the options given. If that serves once only, a persistent one
    can record the same beside it, to be differentiated loss by loss. The first use of either ends
    both. Two tapes make TensorFlow prepare a `tf.function` called in the block for derivatives of
    derivatives: hence the second one is only made where it may be needed. TensorFlow's tape has two
    names; a program may have given `tf.GradientTape` another meaning, namely this tape.
    """

    def __init__(self, persistent: bool, watch_accessed_variables: bool) -> None:
        self._persistent, self.accessed = persistent, watch_accessed_variables
        self._own = tf.autodiff.GradientTape(persistent, watch_accessed_variables)
        self._beside: tf.autodiff.GradientTape | None = None
        self._asked = Asked()
        self._notes: Notes | None = None  # once it was opened
        self._watched: Sequence[Variable] = ()
        self._told: list[weakref.ref[Tensor]] = []  # tensors that it was told to watch
        self._open = self.recorded = False

    # -------------------------------------------------------------- recording

    def open(self, asked: Asked) -> None:
        self._own.__enter__()
        if not self.recorded:
            self._asked = asked
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

    def aside(self) -> contextlib.AbstractContextManager[None]:
        return self.stop_recording() if self._open else contextlib.nullcontext()

    def watch(self, tensor: Any) -> None:
        given = tf.nest.map_structure(raw, tensor)
        self._own.watch(given)
        for leaf in tf.nest.flatten(given):
            if not self.is_variable(leaf):
                self._told.append(weakref.ref(leaf))
            if self._beside is not None and self.differentiable(leaf):
                self._beside.watch(leaf)  # of others it would warn a second time

    def _begin(self) -> None:
        self.recorded, self._watched, self._told = True, (), []
        self._notes = Notes(self._asked.causes, self._asked.explanation)
        if not self._persistent and (self._asked.several or self._asked.explanation):
            self._beside = tf.autodiff.GradientTape(True, self.accessed)

    def _resume(self) -> None:
        if self._beside is not None:
            self._beside.__enter__()
        if self._notes is not None:
            self._notes.resume()
        self._open = True

    def _pause(self) -> None:
        if self._open:
            self._open = False
            if self._notes is not None:
                self._notes.pause()
            if self._beside is not None:
                self._beside.__exit__(None, None, None)

    # --------------------------------------------------------- differentiating

    @contextlib.contextmanager
    def single(self) -> Iterator[tf.autodiff.GradientTape]:
        if not self._persistent:
            self._pause()
            self._forget()
        yield self._own
        self.recorded = bool(self._persistent)

    def several(self) -> bool:
        if not self._persistent:
            self.close()
        return self.recorded and self._record is not None

    def spend(self) -> None:
        if not self._persistent:
            self._watched = self.read()
            self._own = tf.autodiff.GradientTape(False, self.accessed)
            self.recorded = False
            self._forget()

    def _forget(self) -> None:
        if not self._asked.explanation:
            self._beside = None

    def remembers(self) -> bool:
        return self._notes is not None and self._record is not None

    def recording(self, scalars: Scalars, sources: Sequence[Any]) -> TapeRecording:
        return TapeRecording(self._record, scalars, sources)

    @property
    def _record(self) -> tf.autodiff.GradientTape | None:
        """What can be differentiated any number of times."""
        return self._own if self._persistent else self._beside

    # -------------------------------------------------------------- what it saw

    def read(self) -> Sequence[Variable]:
        return self._watched or self._own.watched_variables()

    def has_read(self, source: Any) -> bool:
        own = raw(source)
        return any(variable is own for variable in self.read())

    def was_told(self, source: Any) -> bool:
        return any(source is known() for known in self._told)

    def trace(self, targets: Sequence[Tensor], sources: Sequence[Any]) -> Trace | None:
        record = self._record
        if self._notes is None:
            return None

        def pull(scalar: int, tensors: Sequence[Tensor]) -> Any:
            return record and record.gradient(targets[scalar], list(tensors))

        return self._notes.trace(targets, sources, self.read(), pull if record else None)

    def paths(self, variables: Sequence[Variable]) -> list[str]:
        return paths([raw(variable) for variable in variables])

    def finished(self, scalar: Tensor) -> bool:
        return self._notes is None or self._notes.finished(scalar)

    def plainly(self, function: Callable[[], Any]) -> Any:
        return function() if tf.executing_eagerly() else _unconverted(function)

    def line(self) -> Line | None:
        if tf.executing_eagerly():
            return line_of(sys._getframe(1))
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


@tf.autograph.experimental.do_not_convert
def _unconverted(function: Callable[[], Any]) -> Any:
    return function()


def tape(persistent: bool, watch_accessed_variables: bool) -> _Tape:
    return _Tape(persistent, watch_accessed_variables)
