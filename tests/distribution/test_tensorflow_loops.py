"""TensorFlow: loops of one's own on replicas, one batch at a time, saved and observed trainings."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from mirrored import on_devices, parted
from small import data, everything, fill, model
from spread import CLOSE, SIZE, apart, batches, made, train, weights

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="tf.distribute is of TensorFlow"
    ),
    pytest.mark.engine,
    pytest.mark.compiled,
]
STEPS = 10


def network(marked: bool) -> Any:
    """That of `small`, or the same with its trunk's output marked."""
    if not marked:
        return fill(model())
    inputs = keras.Input((4,))
    hidden = pt.Features()(keras.layers.Dense(6, activation="tanh")(inputs))
    heads = {name: keras.layers.Dense(1, name=name)(hidden) for name in ("a", "b")}
    heads["c"] = keras.layers.Dense(2, activation="softmax", name="c")(hidden)
    return fill(keras.Model(inputs, heads))


def losses_of(found: Any, x: Any, y: Any) -> dict[str, Any]:
    """Sums over a part of the batch, divided by the samples of the whole one."""
    outputs = found(x, training=True)
    classes = keras.losses.sparse_categorical_crossentropy(y["c"], outputs["c"])
    apart = {name: (outputs[name] - y[name]) ** 2 for name in ("a", "b")}
    return {name: keras.ops.sum(part) / SIZE for name, part in {**apart, "c": classes}.items()}


def looped(strategy: Any, kind: str, method: Any) -> tuple[Any, list[str]]:
    """The weights after a loop, and which variables have parted; strategy  None: on one device"""
    import tensorflow as tf

    scope = contextlib.nullcontext if strategy is None else strategy.scope
    with scope():
        found, optimizer = network(kind == "features"), keras.optimizers.Adam(0.01)
        variables = found.trainable_variables
        optimizer.build(variables)
        combiner = pt.Combiner(method)
        whole = pt.compiled_step(lambda x, y: losses_of(found, x, y), optimizer, combiner, found)

    def step(x: Any, y: Any) -> None:
        if kind == "tape":
            with pt.GradientTape() as tape:
                losses = losses_of(found, x, y)
            grads = tape.gradients(losses, variables)
        else:
            measure = "features" if kind == "features" else "parameters"
            grads = pt.gradients(lambda: losses_of(found, x, y), variables, measure)
        update = grads.combine(method) if kind == "on the spot" else combiner(grads)
        optimizer.apply(update, variables)
        if method.evidence and "losses_before_after" in method.evidence:
            combiner.look_again(losses_of(found, x, y))

    run: Any = whole
    if kind == "step in run":
        step = whole
    if kind != "step":
        run = step if strategy is None else lambda x, y: strategy.run(step, args=(x, y))
        run = run if run is whole else tf.function(run, autograph=False)
    given = tf.data.Dataset.from_tensor_slices(batches()).batch(SIZE)
    if strategy is not None:
        given = strategy.experimental_distribute_dataset(given)
    with scope():
        for x, y in given:
            run(x, y)
    held = [*found.variables, *optimizer.variables, *combiner.variables]
    return weights(found), [] if strategy is None else parted(strategy, held)


LOOPS = {
    "gradients, upgrad": ("gradients", pt.UPGrad()),
    "gradients, nashmtl": ("gradients", pt.NashMTL()),
    "features, upgrad": ("features", pt.UPGrad()),
    "tape, upgrad": ("tape", pt.UPGrad()),
    "on the spot, upgrad": ("on the spot", pt.UPGrad()),
    "step, famo": ("step", pt.FAMO()),
    "step, m_config": ("step", pt.MConFIG()),
    "step in run, upgrad": ("step in run", pt.UPGrad()),
}


def loops(strategy: Any) -> dict[str, tuple[float, list[str]]]:
    found = {}
    for name, (kind, method) in LOOPS.items():
        many, held = looped(strategy, kind, method)
        found[name] = apart(many, looped(None, kind, method)[0]), held
    return found


def test_loops() -> None:
    """Directions that Keras's optimizers add up, and those of a compiled step."""
    for name, (far, held) in on_devices(__name__, "loops", 2, seconds=500.0).items():
        assert far < CLOSE, (name, far)
        assert not held, (name, held)


def single(strategy: Any) -> dict[str, Any]:
    """Batches one by one, also such that cannot be split evenly, or have a sample less."""
    found: dict[str, Any] = {}
    metrics = {"a": ["mae"]}
    for name, method in {"halves": pt.MoDo(), "upgrad": "upgrad"}.items():
        both = []
        for scope in (contextlib.nullcontext, strategy.scope):
            with scope():
                one = made(method, metrics=metrics, run_eagerly=True)
            told = []
            for size in (SIZE, 7, 1):
                x, y = data(size, seed=size)
                y["a"][: size // 3] = np.nan
                told += [one.train_on_batch(x, y, return_dict=True)]
                one.reset_metrics()
                told += [one.test_on_batch(x, y, return_dict=True)]
                one.reset_metrics()
            both.append((weights(one), told))
        (alone, said), (many, says) = both
        off = [
            abs(float(one[key]) - float(other[key]))
            for one, other in zip(said, says, strict=True)
            for key in one
        ]
        found[name] = apart(many, alone), max(off)
    return found


def test_single_batches() -> None:
    """Keras would hand the whole batch to every replica."""
    for name, (far, off) in on_devices(__name__, "single", 2).items():
        assert far < CLOSE, (name, far)
        assert off < 1e-5, (name, off)


def same(one: Any, other: Any) -> None:
    """Weights, slots and states, bit for bit."""
    for first, second in zip(everything(one), everything(other), strict=True):
        np.testing.assert_array_equal(first, second)


def saved(strategy: Any) -> dict[str, Any]:
    """A training that is saved half-way, and goes on on as many devices, on one and anew."""
    x, y = batches()
    x, y = x[: 4 * SIZE], {name: target[: 4 * SIZE] for name, target in y.items()}
    half = 2 * SIZE
    first = x[:half], {name: target[:half] for name, target in y.items()}
    second = x[half:], {name: target[half:] for name, target in y.items()}

    def fresh() -> Any:
        return made(pt.Smoothed(pt.NashMTL()), keras.optimizers.Adam(0.01), run_eagerly=True)

    with tempfile.TemporaryDirectory() as folder:
        path, plain = str(Path(folder, "model.keras")), str(Path(folder, "w.weights.h5"))
        with strategy.scope():
            through = fresh()
        train(through, first)
        through.save(path)
        through.save_weights(plain)
        train(through, second)
        with strategy.scope():
            again = keras.models.load_model(path)
            beside = fresh()
        again.run_eagerly = True
        train(again, second)
        same(through, again)
        beside.load_weights(plain)
        alone = keras.models.load_model(path)
        alone.run_eagerly = True
        train(alone, second)
        on_one = Path(folder, "one.keras")
        alone = keras.models.load_model(path)
        alone.save(on_one)
        with strategy.scope():
            back = keras.models.load_model(on_one)
        back.run_eagerly = True
        train(back, second)
        same(through, back)
        train(alone, second)
    held = [*again.variables, *again.optimizer.variables, *again.method_state.variables]
    return {
        "parted": parted(strategy, held),
        "apart": apart(weights(alone), weights(through)),
        "state": [v.numpy() for v in beside.method_state.variables],
        "saved": len(through.method_state.variables),
    }


def test_save_and_resume() -> None:
    """Bit-exact on as many devices, also by way of one; on one device as close as a training."""
    found = on_devices(__name__, "saved", 2)
    assert not found["parted"]
    assert found["apart"] < CLOSE
    assert len(found["state"]) == found["saved"] > 0
    assert any(array.any() for array in found["state"])


def monitored(strategy: Any) -> dict[str, Any]:
    both = []
    for scope in (contextlib.nullcontext, strategy.scope):
        with scope():
            one = made("upgrad", run_eagerly=True)
        monitor = pt.callbacks.GradientMonitor(every=3)
        train(one, callbacks=[monitor])
        both.append([(r.step, r.scalars) for r in monitor.records])
    return {"alone": both[0], "many": both[1]}


def test_monitor() -> None:
    """Its records are those of one device, and each is there once."""
    found = on_devices(__name__, "monitored", 2)
    assert [record[0] for record in found["many"]] == [record[0] for record in found["alone"]]
    for (_, one), (_, other) in zip(found["alone"], found["many"], strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_allclose([*other.values()], [*one.values()], rtol=1e-4, atol=1e-6)
