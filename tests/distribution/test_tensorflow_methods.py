"""TensorFlow: replicas under a strategy train as one device does, whatever the method."""

import functools
from typing import Any

import keras
import pytest

from mirrored import on_devices, parted
from spread import CLOSE, apart, made, methods, train, weights

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="tf.distribute is of TensorFlow"
    ),
    pytest.mark.engine,
]
RATES = {"sgd": 0.05, "adam": 0.01}


@functools.cache
def alone(name: str, optimizer: str) -> Any:
    """The weights after an epoch on one device."""
    return weights(trained(name, optimizer))


def trained(name: str, optimizer: str) -> Any:
    of_keras = keras.optimizers.get(
        {"class_name": optimizer, "config": {"learning_rate": RATES[optimizer]}}
    )
    found = made(methods()[name], of_keras, run_eagerly=True)
    train(found)
    return found


def uncompiled() -> None:
    """The T x T part as a plain function, which XLA would compile anew for every device."""
    import tensorflow as tf

    from polytape.engines import tensorflow as engine

    engine.compiled = lambda function: tf.function(function, autograph=False)


def under(strategy: Any, names: list[str], optimizer: str) -> dict[str, tuple[Any, list[str]]]:
    """For each method the weights, and the variables of which replicas hold different bits."""
    import time

    uncompiled()
    found = {}
    for name in names:
        t = time.process_time()
        with strategy.scope():
            one = trained(name, optimizer)
        everything = [*one.variables, *one.optimizer.variables, *one.metrics_variables[:0]]
        found[name] = weights(one), parted(strategy, everything)
        print(name, time.process_time() - t, flush=True)
    print("TOTAL", time.process_time(), flush=True)
    return found


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("optimizer", [*RATES])
def test_replicas_train_as_one(count: int, optimizer: str) -> None:
    names = [*methods()]
    found = on_devices(__name__, "under", count, names=names, optimizer=optimizer)
    assert not {name: paths for name, (_, paths) in found.items() if paths}
    far = {name: apart(one, alone(name, optimizer)) for name, (one, _) in found.items()}
    assert len(far) == len(names)
    assert not {name: distance for name, distance in far.items() if not distance < CLOSE}
