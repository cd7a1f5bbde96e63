"""Two networks that share nothing, with a loss each."""

import warnings
from typing import Any

import keras

import polytape as pt
from by_hand import BATCH, QUICK, STEPS, network, normal

X, Y = normal(3), normal(2, seed=1)
Objectives = list[pt.Objective]


def pair(**networks: Any) -> dict[str, Any]:
    return {"a": network(3, 2), "b": network(3, 2), **networks}


def both(**options: Any) -> Objectives:
    return [pt.Objective("a", "mse", **options), pt.Objective("b", "mse")]


def fitted(model: keras.Model, objectives: Objectives, optimizer: Any = "adam", **more: Any) -> Any:
    """The history of a fit of one step, and the warnings."""
    model.compile(objectives=objectives, optimizer=optimizer, **QUICK, **more)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(X, Y, batch_size=STEPS * BATCH, verbose=0).history
    told = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return history, "\n".join(told)
