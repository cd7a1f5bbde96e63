"""Losses that train chosen networks, with chosen optimizers: against the loops written out."""

from typing import Any

import keras
from keras import layers, ops

import polytape as pt
from by_hand import (
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
)

PAIR = {"first": normal(2), "second": normal(3)}
GOALS = {"first": normal(1), "second": normal(1, seed=1)}
X = normal(4)


def two_matrices() -> Networks:
    first, second = (layers.Dense(1, use_bias=False) for _ in range(2))
    return {"first": network(2, first), "second": network(3, second)}


def errors(networks: Networks, x: Any, y: Any) -> list[Any]:
    return [mse(y[name], networks[name](x[name])) for name in ("first", "second")]


def test_two_losses_two_matrices_two_optimizers() -> None:
    mine, theirs = twins(two_matrices)
    model = pt.Model(networks=mine)
    optimizers = {"first": keras.optimizers.Adam(0.01), "second": keras.optimizers.SGD(0.005)}
    model.compile(
        objectives=[
            pt.Objective("first", "mse", trains="first"),
            pt.Objective("second", "mse", trains="second"),
        ],
        optimizer=optimizers,
        **QUICK,
    )
    train(model, PAIR, GOALS)

    adam, sgd = keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.005)
    one, other = (theirs[name].trainable_variables for name in theirs)

    def step(x: Any, y: Any) -> None:
        rows = gradients(lambda: errors(theirs, x, y), [*one, *other])
        apply(adam, rows[0][:1], one)
        apply(sgd, rows[1][1:], other)

    run(step, theirs, [(adam, one), (sgd, other)], PAIR, GOALS)
    pairs = (model.optimizer["first"], adam), (model.optimizer["second"], sgd)
    assert_alike(mine, theirs, *pairs)


def test_a_second_pull_on_one_matrix_added_to_the_first() -> None:
    """Both gradients before one update of one Adam: its step count is that of the steps."""
    mine, theirs = twins(two_matrices)
    model = pt.Model(networks=mine)
    model.compile(
        objectives=[
            pt.Objective("first", "mse"),
            pt.Objective("second", "mse"),
            pt.Objective("again", "mse", output="second", trains="second"),
        ],
        optimizer=keras.optimizers.Adam(RATE),
        **QUICK,
    )
    train(model, PAIR, GOALS)

    adam = keras.optimizers.Adam(RATE)
    variables = [v for name in theirs for v in theirs[name].trainable_variables]

    def step(x: Any, y: Any) -> None:
        rows = gradients(lambda: [sum(errors(theirs, x, y)), errors(theirs, x, y)[1]], variables)
        apply(adam, added(*rows), variables)

    run(step, theirs, [(adam, variables)], PAIR, GOALS)
    assert_alike(mine, theirs, (model.optimizer, adam))
    assert int(model.optimizer.iterations) == STEPS


def test_a_second_update_of_one_matrix_leaves_the_optimizer_of_the_other_alone() -> None:
    mine, theirs = twins(two_matrices)
    model = pt.Model(networks=mine)
    model.compile(
        objectives=[
            pt.Objective("first", "mse"),
            pt.Objective("second", "mse"),
            pt.Objective("again", "mse", output="second", trains="second"),
        ],
        optimizer={name: keras.optimizers.Adam(RATE) for name in mine},
        phases=[["first", "second"], "again"],
        **QUICK,
    )
    train(model, PAIR, GOALS)

    adams = {name: keras.optimizers.Adam(RATE) for name in theirs}
    own = {name: theirs[name].trainable_variables for name in theirs}

    def step(x: Any, y: Any) -> None:
        row = gradients(lambda: [sum(errors(theirs, x, y))], [*own["first"], *own["second"]])[0]
        apply(adams["first"], row[:1], own["first"])
        apply(adams["second"], row[1:], own["second"])
        # At the point just reached, where a gradient taken before would be out of date.
        (again,) = gradients(lambda: errors(theirs, x, y)[1:], own["second"])
        apply(adams["second"], again, own["second"])

    run(step, theirs, [(adams[name], own[name]) for name in theirs], PAIR, GOALS)
    assert_alike(mine, theirs, *((model.optimizer[name], adams[name]) for name in theirs))
    assert [int(model.optimizer[name].iterations) for name in mine] == [STEPS, 2 * STEPS]


def encoder_and_decoder() -> Networks:
    return {
        "encoder": network(4, layers.Dense(5, activation="relu"), 2),
        "decoder": network(2, layers.Dense(5, activation="relu"), 4),
    }


def round_trip(networks: Networks, x: Any) -> dict[str, Any]:
    code = networks["encoder"](x)
    return {"code": code, "image": networks["decoder"](code)}


def prior(code: Any) -> Any:
    return ops.mean(ops.square(code - 0.5))


def sparsity(code: Any) -> Any:
    return 0.1 * ops.mean(ops.abs(code))


def test_encoder_and_decoder_with_a_loss_and_an_optimizer_each() -> None:
    mine, theirs = twins(encoder_and_decoder)
    model = pt.Model(networks=mine, forward=round_trip)
    model.compile(
        objectives=[
            pt.Objective("image", "mse", trains="decoder"),
            pt.Objective("prior", lambda s: prior(s.outputs["code"]), trains="encoder"),
        ],
        optimizer={name: keras.optimizers.Adam(RATE) for name in mine},
        **QUICK,
    )
    train(model, X, {"image": X})

    adams = {name: keras.optimizers.Adam(RATE) for name in theirs}
    own = {name: theirs[name].trainable_variables for name in theirs}

    def step(x: Any) -> None:
        def losses() -> list[Any]:
            outputs = round_trip(theirs, x)
            return [mse(x, outputs["image"]), prior(outputs["code"])]

        both = gradients(losses, [*own["decoder"], *own["encoder"]])
        apply(adams["decoder"], both[0][:4], own["decoder"])
        apply(adams["encoder"], both[1][4:], own["encoder"])

    run(step, theirs, [(adams[name], own[name]) for name in theirs], X)
    assert_alike(mine, theirs, *((model.optimizer[name], adams[name]) for name in theirs))


def test_reconstruction_trains_both_and_sparsity_the_encoder() -> None:
    mine, theirs = twins(encoder_and_decoder)
    model = pt.Model(networks=mine, forward=round_trip)
    model.compile(
        objectives=[
            pt.Objective("image", "mse"),
            pt.Objective("sparsity", lambda s: sparsity(s.outputs["code"]), trains="encoder"),
        ],
        optimizer=keras.optimizers.Adam(RATE),
        **QUICK,
    )
    train(model, X, {"image": X})

    adam = keras.optimizers.Adam(RATE)
    variables = [v for name in theirs for v in theirs[name].trainable_variables]

    def step(x: Any) -> None:
        def losses() -> list[Any]:
            outputs = round_trip(theirs, x)
            return [mse(x, outputs["image"]), sparsity(outputs["code"])]

        apply(adam, added(*gradients(losses, variables)), variables)

    run(step, theirs, [(adam, variables)], X)
    assert_alike(mine, theirs, (model.optimizer, adam))
