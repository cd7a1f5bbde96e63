"""Which way leads to the directions of a step for the least work."""

from polytape.training.backward.per_objective import every
from polytape.training.backward.periodic import periodic
from polytape.training.backward.recorded import Recorded
from polytape.training.backward.result import BackwardResult
from polytape.training.backward.round_robin import by_turns
from polytape.training.backward.single_pass import linear


def backward(recorded: Recorded) -> BackwardResult:
    """The directions of a step, times the loss scale."""
    aggregator = recorded.aggregator
    if aggregator.linear:
        return linear(recorded)
    if aggregator.alternates:
        return by_turns(recorded)
    if aggregator.period > 1 and not aggregator.blocks.shape:
        return periodic(recorded)
    return every(recorded)
