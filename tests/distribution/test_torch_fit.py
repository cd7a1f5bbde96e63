"""PyTorch: what `fit` of several processes keeps of that of one, besides the method."""

import traceback
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from processes import each
from small import LOSSES, arrays, everything, fill, model, tensors
from spread import CLOSE, SIZE, apart, batches, flat, made, part, train, weights

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="torch.distributed is of PyTorch"
)
Found = dict[str, Any]
CASES: dict[str, Callable[[int, int], Found]] = {}


def case(function: Callable[[int, int], Found]) -> Callable[[int, int], Found]:
    """A training that one process makes by itself, and several together."""
    CASES[function.__name__] = function
    return function


def result(found: pt.Model, logs: Any = None, **more: Any) -> Found:
    return {"weights": weights(found), "all": everything(found), "logs": logs or {}, **more}


def faulty(combine: str, on_nonfinite: str, rank: int, count: int) -> Found:
    found = made(combine, on_nonfinite=on_nonfinite)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logs = train(found, part(batches("infinite"), rank, count), SIZE // count)
    return result(found, logs)


for _combine in ("sum", "upgrad"):
    for _mode in ("drop", "isolate", "skip"):
        CASES[f"{_combine}, {_mode}"] = lambda rank, count, pair=(_combine, _mode): faulty(
            *pair, rank, count
        )


@case
def missing_labels(rank: int, count: int) -> Found:
    found = made("upgrad", metrics={"a": ["mae"]})
    logs = train(
        found,
        part(batches("missing"), rank, count),
        SIZE // count,
        validation_data=part(batches(), rank, count),
    )
    return result(found, logs)


@case
def sample_weights(rank: int, count: int) -> Found:
    found = made("upgrad")
    x, y = batches()
    given = {name: np.random.default_rng(4).random(len(x)).astype("float32") for name in "abc"}
    x, y, given = part((x, y, given), rank, count)
    return result(found, train(found, (x, y), SIZE // count, sample_weight=given))


@case
def accumulated_and_averaged(rank: int, count: int) -> Found:
    optimizer = keras.optimizers.Adam(
        0.01, gradient_accumulation_steps=2, use_ema=True, ema_momentum=0.5, clipnorm=0.3
    )
    found = made("upgrad", optimizer)
    return result(found, train(found, part(batches(), rank, count), SIZE // count))


@case
def scaled(rank: int, count: int) -> Found:
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.05), initial_scale=2.0**10, dynamic_growth_steps=3
    )
    found = made("upgrad", optimizer)
    return result(found, train(found, part(batches("infinite"), rank, count), SIZE // count))


@case
def by_features(rank: int, count: int) -> Found:
    inputs = keras.Input((4,))
    hidden = pt.Features()(keras.layers.Dense(6, activation="tanh")(inputs))
    heads = {name: keras.layers.Dense(2 if name == "c" else 1)(hidden) for name in "abc"}
    heads["c"] = keras.layers.Softmax()(heads["c"])
    found = fill(pt.Model(inputs, heads))
    found.compile(keras.optimizers.SGD(0.05), LOSSES, combine="upgrad", measure="features")
    return result(found, train(found, part(batches(), rank, count), SIZE // count))


class More(pt.Model):
    """Its total has a term of its own."""

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *args: Any, **k: Any):
        return super().compute_loss(x, y, y_pred, *args, **k) + 0.1 * keras.ops.mean(
            keras.ops.square(y_pred["a"])
        )


@case
def a_term_of_ones_own(rank: int, count: int) -> Found:
    found = fill(More(*tensors()))
    found.compile(keras.optimizers.SGD(0.05), LOSSES, combine="upgrad")
    return result(found, train(found, part(batches(), rank, count), SIZE // count))


@case
def regularized(rank: int, count: int) -> Found:
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, kernel_regularizer="l2", activity_regularizer="l2")(inputs)
    found = fill(pt.Model(inputs, {name: keras.layers.Dense(1)(hidden) for name in "ab"}))
    found.compile(keras.optimizers.SGD(0.05), {"a": "mse", "b": "mae"}, combine="upgrad")
    x, y = batches()
    given = part((x, {name: y[name] for name in "ab"}), rank, count)
    return result(found, train(found, given, SIZE // count))


def of_phases(combine: Any) -> pt.Model:
    def layer(units: int, size: int) -> keras.Model:
        return keras.Sequential([keras.Input((size,)), keras.layers.Dense(units)])

    def forward(networks: Any, x: Any) -> Any:
        code = networks["encoder"](x)
        return {"code": code, "a": networks["one"](code), "b": networks["two"](code)}

    nets = {"encoder": layer(5, 4), "one": layer(1, 5), "two": layer(1, 5)}
    found = fill(pt.Model(networks=nets, forward=forward))
    found.compile(
        objectives=[
            pt.Objective("a", "mse"),
            pt.Objective("b", "mse", trains=["encoder", "two"]),
            pt.Objective("size", lambda step: keras.ops.mean(step.outputs["code"] ** 2), every=2),
        ],
        optimizer={
            "encoder": keras.optimizers.Adam(0.01),
            "one": keras.optimizers.SGD(0.05),
            "two": keras.optimizers.SGD(0.05, momentum=0.9),
        },
        combine=combine,
        phases=[["a", "b"], pt.Phase("size", steps=2)],
        verbose=0,
    )
    return found


@case
def phases_and_optimizers(rank: int, count: int) -> Found:
    found = of_phases("upgrad")
    x, y = batches("missing")
    given = part((x, {name: y[name] for name in "ab"}), rank, count)
    return result(found, train(found, given, SIZE // count), start="phases")


@case
def monitored(rank: int, count: int) -> Found:
    found, monitor = made("dwa"), pt.callbacks.GradientMonitor(every=3)
    given = part(batches(), rank, count)
    logs = train(found, given, SIZE // count, callbacks=[monitor])
    records = [
        np.concatenate([[record.step], *(np.ravel(v) for v in record.scalars.values())])
        for record in monitor.records
    ]
    return result(found, logs, records=np.array(records))


@case
def on_epochs(rank: int, count: int) -> Found:
    """Each process has its own validation data, of another size, and reads the same of all."""
    found = made("upgrad", metrics={"c": ["accuracy"], "a": [keras.metrics.RootMeanSquaredError()]})
    x, y = batches()
    cuts = slice(0, 37) if count == 1 else slice(0, 30) if rank == 0 else slice(30, 37)
    valid = x[cuts], {name: each[cuts] for name, each in y.items()}
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=0.02),
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=0, min_delta=0.1, min_lr=1e-3),
    ]
    history = found.fit(
        *part((x, y), rank, count),
        batch_size=SIZE // count,
        shuffle=False,
        epochs=8,
        verbose=0,
        validation_data=valid,
        validation_batch_size=10,
        callbacks=callbacks,
    ).history
    logs = {name: values[-1] for name, values in history.items()}
    own = found.evaluate(*valid, batch_size=10, verbose=0, return_dict=True)
    logs.update({f"evaluated_{name}": value for name, value in own.items()})
    return result(found, {**logs, "epochs": len(history["loss"])})


@case
def uneven(rank: int, count: int) -> Found:
    """Parts of a batch need not be of one size."""
    found = made("upgrad")
    x, y = batches("missing")
    cuts = slice(None) if count == 1 else slice(0, 11) if rank == 0 else slice(11, None)

    def of_part(array: Any) -> Any:
        steps = array.reshape(-1, SIZE, *array.shape[1:])[:, cuts]
        return steps.reshape(-1, *array.shape[1:])

    given = keras.tree.map_structure(of_part, (x, y))
    size = SIZE if count == 1 else 11 if rank == 0 else SIZE - 11
    return result(found, train(found, given, size))


@case
def by_single_batches(rank: int, count: int) -> Found:
    found = made("upgrad")
    x, y = batches()
    for step in range(4):
        some = slice(step * SIZE, (step + 1) * SIZE)
        cut = x[some], {name: values[some] for name, values in y.items()}
        found.train_on_batch(*keras.tree.map_structure(lambda a: part(a, rank, count), cut))
    return result(found)


def run(case: str, rank: int, count: int) -> Found:
    keras.utils.set_random_seed(17)
    return CASES[case](rank, count)


def far(one: Found, other: Found) -> float:
    """How far two trainings ended from each other, in distances travelled."""
    begun = None if len(one["weights"]) == len(weights(model())) else 0 * one["weights"]
    if one.get("start") == "phases":
        begun = flat(arrays(of_phases("sum").trainable_variables))
    return apart(one["weights"], other["weights"], begun)


def in_group(rank: int, count: int) -> dict[str, Found | str]:
    found: dict[str, Found | str] = {}
    for name in CASES:
        try:
            found[name] = run(name, rank, count)
        except Exception:
            found[name] = traceback.format_exc()
    return found


@pytest.fixture(scope="module")
def pair() -> list[dict[str, Found | str]]:
    return each(__name__, "in_group", 2, seconds=200.0)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(name: str, pair: list[dict[str, Any]]) -> None:
    one, other = (found[name] for found in pair)
    assert isinstance(one, dict), one
    assert isinstance(other, dict), other
    for first, second in zip(one["all"], other["all"], strict=True):
        np.testing.assert_array_equal(first, second)
    assert one["logs"] == other["logs"]
    alone = run(name, 0, 1)
    assert far(one, alone) < CLOSE
    assert one["logs"].keys() == alone["logs"].keys()
    for key, value in alone["logs"].items():
        np.testing.assert_allclose(one["logs"][key], value, rtol=1e-5, atol=1e-6, err_msg=key)
    if "records" in alone:
        np.testing.assert_allclose(one["records"], alone["records"], rtol=1e-4, atol=1e-5)
