"""TensorFlow: replicas under a strategy train as one device does, whatever the method."""

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

    function = tf.function

    def plain(*args: Any, **settings: Any) -> Any:
        return function(*args, **{**settings, "jit_compile": None})

    tf.function = plain


def under(strategy: Any, names: list[str], optimizer: str) -> dict[str, tuple[Any, list[str]]]:
    """For each method how far it ends from one device, and which variables replicas hold apart.

    Both in one process: XLA would draw other random numbers for the one device.
    """
    uncompiled()
    found = {}
    for name in names:
        alone = weights(trained(name, optimizer))
        with strategy.scope():
            one = trained(name, optimizer)
        everything = [*one.variables, *one.optimizer.variables, *one.method_state.variables]
        found[name] = apart(weights(one), alone), parted(strategy, everything)
    return found


@pytest.mark.parametrize(("count", "optimizer"), [(2, "sgd"), (4, "adam")])
def test_replicas_train_as_one(count: int, optimizer: str) -> None:
    """Every method of the catalogue, by one process for each number of devices."""
    names = [*methods()]
    found = on_devices(__name__, "under", count, seconds=2700.0, names=names, optimizer=optimizer)
    assert not {name: paths for name, (_, paths) in found.items() if paths}
    assert len(found) == len(names)
    assert not {name: far for name, (far, _) in found.items() if not far < CLOSE}
