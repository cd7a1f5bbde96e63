"""A problem that can be solved on paper: for tests and documentation."""

from typing import Any

import keras
import numpy as np

from polytape.problems.problem import Data, Problem

# Objective: (the two weights it wants, the factor in front of its output).
_WISHES = {"east": ((1.0, 0.0), 1.0), "west": ((-1.0, 0.0), 1.0), "north": ((0.0, 1.0), 3.0)}


def toy() -> Problem:
    """Two weights, three objectives: each loss is a squared distance to a point of its own.

    The inputs are the corners (+-1, +-1), so with the shared weights w the loss of an objective is
    exactly `factor^2 * |w - wish|^2`. The Pareto set is the triangle of the three wishes; the plain
    sum settles at (0, 9/11), close to "north", whose factor is 3.

    >>> toy().load_data()[1]["west"][:2, 0].tolist()
    [1.0, 1.0]
    """
    return Problem(
        name="toy",
        description="Two shared weights, three objectives that want them at different points.",
        objectives=tuple(_WISHES),
        build=_build,
        data=_data,
        losses=dict.fromkeys(_WISHES, "mse"),
        headline=dict.fromkeys(_WISHES, ("loss", "min")),
        batch_size=64,
        learning_rate=0.05,
    )


def _build() -> tuple[Any, dict[str, Any]]:
    inputs = keras.Input((2,), name="corner")
    shared = keras.layers.Dense(1, use_bias=False, name="shared")(inputs)
    outputs = {
        name: keras.layers.Rescaling(factor, name=name)(shared)
        for name, (_, factor) in _WISHES.items()
    }
    return inputs, outputs


def _data() -> Data:
    corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], "float32")
    x = np.tile(corners, (64, 1))
    y = {
        name: (factor * x @ np.array(wish, "float32"))[:, None]
        for name, (wish, factor) in _WISHES.items()
    }
    return x, y, x[:64], {name: targets[:64] for name, targets in y.items()}
