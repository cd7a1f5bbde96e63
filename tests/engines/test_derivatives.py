"""`pt.derivative` against closed forms, and the gradients of losses made of derivatives."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import polytape as pt
from compiled import COMPILES, compiled

Array = np.ndarray
RNG = np.random.default_rng(5)
X = RNG.normal(size=(6, 1))
SHAPES = [(1, 4), (4,), (4, 1), (1,)]
VALUES = [RNG.normal(size=shape) for shape in SHAPES]


def close(found: Any, expected: Array, rtol: float = 1e-5) -> None:
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=rtol, atol=1e-6)


def repeated(function: Any, order: int) -> Any:
    if order == 0:
        return function
    return lambda x: pt.derivative(repeated(function, order - 1), x)


@pytest.mark.parametrize(("order", "expected"), [(1, [4, 32]), (2, [12, 48]), (3, [24, 48])])
def test_of_a_polynomial(order: int, expected: list[int]) -> None:
    close(repeated(lambda x: x**4, order)(ops.convert_to_tensor([1.0, 2.0])), expected)


def test_inside_a_compiled_function() -> None:
    third = compiled(lambda x: repeated(ops.sin, 3)(x))
    close(third(ops.convert_to_tensor([[0.3], [2.0]])), -np.cos([[0.3], [2.0]]))


def test_of_a_nest_and_across() -> None:
    point = {"x": np.float32([2.0, 3.0]), "t": [np.float32([0.5, -1.0])]}

    def u(p: dict) -> Any:
        return p["x"] ** 2 * p["t"][0] ** 3

    by = pt.derivative(u, point)
    close(by["x"], [0.5, -6.0])
    close(by["t"][0], [3.0, 27.0])
    close(pt.derivative(lambda p: pt.derivative(u, p)["x"], point)["t"][0], [3.0, 18.0])


def u_slope_bend(values: list, x: Array) -> tuple[Array, Array, Array]:
    """v tanh(w x + b) + c and its first two derivatives, by hand."""
    w, b, v, c = values
    t = np.tanh(x @ w + b)
    return t @ v + c, ((1 - t**2) * w) @ v, (-2 * t * (1 - t**2) * w**2) @ v


def total(values: list, x: Array) -> float:
    """The sum of the mean squares of the three."""
    return sum(np.mean(part**2) for part in u_slope_bend(values, x))


def differences(function: Any, values: list[Array], h: float = 1e-5) -> list[Array]:
    """Central differences by every entry of every array, float64."""
    found = [np.zeros_like(value) for value in values]
    for v, value in enumerate(values):
        for index in np.ndindex(value.shape):
            pair = []
            for sign in (1, -1):
                moved = [array.copy() for array in values]
                moved[v][index] += sign * h
                pair.append(function(moved))
            found[v][index] = (pair[0] - pair[1]) / (2 * h)
    return found


def network() -> keras.Sequential:
    net = keras.Sequential([layers.Dense(4, "tanh"), layers.Dense(1)])
    net.build((None, 1))
    net.set_weights(VALUES)
    return net


class Curve(pt.Model):
    """A network and its first two derivatives."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def call(self, x: Any) -> dict[str, Any]:
        slope = repeated(self.net, 1)
        return {"a": self.net(x), "b": slope(x), "c": pt.derivative(slope, x)}


def test_through_layers() -> None:
    found = Curve()(X.astype("float32"))
    for output, expected in zip(found.values(), u_slope_bend(VALUES, X), strict=True):
        close(output, expected)


@pytest.mark.parametrize("jit", [False, True] if COMPILES else [False])
def test_fit_and_evaluate_and_predict(jit: bool) -> None:
    model, x = Curve(), X.astype("float32")
    model.compile(keras.optimizers.SGD(0.01), "mse", combine="mean", jit_compile=jit)
    zeros = dict.fromkeys("abc", np.zeros_like(x))
    before = model.evaluate(x, zeros, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(before, total(VALUES, X), rtol=1e-5)
    outputs = model.predict(x, verbose=0)
    np.testing.assert_allclose(outputs["c"], u_slope_bend(VALUES, X)[2], rtol=1e-4, atol=1e-6)
    model.fit(x, zeros, batch_size=6, verbose=0)
    slopes = differences(lambda values: total(values, X), VALUES)
    for variable, value, slope in zip(model.trainable_variables, VALUES, slopes, strict=True):
        close(variable, value - 0.01 / 3 * slope)


def test_gradient_penalty_in_an_objective() -> None:
    points = RNG.normal(size=(5, 3))
    shapes = [(3, 4), (4,), (4, 1)]
    values = [RNG.normal(size=shape) for shape in shapes]

    def penalty(values: list[Array]) -> float:
        w, b, v = values
        slopes = ((1 - np.tanh(points @ w + b) ** 2) * v[:, 0]) @ w.T
        return np.mean((np.linalg.norm(slopes, axis=1) - 1) ** 2)

    critic = keras.Sequential([layers.Dense(4, "tanh"), layers.Dense(1, use_bias=False)])
    critic.build((None, 3))
    critic.set_weights(values)
    x = ops.convert_to_tensor(points, "float32")

    def losses() -> dict[str, Any]:
        norms = ops.norm(pt.derivative(critic, x), axis=1)
        return {"score": ops.mean(critic(x)), "penalty": ops.mean((norms - 1.0) ** 2)}

    grads = pt.gradients(losses, critic.trainable_variables)
    np.testing.assert_allclose(float(grads.losses["penalty"]), penalty(values), rtol=1e-5)
    for row, slope in zip(grads["penalty"], differences(penalty, values), strict=True):
        close(row, slope, rtol=1e-4)


class Busy(pt.Model):
    """The derivative of a network with statistics and a seed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = layers.BatchNormalization(center=False), layers.Dropout(0.5, seed=3)
        self.head = layers.Dense(1, use_bias=False)

    def call(self, x: Any, training: bool = False) -> Any:
        def score(x: Any) -> Any:
            return self.head(self.drop(self.norm(x, training=training), training=training))

        return pt.derivative(score, x)


def test_statistics_and_seeds_inside_move_once() -> None:
    x = RNG.normal(size=(6, 3)).astype("float32")
    model, other = Busy(), layers.Dropout(0.5, seed=3)
    model.compile("sgd", "mse", combine="mean")
    model.fit(x, np.zeros_like(x), batch_size=6, verbose=0)
    close(model.norm.moving_mean, 0.01 * x.mean(axis=0))
    other(x, training=True)
    state, expected = (
        ops.convert_to_numpy(drop.seed_generator.state.value) for drop in (model.drop, other)
    )
    np.testing.assert_array_equal(state, expected)
    model.evaluate(x, np.zeros_like(x), verbose=0)  # leaves both alone
    close(model.norm.moving_mean, 0.01 * x.mean(axis=0))


def test_dropped_entries_have_no_slope() -> None:
    drop, x = layers.Dropout(0.5, seed=1), ops.ones((40,))
    slope = ops.convert_to_numpy(pt.derivative(lambda x: 3.0 * drop(x, training=True), x))
    assert set(slope.tolist()) == {0.0, 6.0}


def test_by_a_variable_and_in_half_precision() -> None:
    w = keras.Variable([1.0, 2.0])
    close(pt.derivative(lambda w: ops.sum(w**2), w), [2.0, 4.0])
    half = ops.cast(w, "float16")
    slope = pt.derivative(lambda x: 60000.0 * x, half)
    assert keras.backend.standardize_dtype(slope.dtype) == "float16"
    close(slope, np.float16([60000.0, 60000.0]))


@pytest.mark.parametrize("cut", ["closes over", "stop_gradient", "linear"])
def test_what_does_not_depend_on_x(cut: str) -> None:
    x, y = ops.convert_to_tensor([1.0, 2.0]), ops.convert_to_tensor([3.0])
    functions = {
        "closes over": lambda p: p["y"] * ops.sum(x),
        "stop_gradient": lambda p: p["y"] * ops.stop_gradient(p["x"]),
        "linear": lambda p: pt.derivative(lambda x: p["y"] * x, p["x"]),
    }
    text = r"does not depend on x\['x'\]: .* computed outside .* stop_gradient, .* ReLUs"
    with pytest.raises(ValueError, match=text):
        pt.derivative(functions[cut], {"x": x, "y": y})


@pytest.mark.parametrize("bad", [lambda x: {"u": x}, lambda x: ops.argmax(x), lambda x: 1.0])
def test_what_is_not_one_float_tensor(bad: Any) -> None:
    text = r"must return one floating-point tensor. .* (a dict|type int..|a float)\. Of several"
    with pytest.raises(TypeError, match=text):
        pt.derivative(bad, ops.ones((3,)))


def test_by_integers_and_by_symbols() -> None:
    with pytest.raises(TypeError, match=r"Received: x\[0\] of type int32. Cast it with keras.ops"):
        pt.derivative(lambda x: x[0] * 2.0, [ops.ones((2,), "int32")])
    with pytest.raises(TypeError, match=r"x is symbolic: .* in the `call` of a layer or model"):
        pt.derivative(lambda x: x * 2.0, keras.Input((3,)))
