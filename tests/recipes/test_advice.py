"""Settings that do not do what they seem to: told at the first step, or after the first epoch."""

import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.optimizers import SGD
from keras.optimizers.schedules import ExponentialDecay

import polytape as pt
from by_hand import BATCH, QUICK, STEPS, mse, network
from pair import Objectives, X, Y, both, fitted, pair
from polytape.training.losses.keras_losses import resolve_loss
from polytape.training.losses.missing_labels import masked
from polytape.training.reporting.advice import advise


def routed(**options: Any) -> Objectives:
    """`both`, each for the network of its name; the options are those of the first."""
    return [pt.Objective("a", "mse", trains="a", **options), pt.Objective("b", "mse", trains="b")]


def advice(networks: Any, objectives: Objectives, optimizer: Any = "adam", **more: Any) -> str:
    """What the first step would say if all that is declared is reached."""
    model = pt.Model(networks=networks)
    model.compile(objectives=objectives, optimizer=optimizer, verbose=0, **more)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        advise(model.compilation.settings, model.plan, model, model.plan.routes)
    return "\n".join(str(w.message) for w in caught)


def test_adam_that_phases_share_counts_all_their_steps() -> None:
    model = pt.Model(networks=pair())
    told = fitted(model, both(), phases=["a", "b"])[1]
    assert "Adam is applied in 2 phases, to 'a' and 'b'. Its step count" in told
    assert "Give each network an optimizer of its own" in told
    assert int(model.optimizer.iterations) == 2


@pytest.mark.parametrize(
    ("optimizer", "phases", "count"),
    [
        ("adam", [pt.Phase("a", steps=2), "b"], True),
        (SGD(ExponentialDecay(0.1, 10, 0.5)), ["a", "b"], True),
        ({"*": "adam"}, ["a", "b"], True),
        ("sgd", ["a", "b"], False),  # which counts nothing
        ({"a": "adam", "b": "adam"}, ["a", "b"], False),
        ("adam", [["a", "b"]], False),
    ],
)
def test_advice_on_step_counts(optimizer: Any, phases: Any, count: bool) -> None:
    assert ("step count" in advice(pair(), routed(), optimizer, phases=phases)) == count


def test_weight_that_adam_divides_out_again() -> None:
    told = fitted(pt.Model(networks=pair()), both(weight=0.7))[1]
    assert "The weight 0.7 of objective 'a' has no effect on training: no other objective" in told
    assert "trains 'a', and Adam divides every gradient by its own size" in told
    assert "a learning rate of its own" in told


@pytest.mark.parametrize(
    ("optimizer", "options", "idle"),
    [
        ("rmsprop", {"combine": "mean"}, True),
        ({"a": "adam", "*": "sgd"}, {}, True),
        ("sgd", {}, False),
        (keras.optimizers.Adam(global_clipnorm=1.0), {}, False),
        ("adam", {"private": "joint"}, False),
        ("adam", {"combine": "upgrad"}, False),
    ],
)
def test_advice_on_weights(optimizer: Any, options: dict[str, Any], idle: bool) -> None:
    told = advice(pair(), routed(weight=0.7), optimizer, **options)
    assert ("no effect" in told) == idle


def test_weights_against_something_else_have_an_effect() -> None:
    size = pt.Objective("size", lambda step: ops.mean(step.outputs["a"] ** 2))
    assert "no effect" not in advice(pair(), [*routed(weight=0.7), size])
    regularised = network(3, layers.Dense(2, kernel_regularizer="l2"))
    assert "no effect" not in advice(pair(a=regularised), routed(weight=0.7))


@pytest.mark.parametrize(
    ("loss", "validation"),
    [("binary_crossentropy", True), (keras.losses.CategoricalCrossentropy(), False)],
)
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
    # What counts is each number, or the share that the right one has in its row.
    right = labels > 0
    counting = X[:, :2] if validation else X[:, :2][right] / X[:, :2].sum(axis=1)
    clipped = (counting < 1e-7) | (counting > 1 - 1e-7)
    still = int(clipped.all(axis=1).sum() if validation else clipped.sum())
    assert 0 < still < len(X)
    assert f"{still} of {len(X)} samples had none at all" in texts[0]


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


def test_loss_given_by_name_leaves_out_missing_numbers_as_the_object_does() -> None:
    labels = np.array([[1.0, np.nan], [3.0, 4.0]], "float32")
    losses = map(resolve_loss, ("mse", keras.losses.MeanSquaredError()))
    for value, count in (masked(loss, labels, np.zeros((2, 2), "float32")) for loss in losses):
        np.testing.assert_allclose([float(value), float(count)], [26 / 3, 3.0], rtol=1e-6)


def test_what_was_left_out_is_told_though_validation_follows() -> None:
    model = pt.Model(networks=pair())
    infinite = pt.Objective("infinite", lambda step: mse(step.outputs["a"], np.inf))
    model.compile(objectives=[infinite, *both()], optimizer="sgd", **QUICK)
    with pytest.warns(RuntimeWarning, match=r"left out of the step: 'infinite' \(5 x\)"):
        history = model.fit(X, Y, batch_size=BATCH, validation_data=(X, Y), verbose=0).history
    assert history["dropped"] == [STEPS]
