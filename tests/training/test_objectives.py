"""Objectives: routes, weights, when they are active; several networks and optimizers."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from joined import X, Y, counts, dense, forward, joined, networks, objectives, rates, sparsity
from small import arrays, fill


def same(one: keras.Model, other: keras.Model, atol: float = 2e-6) -> None:
    pairs = zip(arrays(one.trainable_variables), arrays(other.trainable_variables), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=atol)


def fitted(model: pt.Model, epochs: int = 2, **more: Any) -> dict[str, list[float]]:
    return model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **more).history


def moved(model: pt.Model) -> dict[str, float]:
    """How far each network is from where it started."""
    start = fill(pt.Model(networks=networks(), forward=forward))
    return {
        name: max(
            float(np.abs(a - b).max())
            for a, b in zip(
                arrays(network.trainable_variables),
                arrays(start.networks[name].trainable_variables),
                strict=True,
            )
        )
        for name, network in model.networks.items()
    }


def test_objectives_train_as_losses_do() -> None:
    inputs = keras.Input((4,))
    nets = networks()
    fill(pt.Model(networks=nets, forward=forward))
    plain = pt.Model(inputs, forward(nets, inputs))
    losses = {"image": "mse", "label": keras.losses.BinaryCrossentropy(from_logits=True)}
    plain.compile(
        keras.optimizers.Adam(0.01), loss=losses, loss_weights={"image": 2.0, "label": 0.5}
    )
    given = objectives(image={"weight": 2.0}, label={"weight": 0.5})[:2]
    model = joined(given, keras.optimizers.Adam(0.01))
    expected, found = fitted(plain), fitted(model)
    for name in ("loss", "image_loss", "label_loss"):
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-6)
    same(model, plain)
    told = model.evaluate(X, Y, verbose=0, return_dict=True)
    np.testing.assert_allclose(
        told["loss"], 2 * told["image_loss"] + 0.5 * told["label_loss"], rtol=1e-5
    )


@pytest.mark.parametrize("combine", ["sum", "upgrad"])
def test_a_route_bounds_what_is_trained(combine: str) -> None:
    """The encoder and the head move as if there were no image, the decoder by the image alone."""
    given = objectives(image={"trains": "decoder"})[:2]
    both = joined(given, combine=combine)
    alone = joined([pt.Objective("label", given[1].loss)], {"*": "sgd"}, combine=combine)
    alone.networks["decoder"].trainable = False
    alone.compile(objectives=given[1:], optimizer=rates(), combine=combine, verbose=0)
    fitted(both), fitted(alone)
    for name in ("encoder", "head"):
        same(both.networks[name], alone.networks[name])
    assert moved(both)["decoder"] > 1e-3


def test_a_route_leaves_the_rest_untouched() -> None:
    nets = networks()
    model = fill(pt.Model(networks=nets, forward=forward))
    given = [
        pt.Objective("image", "mse", trains="decoder/*/kernel"),
        pt.Objective("code", sparsity, trains=nets["encoder"]),
        pt.Objective("label", "mse", trains=["head"]),
    ]
    model.compile(objectives=given, optimizer="sgd", verbose=0)
    with pytest.warns(UserWarning, match="No objective trains 2 variables: .*bias"):
        fitted(model, 1)


def test_every_and_its_optimizer() -> None:
    given = objectives(
        image={"trains": "decoder", "every": 3},
        label={"trains": "head"},
        sparsity={"trains": "encoder", "every": 2},
    )
    model = joined(given)
    fitted(model, 2)  # 8 steps
    assert counts(model) == {"encoder": 4, "decoder": 3, "*": 8}


@pytest.mark.parametrize("combine", ["sum", "upgrad"])
def test_an_inactive_objective_is_as_if_absent(combine: str) -> None:
    never = objectives(sparsity={"when": lambda step: step.count < 0})
    one, other = joined(never, combine=combine), joined(objectives()[:2], combine=combine)
    fitted(one), fitted(other)
    same(one, other)


def apart() -> list[pt.Objective]:
    changes = {"image": {"trains": ["encoder", "decoder"]}, "label": {"trains": "head"}}
    return objectives(**changes)[:2]


def test_missing_labels() -> None:
    holes = {"image": Y["image"], "label": Y["label"].copy()}
    holes["label"][:24:2] = np.nan
    holes["label"][24:] = np.nan  # the last batch has none at all
    model = joined(apart())
    told = model.fit(X, holes, batch_size=8, epochs=1, shuffle=False, verbose=0).history
    assert counts(model) == {"encoder": 4, "decoder": 4, "*": 3}
    assert np.isfinite(told["label_loss"]).all()
    short = joined(apart())
    labelled = {"image": Y["image"][:24], "label": Y["label"][:24]}
    weights = {"image": np.ones(24), "label": np.tile([0.0, 2.0], 12)}
    short.fit(X[:24], labelled, sample_weight=weights, batch_size=8, shuffle=False, verbose=0)
    same(model.networks["head"], short.networks["head"])


def test_a_batch_without_any_label_changes_nothing_and_is_told() -> None:
    nothing = {"label": np.full((32, 1), np.nan, "float32")}
    given = [pt.Objective("label", "mse", trains="head")]
    model = joined(given, keras.optimizers.Adam(0.1))
    model.networks["encoder"].trainable = model.networks["decoder"].trainable = False
    model.compile(objectives=given, optimizer="adam", verbose=0)
    model.train_on_batch(X, {"label": Y["label"]})
    state = [*model.trainable_variables, *model.optimizer.variables]
    before = arrays(state)
    with pytest.warns(UserWarning, match="4 times no objective was active: no label in the batch"):
        model.fit(X, nothing, batch_size=8, verbose=0)
    for a, b in zip(arrays(state), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_follow_schedules_variables_and_reweight() -> None:
    ramp = keras.optimizers.schedules.PiecewiseConstantDecay([3], [1.0, 0.0])
    live = keras.Variable(0.5, trainable=False)
    given = objectives(image={"weight": ramp}, label={"weight": live}, sparsity={"weight": 1.0})
    model = joined(given, keras.optimizers.SGD(0.0))
    totals = []

    class Change(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            totals.append(float(logs["loss"]))
            live.assign(2.0)
            if batch == 1:
                self.model.reweight({"sparsity": 3.0})

    history = model.fit(X, Y, batch_size=32, epochs=1, verbose=0, callbacks=[Change()]).history
    values = {name: history[f"{name}_loss"][0] for name in ("image", "label", "sparsity")}
    model.fit(X, Y, batch_size=32, epochs=1, verbose=0, callbacks=[Change()])
    np.testing.assert_allclose(
        totals[0], values["image"] + 0.5 * values["label"] + values["sparsity"], rtol=1e-5
    )
    np.testing.assert_allclose(
        totals[1], values["image"] + 2.0 * values["label"] + values["sparsity"], rtol=1e-5
    )
    model.reweight({"sparsity": 3.0})
    for _ in range(3):  # until the schedule has ended
        model.train_on_batch(X, Y)
    live.assign(1.5)
    told = model.train_on_batch(X, Y, return_dict=True)["loss"]
    np.testing.assert_allclose(told, 1.5 * values["label"] + 3.0 * values["sparsity"], rtol=1e-5)
    live.assign(2.0)
    again = model.fit(X, Y, batch_size=32, epochs=1, verbose=0).history["loss"][0]
    np.testing.assert_allclose(again, 2.0 * values["label"] + 3.0 * values["sparsity"], rtol=1e-5)


def test_one_method_per_network() -> None:
    given = objectives()
    each = joined(given, combine={"encoder": pt.MGDA(), "*": pt.Sum()})
    fitted(each)
    whole, summed = joined(given, combine="mgda"), joined(given, combine="sum")
    fitted(whole), fitted(summed)
    # Only the encoder is shared, so that its method is the method of the whole.
    same(each, whole)
    assert not np.allclose(
        arrays(each.trainable_variables)[0], arrays(summed.trainable_variables)[0]
    )


def test_networks_built_late_and_one_layer() -> None:
    late = {
        "encoder": keras.Sequential(
            [keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(3)]
        ),
        "decoder": keras.layers.Dense(4),
        "head": keras.layers.Dense(1),
    }
    model = pt.Model(networks=late, forward=forward)
    model.compile(
        objectives=objectives(image={"trains": "decoder", "weight": keras.Variable(0.5)}),
        optimizer=rates(),
        combine="upgrad",
        verbose=0,
    )
    fitted(model)
    assert counts(model) == {"encoder": 8, "decoder": 8, "*": 8}


def test_networks_without_a_forward_function() -> None:
    nets = {"a": dense("a", 4, 1), "b": dense("b", 3, 1)}
    given = [pt.Objective("a", "mse"), pt.Objective("b", "mse", target="a")]
    model = fill(pt.Model(networks=nets))
    model.compile(objectives=given, optimizer="adam", verbose=0)
    x = {"a": X, "b": X[:, :3]}
    told = model.fit(x, {"a": Y["label"]}, epochs=3, verbose=0).history
    assert told["a_loss"][-1] < told["a_loss"][0]
    assert told["b_loss"][-1] < told["b_loss"][0]
    assert set(model.predict(x, verbose=0)) == {"a", "b"}


def test_metrics_of_what_is_labelled() -> None:
    holes = {"image": Y["image"], "label": Y["label"].copy()}
    holes["label"][::2] = np.nan
    model = joined(objectives()[:2], metrics={"label": ["mae", keras.metrics.BinaryAccuracy()]})
    told = model.evaluate(X, holes, batch_size=8, verbose=0, return_dict=True)
    labelled = {name: target[1::2] for name, target in Y.items()}
    expected = model.evaluate(X[1::2], labelled, verbose=0, return_dict=True)
    for name in ("label_mae", "label_binary_accuracy", "label_loss"):
        np.testing.assert_allclose(told[name], expected[name], rtol=1e-5)


def test_a_route_needs_the_parameters() -> None:
    with pytest.raises(ValueError, match="none can have a route of its own"):
        joined(objectives(image={"trains": "decoder"}), combine="mgda", measure="outputs")


def test_what_is_not_finite_is_left_out() -> None:
    bad = {"image": Y["image"].copy(), "label": Y["label"]}
    bad["image"][0] = np.inf
    model = joined(combine="upgrad")
    with pytest.warns(RuntimeWarning, match=r"'image' \(1 x\)"):
        told = fitted_on(model, bad)
    assert told["dropped"] == [1]
    assert counts(model) == {"encoder": 4, "decoder": 3, "*": 4}
    assert all(np.isfinite(array).all() for array in arrays(model.trainable_variables))


def fitted_on(model: pt.Model, targets: Any) -> dict[str, list[float]]:
    return model.fit(X, targets, batch_size=8, shuffle=False, verbose=0).history


def test_an_objective_may_wait_for_what_the_network_does() -> None:
    """`when` may read an output, and everything compiles, several steps at a time."""

    def far(step: pt.Step) -> Any:
        return ops.mean(ops.abs(step.outputs["image"] - step.inputs)) > 1e6

    several = {} if keras.backend.backend() == "torch" else {"steps_per_execution": 2}
    given = objectives(sparsity={"when": far, "trains": "encoder"}, label={"trains": "head"})
    model = joined(given, phases=[["image", "sparsity"], "label"], **several)
    without = joined(given[:2], phases=["image", "label"])
    fitted(model), fitted(without)
    same(model, without)
    assert counts(model) == counts(without) == {"encoder": 8, "decoder": 8, "*": 8}


@pytest.mark.parametrize("eagerly", [True, False])
def test_functions_of_a_step_get_tensors(eagerly: bool) -> None:
    """From single batches, too, which Keras hands on as the arrays that were given."""
    seen: list[Any] = []

    def loss(step: pt.Step) -> Any:
        seen.extend([step.inputs, step.targets["label"], step.sample_weight["label"]])
        return ops.mean(step.outputs["label"] ** 2)

    given = [pt.Objective("image", "mse"), pt.Objective("label", loss)]
    model = joined(given)
    model.compile("sgd", objectives=given, run_eagerly=eagerly, verbose=0)
    weight = {"label": np.ones(len(X), "float32"), "image": np.ones(len(X), "float32")}
    model.train_on_batch(X, Y, sample_weight=weight)
    model.test_on_batch(X, Y, sample_weight=weight)
    assert len(seen) >= 6
    assert all(ops.is_tensor(each) for each in seen)
