"""Networks that meet in one head, fed by a dict of inputs: against the loops written out."""

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

LABELS = (normal(1, seed=4) > 0).astype("float32")


def dense() -> Networks:
    return {
        "left": network(3, layers.Dense(4, activation="relu")),
        "right": network(2, layers.Dense(4, activation="relu")),
        "head": network(8, layers.Dense(1, activation="sigmoid")),
    }


def sequence() -> Networks:
    """The left network takes sequences of any length and returns its last state."""
    return {
        "left": network((None, 3), layers.LSTM(4, seed=1)),
        "right": network(2, 4),
        "head": network(8, layers.Dense(1, activation="sigmoid")),
    }


def joined(networks: Networks, x: Any) -> dict[str, Any]:
    branches = [networks[name](x[name]) for name in ("left", "right")]
    return {"label": networks["head"](ops.concatenate(branches, axis=1))}


@pytest.mark.parametrize(
    ("make", "lengths"), [(dense, [()]), (sequence, [(10,), (7,)])], ids=["dense", "sequence"]
)
def test_two_networks_and_a_head_are_all_trained(make: Any, lengths: Any) -> None:
    mine, theirs = twins(make)
    before = [np.array(w) for network in mine.values() for w in network.get_weights()]
    model = pt.Model(networks=mine, forward=joined)
    objectives = [pt.Objective("label", "binary_crossentropy")]
    model.compile(objectives=objectives, optimizer=keras.optimizers.Adam(RATE), **QUICK)
    optimizer, variables = keras.optimizers.Adam(RATE), variables_of(theirs)

    def step(x: Any, y: Any) -> None:
        def loss() -> Any:
            return ops.mean(keras.losses.binary_crossentropy(y, joined(theirs, x)["label"]))

        (gradient,) = gradients(lambda: [loss()], variables)
        assert all(g is not None for g in gradient)
        apply(optimizer, gradient, variables)

    for length in lengths:
        x = {"left": normal(*length, 3), "right": normal(2)}
        train(model, x, {"label": LABELS})
        run(step, theirs, [(optimizer, variables)], x, LABELS)
    assert_alike(mine, theirs, (model.optimizer, optimizer))
    after = [w for network in mine.values() for w in network.get_weights()]
    assert all((a != b).any() for a, b in zip(after, before, strict=True))


def test_difference_of_two_outputs_and_error_of_their_sum() -> None:
    x = {"left": normal(3), "right": normal(2)}
    y = normal(4, seed=5)

    def make() -> Networks:
        return {name: network for name, network in dense().items() if name != "head"}

    mine, theirs = twins(make)
    model = pt.Model(networks=mine)
    model.compile(
        objectives=[
            pt.Objective(
                "agreement", lambda s: ops.mean(ops.abs(s.outputs["left"] - s.outputs["right"]))
            ),
            pt.Objective("sum", lambda s: mse(s.targets, s.outputs["left"] + s.outputs["right"])),
        ],
        optimizer=keras.optimizers.Adam(RATE),
        **QUICK,
    )
    train(model, x, y)

    optimizer, variables = keras.optimizers.Adam(RATE), variables_of(theirs)

    def step(x: Any, y: Any) -> None:
        def loss() -> Any:
            left, right = (theirs[name](x[name]) for name in ("left", "right"))
            return ops.mean(ops.abs(left - right)) + mse(y, left + right)

        (gradient,) = gradients(lambda: [loss()], variables)
        apply(optimizer, gradient, variables)

    run(step, theirs, [(optimizer, variables)], x, y)
    assert_alike(mine, theirs, (model.optimizer, optimizer))


def test_functional_model_of_sequential_networks_with_known_inputs() -> None:
    """The same as a functional model: `inputs` of the networks, three outputs, one loss of all."""
    x = {"left": normal(3), "right": normal(2)}
    networks = {name: network for name, network in dense().items() if name != "head"}
    inputs = {name: keras.Input(n.input_shape[1:], name=name) for name, n in networks.items()}
    outputs = {name: network(inputs[name]) for name, network in networks.items()}
    outputs["sum"] = layers.Add()([outputs["left"], outputs["right"]])
    model = pt.Model(inputs, outputs)
    model.compile(
        objectives=[
            pt.Objective("agreement", lambda s: mse(s.outputs["left"], s.outputs["right"])),
            pt.Objective("sum", "mse"),
        ],
        optimizer="adam",
        **QUICK,
    )
    history = model.fit(x, {"sum": normal(4)}, batch_size=BATCH, epochs=3, verbose=0).history
    assert int(model.optimizer.iterations) == 3 * STEPS
    assert history["sum_loss"][-1] < history["sum_loss"][0]
    assert history["agreement_loss"][-1] < history["agreement_loss"][0]
