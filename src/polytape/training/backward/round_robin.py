"""Methods that remember gradients: every objective's in the first step, then one per step."""

from keras import ops

from polytape.engines import engine
from polytape.training.backward.per_objective import every, settled
from polytape.training.backward.recorded import Recorded
from polytape.training.backward.result import BackwardResult, either


def by_turns(recorded: Recorded) -> BackwardResult:
    """Directions from what is remembered and one new gradient."""
    first = ops.equal(recorded.step, 0)
    return either(first, lambda: every(recorded), lambda: _in_turn(recorded))


def _in_turn(recorded: Recorded) -> BackwardResult:
    """One backward pass, for the objective whose turn it is; zero for the others."""
    index = ops.mod(ops.cast(recorded.step, "int32"), len(recorded.losses))
    chosen = [ops.equal(index, t) for t in recorded.objectives]
    cotangents = [ops.where(turn, recorded.scale, 0.0) for turn in chosen]
    found = recorded.routed.vjp(dict(enumerate(cotangents)))
    known = recorded.aggregator.reach
    reach = recorded.routed.reach() if known is None else known
    dense = [None if g is None else ops.cast(engine().dense(g), g.dtype) for g in found]
    rows = [
        [
            ops.where(turn, gradient, ops.zeros_like(gradient)) if reached else None
            for gradient, reached in zip(dense, row, strict=True)
        ]
        for turn, row in zip(chosen, reach, strict=True)
    ]
    return settled(recorded, rows)
