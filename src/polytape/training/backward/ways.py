"""Which way leads to the directions of a step for the least work."""

from polytape.training.backward.by_turns import by_turns
from polytape.training.backward.every import every
from polytape.training.backward.linear import linear
from polytape.training.backward.outcome import Outcome
from polytape.training.backward.periodic import periodic
from polytape.training.backward.recorded import Recorded


def backward(recorded: Recorded) -> Outcome:
    """The directions of a step, times the loss scale."""
    settlement = recorded.settlement
    if settlement.linear:
        return linear(recorded)
    if settlement.alternates:
        return by_turns(recorded)
    if settlement.period > 1 and not settlement.blocks.shape:
        return periodic(recorded)
    return every(recorded)
