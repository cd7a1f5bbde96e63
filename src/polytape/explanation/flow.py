"""Which tensors of a trace depend on which: by their values, and by differentiation."""

from collections import defaultdict
from collections.abc import Iterable

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

    def downstream(self, tensors: Iterable[Number], differentiable: bool = False) -> set[Number]:
        """What depends on some tensors, and they themselves."""
        found, waiting = set(tensors), list(tensors)
        while waiting:
            tensor = waiting.pop()
            for operation in self.users[tensor]:
                for made in operation.outputs:
                    if made in found or (
                        differentiable and not self.passes(operation, tensor, made)
                    ):
                        continue
                    found.add(made)
                    waiting.append(made)
        return found

    def upstream(self, tensors: Iterable[Number], differentiable: bool = False) -> set[Number]:
        """What some tensors depend on, and they themselves."""
        found, waiting = set(tensors), list(tensors)
        while waiting:
            made = waiting.pop()
            operation = self.maker.get(made)
            for given in operation.inputs if operation else ():
                if given in found or (
                    differentiable and operation and not self.passes(operation, given, made)
                ):
                    continue
                found.add(given)
                waiting.append(given)
        return found
