"""TensorFlow: two processes under MultiWorkerMirroredStrategy, in loops of one's own."""

import os
from typing import Any

import keras
import numpy as np
import pytest

import polytape as pt
from small import LOSSES, fill, model
from spread import CLOSE, SIZE, apart, batches, weights
from workers import each_worker

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="tf.distribute is of TensorFlow"
    ),
    pytest.mark.engine,
    pytest.mark.compiled,
]


def losses_of(found: Any, x: Any, y: Any) -> dict[str, Any]:
    outputs = found(x, training=True)
    return {n: keras.ops.sum((outputs[n] - y[n]) ** 2) / SIZE for n in ("a", "b")}


def looped(strategy: Any, kind: str) -> dict[str, Any]:
    import tensorflow as tf

    with strategy.scope():
        found, optimizer = fill(model()), keras.optimizers.Adam(0.01)
        optimizer.build(found.trainable_variables)
        combiner = pt.Combiner("upgrad")
        step = pt.compiled_step(lambda x, y: losses_of(found, x, y), optimizer, combiner, found)

    def own(x: Any, y: Any) -> None:
        variables = found.trainable_variables
        grads = pt.gradients(lambda: losses_of(found, x, y), variables)
        optimizer.apply(combiner(grads), variables)

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    given = tf.data.Dataset.from_tensor_slices(batches()).batch(SIZE).with_options(options)
    run = step
    if kind == "own":
        run = tf.function(lambda x, y: strategy.run(own, args=(x, y)), autograph=False)
    with strategy.scope():
        for x, y in strategy.experimental_distribute_dataset(given):
            run(x, y)
    held = [*found.variables, *optimizer.variables, *combiner.variables]
    return {"weights": weights(found), "held": [variable.numpy() for variable in held]}


def in_group(strategy: Any) -> dict[str, Any]:
    found = {kind: looped(strategy, kind) for kind in ("own", "step")}
    with strategy.scope():
        refused = model()
        try:
            refused.compile("sgd", LOSSES, combine="upgrad")
        except RuntimeError as error:
            return {**found, "said": str(error)}
    return found


def alone() -> Any:
    found, optimizer = fill(model()), keras.optimizers.Adam(0.01)
    step = pt.compiled_step(
        lambda x, y: losses_of(found, x, y), optimizer, "upgrad", found, run_eagerly=True
    )
    x, y = batches()
    for start in range(0, len(x), SIZE):
        part = slice(start, start + SIZE)
        step(x[part], {name: target[part] for name, target in y.items()})
    return weights(found)


def test_two_workers_train_as_one() -> None:
    """In a loop of one's own and a compiled step; `fit` is refused, as it fails in Keras."""
    (code, one), (other_code, other) = each_worker(__name__, "in_group")
    assert (code, other_code) == (0, 0), f"{one}\n{other}"
    on_one = alone()
    for kind in ("own", "step"):
        assert apart(one[kind]["weights"], on_one) < CLOSE, kind
        for first, second in zip(one[kind]["held"], other[kind]["held"], strict=True):
            np.testing.assert_array_equal(first, second)
    assert "keras/issues/20585" in one["said"]
    assert "pt.compiled_step" in one["said"]


def deserted(strategy: Any) -> None:
    import tensorflow as tf

    with strategy.scope():
        found, optimizer = fill(model()), keras.optimizers.SGD(0.01)
        step = pt.compiled_step(lambda x, y: losses_of(found, x, y), optimizer, "upgrad", found)
    given = tf.data.Dataset.from_tensor_slices(batches()).batch(SIZE).repeat(50)
    with strategy.scope():
        for number, (x, y) in enumerate(strategy.experimental_distribute_dataset(given)):
            if number == 2 and strategy.cluster_resolver.task_id == 1:
                os._exit(3)
            step(x, y)


def test_a_worker_that_dies_is_an_error() -> None:
    (code, said), (other, _) = each_worker(__name__, "deserted", seconds=150.0)
    assert other == 3
    assert code not in (0, None), "it waits for ever"
    assert "Error" in said
