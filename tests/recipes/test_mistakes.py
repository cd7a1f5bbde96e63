"""Mistakes that loops over several losses invite: each refused, or explained by its cause."""

import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import polytape as pt
from by_hand import BATCH, QUICK, STEPS, mse, network, normal

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
    for method in ("sum", pt.PerVariable(pt.Mean()), "upgrad"):
        history, told = fitted(model, both(), combine=method)
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


@pytest.mark.parametrize("phases", [["a", "b"], [pt.Phase("a", steps=2), "b"]])
def test_adam_that_phases_share_counts_all_their_steps(phases: Any) -> None:
    model = pt.Model(networks=pair())
    told = fitted(model, both(), phases=phases)[1]
    assert "Adam is applied in 2 phases, to 'a' and 'b'. Its step count" in told
    assert "Give each network an optimizer of its own" in told


@pytest.mark.parametrize(
    ("optimizer", "phases"),
    [
        ("sgd", ["a", "b"]),  # which counts nothing
        ({"a": "adam", "b": "adam"}, ["a", "b"]),
        ("adam", [["a", "b"]]),
    ],
)
def test_no_advice_where_no_count_goes_astray(optimizer: Any, phases: Any) -> None:
    assert (
        "step count" not in fitted(pt.Model(networks=pair()), both(), optimizer, phases=phases)[1]
    )


def test_schedule_that_phases_share_is_advanced_by_all() -> None:
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    told = fitted(pt.Model(networks=pair()), both(), keras.optimizers.SGD(rate), phases=["a", "b"])[
        1
    ]
    assert "SGD is applied in 2 phases" in told


# ---------------------------------------------------------------------- weights and values


def test_weight_that_adam_divides_out_again() -> None:
    told = fitted(pt.Model(networks=pair()), both(weight=0.7))[1]
    assert "The weight 0.7 of objective 'a' has no effect on training: no other objective" in told
    assert "trains 'a', and Adam divides every gradient by its own size" in told
    assert "a learning rate of its own" in told


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("sgd", {}),
        (lambda: keras.optimizers.Adam(global_clipnorm=1.0), {}),
        ("adam", {"private": "joint"}),
        ("adam", {"combine": "upgrad"}),
    ],
)
def test_weights_that_may_have_an_effect(optimizer: Any, options: dict[str, Any]) -> None:
    optimizer = optimizer() if callable(optimizer) else optimizer
    told = fitted(pt.Model(networks=pair()), both(weight=0.7), optimizer, **options)[1]
    assert "no effect" not in told


def test_weight_of_an_objective_that_shares_a_network_has_an_effect() -> None:
    model = pt.Model(networks={"only": network(3, 2)})
    size = pt.Objective("size", lambda step: ops.mean(step.outputs["only"] ** 2), weight=0.3)
    assert "no effect" not in fitted(model, [pt.Objective("only", "mse"), size])[1]


def test_weight_against_a_regulariser_has_an_effect() -> None:
    decayed = network(3, layers.Dense(2, kernel_regularizer="l2"))
    told = fitted(pt.Model(networks=pair(a=decayed)), both(weight=0.7))[1]
    assert "no effect" not in told


@pytest.mark.parametrize("loss", ["binary_crossentropy", keras.losses.CategoricalCrossentropy()])
@pytest.mark.parametrize("validation", [True, False])
def test_loss_of_probabilities_that_gets_logits(loss: Any, validation: bool) -> None:
    model = pt.Model(networks={"digit": network(3, 2)})
    model.networks["digit"].set_weights([np.eye(3, 2), np.zeros(2)])
    outside = int(((X[:, :2] < 0) | (X[:, :2] > 1)).sum())
    model.compile(objectives=[pt.Objective("digit", loss)], optimizer="sgd", **QUICK)
    labels = np.eye(2)[np.arange(len(X)) % 2]
    more = {"validation_data": (X[:2], labels[:2])} if validation else {}
    with pytest.warns(UserWarning, match="from_logits=True; else end the network") as caught:
        model.fit(X, labels, batch_size=len(X), epochs=2, verbose=0, **more)
    texts = [str(w.message) for w in caught if "from_logits" in str(w.message)]
    assert len(texts) == 1
    assert f"takes its output for probabilities, and {outside} of {X[:, :2].size}" in texts[0]


@pytest.mark.parametrize("way", ["softmax", "from_logits"])
def test_loss_of_probabilities_that_gets_what_it_takes(way: str) -> None:
    activation = "softmax" if way == "softmax" else None
    model = pt.Model(networks={"digit": network(3, layers.Dense(2, activation=activation))})
    loss = keras.losses.CategoricalCrossentropy(from_logits=way == "from_logits")
    model.compile(objectives=[pt.Objective("digit", loss)], optimizer="sgd", **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(X, np.eye(2)[np.arange(len(X)) % 2], verbose=0)


def test_target_that_broadcasting_would_spread() -> None:
    model = pt.Model(networks={"only": network(3, 2)})
    model.compile(objectives=[pt.Objective("only", "mse")], optimizer="sgd", **QUICK)
    expected = "Objective 'only': its target has shape \\(.*20,\\) and its output \\(20, 2\\)"
    with pytest.raises(ValueError, match=expected):
        model.fit(X, Y[:, 0], batch_size=20, verbose=0)


def test_flat_targets_of_a_single_number_are_matched_sample_by_sample() -> None:
    losses = []
    for y in (Y[:, 0], Y[:, :1]):
        model = pt.Model(
            networks={"only": network(3, layers.Dense(1, "sigmoid", kernel_initializer="ones"))}
        )
        objectives = [pt.Objective("only", "binary_crossentropy")]
        model.compile(objectives=objectives, optimizer="sgd", **QUICK)
        losses.append(model.fit(X, (y > 0).astype("float32"), verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-6)


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
