"""TensorFlow: what cannot be right under a strategy is refused before the first step."""

import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from mirrored import on_devices
from small import LOSSES, data, model

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="tf.distribute is of TensorFlow"
    ),
    pytest.mark.engine,
]


def refused(door: Callable[[], Any]) -> str:
    try:
        door()
    except RuntimeError as error:
        return str(error)
    return ""


def doors(strategy: Any) -> dict[str, str]:
    """What each way in says."""
    import tensorflow as tf

    outside, optimizer, w = model(), keras.optimizers.SGD(0.1), keras.Variable([1.0, 2.0])
    combiner = pt.Combiner("dwa")
    combiner.prepare(["a", "b"], [w])
    with strategy.scope():
        inside, known = model(), keras.Variable([1.0, 2.0])
    inside.compile("sgd", LOSSES, combine="upgrad", run_eagerly=True, verbose=0)

    def losses(v: Any) -> dict[str, Any]:
        return {"a": v[0] ** 2, "b": -v[0] * v[1]}

    def in_scope(door: Callable[[], Any]) -> Callable[[], Any]:
        def entered() -> Any:
            with strategy.scope():
                return door()

        return entered

    central = tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"])

    def stored_centrally() -> None:
        with central.scope():
            model().compile("sgd", LOSSES)

    other = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    def in_another() -> None:
        with other.scope():
            inside.compile("sgd", LOSSES)

    def combined() -> None:
        strategy.run(lambda: combiner(pt.gradients(lambda: losses(known), [known])))

    found = {
        "a model from outside": in_scope(lambda: outside.compile("sgd", LOSSES)),
        "an optimizer from outside": in_scope(lambda: inside.compile(optimizer, LOSSES)),
        "a fit of every replica": lambda: strategy.run(lambda: inside.fit(*data(8), verbose=0)),
        "another strategy": in_another,
        "one copy": stored_centrally,
        "a variable from outside": lambda: strategy.run(
            lambda: pt.gradients(lambda: losses(w), [w])
        ),
        "a Combiner from outside": combined,
        "a step from outside": in_scope(
            lambda: pt.compiled_step(lambda: losses(w), "sgd", "upgrad", [w])
        ),
        "compiled outside": lambda: inside.compile("sgd", LOSSES, run_eagerly=True),
        "trained": lambda: inside.fit(*data(8), batch_size=8, verbose=0),
    }
    return {name: refused(door) for name, door in found.items()}


def test_refusals() -> None:
    said = on_devices(__name__, "doors", 2)
    assert not said.pop("compiled outside"), "the scope is entered by compile()"
    assert not said.pop("trained")
    mirrored = "tf.distribute.MirroredStrategy"
    begins = {
        "a model from outside": "compile(): the variable 'trunk/kernel' was made outside of the "
        f"scope of the {mirrored}",
        "an optimizer from outside": "compile(): the variable 'sgd/iteration' was made outside",
        "a fit of every replica": "fit(): it was called in strategy.run(...), by every replica",
        "another strategy": f"compile(): the model was made under another {mirrored}",
        "one copy": "compile(): tf.distribute.CentralStorageStrategy",
        "a variable from outside": "pt.gradients: the variable 'variable",
        "a Combiner from outside": "pt.Combiner: the variable 'combiner",
        "a step from outside": "pt.compiled_step: the variable 'variable",
    }
    assert said.keys() == begins.keys()
    for name, text in said.items():
        assert text.startswith(begins[name]), (name, text)
        remedies = ("`with strategy.scope():`", "Call it outside", "tf.distribute.MirroredStrategy")
        assert any(remedy in text for remedy in remedies), (name, text)


def test_parameter_servers() -> None:
    import tensorflow as tf

    strategy = object.__new__(tf.distribute.ParameterServerStrategy)  # without a cluster
    found = pt.engines.engine().refusal(types.SimpleNamespace(distribute_strategy=strategy))
    assert found.startswith("tf.distribute.ParameterServerStrategyV2 has workers that train each")
    assert "tf.distribute.MirroredStrategy for the devices of one machine" in found


def test_one_replica_is_no_replica() -> None:
    import tensorflow as tf

    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        found = model()
        found.compile("sgd", LOSSES, combine="upgrad", verbose=0)
    logs = found.train_on_batch(*data(8))
    assert np.isfinite(logs).all()
