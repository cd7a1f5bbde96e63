"""From a trace to the causes of a gradient that is missing, zero or not finite."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from polytape.engines.operations import Number, Numbers, Operation, Size, Trace
from polytape.engines.places import Place
from polytape.explanation.finding import Kind
from polytape.explanation.flow import Flow
from polytape.explanation.words import (
    CANCELLED,
    CUTS,
    FLAT,
    INFINITE,
    MASKED,
    MINIMUM,
    UNDERFLOW,
    WHERE,
    ZEROS,
    Words,
)

NOWHERE = Place()
MOST = 3  # causes that are told of one gradient
_SUMS = {  # of what they add up, parts may cancel
    *("add", "AddV2", "AddN", "BiasAdd", "sub", "Sub", "radd", "rsub", "iadd", "isub", "subtract"),
    *("sum", "Sum", "mean", "Mean", "reduce_sum", "neg", "Neg", "negative", "matmul", "addmm"),
    *("broadcast_in_dim", "BroadcastTo", "expand", "broadcast_to", "reshape", "Reshape", "view"),
    *("transpose", "Transpose", "permute", "ConcatV2", "concatenate", "cat", "stack", "Pack"),
    *("squeeze", "Squeeze", "unsqueeze", "ExpandDims", "ReadVariableOp", "convolution", "linear"),
}
_PRODUCTS = ("multiply", "matmul", "convolution", "divide")
_DISTANCES = ("square", "abs", "power", "SquaredDifference")


@dataclass(frozen=True)
class Cause:
    """kind, text, remedy, share: as of a `Finding`."""

    kind: Kind
    text: str
    remedy: str
    operation: str = ""
    place: Place = NOWHERE
    share: float | None = None


class Causes:
    """Of one trace.

    paths  of its variables; none: they are not asked for
    """

    def __init__(self, trace: Trace, paths: Sequence[str] = ()) -> None:
        self.trace, self.paths = trace, paths
        self.flow = Flow(trace)
        self._sizes: dict[Number, Size] = {}
        self._cotangents: dict[int, dict[Number, Size]] = {}

    # ------------------------------------------------------------------ missing

    def missing(self, scalar: int, variables: Sequence[int]) -> list[Cause]:
        """Why no differentiable path leads from a scalar to some variables."""
        flow, loss = self.flow, self.trace.scalars[scalar]
        sources = {self.trace.sources[v] for v in variables}
        below = flow.downstream(sources)
        if loss in below:
            cuts = self._cuts(sources, loss)
            return cuts or [Cause("cut", "the gradient is lost on its way", "")]
        return [self._apart(sources, below, loss)]

    def _cuts(self, sources: set[Number], loss: Number) -> list[Cause]:
        """The operations at which the gradient ends, those nearest to the loss first."""
        flow = self.flow
        moved = flow.downstream(sources, differentiable=True)
        behind = flow.upstream([loss])
        found: list[Cause] = []
        for operation in reversed(self.trace.operations):
            given = [tensor for tensor in operation.inputs if tensor in moved]
            made = [tensor for tensor in operation.outputs if tensor in behind]
            ends = [
                pair
                for pair in ((i, o) for i in given for o in made)
                if not flow.passes(operation, *pair)
            ]
            if ends and flow.maker.get(made[0]) is operation:
                found.append(self._cut(operation, ends[0][1]))
        return _distinct(found)

    def _cut(self, operation: Operation, made: Number) -> Cause:
        dtype = self.trace.dtypes.get(made, "")
        words = CUTS.get(operation.name)
        if words is None:
            whole = "int" in dtype or dtype == "bool"
            words = CUTS["cast"] if whole else Words("has no derivative", "")
        return _cause("cut", operation, words, dtype=dtype)

    def _apart(self, sources: set[Number], below: set[Number], loss: Number) -> Cause:
        """The value of the loss does not depend on the variables."""
        flow, trace = self.flow, self.trace
        behind = flow.upstream([loss]) if loss >= 0 else set()
        used = [operation for source in sources for operation in flow.users[source]]
        if used and (lost := self._left(below)) is not None:
            return lost
        if not behind & {*trace.sources, *trace.others}:
            return Cause(
                "outside the record",
                "the loss is made of constants only: its prediction was computed elsewhere, before "
                "the gradients were recorded",
                "Call the network inside the function, or inside the `with` block of the tape.",
            )
        if not used:
            others = sorted({trace.others[tensor] for tensor in behind & set(trace.others)})
            read = f"; it reads {', '.join(others[:3])} instead" if others else ""
            return Cause(
                "not connected",
                f"it is never called: nothing in the forward pass reads its variables{read}",
                "Call it where the loss is computed, or leave it out.",
            )
        last = self._last(below)
        return Cause(
            "not connected",
            "what it makes is not used by this loss",
            "Let the loss use it, or leave the variables to another objective.",
            last.name if last else "",
            last.place if last else NOWHERE,
        )

    def _last(self, below: set[Number]) -> Operation | None:
        """The last operation of those whose results lead nowhere."""
        for operation in reversed(self.trace.operations):
            if any(tensor in below and not self.flow.users[tensor] for tensor in operation.outputs):
                return operation
        return None

    def _left(self, below: set[Number]) -> Cause | None:
        """Where what came of some tensors became NumPy or a Python number."""
        for operation in self.trace.operations:
            if operation.name == "a host function" and set(operation.inputs) & below:
                return _cause("cut", operation, CUTS[operation.name])
        line = self.trace.left()
        if line is None:
            return None
        operation = Operation("a host function", (), (), Place("", line))
        return _cause("cut", operation, CUTS[operation.name])

    # ------------------------------------------------------------------ zero

    def zero(self, scalar: int, variables: Sequence[int]) -> list[Cause]:
        """Why the gradient of a scalar by some variables is exactly zero."""
        sources = {self.trace.sources[v] for v in variables}
        loss = self.trace.scalars[scalar]
        if self.trace.numbers is None or loss < 0:
            return []
        moved = self.flow.downstream(sources, differentiable=True)
        behind = self.flow.upstream([loss])
        if loss not in moved:
            return self._cuts(sources, loss)
        cotangents = self._of(scalar)
        found = []
        for operation in reversed(self.trace.operations):
            given = [t for t in operation.inputs if t in moved]
            made = [
                t
                for t in operation.outputs
                if t in behind and t in cotangents and not cotangents[t].zero
            ]
            if not given or not made or not self.flow.passes(operation, given[0], made[0]):
                continue
            if all(self._vanishes(tensor, sources, cotangents) for tensor in given):
                found.append(self._flat(operation, given, made[0]))
        cuts = [] if found else self._cuts(sources, loss)
        return _distinct(found) or cuts

    def _vanishes(
        self, tensor: Number, sources: set[Number], cotangents: dict[Number, Size]
    ) -> bool:
        if tensor in sources:
            return True
        size = cotangents.get(tensor)
        return size is None or size.zero

    def _flat(self, operation: Operation, given: Sequence[Number], made: Number) -> Cause:
        """Why an operation lets nothing through."""
        numbers = self.numbers
        name, dtype = self._known_as(operation), self.trace.dtypes.get(made, "")
        share = self._share(operation, given[0], made)
        if name in FLAT and (share is None or share > 0):
            return _cause("saturated", replace(operation, name=name), FLAT[name], share=share)
        others = [t for t in operation.inputs if t not in given and self.trace.floating(t)]
        if name in _PRODUCTS:
            for other in others:
                if self.trace.dtypes[other] != "resource" and self._size(other).zero:
                    return self._product(operation, other)
        if name in _DISTANCES and not np.any(numbers.value(given[0])):
            return _cause("at a minimum", operation, MINIMUM)
        half = {self.trace.dtypes.get(t, "") for t in (*given, made)} & {"float16", "bfloat16"}
        if half or dtype in ("float16", "bfloat16"):
            kind = next(iter(half), dtype)
            return _cause("underflow", operation, UNDERFLOW, dtype=kind)
        if operation.name in _SUMS:
            return _cause("cancelled", operation, CANCELLED)
        return _cause("saturated", operation, Words("lets no gradient through", ""))

    def _known_as(self, operation: Operation) -> str:
        """Its name, or that of what it is half of."""
        other = {"minimum": "maximum", "maximum": "minimum"}.get(operation.name)
        beside = [self.flow.maker.get(tensor) for tensor in operation.inputs]
        beside += [user for tensor in operation.outputs for user in self.flow.users[tensor]]
        whole = any(op and op.name == other and op.place == operation.place for op in beside)
        return "clip" if other and whole else operation.name

    def _product(self, operation: Operation, other: Number) -> Cause:
        """Of something with zeros."""
        origin = self.flow.upstream([other])
        trained = [n for n, source in enumerate(self.trace.sources) if source in origin]
        if not trained and operation.name in ("multiply", "divide"):
            return _cause("masked", operation, MASKED)
        return _cause("saturated", operation, ZEROS)

    def _share(self, operation: Operation, given: Number, made: Number) -> float | None:
        """The share of units at which an operation is flat."""
        name, numbers = operation.name, self.numbers
        value = np.asarray(numbers.value(made))
        if not value.size:
            return None
        if name in ("relu", "softplus", "gelu", "silu", "exp"):
            return float(np.mean(value == 0))
        if name in ("sigmoid", "hard_sigmoid", "softmax"):
            return float(np.mean((value == 0) | (value == 1)))
        if name == "tanh":
            return float(np.mean(np.abs(value) == 1))
        if name in ("clip", "relu6", "maximum", "minimum"):
            before = np.asarray(numbers.value(given))
            if before.shape != value.shape:
                return None
            inner = before[before == value]
            bounds = (value == value.min()) | (value == value.max())
            return 1.0 - inner.size / value.size if inner.size else float(np.mean(bounds)) or 1.0
        return None

    # ------------------------------------------------------------------ not finite

    def not_finite(self, scalar: int) -> list[Cause]:
        """Where a scalar, or its gradient, stops being finite."""
        trace, flow, loss = self.trace, self.flow, self.trace.scalars[scalar]
        if trace.numbers is None or loss < 0:
            return []
        behind = flow.upstream([loss])
        lies = [t for t in behind if trace.floating(t) and trace.dtypes[t] != "resource"]
        self._measure(lies)
        given = self._bad_leaf(behind)
        if given is not None:
            return [given]
        for operation in trace.operations:
            outputs = [t for t in operation.outputs if t in behind and t in self._sizes]
            if any(not self._sizes[t].finite for t in outputs):
                return [self._infinite(operation, hidden=self._sizes[loss].finite)]
        return self._backward(scalar, behind)

    def _backward(self, scalar: int, behind: set[Number]) -> list[Cause]:
        """The first operation on the way back that makes a gradient not finite."""
        cotangents = self._of(scalar)
        spoilt = {t for t in behind if t in cotangents and not cotangents[t].finite}
        sources = set(self.trace.sources) & behind
        # The last that was made is the first on the way back.
        for tensor in [*sorted(spoilt, key=self._order, reverse=True), *sources]:
            guilty = [
                operation
                for operation in self.flow.users[tensor]
                if (made := [t for t in operation.outputs if t in cotangents])
                and all(cotangents[t].finite for t in made)
            ]
            if guilty:
                known = [operation for operation in guilty if operation.name in INFINITE]
                chosen = (known or guilty)[-1]
                made = [t for t in chosen.outputs if t in cotangents]
                return [self._infinite(chosen, hidden=all(cotangents[t].zero for t in made))]
        return []

    def _order(self, tensor: Number) -> int:
        maker = self.flow.maker.get(tensor)
        return -1 if maker is None else self._orders[id(maker)]

    @cached_property
    def _orders(self) -> dict[int, int]:
        return {id(operation): place for place, operation in enumerate(self.trace.operations)}

    def _bad_leaf(self, behind: set[Number]) -> Cause | None:
        """What is not finite before anything is computed."""
        trace, named = self.trace, dict(self.trace.others)
        named.update(zip(trace.sources, self.paths or map(str, trace.sources), strict=True))
        for operation in trace.operations:
            held = [named[t] for t in operation.inputs if t in named and t in behind]
            read = [t for t in operation.inputs if t in self._sizes and t not in self.flow.maker]
            if operation.name == "ReadVariableOp":
                read = [t for t in operation.outputs if t in self._sizes]
            if all(self._sizes[t].finite for t in read):
                continue
            bad = next(t for t in read if not self._sizes[t].finite)
            if held and (bad in named or bad in operation.outputs):
                return Cause(
                    "not finite",
                    f"the variable {held[0]!r} is not finite before anything is computed",
                    "Load sound weights, or make the model anew.",
                )
            return Cause(
                "not finite",
                "a value that was given (data, targets, a constant) is not finite before anything "
                f"is computed; it is first read by `{operation.name}`",
                "Look for NaN and Inf in the data, and for a division by zero before it.",
                operation.name,
                operation.place,
            )
        return None

    def _infinite(self, operation: Operation, hidden: bool) -> Cause:
        words = INFINITE.get(operation.name, Words("is the first that is not finite", ""))
        chosen = any(op.name == "where" for op in self.trace.operations)
        remedy = WHERE if hidden and chosen else words.remedy
        return _cause("not finite", operation, Words(words.why, remedy))

    # ------------------------------------------------------------------ numbers

    @property
    def numbers(self) -> Numbers:
        assert self.trace.numbers is not None  # noqa: S101
        return self.trace.numbers

    def _size(self, tensor: Number) -> Size:
        self._measure([tensor])
        return self._sizes[tensor]

    def _measure(self, tensors: Iterable[Number]) -> None:
        missing = [tensor for tensor in tensors if tensor not in self._sizes]
        if missing:
            self._sizes.update(self.numbers.sizes(missing))

    def _of(self, scalar: int) -> dict[Number, Size]:
        """The sizes of the gradients of a scalar by all that it depends on."""
        if scalar not in self._cotangents:
            behind = self.flow.upstream([self.trace.scalars[scalar]])
            chosen = [t for t in sorted(behind) if t in self._float_tensors]
            self._cotangents[scalar] = self.numbers.cotangents(scalar, chosen)
        return self._cotangents[scalar]

    @cached_property
    def _float_tensors(self) -> set[Number]:
        dtypes = self.trace.dtypes
        return {t for t in dtypes if self.trace.floating(t) and dtypes[t] != "resource"}


def _cause(
    kind: Kind, operation: Operation, words: Words, dtype: str = "", share: float | None = None
) -> Cause:
    percent = "all" if share is None or share >= 1 else f"{100 * share:.3g} %"
    why = words.why.format(dtype=dtype, share=percent)
    name = operation.name if " " in operation.name else f"`{operation.name}`"
    text = f"{name} {why}"
    return Cause(kind, text, words.remedy, operation.name, operation.place, share)


def _distinct(causes: Sequence[Cause]) -> list[Cause]:
    """One for each place, the most telling, and no more than a reader wants."""
    found: dict[Place, Cause] = {}
    for cause in causes:
        known = found.get(cause.place)
        if known is None or _telling(cause) > _telling(known):
            found[cause.place] = cause
    return [*found.values()][:MOST]


def _telling(cause: Cause) -> int:
    """How well an operation is known by its name: libraries compare and cast on their way."""
    if cause.operation in ("a comparison", "a logical operation", "cast", "bitcast", "where"):
        return 1
    return 2 if cause.operation in CUTS or cause.operation in FLAT else 0
