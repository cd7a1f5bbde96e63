"""TensorFlow: `fit` under MirroredStrategy is that of one device, whatever is asked of a step."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from mirrored import on_devices, parted
from small import fill, model
from spread import CLOSE, SIZE, apart, batches, made, weights

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="tf.distribute is of TensorFlow"
    ),
    pytest.mark.engine,
]
LR = 0.05


def sgd() -> Any:
    return keras.optimizers.SGD(LR)


def adam() -> Any:
    """With all that an optimizer does beside its step."""
    return keras.optimizers.Adam(
        0.01,
        weight_decay=0.1,
        clipnorm=0.5,
        use_ema=True,
        ema_overwrite_frequency=2,
        gradient_accumulation_steps=2,
    )


def clipped() -> Any:
    return keras.optimizers.SGD(LR, momentum=0.9, global_clipnorm=0.3)


def scaled() -> Any:
    return keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=4.0, dynamic_growth_steps=3)


def several() -> Any:
    return {"trunk": keras.optimizers.Adam(0.01), "*": sgd()}


def objectives() -> dict[str, Any]:
    def of_step(step: Any) -> Any:
        return keras.ops.mean((step.outputs["b"] - step.targets["b"]) ** 2)

    given = [
        pt.Objective("a", "mse", weight=0.5),
        pt.Objective("b", of_step),
        pt.Objective("c", "sparse_categorical_crossentropy", every=2),
    ]
    return {"objectives": given, "phases": [["a", "c"], "b"]}


EAGER: dict[str, Callable[[], dict[str, Any]]] = {
    "optimizer": lambda: {"combine": "upgrad", "optimizer": adam()},
    "global clip": lambda: {"combine": "upgrad", "optimizer": clipped()},
    "several optimizers": lambda: {"combine": "upgrad", "optimizer": several()},
    "loss scaling": lambda: {"combine": "upgrad", "optimizer": scaled(), "fault": "infinite"},
    "infinite": lambda: {"combine": "upgrad", "optimizer": adam(), "fault": "infinite"},
    "infinite, sum": lambda: {"combine": "sum", "fault": "infinite"},
    "skip": lambda: {"combine": "pcgrad", "fault": "infinite", "on_nonfinite": "skip"},
    "missing": lambda: {"combine": "upgrad", "fault": "missing"},
    "missing, sum": lambda: {"combine": "sum", "fault": "missing"},
    "uneven": lambda: {"combine": "upgrad", "size": 28},
    "no sample on one replica": lambda: {"combine": "upgrad", "samples": 2 * SIZE + 1},
    "phases": lambda: {"combine": "upgrad", **objectives()},
    "weights of samples": lambda: {"combine": "upgrad", "sample_weight": True},
    "validated": lambda: {"combine": "upgrad", "validated": 21, "metrics": metrics()},
}
COMPILED: dict[str, Callable[[], dict[str, Any]]] = {
    "sum": lambda: {"combine": "sum", "optimizer": adam(), "fault": "missing"},
    "everything": lambda: {"combine": "upgrad", "optimizer": adam(), "fault": "infinite"},
    "several optimizers": lambda: {
        "combine": "upgrad",
        "optimizer": several(),
        "fault": "infinite",
    },
    "loss scaling": lambda: {"combine": "upgrad", "optimizer": scaled(), "fault": "infinite"},
    "isolate": lambda: {"combine": "sum", "fault": "infinite", "on_nonfinite": "isolate"},
    "memory": lambda: {"combine": pt.MConFIG(), "fault": "missing"},
    "periodic": lambda: {"combine": pt.Every(pt.IMTLG(), 3), "fault": "infinite"},
    "outputs": lambda: {"combine": "upgrad", "measure": "outputs", "fault": "infinite"},
    "second look": lambda: {"combine": pt.FAMO(), "fault": "infinite"},
    "phases": lambda: {"combine": "upgrad", "fault": "missing", **objectives()},
}


def metrics() -> dict[str, Any]:
    return {"a": ["mae"], "c": ["accuracy"]}


def trained(
    fault: str | None = None,
    size: int = SIZE,
    samples: int | None = None,
    sample_weight: bool = False,
    validated: int = 0,
    optimizer: Any = None,
    **settings: Any,
) -> tuple[Any, dict[str, list[float]]]:
    """A model after two epochs, and what they logged."""
    if "objectives" in settings:
        found = fill(model())
        found.compile(optimizer or sgd(), verbose=0, seed=3, **settings)
    else:
        found = made(settings.pop("combine"), optimizer, **settings)
    x, y = batches(fault)
    x, y = x[:samples], {name: target[:samples] for name, target in y.items()}
    options: dict[str, Any] = {"batch_size": size, "shuffle": False, "verbose": 0, "epochs": 2}
    if sample_weight:
        options["sample_weight"] = {name: np.linspace(0, 2, len(x)) for name in y}
    if validated:
        part = x[:validated], {name: target[:validated] for name, target in y.items()}
        options["validation_data"] = part
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return found, found.fit(x, y, **options).history


def same(strategy: Any, cases: dict[str, Callable[[], dict[str, Any]]], **how: Any) -> dict:
    """Of each case how far its weights are apart from one device's, its logs, and what parted."""
    found = {}
    for name, case in cases.items():
        alone, logged = trained(**case(), **how)
        with strategy.scope():
            many, logs = trained(**case(), **how)
        assert logs.keys() == logged.keys(), name
        off = [abs(np.subtract(logs[k], logged[k])) / (np.abs(logged[k]) + 1e-6) for k in logs]
        held = [*many.variables, *many.optimizer.variables, *many.method_state.variables]
        counts = [int(one.optimizer.iterations.numpy()) for one in (alone, many)]
        found[name] = {
            "apart": apart(weights(many), weights(alone)),
            "logs": float(np.nanmax(off)),
            "parted": parted(strategy, held),
            "iterations": counts[0] - counts[1],
        }
    return found


def eagerly(strategy: Any) -> dict[str, Any]:
    return same(strategy, EAGER, run_eagerly=True)


def compiled(strategy: Any, names: list[str]) -> dict[str, Any]:
    return same(strategy, {name: COMPILED[name] for name in names}, jit_compile=False)


def on_one_device_added(strategy: Any) -> dict[str, Any]:
    """Sums made on one device: only there can Keras make several steps at once."""
    import tensorflow as tf

    devices = strategy.extended.worker_devices
    one = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops=one)
    cases = {name: COMPILED[name] for name in ("everything", "periodic")}
    return same(strategy, cases, jit_compile=False, steps_per_execution=5)


def check(found: dict[str, Any]) -> None:
    for name, told in found.items():
        assert told["apart"] < CLOSE, (name, told)
        assert told["logs"] < 1e-4, (name, told)
        assert not told["parted"], (name, told)
        assert told["iterations"] == 0, (name, told)


def test_eager_fit() -> None:
    check(on_devices(__name__, "eagerly", 2, seconds=500.0))


@pytest.mark.compiled
def test_compiled_fit() -> None:
    check(on_devices(__name__, "compiled", 2, seconds=500.0, names=[*COMPILED]))


@pytest.mark.compiled
def test_several_steps_at_once() -> None:
    check(on_devices(__name__, "on_one_device_added", 2, seconds=500.0))


@pytest.mark.compiled
def test_compiled_fit_on_four_devices() -> None:
    names = ["everything", "phases"]
    check(on_devices(__name__, "compiled", 4, seconds=500.0, names=names))
