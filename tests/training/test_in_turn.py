"""M-ConFIG where each objective makes its own forward pass: only that in turn is made."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt

pytestmark = pytest.mark.engine
RNG = np.random.default_rng(0)
X = {name: RNG.normal(size=(8, 2)).astype("float32") for name in ("inside", "edge", "start")}


def solution() -> keras.Model:
    layers = [keras.Input((2,)), keras.layers.Dense(6, "tanh"), keras.layers.Dense(1)]
    net = keras.Sequential(layers)
    for index, variable in enumerate(net.weights):
        shape = variable.shape
        variable.assign(0.3 * np.random.default_rng(index).normal(size=shape))
    return net


def objectives(calls: list[str] | None = None) -> list[pt.Objective]:
    def of(name: str, power: int) -> pt.Objective:
        def loss(step: pt.Step) -> Any:
            if calls is not None:
                calls.append(name)
            return ops.mean((step.networks["u"](step.inputs[name]) - 0.5) ** power)

        return pt.Objective(name, loss)

    return [of("inside", 2), of("edge", 4), of("start", 2)]


def nothing(networks: Any, inputs: Any) -> Any:
    del networks
    return {"nothing": ops.zeros((ops.shape(inputs["inside"])[0],))}


def model_of(given: list[pt.Objective], net: keras.Model, **options: Any) -> Any:
    model = pt.Model(networks={"u": net}, forward=nothing)
    optimizer = keras.optimizers.Adam(0.01)
    model.compile(optimizer, objectives=given, combine=pt.MConFIG(), verbose=0, **options)
    return model


def fitted(model: Any) -> dict[str, list[float]]:
    return model.fit(X, batch_size=4, epochs=4, shuffle=False, verbose=0).history


@pytest.mark.parametrize("eager", [False, True])
def test_it_trains_as_if_all_had_been_evaluated(eager: bool) -> None:
    turned, whole = (model_of(objectives(), solution(), run_eagerly=eager) for _ in range(2))
    assert turned.plan.phases[0].in_turn == (keras.backend.backend() != "jax")
    object.__setattr__(turned.plan.phases[0], "in_turn", True)  # right there, too, though dearer
    object.__setattr__(whole.plan.phases[0], "in_turn", False)
    history, reference = fitted(turned), fitted(whole)
    for pair in zip(turned.trainable_weights, whole.trainable_weights, strict=True):
        np.testing.assert_allclose(*map(ops.convert_to_numpy, pair), rtol=1e-4, atol=1e-6)
    assert set(history) == set(reference)
    assert np.isfinite([*history.values()]).all()
    assert history["loss"][-1] < history["loss"][0]


def test_not_where_a_forward_pass_changes_something() -> None:
    net = keras.Sequential([solution(), keras.layers.Dropout(0.5)])
    assert not model_of(objectives(), net).plan.phases[0].in_turn


def test_only_the_objective_in_turn_is_called() -> None:
    calls: list[str] = []
    fitted(model_of(objectives(calls), solution(), run_eagerly=True))
    order = ("inside", "edge", "start")
    if keras.backend.backend() == "jax":  # all of them, in every step
        assert calls == [*order] * (len(calls) // 3)
        return
    steps = [calls[:3], *([name] for name in calls[3:])]
    assert steps[0] == list(order)
    assert [name for (name,) in steps[1:]] == [order[step % 3] for step in range(1, 8)]


def test_what_is_not_finite_sits_its_turn_out() -> None:
    given = objectives()
    given[1] = pt.Objective(
        "edge", lambda step: ops.log(-ops.mean(step.networks["u"](step.inputs["edge"]) ** 2))
    )
    net = solution()
    with pytest.warns(RuntimeWarning, match="'edge'"):
        fitted(model_of(given, net))
    assert all(np.isfinite(ops.convert_to_numpy(weight)).all() for weight in net.weights)
