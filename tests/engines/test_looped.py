"""Gradients of many objectives: a loop gives those of as many backward passes."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from polytape.differentiation.table import table_of
from polytape.engines import engine

pytestmark = pytest.mark.engine
COUNT = 18  # more than a loop begins with
on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX's engine has a loop")


def variables() -> list[keras.Variable]:
    rng = np.random.default_rng(0)
    shapes = [(25, 7), (7,), (7, 7), *[(7,)] * COUNT, (3,)]
    return [keras.Variable(rng.normal(size=shape).astype("float32")) for shape in shapes]


def losses_of(known: list[keras.Variable]) -> list[Any]:
    """A trunk for all, a layer for half of them, a head for each; the last variable is unused."""
    x = ops.convert_to_tensor(np.random.default_rng(1).normal(size=(2, 25)).astype("float32"))
    first, bias, second, *heads, _ = known
    hidden = ops.tanh(x @ first + bias)
    deeper = ops.relu(hidden @ second) + ops.sum(ops.square(second))
    found = []
    for t, head in enumerate(heads):
        own = deeper if t % 2 else hidden
        found.append(ops.mean(ops.square(own @ head[:, None])) + (ops.sum(bias) if t == 3 else 0.0))
    return found


@on_jax
def test_the_same_rows_as_one_by_one() -> None:
    import jax

    known = variables()
    routes = [range(len(known))] * COUNT

    def both(values: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(known, values, strict=True))):
            recording = engine().record(lambda: (losses_of(known), None), lambda: known)
        places = [*range(COUNT)]
        assert engine().way_of(recording, places) == "looped"
        table = table_of(recording, places, 2.0, routes)
        single = [recording.vjp({place: 2.0}, routes[0]) for place in places]
        reach = [[each is not None for each in row] for row in table]
        assert reach == [[each is not None for each in row] for row in single]
        return [list(row) for row in table], single

    found, expected = jax.jit(both)([variable.value for variable in known])
    for row, wanted in zip(found, expected, strict=True):
        for one, other in zip(row, wanted, strict=True):
            if other is not None:
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@on_jax
def test_large_cotangents_are_not_held_for_all() -> None:
    """Losses of images that part at the end: their cotangents are larger than the gradients."""
    import jax

    kernel = keras.Variable(np.ones((3, 3), "float32"))

    def ways(value: Any) -> Any:
        with keras.StatelessScope(state_mapping=[(kernel, value)]):
            recording = engine().record(
                lambda: (
                    [
                        ops.sum(ops.sin((t + 1.0) * (ops.ones((50, 3)) @ kernel)))
                        for t in range(COUNT)
                    ],
                    None,
                ),
                lambda: [kernel],
            )
        found.append(engine().way_of(recording, [*range(COUNT)]))
        return value

    found: list[str] = []
    jax.jit(ways)(kernel.value)
    assert found == ["unrolled"]


def fitted(monkeypatch: pytest.MonkeyPatch, looped: bool, **compiled: Any) -> list[np.ndarray]:
    """Weights after two steps of UPGrad on many objectives, of which one has no label."""
    if keras.backend.backend() == "jax":
        from polytape.engines.jax import recording

        monkeypatch.setattr(recording, "LOOP_FROM", 4 if looped else 1000)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(12, activation="tanh")(inputs)
    hidden = keras.layers.Dense(12, activation="tanh")(hidden)
    names = [f"t{number}" for number in range(6)]
    model = pt.Model(inputs, {name: keras.layers.Dense(1, name=name)(hidden) for name in names})
    model.compile("sgd", dict.fromkeys(names, "mse"), verbose=0, **compiled)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4, 6)).astype("float32")
    y = {name: rng.normal(size=(4, 1)).astype("float32") for name in names}
    y["t1"][:2] = np.nan
    y["t2"][0] = np.nan
    model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    return [np.asarray(weight) for weight in model.get_weights()]


@pytest.mark.parametrize("combine", [pt.UPGrad(), pt.GradDrop()], ids=["gramian", "rows"])
def test_fit(monkeypatch: pytest.MonkeyPatch, combine: pt.Method) -> None:
    """The way is one of the compiler's matters: results are the same up to rounding."""
    one, other = (fitted(monkeypatch, looped, combine=combine) for looped in (False, True))
    for first, second in zip(one, other, strict=True):
        np.testing.assert_allclose(first, second, rtol=2e-4, atol=2e-5)
