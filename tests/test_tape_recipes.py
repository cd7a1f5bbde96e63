"""Loops with `tf.GradientTape` as people write them, mended, and the same with `pt.GradientTape`.

Networks, optimizers and data are made twice from the same seed; one copy is trained with gradients
taken and combined by hand, the other with `tape.gradients`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
from keras import Sequential, layers
from keras.losses import BinaryCrossentropy, CategoricalCrossentropy, MeanSquaredError
from keras.optimizers import SGD, Adam

import polytape as pt

if keras.backend.backend() != "tensorflow":
    pytest.skip("for TensorFlow", allow_module_level=True)
tf = pytest.importorskip("tensorflow")
mse = MeanSquaredError()


@dataclass
class Recipe:
    """by_hand(tape, losses, variables) and by_tape(grads) return one update per variable."""

    forward: Callable[[], dict[str, Any]]
    parts: list[tuple[Any, list]]  # optimizers with their variables
    by_hand: Callable[[Any, dict, list], list]
    by_tape: Callable[[Any], list]
    graph: bool = False


def plus(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else one + other


def gradient_of_sum(tape: Any, losses: dict, variables: list) -> list:
    return tape.gradient(list(losses.values()), variables)  # which TensorFlow adds up


def sum_of_gradients(tape: Any, losses: dict, variables: list) -> list:
    rows = [tape.gradient(loss, variables) for loss in losses.values()]
    return [plus(*column) for column in zip(*rows, strict=True)]


def parted(first: int) -> tuple[Callable, Callable]:
    """The first loss trains the first so many variables, the second all others."""

    def by_hand(tape: Any, losses: dict, variables: list) -> list:
        a, b = losses.values()
        return [*tape.gradient(a, variables[:first]), *tape.gradient(b, variables[first:])]

    return by_hand, lambda grads: grads["a"][:first] + grads["b"][first:]


def summed(grads: Any) -> list:
    return grads.combine("sum")


def small(*widths: int) -> keras.Sequential:
    hidden = [layers.Dense(width, activation="relu") for width in widths[1:-1]]
    net = Sequential([*hidden, layers.Dense(widths[-1])])
    net.build((None, widths[0]))
    return net


def two_networks(kind: str) -> Recipe:
    a, b = small(3, 4, 2), small(3, 5, 2)
    x, y = tf.random.normal((8, 3)), tf.random.normal((8, 2))
    weights = (0.7, 0.3) if kind == "weights" else (1.0, 1.0)

    def forward() -> dict[str, Any]:
        first, second = a(x), b(x)
        if kind == "joint":
            return {"total": tf.reduce_mean(tf.square(first + second - y))}
        return {"a": weights[0] * mse(y, first), "b": weights[1] * mse(y, second)}

    variables = [a.trainable_variables, b.trainable_variables]
    if kind == "apart":
        parts = [(Adam(), part) for part in variables]
        return Recipe(forward, parts, *parted(len(variables[0])))
    return Recipe(forward, [(Adam(), variables[0] + variables[1])], gradient_of_sum, summed)


def two_vectors(kind: str) -> Recipe:
    w1, w2 = tf.Variable(tf.random.normal((2, 1))), tf.Variable(tf.random.normal((3, 1)))
    x1, x2 = tf.constant([[1.0, 2.0]]), tf.constant([[3.0, 4.0, 5.0]])

    def forward() -> dict[str, Any]:
        a = tf.reduce_mean(tf.square(tf.matmul(x1, w1) - 3.0))
        b = tf.reduce_mean(tf.square(tf.matmul(x2, w2) - 20.0))
        return {"a": a, "b": b}

    def pushed(tape: Any, losses: dict, variables: list) -> list:
        total = gradient_of_sum(tape, losses, variables)
        return [total[0], total[1] + tape.gradient(losses["b"], w2)]

    def clipped(update: list) -> list:
        return [tf.clip_by_norm(gradient, 1.0) for gradient in update]

    if kind == "apart":
        return Recipe(forward, [(Adam(0.01), [w1]), (SGD(0.005), [w2])], *parted(1))
    one = [(Adam(0.01), [w1, w2])]
    if kind == "pushed":
        return Recipe(forward, one, pushed, lambda grads: [grads["a"][0], 2.0 * grads["b"][1]])
    return Recipe(
        forward, one, lambda *args: clipped(sum_of_gradients(*args)), lambda g: clipped(summed(g))
    )


def one_head_split(kind: str) -> Recipe:
    net, images = small(6, 5, 6 + 3), tf.random.normal((8, 6))
    labels = tf.one_hot(tf.range(8) % 3, 3)
    classify = CategoricalCrossentropy(from_logits=True)
    weights = (0.7, 0.3) if kind == "weights" else (1.0, 1.0)

    def forward() -> dict[str, Any]:
        output = net(images)
        first = weights[0] * mse(images, output[:, :6])
        second = weights[1] * classify(labels, output[:, 6:])
        return {"a": first, "b": second}

    def by_hand(tape: Any, losses: dict, variables: list) -> list:
        if kind == "weights":
            return gradient_of_sum(tape, losses, variables)
        rows = [tape.gradient(loss, variables) for loss in losses.values()]
        if kind == "normalized":
            rows = [[tf.nn.l2_normalize(gradient) for gradient in row] for row in rows]
        return [(one + other) / 2 for one, other in zip(*rows, strict=True)]

    method = {
        "weights": "sum",
        "average": "mean",
        "normalized": pt.PerVariable(pt.Chain(pt.Normalize(), pt.Mean())),
    }[kind]
    parts = [(Adam(), net.trainable_variables)]
    return Recipe(forward, parts, by_hand, lambda grads: grads.combine(method), graph=True)


def hidden_layer(kind: str) -> Recipe:
    first, second = layers.Dense(6, activation="relu"), layers.Dense(1)
    x, y = tf.random.normal((8, 5)), tf.random.normal((8, 1))
    second(first(x))

    def forward() -> dict[str, Any]:
        hidden = first(x)
        fit = mse(y, second(hidden))
        if kind == "auxiliary":
            return {"a": fit, "b": 0.01 * tf.reduce_sum(tf.square(hidden))}
        rough = 0.1 * tf.reduce_mean(tf.square(hidden[1:] - hidden[:-1]))
        return {"a": 0.7 * fit, "b": 0.3 * rough}

    variables = [*first.trainable_variables, *second.trainable_variables]
    return Recipe(forward, [(Adam(), variables)], sum_of_gradients, summed)


def encoder_and_decoder() -> Recipe:
    encoder, decoder, x = small(7, 6, 3), small(3, 6, 7), tf.random.normal((8, 7))
    y = tf.random.normal((8, 7))

    def forward() -> dict[str, Any]:
        code = encoder(x)
        return {"a": tf.reduce_mean(tf.square(code - 0.5)), "b": mse(y, decoder(code))}

    first, second = encoder.trainable_variables, decoder.trainable_variables
    return Recipe(forward, [(Adam(), first), (Adam(), second)], *parted(len(first)))


def dict_inputs(kind: str) -> Recipe:
    """The networks are called, and the losses are scalars."""
    one = layers.LSTM(4) if kind == "sequence" else layers.Dense(4, activation="relu")
    two, head = layers.Dense(4, activation="relu"), layers.Dense(1, activation="sigmoid")
    shape = (6, 5, 3) if kind == "sequence" else (6, 3)
    x = {"one": tf.random.normal(shape), "two": tf.random.normal((6, 3))}
    y = tf.constant([[1.0], [0.0]] * 3)

    def forward() -> dict[str, Any]:
        first, second = one(x["one"]), two(x["two"])
        found = {"a": BinaryCrossentropy()(y, head(tf.concat([first, second], axis=1)))}
        if kind == "difference":
            found["b"] = tf.reduce_mean(tf.abs(first - second))
        return found

    forward()
    variables = [v for layer in (one, two, head) for v in layer.trainable_variables]
    return Recipe(forward, [(Adam(), variables)], gradient_of_sum, summed)


RECIPES = {
    **{f"two networks {k}": (two_networks, k) for k in ("apart", "summed", "weights", "joint")},
    **{f"two vectors {k}": (two_vectors, k) for k in ("apart", "pushed", "clipped")},
    **{f"one head {k}": (one_head_split, k) for k in ("weights", "average", "normalized")},
    **{f"hidden layer {k}": (hidden_layer, k) for k in ("auxiliary", "smooth")},
    "encoder and decoder": (encoder_and_decoder,),
    **{f"dict inputs {k}": (dict_inputs, k) for k in ("plain", "difference", "sequence")},
}


def train(name: str, own: bool, steps: int = 5) -> tuple[list, list]:
    """All updates, and all variables of networks and optimizers afterwards."""
    keras.utils.set_random_seed(0)
    make, *kind = RECIPES[name]
    recipe = make(*kind)
    variables = [variable for _, part in recipe.parts for variable in part]
    for optimizer, part in recipe.parts:
        optimizer.build(part)

    def step() -> list:
        with pt.GradientTape() if own else tf.GradientTape(persistent=True) as tape:
            losses = recipe.forward()
        if own:
            update = recipe.by_tape(tape.gradients(losses, variables))
        else:
            update = recipe.by_hand(tape, losses, variables)
        rest = iter(update)
        for optimizer, part in recipe.parts:
            optimizer.apply_gradients([(next(rest), variable) for variable in part])
        return update

    run = tf.function(step) if recipe.graph else step
    updates = [gradient.numpy() for _ in range(steps) for gradient in run()]
    state = [*variables, *(v for optimizer, _ in recipe.parts for v in optimizer.variables)]
    return updates, [keras.ops.convert_to_numpy(variable) for variable in state]


@pytest.mark.parametrize("name", RECIPES)
def test_same_gradients_weights_and_slots(name: str) -> None:
    by_hand, by_tape = train(name, own=False), train(name, own=True)
    for one, other in zip(by_hand, by_tape, strict=True):
        assert len(one) == len(other)
        for expected, found in zip(one, other, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
