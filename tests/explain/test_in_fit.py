"""`fit` says by itself that a gradient is missing, stays zero, or is not finite for long."""

import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import polytape as pt
from broken import X, Y, compiled, mse, net

pytestmark = pytest.mark.engine


def fitted(model: keras.Model, y: Any, epochs: int = 1, repeats: int = 10, **settings: Any) -> str:
    """What `fit` of ten steps an epoch warns of."""
    x = np.tile(X, (repeats, 1))
    y = keras.tree.map_structure(lambda leaf: np.tile(leaf, (repeats, 1)), y)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.fit(x, y, epochs=epochs, batch_size=8, verbose=0, shuffle=False, **settings)
    return "\n".join(str(each.message) for each in told)


# ---------------------------------------------------------------------- missing


def test_a_route_that_nothing_leads_along() -> None:
    networks = {"encoder": net("encoder"), "critic": net("critic", 1, 2)}
    model = pt.Model(
        networks=networks,
        forward=lambda nets, x: nets["critic"](ops.stop_gradient(nets["encoder"](x))),
    )
    compiled(
        model,
        objectives=[
            pt.Objective(
                "adversarial", lambda s: ops.mean(s.outputs), trains=["encoder", "critic"]
            ),
            pt.Objective("critic", lambda s: mse(1.0, s.outputs), trains="critic"),
        ],
    )
    expected = (
        r"Objective 'adversarial' shall train 'encoder', but no differentiable path.*"
        r"'adversarial' x 'encoder': `stop_gradient` ends the gradient, "
        r"at test_in_fit.py:\d+: forward=lambda"
    )
    with pytest.raises(ValueError, match=expected):
        fitted(model, Y)


def test_an_objective_without_any_path() -> None:
    inputs = keras.Input((3,))
    flat = layers.Lambda(lambda h: ops.stop_gradient(h), output_shape=(2,))(
        layers.Dense(2, name="trunk")(inputs)
    )
    model = compiled(pt.Model(inputs, {"a": flat}), loss={"a": "mse"})
    with pytest.raises(
        ValueError, match=r"reaches no trainable variable.*`stop_gradient` ends the gradient"
    ):
        fitted(model, {"a": Y})


# ---------------------------------------------------------------------- still


def dead(value: float = -100.0) -> keras.Model:
    low = keras.initializers.Constant(value)
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, activation="relu", bias_initializer=low, name="hidden")(inputs)
    return compiled(pt.Model(inputs, {"a": layers.Dense(2, name="a")(hidden)}), loss={"a": "mse"})


def test_a_layer_that_is_dead_is_told_once() -> None:
    model = dead()
    told = fitted(model, {"a": Y}, epochs=2)
    assert told.count("did not move") == 1, told
    assert "In the first 10 steps hidden/kernel, hidden/bias" in told
    assert "`relu` is dead: all of its outputs are zero, in layer 'hidden'" in told
    assert "leaky_relu" in told
    assert "pt.explain(model, x, y)" in told
    assert "did not move" not in fitted(model, {"a": Y})


def test_nothing_is_said_of_what_moves() -> None:
    assert "did not move" not in fitted(dead(0.0), {"a": Y}, epochs=2)


def test_nothing_is_said_before_ten_steps() -> None:
    model = dead()
    assert "did not move" not in fitted(model, {"a": Y}, repeats=4)
    assert "did not move" not in fitted(model, {"a": Y}, repeats=4)


def test_a_learning_rate_of_zero_is_no_dead_layer() -> None:
    model = dead(0.0)
    model.compile(keras.optimizers.SGD(0.0), loss={"a": "mse"}, verbose=0)
    assert "did not move" not in fitted(model, {"a": Y})


# ---------------------------------------------------------------------- not finite for long


def infinite(on_nonfinite: str = "drop") -> keras.Model:
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, name="trunk")(inputs)
    heads = {name: layers.Dense(2, name=name)(hidden) for name in ("a", "b")}
    losses = {"a": "mse", "b": lambda y, p: ops.mean(ops.log(p * 0.0) * y, axis=-1)}
    return compiled(
        pt.Model(inputs, heads), loss=losses, combine="upgrad", on_nonfinite=on_nonfinite
    )


@pytest.mark.parametrize("on_nonfinite", ["drop", "isolate", "skip"])
def test_stops_after_many_steps(on_nonfinite: str) -> None:
    model = infinite(on_nonfinite)
    patience = pt.callbacks.StopOnNonfinite(15)
    expected = (
        r"Not finite for 15 steps in a row and more, and so not trained: 'b' \(20 steps\). "
        r"The loss is .*: `log` takes the logarithm of zero or less, at test_in_fit.py:\d+: .*"
        r"patience=None"
    )
    with pytest.raises(FloatingPointError, match=expected):
        fitted(model, {"a": Y, "b": Y}, epochs=4, callbacks=[patience])
    for variable in model.trainable_variables:
        assert np.isfinite(ops.convert_to_numpy(variable.value)).all()


def test_goes_on_if_told_to() -> None:
    model = infinite()
    patience = pt.callbacks.StopOnNonfinite(None)
    told = fitted(model, {"a": Y, "b": Y}, epochs=2, callbacks=[patience])
    assert "'b' (10 x)" in told
    assert model.plan.dropped.in_a_row() == {"a": 0, "b": 20}


def test_a_sound_step_ends_the_row() -> None:
    inputs = keras.Input((3,))
    model = compiled(pt.Model(inputs, {"a": layers.Dense(2, name="a")(inputs)}), loss={"a": "mse"})
    bad = Y.copy()
    bad[0, 0] = np.inf
    for targets, row in ((bad, 10), (bad, 20), (Y, 0), (bad, 10)):
        fitted(model, {"a": targets}, callbacks=[pt.callbacks.StopOnNonfinite(25)])
        assert model.plan.dropped.in_a_row() == {"a": row}


def test_rows_are_counted_phase_by_phase() -> None:
    model = pt.Model(networks={"left": net("left"), "right": net("right")})
    bad = lambda s: ops.mean(ops.log(s.outputs["right"] * 0.0))  # noqa: E731
    objectives = [pt.Objective("a", lambda s: mse(0.0, s.outputs["left"])), pt.Objective("b", bad)]
    compiled(model, objectives=objectives, phases=["a", "b"])
    fitted(model, Y, callbacks=[pt.callbacks.StopOnNonfinite(None)])
    assert model.plan.dropped.in_a_row() == {"a": 0, "b": 10}


def test_an_explanation_that_fails_costs_nothing() -> None:
    """The loss fits the batches of the training, and no others."""
    low, calls = keras.initializers.Constant(-100.0), [0]

    def loss(step: Any) -> Any:
        calls[0] += 1
        if calls[0] > limit:
            raise RuntimeError("asked once too often")
        return mse(Y, step.outputs)

    inputs = keras.Input((3,))
    hidden = layers.Dense(4, activation="relu", bias_initializer=low, name="hidden")(inputs)
    model = pt.Model(inputs, layers.Dense(2, name="a")(hidden))
    compiled(model, objectives=[pt.Objective("a", loss)], run_eagerly=True)
    limit = 10
    assert "did not move" not in fitted(model, Y)


@pytest.mark.parametrize("patience", [0, -1, 1.5, "many"])
def test_patience_is_a_number_of_steps(patience: Any) -> None:
    with pytest.raises(ValueError, match="`patience` is a number of steps from 1, or None"):
        pt.callbacks.StopOnNonfinite(patience)
