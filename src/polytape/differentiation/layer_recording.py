"""A forward pass with calls of layers noted, so that gradients by their variables need not exist.

Inside of a noted call a layer's variables have no gradient. A backward pass goes as far as the
outputs of the call; with what came back there, and what went in, the gradients by the variables can
be compared and added up (`layer_rows.py` for examples, `unformed.py` for objectives).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from keras import layers, ops

from polytape.contract import Tensor
from polytape.differentiation.layer_calls import Chooses, LayerCall, Listening, with_many_weights
from polytape.differentiation.layer_rows import ExampleRows, Seen, rows_of, together
from polytape.differentiation.unformed import NotedCall, Unformed, formed
from polytape.differentiation.variables import path_of
from polytape.engines import Forward, Measure, Recording, Scalars, Variable, engine, flattened

Gradient = Tensor | Unformed


class LayerRecording:
    """A forward pass with the calls of layers noted: a `Recording`.

    local   has the gradients by the marks behind the layers, and by uses that were not noted
    beside  variables, by place, of noted calls through which a derivative was taken that the losses
            are made of, where the framework tells of it behind the forward pass only
    """

    measure: Measure = "parameters"

    def __init__(
        self,
        local: Recording,
        calls: Sequence[NotedCall],
        outputs: Any,
        variables: Sequence[Variable],
        beside: Sequence[int] = (),
    ) -> None:
        self.beside = beside
        self.local, self.calls, self.outputs = local, calls, outputs
        self.scalars, self.groups = local.scalars, local.groups
        self._places = {id(variable): v for v, variable in enumerate(variables)}
        self.variables = variables
        self.marks = self.stand_ins = range(len(variables), len(variables))

    def vjp(
        self,
        cotangents: Mapping[int, Tensor],
        variables: Sequence[int],
        last: bool = False,
        sparse: bool = False,
    ) -> list[Tensor | None]:
        found = self.unformed(cotangents, variables, last, sparse)
        return [formed(gradient) for gradient in found]

    def unformed(
        self,
        cotangents: Mapping[int, Tensor],
        variables: Sequence[int],
        last: bool = False,
        sparse: bool = False,
    ) -> list[Gradient | None]:
        """As `vjp`, but gradients by noted calls as what they can be formed of."""
        count, wanted = len(self.variables), {*variables}
        concerned = [
            number
            for number, noted in enumerate(self.calls)
            if any(self._places[id(v)] in wanted for v in noted.call.variables)
        ]
        marks = [m for c in concerned for m in self.calls[c].call.marks if m is not None]
        behind = [count + m for m in marks]
        found = self.local.vjp(cotangents, [*variables, *behind], last, sparse)
        brought = dict(zip(marks, found[len(variables) :], strict=True))
        back: dict[int, dict[int, list[Tensor | None]]] = {}
        for number in concerned:
            noted = self.calls[number]
            came = [None if m is None else brought[m] for m in noted.call.marks]
            if any(each is not None for each in came):
                for variable in noted.call.variables:
                    back.setdefault(self._places[id(variable)], {})[number] = came

        def gradient(variable: int, beside: Tensor | None) -> Gradient | None:
            if variable not in back:
                return beside
            rest = None if beside is None else engine().as_update(beside)
            return Unformed(self.calls, self.variables[variable], back[variable], rest)

        return [gradient(v, beside) for v, beside in zip(variables, found, strict=False)]

    def zeros(self, variable: int) -> Tensor:
        return self.local.zeros(variable)

    def reach(self, scalars: Sequence[int]) -> np.ndarray:
        found = np.array(self.local.reach(scalars), bool)
        for row, scalar in zip(found, scalars, strict=True):
            row[[*self.reached(self.marked({scalar: 1.0}))]] = True
        return found

    # ------------------------------------------------------------------ example by example

    def check_covered(self, names: Sequence[str], scalars: Sequence[int]) -> None:
        """Raise for a variable that a loss uses outside of the layers that hold it."""
        for name, row in zip(names, self.local.reach(scalars), strict=True):
            uses = [*np.flatnonzero(row), *self.beside]
            if uses:
                path = path_of(self.variables[int(uses[0])])
                raise ValueError(
                    f"The losses of {name!r} use the variable {path!r} outside of the call of a "
                    "layer that holds it, where the gradients of single examples cannot be told "
                    "apart. Use it in `call` of a layer of its own: one that adds it with "
                    "self.add_weight, or keeps the layer that does as an attribute; and give that "
                    "layer, or a model with it, to whoever differentiates."
                )

    def check_batch(self, marked: Sequence[Tensor | None], count: Any) -> None:
        """Raise for a layer whose outputs do not begin with the axis of the examples.

        count  of them: a number, or () int where only the step knows it
        """
        for call, _, _ in self.calls:
            found = [None if m is None else marked[m] for m in call.marks]
            shapes = [tuple(each.shape) for each in found if each is not None]
            wrong = [shape for shape in shapes if shape[:1] not in ((count,), (None,))]
            if wrong and isinstance(count, int):
                raise ValueError(
                    f"Layer {call.path!r} gives out a tensor of shape {wrong[0]}, and a batch of "
                    f"{count} examples came in: which of them a row belongs to cannot be told. "
                    "Call it on something with the batch axis first: positions, say, broadcast to "
                    "the batch; or inside of a layer of your own that has weights, too."
                )

    def marked(self, seeds: Mapping[int, Tensor]) -> list[Tensor | None]:
        """What one backward pass brings to each mark."""
        return self.local.vjp(seeds, self.local.marks)

    def reached(self, marked: Sequence[Tensor | None]) -> list[int]:
        """The variables, by place, of the calls to which a backward pass has come."""
        calls = [call for call, _, _ in self.calls if _comes(call, marked)]
        return [self._places[id(variable)] for call in calls for variable in call.variables]

    def rows(
        self, passes: Sequence[Sequence[Tensor | None]], among: Collection[int]
    ) -> dict[int, ExampleRows]:
        """{variable, by place: its gradients} of every example, of one pass after the other.

        passes  what each brought to the marks;  among  the variables that are asked for
        """
        uses: dict[int, list[ExampleRows]] = {}
        for call, tensors, states in self.calls:
            places = {id(v): self._places[id(v)] for v in call.variables}
            if {*places.values()} & {*among} and any(_comes(call, each) for each in passes):
                back = [None if m is None else _joined([e[m] for e in passes]) for m in call.marks]
                for key, found in rows_of(Seen(call, tensors, states, back, len(passes))).items():
                    if places[key] in among:
                        uses.setdefault(places[key], []).append(found)
        return {v: together(found) for v, found in uses.items()}


class AsUnformed:
    """The same, with gradients by noted calls that are not formed: a `Recording` for rows."""

    def __init__(self, whole: LayerRecording) -> None:
        self._whole = whole
        self.scalars, self.groups, self.outputs = whole.scalars, whole.groups, whole.outputs
        self.measure, self.marks, self.stand_ins = whole.measure, whole.marks, whole.stand_ins
        self.vjp, self.zeros, self.reach = whole.unformed, whole.zeros, whole.reach


def unformed(recording: Recording) -> Recording:
    """The recording for rows, which are not formed where calls of layers were noted."""
    return AsUnformed(recording) if isinstance(recording, LayerRecording) else recording


def record_layers(
    forward: Forward,
    variables: Sequence[Variable],
    roots: Sequence[layers.Layer],
    chooses: Chooses = with_many_weights,
) -> LayerRecording:
    """A forward pass, with the calls of chosen layers below some noted.

    RuntimeError on one of several replicas, which add up gradients that are formed; ValueError for
    a derivative that was taken through a noted call.
    """
    if engine().replica_count() > 1:
        raise RuntimeError(
            'memory="low" compares gradients without forming them, and this step is one of '
            f"{engine().replica_count()} replicas, which add them up. Train on one device, or "
            "leave out `memory`."
        )
    recorded = record_calls(forward, variables, roots, chooses)
    if recorded.beside:
        path = path_of(variables[recorded.beside[0]])
        raise ValueError(
            f"The losses are made of a derivative that passes the variable {path!r}, taken within "
            "the forward pass (torch.autograd.grad), and where gradients are compared without "
            "being formed, what it says of that variable would be missing. Take it by "
            'pt.derivative(function, x), or train with memory="high".'
        )
    return recorded


def record_calls(
    forward: Forward,
    variables: Sequence[Variable],
    roots: Sequence[layers.Layer],
    chooses: Chooses,
) -> LayerRecording:
    """As `record_layers`; uses beside the noted calls are told by what comes back."""
    calls: list[LayerCall] = []
    beside: list[int] = []

    def noted() -> tuple[Scalars, Any]:
        constants = [engine().constant(v.value) for v in variables]
        values = {id(v): (v, value) for v, value in zip(variables, constants, strict=True)}
        listening = Listening(values, chooses)
        with listening.attached(roots):
            scalars, outputs = forward()
        calls[:] = listening.calls
        ends = [*flattened(scalars)[0], *listening.entered]
        beside[:] = engine().used_beside(ends, constants)
        return scalars, (outputs, [(call.tensors, call.states) for call in calls])

    local = engine().record(noted, lambda: variables, "layers")
    outputs, carried = local.outputs
    known = [NotedCall(call, *given) for call, given in zip(calls, carried, strict=True)]
    return LayerRecording(local, known, outputs, variables, beside)


def _comes(call: LayerCall, marked: Sequence[Tensor | None]) -> bool:
    """Whether a backward pass comes to a call."""
    return any(m is not None and marked[m] is not None for m in call.marks)


def _joined(passes: Sequence[Tensor | None]) -> Tensor | None:
    """(S n, ...) float32 of S times (n, ...), zeros for None; None if all are."""
    known = [each for each in passes if each is not None]
    if not known:
        return None
    zeros = ops.zeros_like(known[0])
    found = [ops.cast(zeros if each is None else each, "float32") for each in passes]
    return ops.concatenate(found) if len(found) > 1 else found[0]
