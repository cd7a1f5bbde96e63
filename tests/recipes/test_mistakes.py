"""Mistakes that loops over several losses invite: each refused, or explained by its cause."""

import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import polytape as pt
from by_hand import BATCH, QUICK, STEPS, mse, network
from pair import X, Y, both, fitted, pair


def cells(model: keras.Model, objective: str) -> list[str]:
    """A row of the routing table of two networks."""
    rows = map(str.split, model.routing_table().splitlines())
    return next(row for row in rows if row[:1] == [objective])[-2:]


# ---------------------------------------------------------------------- paths


def test_prediction_computed_outside_the_step() -> None:
    model = pt.Model(networks=pair())
    before = ops.stop_gradient(model.networks["a"](X))
    stale = pt.Objective("stale", lambda step: mse(step.targets, before[:BATCH]))
    expected = "Objective 'stale' reaches no trainable variable.*its output was computed outside"
    model.compile(objectives=[stale, *both()], optimizer="adam", **QUICK)
    with pytest.raises(ValueError, match=expected):
        model.fit(X, Y, batch_size=BATCH, verbose=0)


@pytest.mark.parametrize("built", [True, False])
def test_network_that_is_declared_and_never_called(built: bool) -> None:
    """Its head reads the raw inputs of the branches instead."""
    branches = {name: keras.Sequential([layers.Dense(4)]) for name in ("left", "right")}
    for branch in branches.values() if built else ():
        branch.build((None, 3))
    head = network(3, layers.Dense(2))
    model = pt.Model(
        networks={**branches, "head": head}, forward=lambda networks, x: networks["head"](x)
    )
    expected = "Network 'left' has 2 trainable variables and no objective trains them: it is not"
    if not built:
        expected = "Network 'left' was declared and the forward pass never calls it"
    with pytest.raises(ValueError, match=expected):
        fitted(model, [pt.Objective("label", "mse")])


def test_objective_that_does_not_reach_what_it_shall_train() -> None:
    model = pt.Model(networks=pair())
    expected = "Objective 'a' shall train 'b', but no differentiable path.*It reaches 'a'."
    with pytest.raises(ValueError, match=expected):
        fitted(model, both(trains=["a", "b"]))


def test_gradients_that_are_not_there_are_no_none_to_add() -> None:
    model = pt.Model(networks=pair())
    history, told = fitted(model, both(), combine="upgrad")
    assert np.isfinite(history["loss"]).all()
    assert "do not exist" not in told
    assert [cells(model, name) for name in ("a", "b")] == [["●", "·"], ["·", "●"]]


def test_gradient_that_a_route_discards_is_shown() -> None:
    networks = {"encoder": network(3, 4), "decoder": network(4, 2)}
    model = pt.Model(networks=networks, forward=lambda nets, x: nets["decoder"](nets["encoder"](x)))
    image = pt.Objective("image", "mse", trains="decoder")
    prior = pt.Objective("prior", lambda s: ops.mean(s.networks["encoder"](s.inputs) ** 2))
    fitted(model, [image, prior])
    assert cells(model, "image") == ["○", "●"]
    assert "○ reached, but not on its route" in model.routing_table()


def test_gradient_that_a_route_discards_is_measured() -> None:
    """Of a layer y = x A B with squared error, the gradient by A is 2 x' (y - t) B' / size."""
    networks = {"encoder": network(3, 4), "decoder": network(4, 2)}
    model = pt.Model(networks=networks, forward=lambda nets, x: nets["decoder"](nets["encoder"](x)))
    image = pt.Objective("image", "mse", trains="decoder")
    prior = pt.Objective("prior", lambda s: ops.mean(s.networks["encoder"](s.inputs) ** 2))
    model.compile(objectives=[image, prior], optimizer="adam", **QUICK)
    held = [*model.variables, *model.metrics_variables]
    before = [np.array(ops.convert_to_numpy(variable)) for variable in held]
    x, target = np.float32(X[:, :3]), np.ones((len(X), 2), "float32")
    shown = model.routing_table(x, target)
    A, b, B, c = (np.float64(ops.convert_to_numpy(v)) for v in model.trainable_variables)
    error = 2 * ((x @ A + b) @ B + c - target) / target.size
    by_code = error @ B.T
    parts = [(x.T @ by_code).ravel(), by_code.sum(0)]
    discarded = np.linalg.norm(np.concatenate(parts))
    assert f"○ {discarded:.3g}" in shown
    assert "numbers: norm of the loss's gradient on this batch" in shown
    for variable, value in zip(held, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


# ---------------------------------------------------------------------- optimizers


def test_network_built_after_compile_belongs_to_the_optimizer() -> None:
    late = keras.Sequential([layers.Dense(2)])
    model = pt.Model(networks=pair(b=late))
    fitted(model, both())
    assert len(model.optimizer.variables) == 2 + 2 * 4


def test_variables_that_appear_after_compile_are_named() -> None:
    model = pt.Model(networks=pair())
    fitted(model, both())
    model.networks["b"].add(layers.Dense(2, name="afterthought"))
    expected = (
        "4 trainable variables when it was compiled and has 6 now.*afterthought.*compile\\(\\)"
    )
    with pytest.raises(ValueError, match=expected):
        model.fit(X, Y, verbose=0)


def test_two_optimizers_for_one_variable() -> None:
    model = pt.Model(networks=pair())
    optimizers = {"a": "adam", "*/kernel": "sgd", "*": "sgd"}
    expected = "Two optimizers, 'a' and '\\*/kernel', for the variable '.*kernel'. Every variable"
    with pytest.raises(ValueError, match=expected):
        fitted(model, both(), optimizers)


# ---------------------------------------------------------------------- one forward pass


class Counted(layers.Layer):
    """Random noise, and how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(3)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x: Any) -> Any:
        self.calls.assign_add(1.0)
        return x + keras.random.normal(ops.shape(x), seed=self.seeds)


def test_a_hidden_layer_is_evaluated_once_for_all_losses() -> None:
    """A loss on a hidden activation reads that of the prediction: same noise, statistics once."""
    noise = Counted()
    body = network(3, noise, 4)
    networks = {"body": body, "head": network(4, 2)}

    def forward(networks: Any, x: Any) -> dict[str, Any]:
        hidden = networks["body"](x)
        return {"hidden": hidden, "prediction": networks["head"](hidden)}

    model = pt.Model(networks=networks, forward=forward)
    size = pt.Objective("size", lambda s: ops.mean(s.outputs["hidden"] ** 2))
    same = pt.Objective(
        "same",
        lambda s: mse(s.outputs["prediction"], s.networks["head"](s.outputs["hidden"]) + 1.0),
    )
    objectives = [pt.Objective("prediction", "mse"), size, same]
    model.compile(objectives=objectives, optimizer="sgd", **QUICK)
    history = model.fit(X, {"prediction": Y}, batch_size=BATCH, verbose=0).history
    assert float(noise.calls) == STEPS
    np.testing.assert_allclose(history["same_loss"], 1.0, rtol=1e-5)


@keras.saving.register_keras_serializable(package="tests")
def swapped(networks: Any, x: Any) -> dict[str, Any]:
    return {"a": networks["b"](x), "b": networks["a"](x)}


@pytest.mark.parametrize("named", [True, False])
def test_forward_pass_that_is_a_lambda_is_warned_of_when_saved(named: bool, tmp_path: Any) -> None:
    forward = swapped if named else lambda nets, x: {"a": nets["b"](x), "b": nets["a"](x)}
    model = pt.Model(networks=pair(), forward=forward)
    fitted(model, both())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.save(tmp_path / "model.keras")
    told = [str(w.message) for w in caught if "includes a `lambda`" in str(w.message)]
    assert len(told) == (0 if named else 1)
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=named)
    for name in ("a", "b"):
        found, expected = (ops.convert_to_numpy(m(X)[name]) for m in (loaded, model))
        np.testing.assert_array_equal(found, expected)
