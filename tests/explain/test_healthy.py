"""Programs in which nothing is wrong: no finding, nothing moved, and numbers that are right."""

import contextlib
import importlib.util
import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import polytape as pt
from broken import X, Y, compiled, mse, net
from polytape.problems import load

pytestmark = pytest.mark.engine
FOLDER = Path(__file__).resolve().parents[2] / "examples" / "patterns"
PATTERNS = sorted(path.stem for path in FOLDER.glob("*.py"))


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"healthy_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def batch_of(data: dict[str, Any], size: int = 64) -> tuple[Any, Any]:
    """The first samples of the arguments of `fit`."""
    x, y = data["x"], data.get("y")
    if y is None and not isinstance(x, (np.ndarray, dict, list)):  # a data set
        first = x[0] if isinstance(x, keras.utils.PyDataset) else next(iter(x))
        return keras.utils.unpack_x_y_sample_weight(first)[:2]

    def cut(nest: Any) -> Any:
        return keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[:size], nest)

    return cut(x), cut(y)


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name: str) -> None:
    keras.utils.set_random_seed(1)
    model, data = module(name).build()
    x, y = batch_of(data)
    found = pt.explain(model, x, y)
    assert not found.findings, found
    assert set(found.losses) == set(model.plan.names)


@pytest.mark.parametrize("name", ["toy", "multidigits"])
def test_problems(name: str) -> None:
    keras.utils.set_random_seed(1)
    problem = load(name)
    x, y, *_ = problem.load_data()
    model = pt.Model(*problem.build())
    compiled(model, loss=problem.losses, combine="upgrad")
    found = pt.explain(model, x[:64], {key: target[:64] for key, target in y.items()})
    assert not found.findings, found


# ---------------------------------------------------------------------- layers out of the ordinary


class Straight(layers.Layer):
    """Rounds, and lets the gradient through."""

    def call(self, x: Any) -> Any:
        return x + ops.stop_gradient(ops.round(x) - x)


class Custom(layers.Layer):
    """A derivative of its own, which is that of the identity."""

    def call(self, x: Any) -> Any:
        @ops.custom_gradient
        def coarse(x: Any) -> Any:
            def grad(*args: Any, upstream: Any = None) -> Any:
                return upstream if upstream is not None else args[0]

            return ops.round(x), grad

        return coarse(x)


class Remembered(layers.Layer):
    """Computed again on the way back."""

    def build(self, shape: Any) -> None:
        self.dense = layers.Dense(4, activation="relu")
        self.dense.build(shape)

    def call(self, x: Any) -> Any:
        return keras.remat(self.dense)(x)


def straight() -> tuple[Any, Any, Any]:
    inputs = keras.Input((3,))
    return inputs, Straight()(layers.Dense(4, name="trunk")(inputs)), X


def custom() -> tuple[Any, Any, Any]:
    inputs = keras.Input((3,))
    return inputs, Custom()(layers.Dense(4, name="trunk")(inputs)), X


def remat() -> tuple[Any, Any, Any]:
    inputs = keras.Input((3,))
    return inputs, Remembered()(layers.Dense(4, name="trunk")(inputs)), X


def recurrent() -> tuple[Any, Any, Any]:
    inputs = keras.Input((5,), dtype="int32")
    words = layers.Embedding(7, 3, mask_zero=True)(inputs)
    hidden = layers.Bidirectional(layers.LSTM(4))(words)
    numbers = np.random.default_rng(0).integers(1, 7, (8, 5))
    numbers[:, 3:] = 0
    return inputs, hidden, numbers


def convolution() -> tuple[Any, Any, Any]:
    inputs = keras.Input((8, 8, 3))
    hidden = layers.Conv2D(4, 3)(inputs)
    hidden = layers.BatchNormalization()(hidden)
    hidden = layers.Dropout(0.3)(layers.ReLU()(hidden))
    hidden = layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(hidden))
    return inputs, hidden, np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")


def attention() -> tuple[Any, Any, Any]:
    inputs = keras.Input((5, 4))
    hidden = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    hidden = layers.LayerNormalization()(hidden + inputs)
    hidden = layers.GlobalAveragePooling1D()(hidden)
    return inputs, hidden, np.random.default_rng(0).normal(size=(8, 5, 4)).astype("float32")


def low_rank() -> tuple[Any, Any, Any]:
    """Half of what is added starts at zero, so that the other half has no gradient yet."""
    inputs = keras.Input((3,))
    dense = layers.Dense(4)
    hidden = dense(inputs)
    dense.enable_lora(2)
    return inputs, hidden, X


def masked_attention() -> tuple[Any, Any, Any]:
    """Infinite numbers that are meant."""
    inputs = keras.Input((4, 3))
    scores = layers.Dense(4)(inputs)
    causal = np.where(np.tril(np.ones((4, 4))), 0.0, -np.inf).astype("float32")
    weights = layers.Lambda(lambda s: ops.softmax(ops.add(s, causal)), output_shape=(4, 4))(scores)
    hidden = layers.Flatten()(layers.Dot((2, 1))([weights, inputs]))
    return inputs, hidden, np.random.default_rng(0).normal(size=(8, 4, 3)).astype("float32")


LAYERS = (low_rank, masked_attention, straight, custom, remat, recurrent, convolution, attention)


@pytest.mark.parametrize("make", LAYERS, ids=lambda make: make.__name__)
def test_layers(make: Any) -> None:
    keras.utils.set_random_seed(3)
    inputs, hidden, x = make()
    model = pt.Model(inputs, {n: layers.Dense(2, name=n)(hidden) for n in ("a", "b")})
    compiled(model, loss={"a": "mse", "b": "mae"}, combine="upgrad")
    found = pt.explain(model, x, {"a": Y, "b": Y})
    assert not found.findings, found


def test_gradients_that_are_meant_to_stop() -> None:
    """A head that looks on: the loss has its own network to train, and the other has its own."""
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, name="trunk")(inputs)
    aside = layers.Lambda(ops.stop_gradient, output_shape=(4,))(hidden)
    outputs = {"a": layers.Dense(2, name="a")(hidden), "b": layers.Dense(2, name="b")(aside)}
    model = compiled(pt.Model(inputs, outputs), loss={"a": "mse", "b": "mse"}, combine="upgrad")
    assert not pt.explain(model, X, {"a": Y, "b": Y}).findings


def test_a_code_book() -> None:
    """Three losses, each with a gradient that is stopped for the other two."""
    encoder, decoder = net("encoder"), net("decoder", 3, 2)
    book = layers.Embedding(5, 2, name="book")
    book.build()

    def losses() -> dict[str, Any]:
        code = encoder(X)
        away = ops.expand_dims(code, 1) - ops.expand_dims(book.embeddings, 0)
        chosen = book(ops.argmin(ops.sum(away**2, -1), 1))
        return {
            "rec": mse(X, decoder(code + ops.stop_gradient(chosen - code))),
            "book": mse(ops.stop_gradient(code), chosen),
            "commit": mse(code, ops.stop_gradient(chosen)),
        }

    found = pt.explain(losses, {"encoder": encoder, "book": book, "decoder": decoder})
    assert not found.findings, found


# ---------------------------------------------------------------------- nothing moves


def noisy() -> keras.Model:
    inputs = keras.Input((3,))
    hidden = layers.Dropout(0.5)(layers.BatchNormalization()(layers.Dense(4)(inputs)))
    model = pt.Model(inputs, {n: layers.Dense(2, name=n)(hidden) for n in ("a", "b")})
    return compiled(model, loss={"a": "mse", "b": "mae"}, metrics={"a": ["mae"]}, combine="dwa")


def held(model: keras.Model) -> list[np.ndarray]:
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [np.array(ops.convert_to_numpy(variable.value)) for variable in variables]


def test_nothing_is_updated() -> None:
    model = noisy()
    model.fit(X, {"a": Y, "b": Y}, verbose=0)
    before = held(model), random.getstate(), np.random.get_state()[1].tolist()
    first, second = (pt.explain(model, X, {"a": Y, "b": Y}) for _ in range(2))
    for one, other in zip(before[0], held(model), strict=True):
        np.testing.assert_array_equal(one, other)
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert str(first) == str(second)


@pytest.mark.parametrize("fails", [False, True])
def test_losses_that_draw_and_fail(fails: bool) -> None:
    """Whatever a loss draws by, and where it fails half-way: nothing has moved."""
    inputs = keras.Input((3,))
    hidden = layers.Dropout(0.5)(layers.BatchNormalization()(layers.Dense(4)(inputs)))
    broken: list[bool] = []
    seeds = keras.random.SeedGenerator(5)  # no variable of the model

    def draws(y: Any, p: Any) -> Any:
        random.random(), np.random.rand()
        noise = keras.random.normal((2,), seed=seeds)
        return ops.mean(ops.square(ops.subtract(y, p) + 0.0 * noise), -1)

    def fails_once(y: Any, p: Any) -> Any:
        if broken:
            raise ValueError("half-way")
        return ops.mean(ops.abs(ops.subtract(y, p)), -1)

    model = pt.Model(inputs, {n: layers.Dense(2, name=n)(hidden) for n in ("a", "b")})
    compiled(model, loss={"a": draws, "b": fails_once}, combine="dwa", run_eagerly=True)
    model.fit(X, {"a": Y, "b": Y}, verbose=0)
    before = held(model), random.getstate(), np.random.get_state()[1].tolist()
    state = ops.convert_to_numpy(seeds.state)
    broken[:] = [True] * fails
    failure = pytest.raises(ValueError, match="half-way")
    with failure if fails else contextlib.nullcontext():
        pt.explain(model, X, {"a": Y, "b": Y})
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
    np.testing.assert_array_equal(ops.convert_to_numpy(seeds.state), state)
    for one, other in zip(before[0], held(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_many_objectives_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    x, names = keras.Input((3,)), [f"objective_{number:02d}" for number in range(9)]
    hidden = x
    for number in range(12):
        hidden = layers.Dense(3, name=f"block_{number:02d}_projection")(hidden)
    model = pt.Model(x, {name: layers.Dense(1, name=name)(hidden) for name in names})
    compiled(model, loss=dict.fromkeys(names, "mse"), combine="sum")
    found = pt.explain(model, X, dict.fromkeys(names, Y[:, :1]))
    table = str(found).split("Nothing is wrong")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert all(name in table for name in names)


def test_training_goes_on_as_without() -> None:
    histories = []
    for explained in (False, True):
        keras.utils.set_random_seed(0)
        model = noisy()
        if explained:
            pt.explain(model, X, {"a": Y, "b": Y})
        found = model.fit(X, {"a": Y, "b": Y}, epochs=3, shuffle=False, verbose=0)
        histories.append(found.history)
    for key, values in histories[0].items():
        np.testing.assert_allclose(histories[1][key], values, rtol=1e-6)


# ---------------------------------------------------------------------- numbers


def two_heads(**settings: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, activation="tanh", name="trunk")(inputs)
    model = pt.Model(inputs, {n: layers.Dense(2, name=n)(hidden) for n in ("a", "b")})
    return compiled(model, loss={"a": "mse", "b": "mae"}, **settings)


@pytest.mark.parametrize("combine", ["sum", "upgrad", "mgda", pt.PerNetwork(pt.UPGrad())])
def test_norms_cosines_and_shares(combine: Any) -> None:
    model = two_heads(combine=combine)
    found = pt.explain(model, X, {"a": Y, "b": -Y})
    grads = pt.gradients(
        lambda: {
            "a": mse(Y, model(X)["a"]),
            "b": ops.mean(ops.abs(ops.add(model(X)["b"], Y))),
        },
        model,
    )
    np.testing.assert_allclose(found.cosines(), grads.cosines, rtol=1e-4, atol=1e-6)
    for t, name in enumerate(("a", "b")):
        np.testing.assert_allclose(found.cell(name, "trunk").norm, grads.norms[t], rtol=1e-4)
    shares = [found.cell(name, "trunk").share for name in ("a", "b")]
    np.testing.assert_allclose(sum(shares), 1, rtol=1e-3)
    assert found.cell("a", "b").empty
    assert found.cell("b", "b").share == pytest.approx(1, abs=1e-4)
    if combine == "sum":
        trunk = [v for v, path in enumerate(grads.connectivity.paths) if "trunk" in path]
        rows = np.array(
            [
                np.concatenate([np.ravel(ops.convert_to_numpy(grads[n][v])) for v in trunk])
                for n in ("a", "b")
            ]
        )
        update = rows.sum(axis=0)
        np.testing.assert_allclose(shares, rows @ update / (update @ update), rtol=1e-3)


def test_drill_down_and_json() -> None:
    found = pt.explain(two_heads(combine="upgrad"), X, {"a": Y, "b": Y})
    assert "trunk" in str(found)
    assert "trunk/kernel" in found.by_variable()
    assert "trunk/kernel" not in found.by_layer()
    record = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert record["cells"]["a"]["b"] == {
        "norm": 0.0,
        "share": 0.0,
        "cosine": None,
        "reached": False,
        "routed": True,
    }
    with pytest.raises(KeyError, match="No cell 'a' x 'c'"):
        found.cell("a", "c")


def test_the_first_batch_of_a_data_set() -> None:
    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            return X[:4] + index, {"a": Y[:4], "b": Y[:4]}

    model = two_heads(combine="upgrad")
    right = pt.explain(model, X[:4], {"a": Y[:4], "b": Y[:4]})
    batches = Batches()
    assert pt.explain(model, batches).losses == right.losses
    assert pt.explain(model, (batches[index] for index in range(2))).losses == right.losses


def test_of_gradients() -> None:
    model = net("net")
    grads = pt.gradients(
        lambda: {"a": mse(Y, model(X)), "b": ops.mean(ops.maximum(model(X), 100.0))}, model
    )
    found = pt.explain(grads)
    (finding,) = found.findings
    assert (finding.objective, finding.network) == ("b", "net")
    assert "pt.explain with the function" in finding.remedy


# ---------------------------------------------------------------------- wrong calls


def test_told_clearly() -> None:
    model = two_heads()
    with pytest.raises(TypeError, match="needs one batch"):
        pt.explain(model)
    with pytest.raises(TypeError, match="needs the variables beside the function"):
        pt.explain(lambda: {"a": 0.0})
    with pytest.raises(TypeError, match=r"pt\.explain takes a compiled pt\.Model"):
        pt.explain(3)
    with pytest.raises(RuntimeError, match="which was not compiled"):
        pt.explain(pt.Model(networks={"net": net("net")}), X)
    with pytest.raises(RuntimeError, match=r"pt\.Model\.wrap"):
        pt.explain(net("net"), X, Y)
