"""From a trace to the causes of a gradient that is missing, zero or not finite."""

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from polytape.engines.operations import Number, Numbers, Operation, Size, Trace
from polytape.engines.places import Line, Place
from polytape.explanation.finding import Kind
from polytape.explanation.flow import Flow
from polytape.explanation.words import (
    CANCELLED,
    CUSTOM,
    CUTS,
    FLAT,
    INDICES,
    INFINITE,
    LEFT_OUT,
    LOST,
    MASKED,
    MINIMUM,
    NORMALISED,
    OF_INFINITE,
    OF_NOTHING,
    ONE_CLASS,
    OUTSIDE,
    OVERFLOW,
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
    *("transpose", "Transpose", "permute"),
    *("squeeze", "Squeeze", "unsqueeze", "ExpandDims", "ReadVariableOp", "convolution", "linear"),
}
_PRODUCTS = ("multiply", "matmul", "convolution", "divide")
_DISTANCES = ("square", "abs", "power", "SquaredDifference", "norm", "std")
_MEANS = ("mean", "Mean", "reduce_sum", "sum", "Sum", "var_mean", "var")
_ENTROPIES = ("cross_entropy", "nll_loss", "SoftmaxCrossEntropyWithLogits")
_CUSTOM = ("a custom function", "Identity", "IdentityN")
_NORMALISERS = ("layer_norm", "batch_norm", "group_norm", "instance_norm")
_CHOOSING = (  # what hands on a number as it was given
    *("where", "join", "broadcast_in_dim", "BroadcastTo", "broadcast_to", "expand", "full", "Fill"),
    *("zeros_like", "ones_like", "full_like", "masked_fill", "masked_fill_", "setitem", "cast"),
    *("maximum", "minimum", "clip"),
    *("reshape", "Reshape", "scatter", "ReadVariableOp"),
)


@dataclass(frozen=True)
class Cause:
    """kind, text, remedy, share: as of a `Finding`; by: the variable whose zeros are behind it."""

    kind: Kind
    text: str
    remedy: str
    operation: str = ""
    place: Place = NOWHERE
    share: float | None = None
    by: int | None = None


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
            return cuts or self._custom(below, loss)
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

    def _custom(self, below: frozenset[Number], loss: Number) -> list[Cause]:
        """A function with a derivative of its own, where nothing else ends the gradient."""
        behind = self.flow.upstream([loss])
        for operation in self.trace.operations:
            between = below.intersection(operation.inputs) and behind.intersection(
                operation.outputs
            )
            if operation.name in _CUSTOM and between:
                name = replace(operation, name="a custom function")
                return [_cause("cut", name, CUTS["a custom function"])]
        return [Cause("cut", "the gradient is lost on its way", LOST)]

    def _cut(self, operation: Operation, made: Number) -> Cause:
        dtype = self.trace.dtypes.get(made, "")
        words = CUTS.get(operation.name)
        if words is None:
            whole = "int" in dtype or dtype == "bool"
            index = CUTS["cast"] if operation.name == "cast" else INDICES
            words = index if whole else Words("has no derivative", "")
        return _cause("cut", operation, words, dtype=dtype)

    def _apart(self, sources: set[Number], below: frozenset[Number], loss: Number) -> Cause:
        """The value of the loss does not depend on the variables."""
        flow, trace = self.flow, self.trace
        behind = flow.upstream([loss] if loss >= 0 else [])
        used = [operation for source in sources for operation in flow.users[source]]
        if (copied := self._assigned(below, behind)) is not None:
            return copied
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

    def _last(self, below: frozenset[Number]) -> Operation | None:
        """The last operation of those whose results lead nowhere."""
        for operation in reversed(self.trace.operations):
            if any(tensor in below and not self.flow.users[tensor] for tensor in operation.outputs):
                return operation
        return None

    def _assigned(self, below: frozenset[Number], behind: frozenset[Number]) -> Cause | None:
        """Where what came of some tensors was put into a variable that the loss reads."""
        for operation in self.trace.operations:
            name, inputs = operation.name, operation.inputs
            if name == "an assignment" and inputs[0] in behind and below.intersection(inputs[1:]):
                return _cause("cut", operation, CUTS[name])
        return None

    def _left(self, below: frozenset[Number]) -> Cause | None:
        """Where what came of some tensors became NumPy or a Python number."""
        for operation in self.trace.operations:
            if operation.name == "a host function" and set(operation.inputs) & below:
                return _cause("cut", operation, CUTS[operation.name])
        if self._line_left is None:
            return None
        operation = Operation("a host function", (), (), Place("", self._line_left))
        return _cause("cut", operation, CUTS[operation.name])

    @cached_property
    def _line_left(self) -> Line | None:
        """Asked for once: TensorFlow traces the forward pass anew to find it."""
        return self.trace.left()

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
        if (alone := self._one_class(moved, behind)) is not None:
            return [alone]
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
        maker = self.flow.maker.get(tensor)
        if size is None and maker is not None and maker.name == "a custom function":
            # Inside of it nothing has a gradient.
            return all(self._vanishes(given, sources, cotangents) for given in maker.inputs)
        return size is None or size.zero

    def _one_class(self, moved: frozenset[Number], behind: frozenset[Number]) -> Cause | None:
        """A softmax over a single number."""
        for operation in self.trace.operations:
            same = {"softmax": 1.0, "log_softmax": 0.0}.get(operation.name)
            made = operation.outputs[-1] if operation.outputs else -1
            entropy = operation.name in _ENTROPIES
            made = operation.outputs[0] if entropy else made
            if (same is None and not entropy) or made not in moved or made not in behind:
                continue
            if entropy:
                if np.asarray(self.numbers.value(operation.inputs[0])).shape[1:2] == (1,):
                    return _cause("saturated", operation, ONE_CLASS)
                continue
            if any(user.name == operation.name for user in self.flow.users[made]):
                continue  # a part of it
            value = np.asarray(self.numbers.value(made))
            if value.size and (value == same).all():
                return _cause("saturated", operation, ONE_CLASS)
        return None

    def _normalises_one(self, operation: Operation) -> bool:
        """Whether it belongs to a layer that takes the mean of single numbers."""
        layer = operation.place.layer
        for other in self.trace.operations if layer else ():
            if other.place.layer != layer or not other.inputs or not other.outputs:
                continue
            if other.name in _NORMALISERS:
                return True
            if other.name in _MEANS:
                before = np.asarray(self.numbers.value(other.inputs[0]))
                after = np.asarray(self.numbers.value(other.outputs[-1]))
                if before.ndim and before.size == after.size:
                    return True
        return False

    def _flat(self, operation: Operation, given: Sequence[Number], made: Number) -> Cause:
        """Why an operation lets nothing through."""
        numbers = self.numbers
        name, dtype = self._known_as(operation), self.trace.dtypes.get(made, "")
        if name in _CUSTOM:
            custom = replace(operation, name="a custom function")
            return _cause("saturated", custom, CUSTOM)
        share = self._share(operation, given[0], made)
        if name in FLAT and (share is None or share > 0):
            return _cause("saturated", replace(operation, name=name), FLAT[name], share=share)
        others = [t for t in operation.inputs if t not in given and self.trace.floating(t)]
        if name in _NORMALISERS or (name not in FLAT and self._normalises_one(operation)):
            return _cause("saturated", replace(operation, name="a normalisation"), NORMALISED)
        if name in _PRODUCTS:
            for other in others:
                if self.trace.dtypes[other] != "resource" and self._size(other).zero:
                    return self._product(operation, other)
            if not others and self._size(made).zero and not self._size(given[0]).zero:
                return _cause("masked", operation, MASKED)  # by a number of Python's
        if name == "join":
            return _cause("saturated", replace(operation, name="concatenate"), LEFT_OUT)
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
        text, by = self._origin(other)
        return replace(_cause("saturated", operation, Words(ZEROS.why + text, ZEROS.remedy)), by=by)

    def _origin(self, zeros: Number) -> tuple[str, int | None]:
        """What made some zeros, in words, and the variable that is them."""
        tensor = zeros
        while (maker := self.flow.maker.get(tensor)) is not None:
            inputs = [t for t in maker.inputs if self.trace.floating(t)]
            if maker.name == "ReadVariableOp" and inputs:
                tensor = inputs[0]
                break
            zero = [t for t in inputs if self._size(t).zero]
            before = zero[0] if zero else None
            if before is None or (len(zero) < len(inputs) and maker.name not in _PRODUCTS):
                inner = maker.place.layer.rpartition("/")[2]
                layer = f" in layer {inner!r}" * bool(inner)
                name = maker.name if " " in maker.name else f"`{maker.name}`"
                return f", which come from {name}{layer}", None
            tensor = before
        if tensor in self.trace.sources:
            by = list(self.trace.sources).index(tensor)
            return f": the variable {self.paths[by]!r} is zero" if self.paths else "", by
        return "", None

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
        if name in ("tanh", "erf"):
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
        if not self._sizes[loss].finite:
            return [self._forward(loss)]
        found = self._backward(scalar, behind)
        given = None if found else self._bad_leaf(behind)
        return found if given is None else [given]

    def _forward(self, loss: Number) -> Cause:
        """Where it is that a number on the way to the loss is not finite."""
        if not self._sizes[loss].nan:
            return self._overflow([loss]) or self._last_infinite(loss)
        spoilt = self._chain([loss], lambda size: size.nan)
        if (given := self._bad_leaf(spoilt)) is not None:
            return given
        first = self._roots(spoilt)[0]
        infinite = [t for t in first.inputs if t in self._sizes and not self._sizes[t].finite]
        if infinite:
            given = self._bad_leaf(self._chain(infinite, _not_finite), variables=True)
            found = given or self._overflow(infinite)
            return found or _cause("not finite", first, OF_INFINITE)
        return self._infinite(first, hidden=False, forward=True)

    def _chain(self, ends: Iterable[Number], spoilt: Callable[[Size], bool]) -> set[Number]:
        """Tensors that hold such numbers, from some of them back to where they come from."""
        found, waiting = set(ends), list(ends)
        while waiting:
            maker = self.flow.maker.get(waiting.pop())
            for given in maker.inputs if maker else ():
                size = self._sizes.get(given)
                if given not in found and size is not None and spoilt(size):
                    found.add(given)
                    waiting.append(given)
        return found

    def _roots(self, chain: set[Number]) -> list[Operation]:
        """The operations that make a chain out of what does not belong to it."""
        return [
            operation
            for operation in self.trace.operations
            if chain.intersection(operation.outputs) and not chain.intersection(operation.inputs)
        ]

    def _overflow(self, infinite: Sequence[Number]) -> Cause | None:
        """The operation that made infinite numbers of finite ones, if one computed them."""
        chain = self._chain(infinite, _not_finite)
        made = [op for op in self._roots(chain) if op.name not in _CHOOSING]
        return self._infinite(made[0], hidden=False, forward=True) if made else None

    def _last_infinite(self, loss: Number) -> Cause:
        chain = self._chain([loss], _not_finite)
        given = self._bad_leaf(chain)
        makers = [op for op in self.trace.operations if chain.intersection(op.outputs)]
        known = [op for op in makers if op.name in INFINITE]
        return given or self._infinite((known or makers)[-1], hidden=False, forward=True)

    def _backward(self, scalar: int, behind: frozenset[Number]) -> list[Cause]:
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

    def _bad_leaf(self, behind: Set[Number], variables: bool = False) -> Cause | None:
        """What is not finite before anything is computed.

        variables  whether only those count, as infinite constants are masks
        """
        trace, named = self.trace, dict(self.trace.others)
        named.update(zip(trace.sources, self.paths or map(str, trace.sources), strict=True))
        for operation in trace.operations:
            held = [named[t] for t in operation.inputs if t in named and t in behind]
            read = [t for t in operation.inputs if t in self._sizes and t not in self.flow.maker]
            if operation.name == "ReadVariableOp":
                read = [t for t in operation.outputs if t in self._sizes]
                held = held or [
                    named[t] for t in operation.inputs if t in named and {*read} & behind
                ]
            read = [tensor for tensor in read if tensor in behind]
            if all(self._sizes[t].finite for t in read):
                continue
            bad = next(t for t in read if not self._sizes[t].finite)
            if held and (bad in named or bad in operation.outputs):
                return Cause(
                    "not finite",
                    f"the variable {held[0]!r} is not finite before anything is computed",
                    "Load sound weights, or make the model anew.",
                )
            if variables:
                continue
            return Cause(
                "not finite",
                "a value that was given (data, targets, a constant) is not finite before anything "
                f"is computed; it is first read by `{operation.name}`",
                "Look for NaN and Inf in the data, and for a division by zero before it.",
                operation.name,
                operation.place,
            )
        return None

    def _infinite(self, operation: Operation, hidden: bool, forward: bool = False) -> Cause:
        words = INFINITE.get(operation.name)
        made = [t for t in operation.outputs if t in self._sizes]
        overflows = forward and made and not any(self._sizes[t].nan for t in made)
        if forward and not overflows:
            words = OUTSIDE.get(operation.name, words)
        elif overflows and (words is None or operation.name in ("power", "abs")):
            words = OVERFLOW
        if forward and operation.name in ("mean", "Mean", *_ENTROPIES) and not overflows:
            words = OF_NOTHING
        words = words or Words("is the first that is not finite", "")
        chosen = any(op.name == "where" for op in self.trace.operations)
        remedy = WHERE if hidden and chosen else words.remedy
        dtype = self.trace.dtypes.get(made[0], "") if made else ""
        return _cause("not finite", operation, Words(words.why, remedy), dtype=dtype)

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


def _not_finite(size: Size) -> bool:
    return not size.finite


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
