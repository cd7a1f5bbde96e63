"""Saved and resumed bit for bit: weights, optimizer slots, and the method's state."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import polytape as pt
from small import LOSSES, arrays, assert_same, data, everything, model

X, Y = data(16)
METHODS = {
    "sum": "sum",
    "dwa": pt.DWA(steps=1),
    "nash": pt.NashMTL(),
    "chain": pt.Chain(pt.Reweight({"a": 0.3}), pt.Smoothed(pt.Every(pt.UPGrad(), 2))),
    "scope": pt.Smoothed(pt.PerNetwork(pt.PCGrad())),
}


def trained(combine):
    found = model()
    found.compile(keras.optimizers.Adam(0.01), LOSSES, combine=combine)
    step(found)
    return found


def step(found, times=3):
    for _ in range(times):
        found.train_on_batch(X, Y)


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_model_goes_on_as_the_original(name, tmp_path):
    original = trained(METHODS[name])
    if name == "chain":
        original.reweight({"a": 0.7})
    original.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, pt.Model)
    assert_same(everything(original), everything(loaded))
    for one in (original, loaded):
        step(one)
    assert_same(everything(original), everything(loaded))


def test_weights_into_a_model_that_was_compiled_alike(tmp_path):
    original, fresh = trained(METHODS["chain"]), trained(METHODS["chain"])
    step(original)
    original.save_weights(tmp_path / "m.weights.h5")
    fresh.load_weights(tmp_path / "m.weights.h5")
    assert_same(
        [np.array(w) for w in original.get_weights()], [np.array(w) for w in fresh.get_weights()]
    )


def test_state_of_a_model_that_builds_itself_lazily(tmp_path):
    @keras.saving.register_keras_serializable(package=__name__)
    class Lazy(pt.Model):
        """Neither variables nor the number of objectives are known before the first batch."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.trunk = keras.layers.Dense(3)
            self.a, self.b = keras.layers.Dense(1), keras.layers.Dense(1)

        def call(self, x):
            hidden = self.trunk(x)
            return {"a": self.a(hidden), "b": self.b(hidden)}

    y = {name: Y[name] for name in "ab"}
    original = Lazy()
    original.compile("sgd", "mse", combine=pt.Smoothed(pt.UPGrad()))
    original.train_on_batch(X, y)
    original.save(tmp_path / "lazy.keras")
    loaded = keras.models.load_model(tmp_path / "lazy.keras")
    for one in (original, loaded):
        one.train_on_batch(X, y)
    assert_same(everything(original), everything(loaded))


def test_a_checkpoint_of_another_method_is_refused(tmp_path):
    trained(METHODS["dwa"]).save_weights(tmp_path / "m.weights.h5")
    other = trained(METHODS["chain"])
    before = arrays(other.method_state.variables)
    with pytest.raises(ValueError, match=r"state of another method. Saved: DWA\(.*Compiled: Chain"):
        other.load_weights(tmp_path / "m.weights.h5")
    assert_same(before, arrays(other.method_state.variables))


def test_weights_of_plain_keras_start_the_method_afresh(tmp_path):
    plain = model(keras.Model)
    plain.save_weights(tmp_path / "m.weights.h5")
    found = trained(METHODS["dwa"])
    found.load_weights(tmp_path / "m.weights.h5")
    assert_same([*plain.get_weights()], [*found.get_weights()][: len(plain.get_weights())])


def test_a_fresh_process_loads_the_model(tmp_path):
    trained(METHODS["chain"]).save(tmp_path / "model.keras")
    code = (
        "import keras, polytape; model = keras.models.load_model('model.keras'); "
        "print(model.compilation.settings.method)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
    )
    assert "Chain" in run.stdout, run.stderr


def test_compile_again_replaces_the_method():
    found = trained(METHODS["dwa"])
    found.compile("sgd", LOSSES, combine="upgrad")
    step(found)
    assert found.method_state.variables == []
