"""`compile(memory="low")`: the same training, with gradients that never exist."""

import contextlib
import functools
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import polytape as pt
from polytape.engines import engine
from slopes import slope

pytestmark = pytest.mark.engine
EAGER = keras.backend.backend() != "jax"  # which compiles each operation
WIDE, BATCH = 256, 8  # a kernel of more weights than there are outputs, many times


def model(regularised: bool = False) -> Any:
    rng = np.random.default_rng(0)
    rule = keras.regularizers.L2(1e-3) if regularised else None
    inputs = keras.Input((WIDE,))
    hidden = layers.Dense(WIDE, "tanh", kernel_regularizer=rule, name="wide")(inputs)
    hidden = layers.Reshape((1, WIDE))(hidden)
    hidden = layers.LSTM(64, name="lstm")(hidden)
    names = ("a", "b", "c")
    found = pt.Model(inputs, {name: layers.Dense(2, name=name)(hidden) for name in names})
    for variable in found.trainable_variables:
        variable.assign(rng.normal(size=variable.shape) / np.sqrt(variable.shape[0]))
    return found


def data(missing: bool = False) -> tuple[Any, dict[str, Any]]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4 * BATCH, WIDE)).astype("float32")
    y = {name: rng.normal(size=(len(x), 2)).astype("float32") for name in "abc"}
    if missing:
        y["a"][BATCH : 2 * BATCH] = np.nan
        y["b"][1] = np.inf
    return x, y


def trained(memory: str, missing: bool = False, regularised: bool = False, **settings: Any) -> Any:
    found = model(regularised)
    settings = {"combine": pt.UPGrad(), "verbose": 0, **settings}
    found.compile(keras.optimizers.SGD(0.05), memory=memory, **settings)
    found.fit(*data(missing), batch_size=BATCH, epochs=1, shuffle=False, verbose=0)
    return found


def weights(found: Any) -> np.ndarray:
    return np.concatenate([np.ravel(v.numpy()) for v in found.trainable_variables])


OBJECTIVES = [pt.Objective(name, "mse") for name in "abc"]
CASES: dict[str, dict[str, Any]] = {
    "a loss each": {"loss": "mse"},
    "missing labels": {"objectives": OBJECTIVES, "missing": True},
    "one left out, regularised": {"loss": "mse", "missing": True, "regularised": True},
    "rows are looked at": {"loss": "mse", "combine": pt.GradDrop(), "seed": 3},
    "by network": {"loss": "mse", "combine": pt.PerNetwork(pt.MGDA())},
    "a chain": {"loss": "mse", "combine": pt.Chain(pt.Normalize(), pt.Clip(0.5), pt.UPGrad())},
    "now and then": {"loss": "mse", "combine": pt.Every(pt.IMTLG(), 2)},
    "joint": {"loss": "mse", "private": "joint", "run_eagerly": EAGER},
    "routes": {
        "objectives": [pt.Objective("a", "mse", trains=["a", "wide"]), *OBJECTIVES[1:]],
        "run_eagerly": EAGER,
    },
    "phases": {"objectives": OBJECTIVES, "phases": [["a", "b"], "c"], "run_eagerly": EAGER},
}


@pytest.mark.parametrize("case", CASES)
def test_trains_as_with_rows(case: str) -> None:
    high, low = (weights(trained(memory, **CASES[case])) for memory in ("high", "low"))
    moved = np.linalg.norm(high - weights(model()))
    assert moved > 0
    assert np.linalg.norm(low - high) <= 1e-5 * moved


def test_in_loops_of_ones_own() -> None:
    x, y = data()
    x, *targets = (keras.ops.convert_to_tensor(part[:BATCH]) for part in (x, *y.values()))
    y = dict(zip(y, targets, strict=True))
    found, updates, moved = model(), [], []

    def losses(x: Any, y: Any) -> Any:
        outputs = found(x, training=True)
        return {name: keras.ops.mean((outputs[name] - y[name]) ** 2) for name in "abc"}

    start = found.get_weights()
    for memory in ("high", "low"):
        found.set_weights(start)

        def asked(x: Any, memory: Any = memory) -> Any:
            grads = pt.gradients(lambda: losses(x, y), found, memory=memory)
            only = grads.combine("upgrad", losses=["a", "b"])
            return [*grads.combine("upgrad"), *(g for g in only if g is not None), *grads["a"][:2]]

        run = asked if EAGER else engine().compiled(asked)
        updates.append([keras.ops.convert_to_numpy(u) for u in run(x)])
        step = pt.compiled_step(losses, "sgd", "upgrad", found, memory=memory, run_eagerly=EAGER)
        step(x, y)
        moved.append([now - then for now, then in zip(found.get_weights(), start, strict=True)])
    for one, other in zip([*updates[0], *moved[0]], [*updates[1], *moved[1]], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * np.abs(one).max() + 3e-8)


def test_loops_are_told_what_it_does_not_go_with() -> None:
    found = model()

    def losses() -> Any:
        return {"a": keras.ops.mean(found(np.ones((2, WIDE)))["a"])}

    with pytest.raises(TypeError, match='memory="low" reads gradients off the calls'):
        pt.gradients(losses, found.trainable_variables, memory="low")
    with pytest.raises(ValueError, match=r'"high" or "low"\. Received: \'small\''):
        pt.gradients(losses, found, memory="small")
    with pytest.raises(ValueError, match="MoCo remembers those of earlier steps"):
        pt.compiled_step(losses, "sgd", "moco", found, memory="low")


def test_a_monitor_sees_the_same(tmp_path: Any) -> None:
    norms = []
    for memory in ("high", "low"):
        found = model()
        found.compile("sgd", "mse", combine="upgrad", memory=memory, verbose=0)
        monitor = pt.callbacks.GradientMonitor(tmp_path / memory, every=1)
        found.fit(
            *data(), batch_size=BATCH, epochs=1, shuffle=False, verbose=0, callbacks=[monitor]
        )
        norms.append([[*record.norms.values()] for record in monitor.records])
    np.testing.assert_allclose(*norms, rtol=1e-4)


@pytest.mark.parametrize("cancelled", [False, True])
def test_wide_layers_are_compared_with_less_work(cancelled: bool) -> None:
    """And as exactly, where the gradients of single examples cancel almost entirely."""
    inputs = keras.Input((256,))
    hidden = layers.Dense(256, "tanh", name="wide")(inputs)
    found = pt.Model(inputs, {name: layers.Dense(1, name=name)(hidden) for name in "ab"})
    rng = np.random.default_rng(2)
    x = rng.normal(size=(32, 256)).astype("float32")
    y = {name: rng.normal(size=(32, 1)).astype("float32") for name in "ab"}
    if cancelled:
        x[16:] = x[:16] + 1e-4 * rng.normal(size=(16, 256))
        for name, target in found.predict(x, verbose=0).items():
            y[name][:16], y[name][16:] = target[:16] - 1, target[16:] + 1
    start, moved = found.get_weights(), []
    plain = keras.Model(found.inputs, found.output)
    for memory in ("auto", "high"):
        found.set_weights(start)
        found.compile(keras.optimizers.SGD(0.5), "mse", combine="upgrad", memory=memory, verbose=0)
        wrapped = pt.Model.wrap(plain)
        wrapped.compile("sgd", "mse", combine="upgrad", memory=memory, verbose=0)
        noted = found.compilation.plan.phases[0].noted
        assert noted == wrapped.compilation.plan.phases[0].noted
        assert noted == ("cheaper" if memory == "auto" else "none")
        found.train_on_batch(x, y)
        moved.append(found.layers[1].kernel.numpy() - start[0])
    far = np.linalg.norm(moved[0] - moved[1]) / np.linalg.norm(moved[1])
    assert far < (2e-3 if cancelled else 1e-5)


def test_only_layers_with_many_weights_are_noted() -> None:
    from polytape.differentiation import layer_calls

    asked = {}
    chooses = layer_calls.with_many_weights
    found = model()
    for layer in found.layers:
        if layer.weights:
            x = keras.ops.zeros((BATCH, *layer.input.shape[1:]))
            own = [] if layer.name == "lstm" else layer.trainable_variables
            asked[layer.name] = chooses(layer, own, [x], {})
    assert asked == {"wide": True, "lstm": True, "a": False, "b": False, "c": False}


def test_told_what_it_does_not_go_with() -> None:
    with pytest.raises(ValueError, match=r"one of \('auto', 'low', 'high'\). Received: 'small'"):
        model().compile("sgd", "mse", combine="upgrad", memory="small")
    with pytest.raises(ValueError, match="MoCo remembers those of earlier steps"):
        model().compile("sgd", "mse", combine="moco", memory="low")
    with pytest.raises(ValueError, match="MoDo takes them on halves of the batch"):
        model().compile("sgd", "mse", combine="modo", memory="low")


def test_is_kept_with_the_model(tmp_path: Any) -> None:
    found = trained("low", loss="mse")
    found.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_compile_config()["memory"] == "low"
    assert again.compilation.plan.phases[0].noted == "large"


def test_chosen_where_rows_take_much_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    found = model()
    rows = 3 * 4 * sum(int(np.prod(v.shape)) for v in found.trainable_variables)
    for whole, noted in ((None, "cheaper"), (4 * rows, "cheaper"), (4 * rows - 1, "large")):
        monkeypatch.setattr(engine(), "device_memory", lambda whole=whole: whole)
        found.compile("sgd", "mse", combine="upgrad", verbose=0)
        assert found.compilation.plan.phases[0].noted == noted


# ---------------------------------------------------------------------- functions within a step


class Within(layers.Layer):
    """Calls a wide layer inside of a function that frameworks trace, or run, by themselves."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.dense = way, layers.Dense(WIDE, _ACTIVATION[way], name="inner")

    def build(self, shape: Any) -> None:
        self.dense.build(shape)

    def call(self, x: Any) -> Any:
        if self.way == "remat":
            return keras.remat(lambda rows: self.dense(rows))(x)
        if self.way == "scan":
            return keras.ops.scan(lambda h, _: (self.dense(h), None), x, None, length=2)[0]
        if self.way == "while":
            return keras.ops.fori_loop(0, 2, lambda _, h: self.dense(h), x)
        if self.way == "cond":
            return keras.ops.cond(keras.ops.sum(x) > -1e9, lambda: self.dense(x), lambda: x)
        if self.way == "map":
            return keras.ops.vectorized_map(lambda row: self.dense(row[None])[0], x)
        if self.way == "in place":
            return self.dense(x.relu_()).relu_()
        return self.dense(x)


WAYS = ["remat", "scan", "while", "cond", "map", "scope", "in place"]
_ACTIVATION = {way: None if way == "in place" else "tanh" for way in WAYS}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("memory", ["auto", "low"])
def test_layers_within_functions_train_as_with_rows(way: str, memory: str) -> None:
    if way == "while" and keras.backend.backend() == "jax":
        pytest.skip("JAX differentiates no such loop")
    if way == "in place" and keras.backend.backend() != "torch":
        pytest.skip("Tensors cannot be changed")

    def made(memory: str) -> tuple[Any, np.ndarray]:
        with keras.RematScope("full") if way == "scope" else contextlib.nullcontext():
            inputs = keras.Input((WIDE,))
            hidden = Within(way)(layers.Dense(WIDE, _ACTIVATION[way], name="outer")(inputs))
            outputs = {name: layers.Dense(2, name=name)(hidden) for name in "abc"}
        found = pt.Model(inputs, outputs)
        rng = np.random.default_rng(0)
        for variable in found.trainable_variables:
            variable.assign(rng.normal(size=variable.shape) / np.sqrt(variable.shape[0]))
        start = weights(found)
        found.compile(keras.optimizers.SGD(0.05), "mse", combine="upgrad", memory=memory, verbose=0)
        x, y = data()
        found.train_on_batch(x[:BATCH], {name: y[name][:BATCH] for name in y})
        return found, weights(found) - start

    (_, high), (found, low) = made("high"), made(memory)
    assert found.compilation.plan.phases[0].noted == {"auto": "cheaper", "low": "large"}[memory]
    assert np.linalg.norm(low - high) <= 1e-5 * np.linalg.norm(high)


def test_second_derivatives_are_seen() -> None:
    """What a penalty on a gradient says of the weights does not pass a layer's outputs."""
    critic = model()
    x = keras.ops.convert_to_tensor(data()[0][:BATCH])

    def losses() -> Any:
        slope = pt.derivative(lambda z: keras.ops.sum(critic(z)["a"]), x)
        penalty = keras.ops.mean((keras.ops.sum(slope**2, axis=-1) - 1.0) ** 2)
        return {"critic": keras.ops.mean(critic(x)["a"]), "penalty": penalty}

    def asked() -> Any:
        both = [pt.gradients(losses, critic, memory=memory) for memory in ("high", "low")]
        return [[g for g in grads.combine("upgrad") if g is not None] for grads in both]

    high, low = asked() if EAGER else engine().compiled(asked)()
    for one, other in zip(high, low, strict=True):
        one, other = keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5 * np.abs(one).max())


def test_only_what_stands_in_a_graph_is_noted_unasked() -> None:
    class Own(pt.Model):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.head = layers.Dense(WIDE), layers.Dense(1)

        def call(self, x: Any) -> Any:
            hidden = self.wide(x)
            return {"a": self.head(hidden), "b": hidden[:, :1]}

    found = Own()
    found(keras.ops.ones((BATCH, WIDE)))
    found.compile("sgd", {"a": "mse", "b": "mse"}, combine="upgrad", verbose=0)
    x, y = np.ones((BATCH, WIDE)), np.ones((BATCH, 1))
    found.train_on_batch(x, {"a": y, "b": y})
    assert found.compilation.plan.phases[0].noted == "none"


@pytest.mark.parametrize("way", ["by inputs", "by features"])
def test_second_derivatives_taken_by_hand(way: str) -> None:
    """Right where the framework tells of them in time, refused elsewhere."""
    inputs, wide, head = keras.Input((WIDE,)), layers.Dense(WIDE, "tanh"), layers.Dense(1)
    trunk = keras.Model(inputs, wide(inputs))
    critic = keras.Model(inputs, head(layers.Dense(WIDE, "tanh")(inputs)))
    x = keras.ops.convert_to_tensor(data()[0][:BATCH])

    def losses() -> Any:
        if way == "by inputs":
            found = slope(lambda z: critic(trunk(z)), x)
        else:
            found = slope(critic, x, trunk)
        penalty = keras.ops.mean((keras.ops.sum(found**2, axis=-1) - 1.0) ** 2)
        return {"critic": keras.ops.mean(critic(trunk(x))), "penalty": penalty}

    def asked(memory: str) -> Any:
        grads = pt.gradients(losses, [trunk, critic], memory=memory)
        return [g for g in grads.combine("upgrad") if g is not None]

    if keras.backend.backend() == "torch":
        with pytest.raises(ValueError, match=r"'dense.*pt\.derivative.*memory=\"high\""):
            asked("low")
        return
    for compiled in {not EAGER, True}:
        both = [functools.partial(asked, memory) for memory in ("high", "low")]
        high, low = [(engine().compiled(each) if compiled else each)() for each in both]
        for one, other in zip(high, low, strict=True):
            one, other = keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
            np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5 * np.abs(one).max())
