"""Losses added up, with and without weights: `pt.Model` against the loop written out."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import polytape as pt
from by_hand import (
    BATCH,
    QUICK,
    RATE,
    STEPS,
    Networks,
    added,
    apply,
    assert_alike,
    gradients,
    mse,
    network,
    normal,
    run,
    train,
    twins,
    variables_of,
)

X, Y = normal(3), normal(2, seed=1)


def pair() -> Networks:
    """Two networks that share nothing."""
    hidden = {name: layers.Dense(4, activation="tanh") for name in ("a", "b")}
    return {name: network(3, layer, 2) for name, layer in hidden.items()}


def huber(y_true: Any, y_pred: Any) -> Any:
    return ops.mean(keras.losses.huber(y_true, y_pred))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, 0.3)])
def test_sum_of_the_losses_of_two_networks(weights: tuple[float, float]) -> None:
    mine, theirs = twins(pair)
    model = pt.Model(networks=mine)
    model.compile(
        objectives=[
            pt.Objective("a", "mse", weight=weights[0]),
            pt.Objective("b", "huber", weight=weights[1]),
        ],
        optimizer=keras.optimizers.SGD(RATE, momentum=0.9),
        **QUICK,
    )
    train(model, X, Y)

    optimizer, variables = keras.optimizers.SGD(RATE, momentum=0.9), variables_of(theirs)

    def step(x: Any, y: Any) -> None:
        def total() -> Any:
            first, second = mse(y, theirs["a"](x)), huber(y, theirs["b"](x))
            return weights[0] * first + weights[1] * second

        (gradient,) = gradients(lambda: [total()], variables)
        apply(optimizer, gradient, variables)

    run(step, theirs, [(optimizer, variables)], X, Y)
    assert_alike(mine, theirs, (model.optimizer, optimizer))


def test_one_loss_of_the_outputs_of_two_networks() -> None:
    mine, theirs = twins(pair)
    model = pt.Model(networks=mine)

    def together(step: pt.Step) -> Any:
        return ops.mean(ops.square(step.outputs["a"] + step.outputs["b"] - step.targets))

    adam = keras.optimizers.Adam(RATE)
    model.compile(objectives=[pt.Objective("together", together)], optimizer=adam, **QUICK)
    train(model, X, Y)

    optimizer, variables = keras.optimizers.Adam(RATE), variables_of(theirs)

    def step(x: Any, y: Any) -> None:
        (gradient,) = gradients(lambda: [mse(y, theirs["a"](x) + theirs["b"](x))], variables)
        apply(optimizer, gradient, variables)

    run(step, theirs, [(optimizer, variables)], X, Y)
    assert_alike(mine, theirs, (model.optimizer, optimizer))


def test_optimizers_of_networks_that_share_nothing_train_them_as_if_apart() -> None:
    mine, theirs = twins(pair)
    model = pt.Model(networks=mine)
    optimizers = {name: keras.optimizers.Adam(RATE) for name in mine}
    objectives = [pt.Objective("a", "mse"), pt.Objective("b", "mse")]
    model.compile(objectives=objectives, optimizer=optimizers, **QUICK)
    train(model, X, Y)
    for name, alone in theirs.items():
        alone.compile(keras.optimizers.Adam(RATE), "mse")
        train(alone, X, Y)
        assert_alike({name: mine[name]}, theirs, (model.optimizer[name], alone.optimizer))

    one, _ = twins(pair)
    model = pt.Model(networks=one)
    model.compile(objectives=objectives, optimizer=keras.optimizers.Adam(RATE), **QUICK)
    train(model, X, Y)
    assert_alike(one, theirs)  # one Adam for both is the same, too


def test_one_adam_on_a_sum_is_not_two_where_a_network_is_shared() -> None:
    """What the two ways differ in: the second moment of a shared variable is that of the sum."""

    def make() -> Networks:
        return {"shared": network(3, 2)}

    one, other = twins(make)
    objectives = [
        pt.Objective("near", lambda s: mse(s.targets, s.outputs["shared"])),
        pt.Objective("far", lambda s: 100.0 * mse(-s.targets, s.outputs["shared"])),
    ]
    for networks, phases in ((one, None), (other, ["near", "far"])):
        model = pt.Model(networks=networks)
        adam = {"shared": keras.optimizers.Adam(RATE)}
        model.compile(objectives=objectives, optimizer=adam, phases=phases, **QUICK)
        train(model, X, Y)
        assert int(model.optimizer["shared"].iterations) == STEPS * len(phases or [0])
    away = np.abs(one["shared"].get_weights()[0] - other["shared"].get_weights()[0])
    assert away.max() > RATE / 2


def image_and_digit() -> tuple[keras.Model, keras.KerasTensor, dict[str, keras.KerasTensor]]:
    """One head of 16 + 3 numbers: a picture and the logits of a class."""
    picture = keras.Input((4, 4, 1))
    hidden = layers.Dense(8, activation="relu")(layers.Flatten()(picture))
    whole = layers.Reshape((19,))(layers.Dense(19)(hidden))
    return keras.Model(picture, whole), picture, {"image": whole[:, :16], "digit": whole[:, 16:]}


def test_weighted_losses_of_two_slices_of_one_output() -> None:
    pictures = normal(4, 4, 1)
    images = normal(16, seed=1)
    digits = np.eye(3, dtype="float32")[np.arange(STEPS * BATCH) % 3]
    parts: list[Any] = []

    def make() -> Networks:
        network, *ends = image_and_digit()
        parts.append(ends)
        return {"whole": network}

    mine, theirs = twins(make)
    crossentropy = keras.losses.CategoricalCrossentropy(from_logits=True)
    model = pt.Model(*parts[0])
    model.compile(
        objectives=[
            pt.Objective("image", "mse", weight=0.7),
            pt.Objective("digit", crossentropy, weight=0.3),
        ],
        optimizer=keras.optimizers.Adam(RATE),
        **QUICK,
    )
    train(model, pictures, {"image": images, "digit": digits})

    optimizer, variables = keras.optimizers.Adam(RATE), variables_of(theirs)

    def step(x: Any, image: Any, digit: Any) -> None:
        def total() -> Any:
            whole = theirs["whole"](x)
            return 0.7 * mse(image, whole[:, :16]) + 0.3 * crossentropy(digit, whole[:, 16:])

        (gradient,) = gradients(lambda: [total()], variables)
        apply(optimizer, gradient, variables)

    run(step, theirs, [(optimizer, variables)], pictures, images, digits)
    assert_alike(mine, theirs, (model.optimizer, optimizer))


def hidden_and_output() -> Networks:
    return {"body": network(3, layers.Dense(4, activation="relu")), "head": network(4, 2)}


def on_top(networks: Networks, x: Any) -> dict[str, Any]:
    """Prediction and hidden activation of one forward pass."""
    hidden = networks["body"](x)
    return {"prediction": networks["head"](hidden), "hidden": hidden}


def size(hidden: Any) -> Any:
    return 0.01 * ops.sum(ops.square(hidden))


def roughness(hidden: Any) -> Any:
    return 0.1 * ops.mean(ops.square(hidden[1:] - hidden[:-1]))


@pytest.mark.parametrize(
    ("auxiliary", "alpha"), [(size, None), (roughness, 0.7)], ids=["size", "smoothness"]
)
def test_a_prediction_and_a_loss_on_the_hidden_layer(auxiliary: Any, alpha: float | None) -> None:
    """Gradients of both, added or blended, though the second does not reach the last layer."""
    first, second = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    mine, theirs = twins(hidden_and_output)
    model = pt.Model(networks=mine, forward=on_top)
    model.compile(
        objectives=[
            pt.Objective("prediction", "mse", weight=first),
            pt.Objective("hidden", lambda s: auxiliary(s.outputs["hidden"]), weight=second),
        ],
        optimizer=keras.optimizers.Adam(RATE),
        **QUICK,
    )
    train(model, X, {"prediction": Y})

    optimizer, variables = keras.optimizers.Adam(RATE), variables_of(theirs)

    def step(x: Any, y: Any) -> None:
        def losses() -> list[Any]:
            outputs = on_top(theirs, x)
            return [mse(y, outputs["prediction"]), auxiliary(outputs["hidden"])]

        rows = gradients(losses, variables)
        assert [g is None for g in rows[1]] == [False, False, True, True]
        weighted = [
            [None if g is None else weight * g for g in row]
            for weight, row in zip((first, second), rows, strict=True)
        ]
        apply(optimizer, added(*weighted), variables)

    run(step, theirs, [(optimizer, variables)], X, Y)
    assert_alike(mine, theirs, (model.optimizer, optimizer))
