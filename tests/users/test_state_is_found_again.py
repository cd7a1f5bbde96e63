"""What was saved is found again in the right place, or refused before anything is changed."""

import copy
import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from fresh import ROOT, fresh
from linear import objective, random_rows, variables_of
from small import LOSSES, arrays, assert_same, data, everything, fill, tensors

pytestmark = pytest.mark.engine
BACKEND = keras.backend.backend()
X, Y = data(8)
TWO = {name: Y[name] for name in "ab"}
REMEDIES = (
    "To resume, compile as it was when the file was written. To take the weights and start the "
    "method afresh: load_weights(path, skip_mismatch=True), or "
    "keras.models.load_model(path, compile=False) and then compile()."
)


def twice() -> pt.Method:
    """A method whose state has several entries, in an order that is not that of their names."""
    return pt.Smoothed(pt.Smoothed(pt.MGDA()), decay=0.5)


def smoothed() -> pt.Method:
    return pt.Chain(pt.Reweight({"a": 0.5}), twice())


def trained(combine: Any = None, seed: int = 0, **settings: Any) -> pt.Model:
    found = fill(pt.Model(*tensors()), seed)
    method = smoothed() if combine is None else combine
    found.compile(keras.optimizers.Adam(0.01), LOSSES, combine=method, run_eagerly=True, **settings)
    found.train_on_batch(X, Y)
    return found


def of_objectives(
    names: str = "ab", weights: Any = None, seed: int = 0, trains: Any = None, **settings: Any
) -> pt.Model:
    """The model of `trained` on two of its heads, as objectives."""
    found = fill(pt.Model(*tensors()), seed)
    found.get_layer("c").trainable = False
    weights = weights or dict.fromkeys(names, 1.0)
    given = [pt.Objective(name, "mse", weight=weights[name], trains=trains) for name in names]
    settings = {"combine": twice(), "verbose": 0, "run_eagerly": True, **settings}
    found.compile(keras.optimizers.Adam(0.01), objectives=given, **settings)
    found.train_on_batch(X, TWO)
    return found


def state(found: pt.Model) -> dict[str, list[Any]]:
    """Arrays of the methods' states by phase and place."""
    return {
        "/".join([*course.names, *path]): ops.convert_to_numpy(variable.value).tolist()
        for course in found.plan.phases
        for path, variable in course.aggregator.state.named_variables.items()
    }


def refused(found: pt.Model, path: Path, text: str) -> None:
    """Loading raises, with the remedies, and leaves everything as it was."""
    before, step = everything(found), state(found)
    with pytest.raises(ValueError, match=text) as error:
        found.load_weights(path)
    assert REMEDIES in str(error.value)
    assert_same(before, everything(found))
    assert state(found) == step


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of models of the same variables, differently compiled."""
    folder = tmp_path_factory.mktemp("saved")
    models = {
        "losses": trained(seed=1),
        "objectives": of_objectives(seed=1),
        "memory": trained("moco", seed=1),
    }
    found = {}
    for name, each in models.items():
        found[name] = folder / f"{name}.weights.h5"
        each.save_weights(found[name])
        each.save(folder / f"{name}.keras")
        found[f"{name}.keras"] = folder / f"{name}.keras"
    return found


# ------------------------------------------------------------------ by name


def test_arrays_are_found_by_name_whatever_their_order() -> None:
    """As a backend writes them that orders the entries of a dict in another way."""
    found, fresh_one = trained(seed=1), trained()
    store: dict[str, Any] = {}
    found.method_state.save_own_variables(store)
    record = json.loads(np.asarray(store["signature"]).tobytes().decode())
    places = record["states"][0]["arrays"]
    assert len(places) == 5
    turned = dict(zip(places, reversed(places), strict=True))
    record["states"][0]["arrays"] = {turned[key]: path for key, path in places.items()}
    other = {turned[key]: ops.convert_to_numpy(store[key].value) for key in places}
    other["signature"] = np.frombuffer(json.dumps(record).encode(), "uint8")
    fresh_one.method_state.load_own_variables(other)
    assert state(fresh_one) == state(found)


WRITE = """
import json, sys
sys.path += ["tests/helpers", "tests/users"]
import test_state_is_found_again as own
found = own.trained(seed=1)
found.save({path!r})
print(json.dumps(own.state(found)))
"""


def test_a_file_of_another_backend(tmp_path: Path) -> None:
    other = {"tensorflow": "jax", "jax": "torch", "torch": "tensorflow"}[BACKEND]
    path = str(tmp_path / "model.keras")
    run = subprocess.run(
        [sys.executable, "-c", WRITE.format(path=path)],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": other, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    loaded = keras.models.load_model(path)
    assert state(loaded) == json.loads(run.stdout.splitlines()[-1])


def test_phases_in_another_order_find_their_own(tmp_path: Path) -> None:
    source = of_objectives(seed=1, phases=["a", "b"])
    source.reweight({"a": 0.25, "b": 0.75})
    source.save_weights(tmp_path / "m.weights.h5")
    found = of_objectives(phases=["b", "a"])
    found.load_weights(tmp_path / "m.weights.h5")
    assert state(found) == state(source)
    assert state(found)["a/scalarization/reweight"] == [0.25]
    assert int(found.plan.clock.variable.value) == 1


def test_method_state_has_paths_of_its_own() -> None:
    """As Orbax and `get_state_tree` need them."""
    found = of_objectives(phases=["a", "b"])
    tree = found.get_state_tree("numpy_array")
    found = tree["non_trainable_variables"]
    assert {"clock", "method"} <= set(found)
    assert set(found["method"]) == {"phase_0", "phase_1"}
    assert set(found["method"]["phase_0"]["smoothed"]) == {"smoothed", "weights", "seen"}
    assert set(found["method"]["phase_0"]["reweight"]) == {"reweight"}


# ------------------------------------------------------------------ refused, and nothing changed


def compiled_otherwise() -> dict[str, tuple[str, Any, str]]:
    other = {"a": 1.0, "b": 0.5}
    return {
        "loss= into objectives=": (
            "losses",
            of_objectives,
            r"Saved: Chain.*\('a', 'b', 'c'\).*Compiled: .*\('a', 'b'\).*objectives=",
        ),
        "objectives= into loss=": ("objectives", trained, r"Saved: .*objectives=.*Compiled: Chain"),
        "method": ("losses", lambda: trained("dwa"), r"Saved: Chain.*Compiled: DWA\("),
        "hyper-parameter": (
            "losses",
            lambda: trained(pt.Chain(pt.Reweight({"a": 0.25}), twice())),
            r"Saved: Chain.*'a': 0.5.*Compiled: Chain.*'a': 0.25",
        ),
        "private": (
            "losses",
            lambda: trained(private="weighted"),
            r"private='own'.*Compiled: .*private='weighted'",
        ),
        "weights": (
            "objectives",
            lambda: of_objectives(weights=other),
            "Saved: .*Compiled: .*weights {'a': 1.0, 'b': 0.5}",
        ),
        "order of objectives": ("objectives", lambda: of_objectives("ba"), r"\('b', 'a'\)"),
        "phases": (
            "objectives",
            lambda: of_objectives(phases=["a", "b"]),
            r"on \('a', 'b'\).*Compiled: .* on \('a',\).*; then .* on \('b',\)",
        ),
        "number of objectives": (
            "losses",
            two_losses,
            r"\('a', 'b', 'c'\).*Compiled: .*\('a', 'b'\)",
        ),
    }


def two_losses() -> pt.Model:
    found = fill(pt.Model(*tensors()))
    losses = {"a": "mse", "b": "huber", "c": None}
    found.compile(keras.optimizers.Adam(0.01), losses, combine=smoothed(), run_eagerly=True)
    found.train_on_batch(X, Y)
    return found


@pytest.mark.parametrize("what", compiled_otherwise())
def test_another_state_is_refused(what: str, saved: dict[str, Path]) -> None:
    source, build, text = compiled_otherwise()[what]
    refused(build(), saved[source], text)


def test_other_trained_variables_are_refused(saved: dict[str, Path]) -> None:
    """The memory has rows for each of them; as many of the same shape are not the same."""
    found = fill(pt.Model(*tensors()))
    found.get_layer("a").trainable = False
    found.compile(keras.optimizers.Adam(0.01), LOSSES, combine="moco", run_eagerly=True)
    found.train_on_batch(X, Y)
    refused(found, saved["memory"], r"over 8 variables .*Compiled: .*over 6 variables")

    def frozen(name: str) -> pt.Model:
        each = fill(pt.Model(*tensors()))
        each.get_layer(name).trainable = False
        each.compile(keras.optimizers.Adam(0.01), LOSSES, combine="moco", run_eagerly=True)
        each.train_on_batch(X, Y)
        return each

    path = saved["memory"].with_name("frozen.weights.h5")
    frozen("b").save_weights(path)
    with warnings.catch_warnings(record=True):
        refused(frozen("a"), path, r"numbers \[0, 1, 2, 3, 6, 7\].*Compiled.*\[0, 1, 4, 5, 6, 7\]")


def test_arrays_of_another_shape_are_refused(tmp_path: Path) -> None:
    found = trained()
    store: dict[str, Any] = {}
    found.method_state.save_own_variables(store)
    record = json.loads(np.asarray(store["signature"]).tobytes().decode())
    key = next(k for k, path in record["states"][0]["arrays"].items() if path[-1] == "weights")
    other = {**store, key: np.zeros((7,), "float32")}
    before = state(found)
    with pytest.raises(
        ValueError, match=r"'combination.*weights' has the shape \(7,\).*\(3,\) here"
    ):
        found.method_state.load_own_variables(other)
    assert state(found) == before


def test_a_file_from_before_states_had_names() -> None:
    found = trained()
    config = keras.saving.serialize_keras_object(smoothed())
    old = json.dumps({"method": config, "objectives": ["a", "b", "c"]})
    store = {"signature": np.frombuffer(old.encode(), "uint8"), "0": np.zeros((3,), "float32")}
    with pytest.raises(ValueError, match=r"without names, as earlier versions wrote it.*To resume"):
        found.method_state.load_own_variables(store)


def test_layers_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    """Also where Keras alone would have loaded half of the layers."""
    inputs = keras.Input((4,), name="x")
    hidden = keras.layers.Dense(6, activation="tanh", name="trunk")(inputs)
    heads = {name: keras.layers.Dense(2, name=name)(hidden) for name in "abc"}
    keras.Model(inputs, heads).save_weights(tmp_path / "m.weights.h5")
    found = trained()
    before = everything(found)
    with pytest.raises(ValueError, match="could not be loaded"):
        found.load_weights(tmp_path / "m.weights.h5")
    assert_same(before, everything(found))


# ------------------------------------------------------------------ the remedies that it names


def test_weights_alone_and_the_method_afresh(saved: dict[str, Path]) -> None:
    found = trained("dwa")
    source = trained(seed=1)
    before = state(found)
    with pytest.warns(UserWarning, match="state of another method"):
        found.load_weights(saved["losses"], skip_mismatch=True)
    assert_same(arrays(source.trainable_variables), arrays(found.trainable_variables))
    assert_same(arrays(source.optimizer.variables), arrays(found.optimizer.variables))
    assert state(found) == before
    found.train_on_batch(X, Y)


def test_load_without_compile_and_compile_anew(saved: dict[str, Path]) -> None:
    found = keras.models.load_model(saved["losses.keras"], compile=False)
    with pytest.warns(UserWarning, match=r"The method starts afresh: .*Saved: Chain.*DWA\("):
        found.compile("adam", LOSSES, combine="dwa", run_eagerly=True)
    assert_same(arrays(trained(seed=1).trainable_variables), arrays(found.trainable_variables))
    found.train_on_batch(X, Y)


def test_a_method_without_state_leaves_it_aside(saved: dict[str, Path]) -> None:
    found = trained("sum")
    with pytest.warns(UserWarning, match="What is compiled keeps no state, so that is left aside"):
        found.load_weights(saved["losses"])
    source = trained(seed=1)
    assert_same(arrays(source.trainable_variables), arrays(found.trainable_variables))
    found.compile("adam", LOSSES, combine="dwa", run_eagerly=True)
    found.train_on_batch(X, Y)


def test_compile_as_it_was(saved: dict[str, Path]) -> None:
    found = trained()
    found.load_weights(saved["losses"])
    source = trained(seed=1)
    assert_same(everything(source), everything(found))
    assert state(found) == state(source)


def test_loaded_before_compile(saved: dict[str, Path]) -> None:
    found = fill(pt.Model(*tensors()))
    found.load_weights(saved["losses"])
    found.compile(keras.optimizers.Adam(0.01), LOSSES, combine=smoothed(), run_eagerly=True)
    assert state(found) == state(trained(seed=1))


def test_a_new_field_of_a_method_is_no_other_method() -> None:
    """A version that adds a hyper-parameter still reads the files of the one before."""
    found = trained(pt.Smoothed(pt.UPGrad()))
    store: dict[str, Any] = {}
    found.method_state.save_own_variables(store)
    record = json.loads(np.asarray(store["signature"]).tobytes().decode())
    method = record["states"][0]["method"]
    del method["config"]["inner"]["config"]["preference"]
    method["module"] = "polytape.elsewhere"
    store["signature"] = np.frombuffer(json.dumps(record).encode(), "uint8")
    fresh_one = trained(pt.Smoothed(pt.UPGrad()), seed=1)
    fresh_one.method_state.load_own_variables(store)
    assert state(fresh_one) == state(found)


# ------------------------------------------------------------------ a model that is not built yet


@keras.saving.register_keras_serializable(package=__name__)
class Lazy(pt.Model):
    """Its objectives are known when the first batch has been through."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trunk = keras.layers.Dense(3)
        self.a, self.b = keras.layers.Dense(1), keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        hidden = self.trunk(x)
        return {"a": self.a(hidden), "b": self.b(hidden)}


def lazy(combine: Any) -> pt.Model:
    found = Lazy()
    found.compile("sgd", "mse", combine=combine, run_eagerly=True)
    found(X)
    return found


def test_before_its_first_batch(tmp_path: Path) -> None:
    source = lazy(smoothed())
    source.train_on_batch(X, TWO)
    source.save_weights(tmp_path / "m.weights.h5")
    same, other = lazy(smoothed()), lazy("dwa")
    for found in (same, other):
        found.load_weights(tmp_path / "m.weights.h5")
    for found in (source, same):
        found.train_on_batch(X, TWO)
    assert state(same) == state(source)
    before = arrays(other.trainable_variables)
    with pytest.raises(ValueError, match=r"Saved: Chain.*Compiled: DWA\("):
        other.train_on_batch(X, TWO)
    assert_same(before, arrays(other.trainable_variables))


def test_weights_of_a_plain_keras_subclass(tmp_path: Path) -> None:
    """The layers lie where Keras puts them, so both ways fit."""

    class Plain(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = keras.layers.Dense(3)
            self.a, self.b = keras.layers.Dense(1), keras.layers.Dense(1)

        def call(self, x: Any) -> Any:
            hidden = self.trunk(x)
            return {"a": self.a(hidden), "b": self.b(hidden)}

    plain, found, back = Plain(), lazy(smoothed()), Plain()
    for each in (plain, back):
        each(X)
    plain.save_weights(tmp_path / "m.weights.h5")
    found.load_weights(tmp_path / "m.weights.h5")
    assert_same(arrays(plain.trainable_variables), arrays(found.trainable_variables))
    found.train_on_batch(X, TWO)
    found.save_weights(tmp_path / "m.weights.h5")
    back.load_weights(tmp_path / "m.weights.h5")
    assert_same(arrays(back.trainable_variables), arrays(found.trainable_variables))


# ------------------------------------------------------------------ weights, seeds, counters


def test_weights_of_objectives_that_were_changed(tmp_path: Path) -> None:
    source = of_objectives(seed=1)
    source.reweight({"a": 0.25})
    source.save(tmp_path / "m.keras")
    source.save_weights(tmp_path / "m.weights.h5")
    loaded, found = keras.models.load_model(tmp_path / "m.keras"), of_objectives()
    found.load_weights(tmp_path / "m.weights.h5")
    for each in (loaded, found):
        assert state(each) == state(source)
    refused(
        of_objectives(weights={"a": 0.25, "b": 1.0}),
        tmp_path / "m.weights.h5",
        "weights {'a': 0.25, 'b': 1.0}",
    )


def test_a_weight_that_is_a_variable_or_follows_a_schedule(tmp_path: Path) -> None:
    def build(value: float) -> pt.Model:
        schedule = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5)
        weights = {"a": keras.Variable(value), "b": schedule}
        return of_objectives(weights=weights)

    source, found = build(0.5), build(0.75)
    source.save_weights(tmp_path / "m.weights.h5")
    found.load_weights(tmp_path / "m.weights.h5")
    assert state(found) == state(source)


def busy(seed: int, layers: int = 2) -> pt.Model:
    inputs = hidden = keras.Input((4,), name="x")
    for _ in range(layers):
        hidden = keras.layers.Dropout(0.5, seed=seed)(keras.layers.Dense(4)(hidden))
    heads = {name: keras.layers.Dense(1, name=name)(hidden) for name in "ab"}
    found = fill(pt.Model(inputs, heads))
    found.compile("sgd", {"a": "mse", "b": "mse"}, combine="dwa", run_eagerly=True)
    return found


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch's generator keeps its own state")
def test_seeds_of_layers(tmp_path: Path) -> None:
    """Dropout's names are other ones in every model of a process; the layers are the same."""
    source, found = busy(1), busy(2)
    source.train_on_batch(X, TWO)
    source.save_weights(tmp_path / "m.weights.h5")
    found.load_weights(tmp_path / "m.weights.h5")
    for each in (source, found):
        each.train_on_batch(X, TWO)
    assert_same(arrays(source.trainable_variables), arrays(found.trainable_variables))


def test_seeds_of_other_layers(tmp_path: Path) -> None:
    source = trained("dwa")
    busy(1).save_weights(tmp_path / "m.weights.h5")
    store: dict[str, Any] = {}
    busy(1).method_state.save_own_variables(store)
    with pytest.warns(UserWarning, match="seeds of 2 layers .* the model has 0 such layers"):
        source.method_state.load_own_variables({k: v for k, v in store.items() if "seed" in k})


def test_counters_begin_anew(tmp_path: Path) -> None:
    source = trained()
    bad = {**Y, "a": np.full_like(Y["a"], np.inf)}
    source.train_on_batch(X, bad)
    assert source.plan.dropped.total() == 1
    source.save(tmp_path / "m.keras")
    assert keras.models.load_model(tmp_path / "m.keras").plan.dropped.total() == 0


def test_compile_config() -> None:
    source = of_objectives(phases=["b", "a"], private="weighted", on_nonfinite="skip")
    found = fill(pt.Model(*tensors()))
    found.compile_from_config(source.get_compile_config())
    assert found.compilation.settings.private == "weighted"
    assert found.compilation.settings.on_nonfinite == "skip"
    assert [course.names for course in found.plan.phases] == [("b",), ("a",)]
    assert found.compilation.settings.seed == source.compilation.settings.seed


# ------------------------------------------------------------------ Keras's callbacks


def fit(found: pt.Model, epochs: int, *callbacks: Any) -> None:
    found.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=[*callbacks])


def test_checkpoints(tmp_path: Path) -> None:
    source = trained()
    whole = keras.callbacks.ModelCheckpoint(tmp_path / "m.keras")
    weights = keras.callbacks.ModelCheckpoint(tmp_path / "m.weights.h5", save_weights_only=True)
    fit(source, 2, whole, weights)
    loaded, found = keras.models.load_model(tmp_path / "m.keras"), trained(seed=3)
    found.load_weights(tmp_path / "m.weights.h5")
    for each in (loaded, found):
        assert state(each) == state(source)
        assert_same(everything(each), everything(source))


class KilledError(Exception):
    pass


class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 2:
            raise KilledError


def test_backup_and_restore(tmp_path: Path) -> None:
    straight, killed, resumed = trained(), trained(), trained(seed=3)
    fit(straight, 4)
    with pytest.raises(KilledError):
        fit(killed, 4, keras.callbacks.BackupAndRestore(tmp_path), Kill())
    fit(resumed, 4, keras.callbacks.BackupAndRestore(tmp_path))
    assert state(resumed) == state(straight)
    assert_same(everything(resumed), everything(straight))


# ------------------------------------------------------------------ several optimizers


def divided(names: tuple[str, str], seed: int = 0, **settings: Any) -> pt.Model:
    """Two towers of the same shapes, each with an optimizer, given in some order."""
    found = fill(towers(), seed)
    rates = {"left": 0.1, "right": 0.01}
    optimizer = {name: keras.optimizers.Adam(rates[name]) for name in names}
    given = [pt.Objective(name, "mse") for name in ("left", "right")]
    settings = {"combine": "dwa", "verbose": 0, "run_eagerly": True, **settings}
    found.compile(optimizer, objectives=given, **settings)
    found.train_on_batch(X, {"left": Y["a"], "right": Y["b"]})
    return found


def towers(names: tuple[str, ...] = ("left", "right"), **settings: Any) -> pt.Model:
    def tower(name: str) -> keras.Model:
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)], name=name)

    return pt.Model(networks={name: tower(name) for name in names}, **settings)


def slots(found: pt.Model) -> dict[str, list[Any]]:
    optimizer = found.optimizer
    return {name: arrays(optimizer[name].variables) for name in sorted(optimizer)}


def test_several_optimizers_in_another_order(tmp_path: Path) -> None:
    source, found = divided(("left", "right"), 1), divided(("right", "left"))
    source.save_weights(tmp_path / "m.weights.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found.load_weights(tmp_path / "m.weights.h5")
    for name, values in slots(source).items():
        assert_same(values, slots(found)[name])


def test_optimizers_of_other_variables_go_on_afresh(tmp_path: Path) -> None:
    """As Keras does it with one optimizer."""
    source, found = divided(("left", "right"), 1), fill(towers())
    found.compile(
        {"left": keras.optimizers.Adam(), "*": "adam"},
        objectives=[pt.Objective(name, "mse") for name in ("left", "right")],
        combine="dwa",
        verbose=0,
    )
    before = arrays(found.optimizer.variables)
    source.save_weights(tmp_path / "m.weights.h5")
    text = "optimizers 'left', '\\*': they go on afresh. The file has those of 'left', 'right'"
    with pytest.warns(UserWarning, match=text):
        found.load_weights(tmp_path / "m.weights.h5")
    assert_same(before, arrays(found.optimizer.variables))


def test_optimizers_of_a_file_from_before() -> None:
    source, found = divided(("left", "right"), 1), divided(("left", "right"))
    store = {str(i): value for i, value in enumerate(arrays(source.optimizer.variables))}
    found.optimizer.load_own_variables(store)
    assert_same(arrays(source.optimizer.variables), arrays(found.optimizer.variables))


def test_networks_in_another_order_are_refused(tmp_path: Path) -> None:
    """Keras finds them by position, and they have the same shapes."""
    source, found = fill(towers(), 1), fill(towers(("right", "left")), 2)
    source.save_weights(tmp_path / "m.weights.h5")
    before = arrays(found.trainable_variables)
    with pytest.raises(
        ValueError, match=r"networks 'left', 'right', in this order.*'right', 'left'"
    ):
        found.load_weights(tmp_path / "m.weights.h5")
    assert_same(before, arrays(found.trainable_variables))


# ------------------------------------------------------------------ copies


@keras.saving.register_keras_serializable(package=__name__)
def chained(networks: Any, x: Any) -> Any:
    return {"a": networks["left"](x), "b": networks["right"](x)}


def networked() -> pt.Model:
    found = fill(towers(forward=chained))
    given = [pt.Objective(name, "mse") for name in "ab"]
    found.compile("adam", objectives=given, combine="dwa", verbose=0, run_eagerly=True)
    found.train_on_batch(X, TWO)
    return found


def wrapped() -> pt.Model:
    layers = [keras.layers.Dense(3), keras.layers.Dense(1)]
    found = pt.Model.wrap(keras.Sequential(layers, name="inner"))
    found.compile("adam", "mse", combine="dwa", run_eagerly=True)
    found.train_on_batch(X, Y["a"])
    return found


COPIES = {
    "pickle": lambda found: pickle.loads(pickle.dumps(found)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
TARGETS = {"functional": Y, "networks": TWO, "wrapped": Y["a"]}
MODELS = {"functional": trained, "networks": networked, "wrapped": wrapped}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("way", COPIES)
def test_copies(way: str, kind: str) -> None:
    source = MODELS[kind]()
    found = COPIES[way](source)
    found = COPIES[way](found)  # also before its first batch
    assert type(found) is type(source)
    assert found.trainable_variables[0] is not source.trainable_variables[0]
    for each in (source, found):
        each.train_on_batch(X, TARGETS[kind])
    assert_same(everything(found), everything(source))
    assert state(found) == state(source)


@pytest.mark.parametrize("kind", MODELS)
def test_clones(kind: str) -> None:
    source = MODELS[kind]()
    found = keras.models.clone_model(source)
    assert type(found) is type(source)
    assert found.compilation.settings.method == source.compilation.settings.method
    found.train_on_batch(X, TARGETS[kind])


def test_a_pickle_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "m.pickle"
    path.write_bytes(pickle.dumps(trained()))
    code = (
        f"import pickle; print(pickle.load(open({str(path)!r}, 'rb')).compilation.settings.method)"
    )
    assert "Smoothed" in fresh(code)


def test_legacy_files(tmp_path: Path) -> None:
    found = trained()
    text = r"neither `combine` nor .*Save to a \.keras file.*model\.to_keras\(\)\.save\(path\)"
    with pytest.raises(ValueError, match=text):
        found.save(tmp_path / "m.h5")
    found.to_keras().save(tmp_path / "m.h5")
    loaded = keras.models.load_model(tmp_path / "m.h5")
    assert type(loaded) is type(keras.Model(*tensors()))
    assert_same(arrays(loaded.trainable_variables), arrays(found.trainable_variables))


def test_legacy_weights_by_name(tmp_path: Path) -> None:
    plain = fill(keras.Model(*tensors()), 4)
    plain.save(tmp_path / "m.h5")
    found = trained()
    before = state(found)
    found.load_weights(tmp_path / "m.h5", by_name=True)
    assert_same(arrays(plain.trainable_variables), arrays(found.trainable_variables))
    assert state(found) == before


# ------------------------------------------------------------------ Combiner

ROWS = random_rows()


def gradients(seed: int = 0) -> pt.Gradients:
    rows = random_rows(seed)
    variables = variables_of(rows)
    return pt.gradients(objective(rows, variables), variables)


def combined() -> pt.Combiner:
    found = pt.Combiner(smoothed(), name="mine")
    found(gradients())
    return found


@keras.saving.register_keras_serializable(package=__name__)
class Holder(keras.Model):
    """A model that holds the Combiner of its own loop."""

    def __init__(self, combiner: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.combiner = combiner or pt.Combiner(smoothed(), name="mine")
        self.dense = keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.dense(x)


def test_a_combiner_in_a_model(tmp_path: Path) -> None:
    source = Holder(combined())
    source(X)
    source.save_weights(tmp_path / "m.weights.h5")
    prepared, unprepared = Holder(combined()), Holder()
    for found in (prepared, unprepared):
        found(X)
        found.load_weights(tmp_path / "m.weights.h5")
    after = [ops.convert_to_numpy(v) for v in source.combiner(gradients(1))]
    for found in (prepared, unprepared):
        again = [ops.convert_to_numpy(v) for v in found.combiner(gradients(1))]
        assert_same(after, again)
        assert int(found.combiner.steps.value) == 2


def test_a_combiner_of_another_method(tmp_path: Path) -> None:
    source = Holder(combined())
    source(X)
    source.save_weights(tmp_path / "m.weights.h5")
    found = Holder(pt.Combiner("dwa", name="mine"))
    found(X)
    found.load_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match=r"Saved: Chain.*Compiled: DWA\("):
        found.combiner(gradients())


@pytest.mark.parametrize("way", COPIES)
def test_copies_of_a_combiner(way: str) -> None:
    source = combined()
    found = COPIES[way](source)
    assert_same(arrays(found.variables), arrays(source.variables))
    one, other = (each(gradients(1)) for each in (source, found))
    assert_same(*([ops.convert_to_numpy(v) for v in each] for each in (one, other)))


@pytest.mark.skipif(BACKEND != "torch", reason="a state_dict is PyTorch's")
def test_state_dict_of_a_combiner() -> None:
    source = combined()
    kept = copy.deepcopy(source.state_dict())
    assert len(kept) == len(source.variables) == 6
    found = pt.Combiner(smoothed(), name="mine")
    with pytest.raises(RuntimeError, match="Unexpected key"):
        found.load_state_dict(kept)
    found.prepare(["a", "b", "c"], variables_of(ROWS))
    assert set(found.state_dict()) == set(kept)
    found.load_state_dict(kept)
    assert_same(arrays(found.variables), arrays(source.variables))


# ------------------------------------------------------------------ plain Keras, for serving


def predictions(found: Any, x: Any = X) -> list[Any]:
    flat = keras.tree.flatten(found(x))
    return [ops.convert_to_numpy(leaf) for leaf in flat]


@pytest.mark.parametrize("kind", MODELS)
def test_a_plain_model(kind: str, tmp_path: Path) -> None:
    source = MODELS[kind]()
    plain = source.to_keras()
    assert not isinstance(plain, pt.Model)
    assert "polytape" not in type(plain).__module__
    assert_same(predictions(source), predictions(plain))
    mine = {id(v) for v in source.trainable_variables}
    assert mine == {id(v) for v in plain.trainable_variables}
    plain.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", X)
    code = f"""
import sys, keras, numpy as np
found = keras.models.load_model({str(tmp_path / "m.keras")!r})
leaves = keras.tree.flatten(found(np.load({str(tmp_path / "x.npy")!r})))
np.savez({str(tmp_path / "y.npz")!r}, *[keras.ops.convert_to_numpy(leaf) for leaf in leaves])
print([name for name in sys.modules if "polytape" in name])
"""
    assert fresh(code).splitlines()[-1] == "[]"
    served = np.load(tmp_path / "y.npz")
    for name, right in zip(served.files, predictions(source), strict=True):
        np.testing.assert_allclose(served[name], right, rtol=1e-5, atol=1e-6)


def test_marks_of_features_are_left_out() -> None:
    inputs = keras.Input((4,), name="x")
    inner = keras.Sequential([keras.layers.Dense(3), pt.Features(name="marked")], name="inner")
    hidden = pt.Features(name="shared")(inner(inputs))
    heads = {name: keras.layers.Dense(1, name=name)(hidden) for name in "ab"}
    source = pt.Model(inputs, heads)
    plain = source.to_keras()
    layers = [*plain.layers, *plain.get_layer("inner").layers]
    assert not [layer for layer in layers if isinstance(layer, pt.Features)]
    assert_same(predictions(source), predictions(plain))
    mine = {id(v) for v in source.trainable_variables}
    assert mine == {id(v) for v in plain.trainable_variables}


def test_sizes_that_vary() -> None:
    embed = keras.layers.Embedding(5, 2)
    found = pt.Model(networks={"embed": embed}, forward=lambda nets, x: {"a": nets["embed"](x)})
    for length in (3, 4):
        found(np.ones((2, length), "int32"))
    assert found.to_keras().input_shape == (None, None)


def test_what_has_no_plain_model() -> None:
    with pytest.raises(ValueError, match=r"Lazy has a `call` of its own.*pt.Model.wrap"):
        Lazy().to_keras()
    with pytest.raises(ValueError, match=r"was never called.*model\(x\), or train it"):
        towers().to_keras()

    def by_value(networks: Any, x: Any) -> Any:
        return networks["left"](x) if float(ops.sum(x)) > 0 else networks["right"](x)

    found = towers(forward=by_value)
    found(X)
    with pytest.raises(ValueError, match="`forward` cannot become a plain Keras model"):
        found.to_keras()


def test_the_shapes_of_inputs_are_saved(tmp_path: Path) -> None:
    networked().save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.to_keras().input_shape == (None, 4)


@pytest.mark.parametrize("kind", MODELS)
def test_export(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    source = MODELS[kind]()
    formats = {"torch": "torch"}
    path = str(tmp_path / ("m.pt2" if BACKEND == "torch" else "m"))
    chosen = formats.get(BACKEND, "tf_saved_model")
    source.export(path, format=chosen, verbose=False)
    assert Path(path).exists()
    assert "AutoGraph" not in "".join(capfd.readouterr())


# ------------------------------------------------------------------ what could not be found again


def of_module(networks: Any, x: Any) -> Any:
    return {"left": networks["left"](x)}


def unfound() -> dict[str, tuple[Any, str]]:
    def local(networks: Any, x: Any) -> Any:
        return {"left": networks["left"](x)}

    return {
        "lambda": (lambda networks, x: {"left": networks["left"](x)}, "a lambda"),
        "local": (local, "the function 'local' inside another one, not registered"),
        "module": (of_module, "the function 'of_module', not registered with Keras"),
    }


@pytest.mark.parametrize("what", unfound())
def test_a_forward_that_cannot_be_loaded_again(what: str, tmp_path: Path) -> None:
    forward, text = unfound()[what]
    found = towers(forward=forward)
    text = f"`forward` is {text}.*register_keras_serializable.. above it.*custom_objects="
    with pytest.warns(UserWarning, match=text):
        found.save(tmp_path / "m.keras")


def test_it_is_loaded_as_the_warning_says(tmp_path: Path) -> None:
    found = fill(towers(forward=of_module))
    with pytest.warns(UserWarning, match="not registered"):
        found.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", custom_objects={"of_module": of_module})
    assert_same(predictions(found), predictions(loaded))


def test_losses_that_cannot_be_loaded_again(tmp_path: Path) -> None:
    found = fill(pt.Model(*tensors()))
    given = [
        pt.Objective("a", lambda step: ops.mean(step.outputs["a"]), when=lambda step: True),
        pt.Objective("b", keras.losses.mean_squared_error),
    ]
    found.compile("sgd", objectives=given, verbose=0)
    with pytest.warns(UserWarning, match="cannot be loaded") as told:
        found.save(tmp_path / "m.keras")
    texts = [str(warning.message) for warning in told if "cannot be loaded" in str(warning.message)]
    assert len(texts) == 2
    assert "the loss of objective 'a' is a lambda" in texts[0]
    assert "`when` of objective 'a' is a lambda" in texts[1]

    def mean_squared_error(y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.square(y_true - y_pred), axis=-1)

    found.compile("sgd", {"a": mean_squared_error, "b": "mse"}, combine="upgrad")
    with pytest.warns(UserWarning, match="the loss of 'a' is the function 'mean_squared_error' in"):
        found.save(tmp_path / "m.keras")


def test_what_can_be_loaded_again_is_saved_without_a_word(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        networked().save(tmp_path / "m.keras")
        trained().save(tmp_path / "n.keras")


# ------------------------------------------------------------------ imports


@pytest.mark.parametrize(
    "first",
    ["import keras, polytape", "import polytape, keras", "from polytape.contract import Method"],
)
def test_a_model_is_found_in_any_order_of_imports(first: str, saved: dict[str, Path]) -> None:
    path = str(saved["losses.keras"])
    code = f"{first}\nimport keras\nprint(type(keras.models.load_model({path!r})).__name__)"
    assert fresh(code).splitlines()[-1] == "FunctionalModel"
