"""A step that was compiled is used again: for other numbers, and for shapes that it has met."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt

BACKEND = keras.backend.backend()
pytestmark = [
    pytest.mark.compiled,
    pytest.mark.skipif(BACKEND == "torch", reason="PyTorch compiles nothing"),
]
X = np.random.default_rng(0).normal(size=(10, 4)).astype("float32")
Y = {name: X[:, :1] * factor for name, factor in (("a", 1.0), ("b", -1.0))}


class Counted:
    """A loss that counts how often Python runs it: compiled, a few times for every trace."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, step: pt.Step) -> Any:
        self.runs += 1
        return ops.mean(ops.square(step.outputs["a"] - step.outputs["b"]))


@pytest.fixture(scope="module")
def trained() -> tuple[pt.Model, Counted]:
    """After an epoch that ends with a smaller batch, and has met every shape."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, activation="tanh")(inputs)
    model = pt.Model(inputs, {name: keras.layers.Dense(1, name=name)(hidden) for name in Y})
    counted = Counted()
    objectives = [
        pt.Objective("a", "mse"),
        pt.Objective("b", "mse", every=3),
        pt.Objective("same", counted, when=lambda step: step.count % 2 < 1),
    ]
    model.compile(keras.optimizers.Adam(0.01), objectives=objectives, combine="upgrad", verbose=0)
    missing = {name: np.where(np.arange(10)[:, None] < 2, np.nan, y) for name, y in Y.items()}
    model.fit(X, missing, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model, counted


def test_fit(trained: tuple[pt.Model, Counted]) -> None:
    """Objectives that come and go, labels that are there or not, weights and the learning rate."""
    model, counted = trained
    before = counted.runs
    assert before > 0
    none = {**Y, "a": np.full((10, 1), np.nan, "float32")}
    model.optimizer.learning_rate = 0.02
    model.reweight({"same": 3.0})
    for y in (Y, none):
        model.fit(X, y, batch_size=4, epochs=3, shuffle=False, verbose=0)
    model.set_weights([weight * 0.5 for weight in model.get_weights()])
    model.fit(X, Y, batch_size=4, verbose=0)
    assert counted.runs == before
    model.fit(X[:7], {name: y[:7] for name, y in Y.items()}, batch_size=7, verbose=0)
    if BACKEND == "jax":  # TensorFlow leaves the size of a batch open when it meets the second
        assert counted.runs > before


def test_compiled_step() -> None:
    kernel = keras.Variable(np.ones((4, 2), "float32"))
    runs = [0]

    def losses(x: Any, y: Any) -> dict[str, Any]:
        runs[0] += 1
        found = x @ kernel
        return {"a": ops.mean(ops.square(found - y)), "b": ops.mean(ops.square(found + y))}

    step = pt.compiled_step(losses, keras.optimizers.SGD(0.1), "upgrad", [kernel])
    for size in (4, 2):
        step(X[:size], Y["a"][:size])
    before = runs[0]
    for size in (4, 2, 4, 2):
        step(2.0 * X[:size], np.full((size, 1), np.nan, "float32") if size == 2 else Y["b"][:4])
    kernel.assign(kernel * 0.5)
    step(X[:4], Y["a"][:4])
    assert runs[0] == before
    step(X[:3], Y["a"][:3])
    if BACKEND == "jax":
        assert runs[0] > before


@pytest.mark.skipif(BACKEND != "jax", reason="counts what JAX compiles")
def test_gradients_outside_of_jit() -> None:
    """Eager, JAX compiles each operation once, and `pt.gradients` nothing that grows old."""
    import jax

    kernel = keras.Variable(np.ones((4, 2), "float32"))

    def look(factor: float) -> None:
        def losses() -> dict[str, Any]:
            found = ops.convert_to_tensor(X * np.float32(factor)) @ kernel
            return {"a": ops.mean(ops.square(found - 1.0)), "b": ops.mean(ops.square(found + 1.0))}

        grads = pt.gradients(losses, [kernel])
        _ = grads.gramian, grads.combine("upgrad")

    look(1.0)
    look(2.0)
    found: list[str] = []

    def listen(event: str, seconds: float, **more: Any) -> None:
        del seconds
        if event.endswith("backend_compile_duration"):
            found.append(str(more))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        look(3.0)
        look(4.0)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert found == []
