"""TensorFlow: what is linear sends no more between devices than plain Keras does."""

import functools
from typing import Any

import keras
import pytest

from mirrored import on_devices
from small import LOSSES, model
from spread import SIZE, batches, made

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="tf.distribute is of TensorFlow"
    ),
    pytest.mark.engine,
    pytest.mark.compiled,
]
FEW = 64  # numbers: losses, counts of labels, flags


def sent(strategy: Any) -> dict[str, list[int]]:
    """The entries of each tensor that the replicas of a compiled step sum, largest first."""
    import tensorflow as tf

    x, y = batches()
    data = x[:SIZE], {name: target[:SIZE] for name, target in y.items()}
    found = {}
    for name in ("keras", "sum", "dwa", "upgrad"):
        with strategy.scope():
            if name == "keras":
                one = model(cls=keras.Model)
                one.compile("sgd", LOSSES, jit_compile=False)
            else:
                one = made(name, jit_compile=False)
        one.train_on_batch(*data)
        run = functools.partial(strategy.run, one.train_step)
        step = tf.function(lambda batch, run=run: run(args=(batch,)), autograph=False)
        given = strategy.experimental_distribute_dataset(
            tf.data.Dataset.from_tensor_slices(data).batch(SIZE, drop_remainder=True)
        )
        graph = step.get_concrete_function(next(iter(given))).graph
        first = [
            operation.inputs[0].shape.num_elements()
            for operation in graph.get_operations()
            if operation.type.startswith("CollectiveReduce") and "CPU:0" in operation.device
        ]
        found[name] = sorted(first, reverse=True)
    sizes = [variable.shape.num_elements() for variable in one.trainable_variables]
    return {**found, "size": [sum(sizes)]}


def test_sums_over_replicas() -> None:
    found = on_devices(__name__, "sent", 2)
    (size,) = found.pop("size")
    assert sum(found["keras"]) == size
    for name in ("sum", "dwa"):
        assert size <= sum(found[name]) <= size + FEW, (name, found[name])
    assert size < sum(found["upgrad"]) <= 3 * size + FEW, found["upgrad"]
