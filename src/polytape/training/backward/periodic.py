"""Methods that look at the gradients now and then, and keep their weights in between."""

from keras import ops

from polytape.contract import Tensor
from polytape.differentiation.passes import Directions, at_once
from polytape.engines import engine
from polytape.training.backward.per_objective import every
from polytape.training.backward.recorded import Recorded
from polytape.training.backward.result import BackwardResult, either


def periodic(recorded: Recorded) -> BackwardResult:
    """All gradients when they are due, else the last weights and one backward pass."""
    aggregator, losses = recorded.aggregator, recorded.loss_vector
    active = recorded.active
    due = ops.equal(ops.mod(ops.cast(recorded.step, "int32"), aggregator.period), 0)
    again = ops.logical_and(ops.logical_not(due), ops.all(active))

    def recall() -> BackwardResult:
        given = losses, None, active, recorded.step
        shared, private, state = aggregator.weigh(*given, traces=recorded.traces)
        directions = _weighted(recorded, shared, private)
        reached = [gradient for gradient in directions if gradient is not None]
        return BackwardResult(
            directions, active & engine().in_range(reached, recorded.added), state
        )

    return either(again, recall, lambda: every(recorded))


def _weighted(recorded: Recorded, shared: Tensor, private: Tensor) -> Directions:
    """Directions for weights known beforehand: private variables are differentiated apart."""
    own = recorded.aggregator.private == "own"
    apart = set(recorded.connectivity().private) if own else set()
    together = set(range(len(recorded.paths))) - apart
    parts = [
        part
        for weights, among in ((shared, together), (private, apart))
        for part in recorded.routed.parts(recorded.cotangents(weights), among)
    ]
    return at_once(recorded.recording, parts, len(recorded.paths))
