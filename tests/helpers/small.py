"""Small networks whose weights and data come from NumPy: the same on every backend."""

from typing import Any

import keras
import numpy as np
from keras import layers

import polytape as pt

Array = np.ndarray
LOSSES = {"a": "mse", "b": "huber", "c": "sparse_categorical_crossentropy"}


def data(count: int = 32, seed: int = 0) -> tuple[Array, dict[str, Array]]:
    """Inputs (count, 4) and the targets of three objectives that disagree."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4)).astype("float32")
    a = np.sin(x[:, :1] * 2)
    targets = {"a": a, "b": -2 * a + 0.3 * x[:, 1:2], "c": (x[:, 2] > 0).astype("int32")}
    return x, targets


def fill(model: keras.Model, seed: int = 0) -> keras.Model:
    """Trainable weights from a seeded NumPy generator."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(0.5 * rng.normal(size=variable.shape))
    return model


def tensors(busy: bool = False) -> tuple[Any, dict[str, Any]]:
    """Input and outputs of a trunk with three heads; `busy` adds BatchNorm and Dropout."""
    inputs = keras.Input((4,), name="x")
    hidden = layers.Dense(6, activation="tanh", name="trunk")(inputs)
    if busy:
        hidden = layers.BatchNormalization(name="norm")(hidden)
        hidden = layers.Dropout(0.3, seed=5, name="dropout")(hidden)
    heads = {"a": layers.Dense(1, name="a"), "b": layers.Dense(1, name="b")}
    outputs = {name: layer(hidden) for name, layer in heads.items()}
    outputs["c"] = layers.Dense(2, activation="softmax", name="c")(hidden)
    return inputs, outputs


def model(cls: type[keras.Model] = pt.Model, busy: bool = False) -> keras.Model:
    return fill(cls(*tensors(busy)))


def arrays(variables: list[Any]) -> list[Array]:
    return [np.array(variable.numpy()) for variable in variables]


def everything(model: keras.Model) -> list[Array]:
    """Weights, statistics, seeds, method state and optimizer slots."""
    state = {id(v): v for v in [*model.variables, *model.optimizer.variables]}
    for held in model.method_state.variables if isinstance(model, pt.Model) else ():
        state[id(held)] = held
    return arrays(list(state.values()))


def assert_same(one: list[Array], other: list[Array]) -> None:
    """Bit for bit."""
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)
