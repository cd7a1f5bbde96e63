"""A compiled step grows with the number of objectives as much as it must: in proportion."""

from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="XLA's programme is asked of JAX"),
]


def lines(cls: type[keras.Model], count: int, **compiled: Any) -> int:
    """The lines of the programme of a step with so many objectives."""
    import jax

    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(8, activation="tanh")(inputs)
    names = [f"t{number}" for number in range(count)]
    model = cls(inputs, {name: keras.layers.Dense(1, name=name)(hidden) for name in names})
    model.compile("sgd", dict.fromkeys(names, "mse"), jit_compile=True, **compiled)
    data = np.zeros((4, 8), "float32"), {name: np.zeros((4, 1), "float32") for name in names}
    model.fit(*data, batch_size=4, verbose=0)
    groups: list[Any] = [
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    ]
    state = tuple([variable.value for variable in group] for group in groups)
    step = jax.jit(model.train_step, donate_argnums=0).lower(state, data).compile()
    return str(step.as_text()).count("\n")


def test_a_sum_of_losses() -> None:
    """What must wait for the check of all of them is not written down again for each."""
    few, many = (lines(pt.Model, count, combine="sum", verbose=0) for count in (8, 32))
    plain_few, plain_many = (lines(keras.Model, count) for count in (8, 32))
    print(few, many, plain_few, plain_many)
    assert many - few < 1.5 * (plain_many - plain_few)
