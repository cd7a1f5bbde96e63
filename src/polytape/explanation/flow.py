"""Which tensors of a trace depend on which: by their values, and by differentiation."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from polytape.engines.operations import Number, Operation, Trace

# Operations whose result does not move with the values of their inputs.
OF_SHAPES = {
    *("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike", "zeros_like", "ones_like"),
    *("full_like", "empty_like", "rand_like", "randn_like", "numel", "size", "shape"),
    *("empty", "new_zeros", "new_ones", "new_full"),
}
# Operations from whose output no gradient comes back, though it may be a floating-point number.
CUTS = {
    *("stop_gradient", "no_grad", "round", "floor", "ceil", "trunc", "sign", "argmax", "argmin"),
    *("argsort", "one_hot", "a comparison", "a logical operation", "isfinite", "a host function"),
    *("a string operation", "sampling", "a copy", "bincount", "bucketize"),
}


class Flow:
    """The graph of a trace."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._known: dict[tuple[bool, frozenset[Number], bool], frozenset[Number]] = {}
        self.maker: dict[Number, Operation] = {}
        self.users: dict[Number, list[Operation]] = defaultdict(list)
        for operation in trace.operations:
            if operation.name in OF_SHAPES:
                continue
            for tensor in operation.inputs:
                self.users[tensor].append(operation)
            for tensor in operation.outputs:
                self.maker[tensor] = operation

    def passes(self, operation: Operation, given: Number, made: Number) -> bool:
        """Whether the gradient of an output moves on to an input."""
        floating = self.trace.floating
        return operation.name not in CUTS and floating(given) and floating(made)

    def downstream(
        self, tensors: Iterable[Number], differentiable: bool = False
    ) -> frozenset[Number]:
        """What depends on some tensors, and they themselves."""

        def further(tensor: Number) -> Iterator[Number]:
            for operation in self.users[tensor]:
                for made in operation.outputs:
                    if not differentiable or self.passes(operation, tensor, made):
                        yield made

        return self._closure((True, frozenset(tensors), differentiable), further)

    def upstream(
        self, tensors: Iterable[Number], differentiable: bool = False
    ) -> frozenset[Number]:
        """What some tensors depend on, and they themselves."""

        def further(made: Number) -> Iterator[Number]:
            operation = self.maker.get(made)
            for given in operation.inputs if operation else ():
                if operation and (not differentiable or self.passes(operation, given, made)):
                    yield given

        return self._closure((False, frozenset(tensors), differentiable), further)

    def _closure(
        self,
        asked: tuple[bool, frozenset[Number], bool],
        further: Callable[[Number], Iterator[Number]],
    ) -> frozenset[Number]:
        """All that is reached step by step; of many objectives and networks each is asked often.

        asked  whether it is downstream; from where; whether by differentiation
        """
        if asked not in self._known:
            found = set(asked[1])
            waiting = [*found]
            while waiting:
                for tensor in further(waiting.pop()):
                    if tensor not in found:
                        found.add(tensor)
                        waiting.append(tensor)
            self._known[asked] = frozenset(found)
        return self._known[asked]
