"""What steps on several devices send and hold on JAX, and who may choose how rows are added up."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from jax_spread import environment
from small import LOSSES, data, model

JAX = keras.backend.backend() == "jax"
SCRIPT = Path(__file__).resolve().parents[1] / "helpers" / "jax_programmes.py"
pytestmark = pytest.mark.engine
on_jax = pytest.mark.skipif(not JAX, reason="keras.distribution is of JAX")


def counted(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), *arguments],
        env={**environment(), "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def same_batch() -> Any:
    return counted("data", "keras 4", "sum 4", "upgrad 4 all_reduce", "upgrad 4 scatter")


@pytest.fixture(scope="module")
def same_variables() -> Any:
    return counted("model", "keras 3", "sum 3", "upgrad 3", "moco 3")


@on_jax
def test_scattered_rows_send_less(same_batch: Any) -> None:
    naive, scattered = same_batch["upgrad 4 all_reduce"], same_batch["upgrad 4 scatter"]
    assert naive["kinds"] == ["all-reduce"]
    assert scattered["kinds"] == ["all-gather", "all-reduce", "reduce-scatter"]
    assert scattered["sent"] <= naive["sent"] * (4 + 1) / (2 * 4) * 1.005
    assert scattered["held"] < naive["held"]


@on_jax
def test_a_sum_sends_what_keras_sends(same_batch: Any, same_variables: Any) -> None:
    assert same_batch["sum 4"]["sent"] <= same_batch["keras 4"]["sent"] * 1.005
    assert same_variables["sum 3"]["sent"] <= same_variables["keras 3"]["sent"] * 1.005


@on_jax
def test_rows_stay_where_their_variables_are(same_variables: Any) -> None:
    plain, rows = same_variables["keras 3"], same_variables["upgrad 3"]
    assert rows["sent"] <= 3 * plain["sent"]
    assert rows["held"] <= (3 + 1) * plain["held"]


@on_jax
def test_memory_lies_beside_its_variables(same_variables: Any) -> None:
    remembering = same_variables["moco 3"]
    assert remembering["sent"] <= 3 * same_variables["keras 3"]["sent"]
    memory = remembering["memory"]
    assert memory["method/memory/total/dense_0/kernel"] == [[3, 128, 256], [3, 128, 64]]
    assert memory["method/memory/total/dense_1/kernel"] == [[3, 256, 256], [3, 64, 256]]
    assert memory["method/memory/total/dense_2/bias"] == [[3, 128], [3, 32]]
    assert memory["method/memory/total/head_0/kernel"] == [[3, 128, 1], [3, 128, 1]]


# ------------------------------------------------------------------ compile(communication=)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"combine": "sum"}, "Sum takes one backward pass"),
        ({"combine": "dwa"}, "DWA takes one backward pass"),
        ({"combine": "moco"}, "MoCo remembers gradients"),
        ({"combine": "graddrop"}, "GradDrop needs all coordinates"),
        ({"combine": "modo"}, "MoDo compares halves of the batch"),
        ({"combine": "mgda", "measure": "outputs"}, 'measure="outputs" takes gradients'),
    ],
)
def test_methods_that_cannot_be_scattered(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=f'communication="scatter" leaves .*{why}'):
        model().compile("sgd", LOSSES, communication="scatter", **settings)


def test_unknown_communication() -> None:
    with pytest.raises(ValueError, match=r"one of \('auto', 'all_reduce', 'scatter'\). Received"):
        model().compile("sgd", LOSSES, combine="upgrad", communication="gossip")


def test_devices_that_rows_cannot_be_scattered_over() -> None:
    found = model()
    found.compile("sgd", LOSSES, combine="upgrad", communication="scatter")
    cause = "there is no distribution" if JAX else "it is for JAX"
    with pytest.raises(ValueError, match=f"keras.distribution.DataParallel, and {cause}"):
        found.fit(*data(8), verbose=0)
    if JAX:
        one = keras.distribution.DataParallel(devices=keras.distribution.list_devices()[:1])
        with one.scope(), pytest.raises(ValueError, match="and there is one device"):
            found.fit(*data(8), verbose=0)


AUTO = """
import keras, numpy as np
import polytape as pt
from polytape.training.communication import scatters

def model(*layers, width=1024, cls=pt.Model, names=("a", "b"), **settings):
    inputs = keras.Input((1024,))
    hidden = keras.layers.Dense(width)(inputs)
    for layer in layers:
        hidden = layer(hidden)
    made = cls(inputs, {name: keras.layers.Dense(1, name=name)(hidden) for name in names})
    given = {"loss": dict.fromkeys(names, "mse"), "combine": "upgrad", **settings}
    made.compile("sgd", **given)
    return scatters(made, made.compilation.settings)

class Total(pt.Model):
    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)

class Own(keras.metrics.Mean):
    pass

L, own = keras.layers, lambda a, b: keras.ops.mean(a - b)
with keras.distribution.DataParallel().scope():
    inner = keras.Sequential([keras.Input((1024,)), L.Dense(8), L.BatchNormalization()])
    yes = [
        model(),
        model(L.LayerNormalization(), L.Reshape((32, 32)), L.LSTM(8)),
        model(metrics={"a": ["mae", keras.metrics.MeanSquaredError()]}),
        model(loss={"a": keras.losses.Huber(), "b": "mae"}),
    ]
    no = {
        "small": model(width=128),
        "sum": model(combine="sum"),
        "memory": model(combine="moco"),
        "asked": model(communication="all_reduce"),
        "statistics": model(L.BatchNormalization()),
        "noise": model(L.Dropout(0.1)),
        "noise inside": model(L.Reshape((32, 32)), L.LSTM(8, dropout=0.1)),
        "nested": model(inner),
        "any function": model(L.Lambda(lambda x: x - keras.ops.mean(x, axis=0))),
        "activity": model(L.Dense(4, activity_regularizer="l2")),
        "own loss": model(loss={"a": own, "b": "mse"}),
        "loss of batch": model(loss={"a": keras.losses.Dice(), "b": "mse"}),
        "own metric": model(metrics={"a": [Own()]}),
        "own total": model(cls=Total),
        "objectives": model(
            loss=None, objectives=[pt.Objective("a", "mse"), pt.Objective("b", "mse")]
        ),
    }
    assert model(communication="scatter", width=128)
assert all(yes), yes
assert not any(no.values()), no
devices = keras.distribution.list_devices()
mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), devices)
layouts = keras.distribution.LayoutMap(mesh)
with keras.distribution.ModelParallel(layout_map=layouts).scope():
    assert not model()
assert not model()
print("decided")
"""


@on_jax
def test_auto_scatters_where_nothing_becomes_local() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AUTO],
        env=environment(4),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout.endswith("decided\n"), done.stdout + done.stderr[-3000:]


@on_jax
def test_variables_that_are_spread_themselves() -> None:
    mesh = keras.distribution.DeviceMesh((1, 1), ("batch", "model"), ["cpu:0"])
    layouts = keras.distribution.LayoutMap(mesh)
    with keras.distribution.ModelParallel(layout_map=layouts).scope():
        found = model()
        found.compile("sgd", LOSSES, combine="upgrad", communication="scatter")
        with pytest.raises(ValueError, match="and ModelParallel spreads the variables"):
            found.fit(*data(8), verbose=0)


def test_a_file_of_many_devices_is_loaded_on_one(tmp_path: Path) -> None:
    found = model()
    found.compile("sgd", LOSSES, combine="upgrad", communication="scatter")
    assert found.get_compile_config()["communication"] == "scatter"
    found.save(tmp_path / "many.keras")
    loaded = keras.models.load_model(tmp_path / "many.keras")
    assert isinstance(loaded, pt.Model)
    loaded.fit(*data(8), verbose=0)
    assert np.isfinite(loaded.evaluate(*data(8), verbose=0)[0])
