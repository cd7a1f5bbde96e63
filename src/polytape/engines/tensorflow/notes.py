"""What a tape has met, operation by operation: to say where a gradient was lost."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from polytape.engines.contract import Tensor, Variable
from polytape.engines.operations import Operation, Trace, name_of
from polytape.engines.tensorflow.operations import EagerNumbers, Recorder, of_graph, paths
from polytape.engines.tensorflow.recording import raw

MOST = 100_000  # operations that are noted for somebody who may never ask


class Notes:
    """Of the operations between `resume` and `pause`.

    A graph knows its operations, so that nothing is noted but where they begin and end. What runs
    eagerly is noted if somebody may ask, which makes it slower.
    """

    def __init__(self, examine: bool, keep: bool) -> None:
        """examine: whether to note what runs eagerly; keep: and the tensors, for their values"""
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        eager = self._graph is None
        self._recorder = (
            Recorder(keep, None if keep else MOST) if eager and (examine or keep) else None
        )
        self._keep, self._running = keep, False
        self._spans: list[range] = []
        self._start, self._end = 0, None  # if nothing is noted, nothing is known to be late

    def resume(self) -> None:
        self._running = True
        if self._graph is not None:
            self._start = len(self._graph.get_operations())
        if self._recorder is not None:
            self._recorder.__enter__()

    def pause(self) -> None:
        self._running = False
        if self._graph is not None:
            self._spans.append(range(self._start, len(self._graph.get_operations())))
        if self._recorder is not None:
            self._recorder.__exit__()
            # Tensors are numbered: what has a higher number is later.
            self._end = tf.constant(0.0) if tf.executing_eagerly() else None

    def finished(self, tensor: Tensor) -> bool:
        """Whether a tensor was there at the last pause."""
        if self._running or tf.is_symbolic_tensor(tensor) != (self._graph is not None):
            return True
        if self._graph is None:
            return self._end is None or tensor._id < self._end._id
        if tensor.graph is not self._graph:
            return True
        return self._graph.get_operations().index(tensor.op) < self._spans[-1].stop

    def trace(
        self,
        targets: Sequence[Tensor],
        sources: Sequence[Any],
        read: Sequence[Variable],
        pull: Callable[..., Any] | None,
    ) -> Trace | None:
        """Of all that was noted; None if nothing was.

        sources  variables and tensors;  read  the variables that were met
        pull     gradients of a target, by its place, by tensors; None: they cannot be had
        """
        graph = self._graph
        recorder = self._recorder if graph is None else self._read(graph)
        if recorder is None or recorder.full:
            return None
        numbers = self._numbers()
        known = [_number(raw(source), numbers) for source in sources]
        others = {_number(variable, numbers): variable for variable in read}
        handles = [
            n for n, s in zip(known, sources, strict=True) if isinstance(raw(s), tf.Variable)
        ]
        dtypes = {**recorder.dtypes, **dict.fromkeys([*handles, *others], "resource")}
        for tensor in targets:
            dtypes.setdefault(tensor._id, tensor.dtype.name)
            recorder.tensors.setdefault(tensor._id, tensor)
        rest = {number: v for number, v in others.items() if number not in {*known}}
        return Trace(
            recorder.operations,
            dtypes,
            known,
            [tensor._id for tensor in targets],
            dict(zip(rest, paths([*rest.values()]), strict=True)),
            EagerNumbers(recorder, pull) if self._keep and pull is not None else None,
        )

    def _read(self, graph: Any) -> Recorder:
        found, operations = Recorder(), graph.get_operations()
        inside = [operations[place] for span in self._spans for place in span]
        if self._running:
            inside += operations[self._start :]
        for operation in inside:
            inputs, outputs = list(operation.inputs), list(operation.outputs)
            found.dtypes.update({t._id: t.dtype.name for t in (*inputs, *outputs)})
            found.operations.append(
                Operation(
                    name_of(operation.type),
                    tuple(tensor._id for tensor in inputs),
                    tuple(tensor._id for tensor in outputs),
                    of_graph(outputs),
                )
            )
        return found

    def _numbers(self) -> dict[int, int]:
        """Of the tensors that the graph has taken in from outside: by their number there."""
        captured = getattr(self._graph, "captures", ())  # a graph that is no function has none
        return {outer._id: inner._id for outer, inner in captured}


def _number(source: Any, numbers: dict[int, int]) -> int:
    own = source.handle._id if isinstance(source, tf.Variable) else source._id
    return numbers.get(own, own)
