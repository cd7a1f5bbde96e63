"""A choice between two ways to come by the directions of a step."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from polytape.contract import State, Tensor

Outcome = tuple[list[Tensor | None], Tensor, State]  # directions, active (T,), next state


def either(first: Tensor, one: Callable[[], Outcome], other: Callable[[], Outcome]) -> Outcome:
    """One of two outcomes of the same structure; only the chosen one is computed."""
    layout: list[Any] = []

    def flat(outcome: Outcome) -> list[Tensor]:
        directions, active, state = outcome
        layout[:] = [[gradient is not None for gradient in directions], state]
        reached = [gradient for gradient in directions if gradient is not None]
        return [*reached, active, *keras.tree.flatten(state)]

    results = list(ops.cond(first, lambda: flat(one()), lambda: flat(other())))
    present, state = layout
    directions = [results.pop(0) if there else None for there in present]
    return directions, results[0], keras.tree.pack_sequence_as(state, results[1:])
