"""What the backward side of a step comes to, and a choice between two ways to come by it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from polytape.contract import State, Tensor


class BackwardResult(NamedTuple):
    """Update directions by variable, and what must happen besides.

    directions  None where no objective reaches the variable
    active      (T,) bool: objectives that are in them
    state       of the method, for the next step
    fine        for each bond of objectives, () bool: whether their losses and what they train are
                finite; None if `active` says it
    """

    directions: list[Tensor | None]
    active: Tensor
    state: State
    fine: Sequence[Tensor] | None = None


def either(
    first: Tensor, one: Callable[[], BackwardResult], other: Callable[[], BackwardResult]
) -> BackwardResult:
    """One of two outcomes of the same structure, both fine; only the chosen one is computed."""
    layout: list[Any] = []

    def flat(outcome: BackwardResult) -> list[Tensor]:
        layout[:] = [[gradient is not None for gradient in outcome.directions], outcome.state]
        reached = [gradient for gradient in outcome.directions if gradient is not None]
        return [*reached, outcome.active, *keras.tree.flatten(outcome.state)]

    results = list(ops.cond(first, lambda: flat(one()), lambda: flat(other())))
    present, state = layout
    directions = [results.pop(0) if there else None for there in present]
    return BackwardResult(directions, results[0], keras.tree.pack_sequence_as(state, results[1:]))
