"""The operations that TensorFlow runs while a recorder is open."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_callbacks  # what `tf.debugging` itself listens by

from polytape.engines.contract import Forward, Tensor, Variable
from polytape.engines.operations import LeftFrameworkError, Operation, Size, Trace, name_of
from polytape.engines.places import Line, Place, here, line_of_error, own_line, paths_of
from polytape.engines.tensorflow.recording import TapeRecording, raw, record


class Recorder:
    """Notes every operation that runs eagerly while it is open.

    tensors  those that were met, by number, if they are kept
    full     whether there were more operations than it notes
    """

    full = False

    def __init__(self, keep: bool = False, most: int | None = None) -> None:
        self.operations: list[Operation] = []
        self.dtypes: dict[int, str] = {}
        self.tensors: dict[int, Tensor] = {}
        self._keep, self._most = keep, most

    def __enter__(self) -> "Recorder":
        op_callbacks.add_op_callback(self._note)
        return self

    def __exit__(self, *exception: Any) -> None:
        op_callbacks.remove_op_callback(self._note)

    def _note(
        self,
        op_type: Any,
        inputs: Sequence[Any],
        attrs: Any,
        outputs: Sequence[Any],
        op_name: str | None = None,
        graph: Any = None,
    ) -> None:
        del attrs, op_name
        self.full = self._most is not None and len(self.operations) >= self._most
        if self.full or graph is not None:  # what a function that is traced will do
            return
        name = op_type.decode() if isinstance(op_type, bytes) else op_type
        place = here()
        self._note_reads(inputs, sys._getframe(1), place)
        for tensor in (*inputs, *outputs):
            self.dtypes[tensor._id] = tensor.dtype.name
            if self._keep:
                self.tensors[tensor._id] = tensor
        self.operations.append(
            Operation(
                name_of(name),
                tuple(tensor._id for tensor in inputs),
                tuple(tensor._id for tensor in outputs),
                place,
            )
        )

    def _note_reads(self, inputs: Sequence[Any], caller: FrameType, place: Place) -> None:
        """An operation that is given a variable reads it by itself, of which nobody is told.

        caller  the function that runs the operation, whose arguments hold the variable
        """
        new = [tensor for tensor in inputs if tensor._id not in self.dtypes]
        if not new:
            return
        for variable in _variables(caller.f_locals.values()):
            like = (t for t in new if t.dtype == variable.dtype and t.shape == variable.shape)
            value = next(like, None)
            if value is not None:
                new = [tensor for tensor in new if tensor is not value]
                handle = variable.handle._id
                self.dtypes[handle] = "resource"
                self.operations.append(Operation("ReadVariableOp", (handle,), (value._id,), place))


def _variables(arguments: Iterable[Any]) -> Iterator[tf.Variable]:
    """Those among the arguments of an operation, alone or in lists."""
    for argument in arguments:
        for each in argument if isinstance(argument, (list, tuple)) else (argument,):
            if isinstance(each, tf.Variable):
                yield each


def of_graph(outputs: Sequence[Any]) -> Place:
    """The place of an operation of a graph, whose lines TensorFlow knows better than Python."""
    if not outputs:
        return Place()
    layer = outputs[0].op.name.rpartition("/")[0]
    frames = reversed(outputs[0].op.traceback or ())
    return Place(layer, own_line((frame.filename, frame.lineno) for frame in frames))


class EagerNumbers:
    """Of an eager trace."""

    def __init__(self, recorder: Recorder, pull: Callable[..., Any]) -> None:
        self._tensors, self._pull = recorder.tensors, pull

    def value(self, tensor: int) -> Any:
        return self._tensors[tensor].numpy()

    def sizes(self, tensors: Sequence[int]) -> dict[int, Size]:
        return {tensor: size_of(self._tensors[tensor].numpy()) for tensor in tensors}

    def cotangents(self, scalar: int, tensors: Sequence[int]) -> dict[int, Size]:
        found = self._pull(scalar, [self._tensors[tensor] for tensor in tensors])
        return {
            tensor: size_of(tf.convert_to_tensor(gradient).numpy())
            for tensor, gradient in zip(tensors, found, strict=True)
            if gradient is not None
        }


def size_of(value: Any) -> Size:
    entries = np.asarray(value)
    return Size.of(np.abs(entries) if entries.dtype.kind == "c" else entries)


def trace(
    forward: Forward, variables: Callable[[], Sequence[Variable]]
) -> tuple[TapeRecording, Trace]:
    with run_eagerly(), Recorder(keep=True) as recorder:
        recording = record(forward, variables)
    handles = [raw(variable).handle._id for variable in variables()]
    scalars = [scalar._id for scalar in recording.scalars]
    read = recording.tape.watched_variables()
    rest = [v for v in read if v.handle._id not in {*handles}]
    others = dict(zip((v.handle._id for v in rest), paths(rest), strict=True))

    def pull(scalar: int, tensors: Sequence[Tensor]) -> Any:
        return recording.tape.gradient(recording.scalars[scalar], list(tensors))

    def left() -> Line | None:
        with keras.StatelessScope():
            return _left(forward)

    dtypes = {**recorder.dtypes, **dict.fromkeys(handles, "resource")}
    numbers = EagerNumbers(recorder, pull)
    found = Trace(recorder.operations, dtypes, handles, scalars, others, numbers, left)
    host = next((each for each in recorder.operations if each.name == "a host function"), None)
    hosted: Any = recording if host is None else _Hosted(recording, host.place.line)
    return hosted, found


class _Hosted:
    """A recording with a host function, whose gradient may be of a wrong shape."""

    def __init__(self, recording: TapeRecording, line: Line | None) -> None:
        self._recording, self._line = recording, line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recording, name)

    def vjp(self, *arguments: Any, **settings: Any) -> Any:
        try:
            return self._recording.vjp(*arguments, **settings)
        except tf.errors.InvalidArgumentError as error:
            raise LeftFrameworkError(self._line) from error


def _left(forward: Forward) -> Line | None:
    """Where a function needs the values of its tensors, which a graph has none of."""
    try:
        graph = tf.function(lambda: forward()[0], autograph=False).get_concrete_function().graph
    except (NotImplementedError, TypeError, AttributeError, ValueError) as error:
        return line_of_error(error)
    for operation in graph.get_operations():
        if name_of(operation.type) == "a host function":
            return own_line((f.filename, f.lineno) for f in reversed(operation.traceback))
    return None


@contextlib.contextmanager
def run_eagerly() -> Iterator[None]:
    """Inside, a `tf.function` is what it was made of."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def paths(variables: Sequence[Any]) -> list[str]:
    """The paths that Keras gives to variables of TensorFlow, or the names that they have."""
    pairs = zip(paths_of(variables), variables, strict=True)
    return [path or variable.name.removesuffix(":0") for path, variable in pairs]
