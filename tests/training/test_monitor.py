"""GradientMonitor: the training stays what it is, and the records say what it was."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import polytape as pt
from polytape.diagnostics.monitor_records import MonitorRun, StepRecord
from small import assert_same, data, everything, fill, model

BACKEND = keras.backend.backend()
X, Y = data(32)
LOSSES = {"a": "mse", "b": "huber", "c": "sparse_categorical_crossentropy"}
EAGER = {} if BACKEND == "jax" else {"run_eagerly": True}


def sgd(rate: float = 1.0) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(rate)


def small(combine: Any, optimizer: Any = None, **settings: Any) -> pt.Model:
    net = model()
    given = {"loss": LOSSES, **settings} if "objectives" not in settings else settings
    net.compile(optimizer or sgd(0.1), combine=combine, **{**EAGER, **given})
    return net


def fitted(net: pt.Model, *callbacks: Any, epochs: int = 1, **given: Any) -> Any:
    return net.fit(
        X, given.pop("y", Y), batch_size=8, epochs=epochs, shuffle=False, verbose=0,
        callbacks=[*callbacks], **given,
    )  # fmt: skip


def objective(name: str, **settings: Any) -> pt.Objective:
    return pt.Objective(name, LOSSES[name], output=name, target=name, **settings)


# ---------------------------------------------------------------------- the training stays as it is


def two_networks(**settings: Any) -> pt.Model:
    def network(name: str, size: int, *rest: Any) -> keras.Model:
        return keras.Sequential([keras.Input((size,)), *rest], name=name)

    nets = {
        "trunk": network("t", 4, layers.Dense(6, "gelu"), layers.LayerNormalization()),
        "a": network("one", 6, layers.Dense(1)),
        "b": network("two", 6, layers.Dense(1)),
    }
    net = pt.Model(networks=nets, forward=joined)
    net = fill(net)
    objectives = [
        pt.Objective("a", "mse", output="a", target="a", trains=["trunk", "a"], weight=0.5),
        pt.Objective("b", "huber", output="b", target="b", trains=["trunk", "b"]),
    ]
    net.compile(objectives=objectives, verbose=0, **settings)
    return net


@keras.saving.register_keras_serializable(package="monitored")
def joined(networks: Any, inputs: Any) -> Any:
    hidden = networks["trunk"](inputs)
    return {name: networks[name](hidden) for name in "ab"}


def busy(combine: Any, **settings: Any) -> pt.Model:
    net = model(busy=True)
    net.compile(keras.optimizers.Adam(0.01), loss=LOSSES, combine=combine, **settings)
    return net


BITS = {
    "sum": lambda: busy("sum"),
    "sum, isolated": lambda: busy("sum", on_nonfinite="isolate"),
    "loss method": lambda: busy("dwa"),
    "upgrad": lambda: busy("upgrad"),
    "row method": lambda: busy("grad_drop"),
    "memory": lambda: busy("moco"),
    "every": lambda: busy(pt.Every(pt.UPGrad(), steps=3)),
    "phases": lambda: two_networks(optimizer="adam", combine="upgrad", phases=["a", "b"]),
    "optimizers": lambda: two_networks(
        optimizer={"trunk": keras.optimizers.Adam(0.01), "*": sgd(0.1)}, combine="sum"
    ),
    "per network": lambda: two_networks(optimizer="adam", combine=pt.PerNetwork(pt.UPGrad())),
}


@pytest.mark.bits
@pytest.mark.parametrize("name", BITS)
def test_every_bit_of_the_training_is_the_same(name: str) -> None:
    states = []
    for callbacks in ([], [pt.callbacks.GradientMonitor(every=2)]):
        keras.utils.set_random_seed(0)
        net = BITS[name]()
        history = fitted(net, *callbacks, epochs=2).history
        states.append((everything(net), history))
    assert_same(states[0][0], states[1][0])
    assert len(callbacks[0].records) >= 4
    for key, values in states[0][1].items():
        assert states[1][1][key] == values


# ---------------------------------------------------------------------- what the records say


def by_hand(net: pt.Model, y: Any, weights: Any = None) -> dict[str, np.ndarray]:
    """Gradients by all variables, one vector for each objective, at the weights of now."""
    kinds = {name: keras.losses.get(loss) for name, loss in LOSSES.items()}

    def losses() -> Any:
        outputs = net(X[:8], training=True)
        return {name: ops.mean(kinds[name](y[name][:8], outputs[name])) for name in outputs}

    found = pt.gradients(losses, net.trainable_variables)
    sizes = [int(np.prod(v.shape)) for v in net.trainable_variables]
    rows = {}
    for name in net.output_names:
        parts = [
            np.zeros(size) if g is None else np.ravel(ops.convert_to_numpy(g)).astype("float64")
            for g, size in zip(found[name], sizes, strict=True)
        ]
        rows[name] = np.concatenate(parts)
    return rows


def vector(values: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([value.ravel().astype("float64") for value in values])


def trainable(net: pt.Model) -> list[np.ndarray]:
    return [np.array(ops.convert_to_numpy(v.value)) for v in net.trainable_variables]


def regularized() -> pt.Model:
    inputs = keras.Input((4,))
    regular = keras.regularizers.L2(0.1)
    hidden = layers.Dense(6, "tanh", name="trunk", kernel_regularizer=regular)(inputs)
    outputs = {name: layers.Dense(1, name=name)(hidden) for name in "ab"}
    outputs["c"] = layers.Dense(2, activation="softmax", name="c")(hidden)
    return fill(pt.Model(inputs, outputs))


FIGURES = {
    "sum": {"combine": "sum"},
    "dwa": {"combine": "dwa"},
    "upgrad": {"combine": "upgrad"},
    "weighted": {"combine": "upgrad", "private": "weighted"},
    "joint": {"combine": "mgda", "private": "joint"},
    "per network": {"combine": pt.PerNetwork(pt.UPGrad())},
    "per variable": {"combine": pt.PerVariable(pt.UPGrad())},
    "every": {"combine": pt.Every(pt.UPGrad(), steps=2)},
    "chain": {"combine": pt.Chain(pt.Reweight({"a": 0.5, "b": 2.0, "c": 1.0}), pt.UPGrad())},
}


@pytest.mark.parametrize(
    ("name", "build"),
    [*((name, model) for name in FIGURES), ("sum", regularized), ("upgrad", regularized)],
)
def test_figures_are_those_of_the_step(name: str, build: Any) -> None:
    net = build()
    net.compile(sgd(), loss=LOSSES, **EAGER, **FIGURES[name])
    rows, before = by_hand(net, Y), trainable(net)
    monitor = pt.callbacks.GradientMonitor(every=1)
    net.fit(X[:8], {k: v[:8] for k, v in Y.items()}, batch_size=8, verbose=0, callbacks=[monitor])
    (found,) = monitor.records
    update = vector(before) - vector(trainable(net))
    owners = net.plan.index.owners
    sizes = [value.size for value in before]
    places = {
        "": np.ones(update.size, bool),
        **{n: np.repeat([o == n for o in owners], sizes) for n in ("trunk", "a", "b", "c")},
    }
    shared = places["trunk"]
    for network, figures in {"": found, **found.networks}.items():
        inside = places[network]
        stack = np.stack([row[inside] for row in rows.values()])
        norms = np.linalg.norm(stack, axis=1)
        np.testing.assert_allclose([*figures.norms.values()], norms, rtol=1e-4, atol=1e-6)
        of_both = np.stack([row[inside & shared] for row in rows.values()])
        if of_both.size:
            np.testing.assert_allclose(figures.gramian, of_both @ of_both.T, rtol=1e-3, atol=1e-5)
        else:
            assert figures.gramian == []
            assert "conflict_rate" not in figures.scalars
        d = update[inside]
        for t, (objective, share) in enumerate(figures.share.items()):
            # What the update is made of is known by its weights, on shared variables and on others.
            weights = figures.weights or found.weights
            if name not in ("joint", "weighted", "upgrad", "sum", "dwa", "every"):
                continue
            w = weights[objective]
            own = np.where(shared[inside], w, w if name in ("joint", "weighted", "dwa") else 1.0)
            expected = (own * stack[t]) @ d / (d @ d)
            assert share == pytest.approx(expected, rel=1e-3, abs=1e-5)
        if build is model:
            assert sum(figures.share.values()) == pytest.approx(1.0, abs=1e-4)
    if build is regularized:
        assert abs(1 - sum(found.share.values())) > 1e-4
    if name == "sum":
        assert found.weights == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert set(found.networks) == {"trunk", "a", "b", "c"}


def test_objectives_are_shown_without_their_weights() -> None:
    records = []
    for weight, combine in ((1.0, "upgrad"), (4.0, "upgrad"), (4.0, "sum")):
        given = [objective("a", weight=weight), objective("b"), objective("c", weight=0.5)]
        monitor = pt.callbacks.GradientMonitor(every=100)
        fitted(small(combine, objectives=given, verbose=0), monitor)
        records.append(monitor.records[0])
    first = records[0]
    for record in records[1:]:
        assert record.losses == pytest.approx(first.losses, rel=1e-5)
        np.testing.assert_allclose(record.gramian, first.gramian, rtol=1e-4)
    assert records[2].weights == {"a": 4.0, "b": 1.0, "c": 0.5}
    assert records[2].share["a"] > first.share["a"]


def test_rows_and_memories_have_no_shares() -> None:
    monitor = pt.callbacks.GradientMonitor(every=1)
    fitted(small("grad_drop"), monitor)
    assert (monitor.records[0].weights, monitor.records[0].share) == ({}, {})
    assert len(monitor.records[0].gramian) == 3
    monitor = pt.callbacks.GradientMonitor(every=1)
    fitted(small("moco"), monitor)
    assert monitor.records[1].share == {}
    assert len(monitor.records[1].weights) == 3
    assert monitor.records[1].conflict_rate in (0.0, 1 / 3, 2 / 3, 1.0)


def test_gradients_are_by_all_variables_where_the_method_measures_at_features() -> None:
    inputs = keras.Input((4,))
    hidden = pt.Features()(layers.Dense(6, "tanh", name="trunk")(inputs))
    outputs = {name: layers.Dense(1, name=name)(hidden) for name in "ab"}
    found = []
    for measure in ("features", "parameters"):
        net = fill(pt.Model(inputs, outputs))
        net.compile(sgd(), loss=dict.fromkeys("ab", "mse"), combine="upgrad", measure=measure,
                    **EAGER)  # fmt: skip
        monitor = pt.callbacks.GradientMonitor(every=100)
        fitted(net, monitor, y={name: Y[name] for name in "ab"})
        found.append(monitor.records[0])
    np.testing.assert_allclose(found[0].gramian, found[1].gramian, rtol=1e-4)
    assert found[0].norms == pytest.approx(found[1].norms, rel=1e-4)
    assert sum(found[0].share.values()) == pytest.approx(1.0, abs=1e-4)


def test_phases_leave_a_record_each() -> None:
    monitor = pt.callbacks.GradientMonitor(every=2)
    net = two_networks(
        optimizer="adam", combine="upgrad", phases=[pt.Phase("a", steps=2), "b"], **EAGER
    )
    fitted(net, monitor)
    assert [(each.step, each.phase) for each in monitor.records] == [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert [each.objectives for each in monitor.records[:2]] == [("a",), ("b",)]
    assert monitor.records[0].share == {"a": pytest.approx(1.0, abs=1e-5)}
    assert monitor.records[1].networks["a"].norms == {"b": 0.0}


def test_an_objective_without_a_label_is_null() -> None:
    targets = {name: Y[name].copy() for name in "ab"}
    targets["a"][:8] = np.nan
    inputs = keras.Input((4,))
    hidden = layers.Dense(6, "tanh", name="trunk")(inputs)
    for combine in ("sum", "upgrad"):
        net = fill(pt.Model(inputs, {n: layers.Dense(1, name=n)(hidden) for n in "ab"}))
        given = [pt.Objective(n, "mse", output=n, target=n) for n in "ab"]
        net.compile(sgd(0.01), objectives=given, combine=combine, **EAGER)
        monitor = pt.callbacks.GradientMonitor(every=1)
        fitted(net, monitor, y=targets)
        first, second = monitor.records[:2]
        for values in (first.losses, first.norms, first.weights, first.share):
            assert math.isnan(values["a"])
        assert first.share["b"] == pytest.approx(1.0, abs=1e-4)
        assert math.isnan(first.conflict_rate)
        assert not math.isnan(second.losses["a"])
        assert second.conflict_rate in (0.0, 1.0)


@pytest.mark.parametrize(
    ("combine", "on_nonfinite"),
    [("sum", "drop"), ("sum", "isolate"), ("upgrad", "drop"), ("upgrad", "skip")],
)
@pytest.mark.filterwarnings("ignore:Epoch")
def test_what_is_not_finite_is_null_and_steps_go_on(combine: str, on_nonfinite: str) -> None:
    targets = {**Y, "a": Y["a"].copy()}
    targets["a"][8:16] = np.inf
    monitor = pt.callbacks.GradientMonitor(every=1)
    fitted(small(combine, on_nonfinite=on_nonfinite), monitor, y=targets)
    assert [each.step for each in monitor.records] == [0, 1, 2, 3]
    bad, good = monitor.records[1:3]
    assert math.isnan(bad.losses["a"])
    assert math.isnan(bad.norms["a"])
    assert math.isfinite(bad.losses["b"])
    assert math.isfinite(bad.norms["b"])
    assert not math.isnan(bad.conflict_rate)
    kept = on_nonfinite == "isolate" or (on_nonfinite, combine) == ("drop", "upgrad")
    assert math.isnan(bad.share["b"]) != kept
    if kept:
        assert bad.share["b"] + bad.share["c"] == pytest.approx(1.0, abs=1e-4)
    assert all(map(math.isfinite, good.share.values()))


@pytest.mark.filterwarnings("ignore:Epoch")
def test_what_is_not_finite_stays_in_its_part_of_the_network() -> None:
    inputs = keras.Input((4,))
    one, other = (layers.Dense(3, name=name)(inputs) for name in ("one", "other"))
    joined = layers.Add()([one, other])
    parts = {"a": one, "b": joined, "c": other}
    net = fill(pt.Model(inputs, {n: layers.Dense(1, name=n)(part) for n, part in parts.items()}))
    net.compile(sgd(0.01), loss=dict.fromkeys("abc", "mse"), combine="upgrad", **EAGER)
    monitor = pt.callbacks.GradientMonitor(every=1)
    targets = {name: np.full((32, 1), np.inf if name == "a" else 1.0) for name in "abc"}
    history = fitted(net, monitor, y=targets).history
    found = monitor.records[0]
    assert history["dropped"] == [4]  # "a" in every step, and nothing else
    assert math.isnan(found.losses["a"])
    assert [*found.pairs] == [("b", "c")]
    assert found.share["b"] + found.share["c"] == pytest.approx(1.0, abs=1e-4)


def test_half_precision_under_loss_scaling() -> None:
    before = keras.config.dtype_policy()
    found = []
    try:
        for policy in ("float32", "mixed_float16"):
            keras.config.set_dtype_policy(policy)
            net = model()
            net.compile(keras.optimizers.SGD(0.01), loss=LOSSES, combine="upgrad", **EAGER)
            monitor = pt.callbacks.GradientMonitor(every=100)
            fitted(net, monitor)
            found.append(monitor.records[0])
    finally:
        keras.config.set_dtype_policy(before)
    assert found[1].norms == pytest.approx(found[0].norms, rel=0.05)
    assert sum(found[1].share.values()) == pytest.approx(1.0, abs=0.01)


@pytest.mark.compiled
def test_compiled_and_several_steps_at_once() -> None:
    if BACKEND == "torch":
        pytest.skip("Keras has no steps_per_execution on PyTorch")
    net = model()
    net.compile(sgd(0.01), loss=LOSSES, combine="upgrad", steps_per_execution=3, jit_compile=True)
    monitor = pt.callbacks.GradientMonitor(every=2, ring=1)
    x, y = data(56)
    net.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[monitor])
    assert [each.step for each in monitor.records] == [0, 2, 4, 6, 8, 10, 12]


# ---------------------------------------------------------------------- where the records go


def test_history_has_the_means_of_each_epoch_and_nobody_else_has() -> None:
    seen: list[dict[str, float]] = []
    late = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs)))
    monitor = pt.callbacks.GradientMonitor(every=3)
    history = fitted(small("upgrad"), monitor, late, epochs=3).history
    columns = ["norm/a", "cosine/a/b", "weight/c", "share/b", "loss/a", "trunk/norm/a"]
    for name in [*columns, "conflict_rate"]:
        assert len(history[name]) == 3
    of_first = [each for each in monitor.records if each.epoch == 0]
    assert [each.step for each in of_first] == [0, 3]
    expected = np.mean([each.norms["a"] for each in of_first])
    assert history["norm/a"][0] == pytest.approx(expected)
    assert set(seen[0]) - set(history) == set()
    assert [name for name in seen[0] if "/" in name] == []
    assert seen[1]["conflict_rate"] == history["conflict_rate"][1]


def test_an_epoch_without_a_record_is_nan_in_the_history() -> None:
    history = fitted(small("upgrad"), pt.callbacks.GradientMonitor(every=6), epochs=3).history
    found = [math.isnan(value) for value in history["norm/a"]]
    assert found == [False, False, True]  # steps 0 and 6, of four in an epoch
    assert [math.isnan(value) for value in history["conflict_rate"]] == found


def test_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    monitor = pt.callbacks.GradientMonitor(
        tmp_path / "run", every=1, ring=2, csv=True, tensorboard=True
    )
    optimizer = {"trunk": keras.optimizers.Adam(0.01), "*": sgd(0.1)}
    net = small(pt.Chain(pt.Normalize(), pt.UPGrad()), optimizer=optimizer)
    history = fitted(net, monitor, epochs=2, validation_data=(X, Y)).history
    run = MonitorRun.load(tmp_path / "run")
    assert [each.step for each in run.steps] == list(range(8))
    assert [each.epoch for each in run.steps] == [0] * 4 + [1] * 4
    assert run.epochs[1].logs["val_loss"] == history["val_loss"][1]
    seconds = [each.seconds for each in run.steps]
    assert seconds == sorted(seconds)
    header = run.header
    assert header.objectives == ("a", "b", "c")
    assert header.networks == ("trunk", "a", "b", "c")
    assert header.every == 1
    assert header.method["name"] == "Chain"
    assert [each["name"] for each in header.method["settings"]["stages"]] == ["Normalize", "UPGrad"]
    assert header.optimizer["trunk"]["name"] == "Adam"
    assert header.environment["backend"] == BACKEND
    assert header.phases == ({"objectives": ["a", "b", "c"], "steps": 1},)
    table = np.genfromtxt(tmp_path / "run" / "monitor.csv", delimiter=",", names=True)
    assert table["step"].tolist() == list(range(8))
    np.testing.assert_allclose(table["normb"], run.column("norm/b"))
    scalars, images = events(tmp_path / "run")
    assert scalars["norm/a"] == pytest.approx(dict(enumerate(run.column("norm/a"))))
    assert scalars["epoch/val_loss"][8] == pytest.approx(history["val_loss"][1])
    assert {"cosines", "trunk/cosines"} == set(images)
    assert images["cosines"][4].startswith(b"\x89PNG")


def events(folder: Path) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, bytes]]]:
    """What TensorBoard's own reader finds, without TensorFlow."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    scalars: dict[str, dict[int, float]] = {}
    images: dict[str, dict[int, bytes]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for raw in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(raw)
            for value in event.summary.value:
                if value.HasField("image"):
                    picture = value.image.encoded_image_string
                    images.setdefault(value.tag, {})[event.step] = picture
                else:
                    scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return scalars, images


def test_tensorboard_is_asked_for_by_name(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="`tensorboard`, which is not installed"):
        pt.callbacks.GradientMonitor(tmp_path, tensorboard=True)


def test_records_are_fetched_seldom() -> None:
    moments: list[int] = []

    class Watched(pt.callbacks.GradientMonitor):
        def _fetch(self) -> None:
            moments.append(1)
            super()._fetch()

    x, y = data(64)
    net = small("upgrad")
    net.fit(x, y, batch_size=1, epochs=1, verbose=0, callbacks=[Watched(every=2, ring=16)])
    assert len(moments) <= 1 + 2 + 2  # full, or the end of epoch and fit


# ---------------------------------------------------------------------- interrupted, resumed


class StopAt(keras.callbacks.Callback):
    def __init__(self, batch: int, error: BaseException) -> None:
        super().__init__()
        self.left, self.error = batch, error

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("full disk")])
def test_an_interrupted_fit_loses_no_record(tmp_path: Path, error: BaseException) -> None:
    monitor = pt.callbacks.GradientMonitor(tmp_path, every=1)
    net = small("upgrad")
    with pytest.raises(type(error)):
        fitted(net, monitor, StopAt(6, error), epochs=3)
    run = MonitorRun.load(tmp_path)
    assert [each.step for each in run.steps] == list(range(6))
    assert [each.epoch for each in run.epochs] == [0]
    fitted(net, monitor, epochs=2, initial_epoch=1)  # the same model goes on
    run = MonitorRun.load(tmp_path)
    assert [each.step for each in run.steps] == list(range(10))
    assert [each.epoch for each in run.epochs] == [0, 1]
    assert len(run.headers) == 2
    assert run.header.step == 6


PROGRAM = """
import os, sys, time
sys.path[:0] = {paths!r}
import keras, numpy as np, polytape as pt
from small import data, model
X, Y = data(32)
folder, how = sys.argv[1:3]
net = model()
net.compile(keras.optimizers.SGD(0.1), loss={losses!r}, combine="upgrad", **{eager!r})

class End(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if self.now == 2 and batch == 2:
            if how == "kill":
                os._exit(9)
            if how == "wait":
                print("ready", flush=True)
                time.sleep(60)
    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

monitor = pt.callbacks.GradientMonitor(folder + "/run", every=1, ring=1, csv=True)
back = keras.callbacks.BackupAndRestore(folder + "/backup")
net.fit(X, Y, batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=[monitor, back, End()])
"""


def start(folder: Path, how: str) -> subprocess.Popen[str]:
    helpers = str(Path(__file__).parent.parent / "helpers")
    text = PROGRAM.format(paths=[helpers], losses=LOSSES, eager=EAGER)
    command = [sys.executable, "-c", text, str(folder), how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_fit_keeps_its_records_and_goes_on_in_the_same_file(tmp_path: Path) -> None:
    assert start(tmp_path, "kill").wait() == 9
    path = tmp_path / "run" / "monitor.jsonl"
    run = MonitorRun.load(path)
    made = [each.step for each in run.steps]
    assert made == list(range(len(made)))
    assert len(made) >= 9  # the last record may be on the device
    with open(path, "ab") as file:
        file.write(b'{"kind":"step","step":9,"ep')  # torn, as by a full disk
    second = start(tmp_path, "go on")
    _, errors = second.communicate()
    assert second.returncode == 0, errors
    run = MonitorRun.load(path)
    assert not run.torn
    assert [each.step for each in run.steps] == list(range(16))
    assert [each.epoch for each in run.epochs] == [0, 1, 2, 3]
    assert run.header.step == 8  # what the backup held: two epochs
    seconds = [each.seconds for each in run.steps]
    assert seconds == sorted(seconds)
    lines = (tmp_path / "run" / "monitor.csv").read_text().splitlines()
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(16))


def test_ctrl_c_in_the_terminal(tmp_path: Path) -> None:
    process = start(tmp_path, "wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    run = MonitorRun.load(tmp_path / "run")
    assert [each.step for each in run.steps] == list(range(10))


def test_a_new_training_sets_the_old_records_aside(tmp_path: Path) -> None:
    for _ in range(2):
        fitted(small("sum"), pt.callbacks.GradientMonitor(tmp_path, every=2))
    assert [each.step for each in MonitorRun.load(tmp_path).steps] == [0, 2]
    assert len(MonitorRun.load(tmp_path / "monitor.1.jsonl").steps) == 2


def test_records_of_others_are_refused(tmp_path: Path) -> None:
    net = small("sum")
    fitted(net, pt.callbacks.GradientMonitor(tmp_path, every=2))
    path = tmp_path / "monitor.jsonl"
    header, *rest = path.read_text().splitlines()
    other = {**json.loads(header), "objectives": ["x", "y"]}
    path.write_text("\n".join([json.dumps(other), *rest, ""]))
    with pytest.raises(ValueError, match=r"with objectives \['x', 'y'\].*goes on at step 4"):
        fitted(net, pt.callbacks.GradientMonitor(tmp_path, every=2))


# ---------------------------------------------------------------------- coming and going


def test_a_monitor_that_is_gone_leaves_nothing(tmp_path: Path) -> None:
    net = small("upgrad")
    fitted(net)
    plain = [v.path for v in net.metrics_variables]
    weights = len(net.weights)
    first = pt.callbacks.GradientMonitor(every=1)
    fitted(net, first)
    assert len(net.weights) == weights
    assert "monitor" not in fitted(net, first).history
    assert [each.step for each in first.records] == list(range(4, 12))
    second = pt.callbacks.GradientMonitor(every=3)
    fitted(net, second)
    assert [each.step for each in second.records] == [12, 15]
    net.save(tmp_path / "model.keras")
    fitted(net)
    assert [v.path for v in net.metrics_variables] == plain
    back = keras.saving.load_model(tmp_path / "model.keras")
    third = pt.callbacks.GradientMonitor(every=1)
    fitted(back, third)
    assert [each.step for each in third.records] == list(range(16, 20))


def test_a_model_that_is_built_by_its_first_step() -> None:
    class Late(pt.Model):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = layers.Dense(6, "tanh")
            self.heads = {name: layers.Dense(1, name=name) for name in "ab"}

        def call(self, inputs: Any) -> Any:
            hidden = self.trunk(inputs)
            return {name: head(hidden) for name, head in self.heads.items()}

    net = Late()
    net.compile("sgd", loss={"a": "mse", "b": "mae"}, combine="upgrad", **EAGER)
    monitor = pt.callbacks.GradientMonitor(every=1)
    fitted(net, monitor, y={name: Y[name] for name in "ab"})
    assert [each.step for each in monitor.records] == [0, 1, 2, 3]


def test_networks_can_be_left_out() -> None:
    monitor = pt.callbacks.GradientMonitor(every=1, networks=False)
    fitted(small("upgrad"), monitor)
    assert monitor.records[0].networks == {}
    assert sum(monitor.records[0].share.values()) == pytest.approx(1.0, abs=1e-4)


def test_wrong_arguments(tmp_path: Path) -> None:
    monitor = pt.callbacks.GradientMonitor
    with pytest.raises(TypeError, match="first argument of GradientMonitor is a folder"):
        monitor(10)
    for name in ("every", "ring"):
        for value in (0, -1, 2.5, True):
            with pytest.raises(ValueError, match=rf"GradientMonitor\({name}=...\) is a whole"):
                monitor(**{name: value})
    with pytest.raises(ValueError, match="CSV and TensorBoard files need a folder"):
        monitor(csv=True)
    with pytest.raises(ValueError, match="has 2 GradientMonitors"):
        fitted(small("sum"), monitor(), monitor())
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    plain.compile("sgd", "mse", **EAGER)
    with pytest.raises(TypeError, match=r"GradientMonitor is a callback of a pt\.Model"):
        plain.fit(X, Y["a"], verbose=0, callbacks=[monitor()])
    assert StepRecord().scalars == {}
    assert os.listdir(tmp_path) == []
