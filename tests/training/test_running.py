"""Keras's ways to run a step agree, weights change between batches, `Every` saves passes only."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import polytape as pt
from polytape.training import trainer
from polytape.training.step import train_step
from small import LOSSES, Array, arrays, assert_same, data, model

BACKEND = keras.backend.backend()
X, Y = data(16)

RUNS = {"pcgrad": pt.Chain(pt.Clip(0.5), pt.PCGrad()), "every": pt.Every(pt.Normalize(), 2)}
OPTIONS = {
    "no xla": {"jit_compile": False},
    "eager": {"run_eagerly": True},
    "four at once": {"steps_per_execution": 4},
}


@functools.cache
def after_four_steps(combine: str, option: str | None = None) -> list[Array]:
    keras.utils.set_random_seed(0)  # PCGrad draws its order
    net = model()
    options = OPTIONS[option] if option else {}
    net.compile(keras.optimizers.SGD(0.05), LOSSES, combine=RUNS[combine], **options)
    net.fit(X, Y, batch_size=4, epochs=1, shuffle=False, verbose=0)
    return arrays(net.trainable_variables)


@pytest.mark.parametrize("combine", RUNS)
@pytest.mark.parametrize("option", OPTIONS)
def test_ways_to_run_agree(combine: str, option: str) -> None:
    if option == "four at once" and BACKEND == "torch":
        pytest.skip("Keras has no steps_per_execution on PyTorch")
    if BACKEND == "jax" and option != "four at once" and combine == "pcgrad":
        pytest.skip("JAX without compilation is slow; one method is enough")
    pairs = zip(after_four_steps(combine), after_four_steps(combine, option), strict=True)
    for one, two in pairs:
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def test_every_in_fit_equals_steps_by_hand() -> None:
    """Reused weights cost one backward pass; the update is that of `pt.Combiner`."""
    method, rate = pt.Every(pt.IMTLG(), 2), 0.05
    fitted, by_hand = model(), model()
    fitted.compile(keras.optimizers.SGD(rate), LOSSES, combine=method)
    combiner, variables = pt.Combiner(method), by_hand.trainable_variables
    chosen = {name: keras.losses.get(loss) for name, loss in LOSSES.items()}
    for step in range(3):
        batch = slice(5 * step, 5 * step + 5)
        y = {name: target[batch] for name, target in Y.items()}
        fitted.train_on_batch(X[batch], y)

        def losses(batch: slice = batch, y: dict = y) -> dict[str, object]:
            out = by_hand(X[batch], training=True)
            targets = {"c": y["c"][:, 0] if y["c"].ndim > 1 else y["c"]}
            targets |= {n: ops.convert_to_tensor(y[n]) for n in "ab"}
            return {n: ops.mean(chosen[n](targets[n], out[n])) for n in "abc"}

        update = combiner(pt.gradients(losses, variables))
        for variable, direction in zip(variables, update, strict=True):
            variable.assign(variable - rate * direction)
    for one, two in zip(arrays(fitted.trainable_variables), arrays(variables), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


class Switch(keras.callbacks.Callback):
    """Turns objective b off after the second batch of four."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Array] = []

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        heads = [v for v in self.model.trainable_variables if v.path.startswith("b/kernel")]
        self.seen.append(arrays(heads)[0])
        if batch == 1:
            self.model.reweight({"b": 0.0})


def test_reweight_from_a_callback_acts_at_the_next_batch() -> None:
    net, switch = model(), Switch()
    chain = pt.Chain(pt.Reweight({"b": 2.0}), pt.Normalize())
    net.compile(keras.optimizers.SGD(0.05), LOSSES, combine=chain)
    net.fit(X, Y, batch_size=4, verbose=0, callbacks=[switch])
    first, second, third, fourth = switch.seen
    assert not np.array_equal(first, second)
    assert_same([second, second], [third, fourth])
    with pytest.raises(ValueError, match=r"'bb', which is not an objective. Did you mean 'b'"):
        net.reweight({"bb": 1.0})
    net.compile("sgd", LOSSES, combine="upgrad")
    with pytest.raises(ValueError, match=r"`combine` has none. Compile with combine=pt.Chain"):
        net.reweight({"b": 1.0})


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.data wants TensorFlow")
def test_tf_data() -> None:
    import tensorflow as tf

    net = model()
    net.compile("sgd", LOSSES, combine="pcgrad")
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    assert set(net.fit(batches, verbose=0).history) == {"loss", "a_loss", "b_loss", "c_loss"}


@pytest.mark.skipif(BACKEND != "jax", reason="Keras keeps arrays in the variables elsewhere")
def test_arrays_of_a_step_are_not_searched_for_variables() -> None:
    class LossesBeforeAfter(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            kinds.add(type(self.model._jax_state))

    kinds: set[type] = set()
    net = model()
    net.compile(keras.optimizers.SGD(0.05), LOSSES)
    net.fit(X, Y, batch_size=8, verbose=0, callbacks=[LossesBeforeAfter()])
    assert kinds == {dict}  # not a TrackedDict


@pytest.mark.compiled
@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras builds everything before the first step")
@pytest.mark.parametrize("networks", [False, True])
def test_a_step_is_traced_once(networks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables made within would cost a second trace. Fails if Keras builds by other means."""
    traced = []

    def counted(*args: object) -> object:
        traced.append(args)
        return train_step(*args)

    monkeypatch.setattr(trainer, "train_step", counted)
    if networks:
        parts = {"body": keras.layers.Dense(2), "head": keras.layers.Dense(1)}  # not built
        net = pt.Model(networks=parts, forward=lambda n, x: {"a": n["head"](n["body"](x))})
        targets = {"objectives": [pt.Objective("a", "mse")], "combine": "dwa", "verbose": 0}
        optimizer = {"body": "adam", "*": keras.optimizers.SGD(0.05, momentum=0.9)}
    else:
        net, targets, optimizer = model(), {"loss": LOSSES, "combine": "pcgrad"}, "adam"
    net.compile(optimizer, metrics={"a": ["mae"]}, **targets)
    y = {"a": Y["a"]} if networks else Y
    net.fit(X, y, batch_size=5, epochs=2, verbose=0)
    assert len(traced) == 1


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras builds in inference mode there")
def test_a_layer_that_only_training_uses() -> None:
    class Net(pt.Model):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.norm = keras.layers.Dense(1), keras.layers.BatchNormalization()

        def build(self, shape: tuple[int | None, ...]) -> None:
            del shape

        def call(self, x: object, training: bool = False) -> dict[str, object]:
            return {"a": self.head(self.norm(x, training=True) if training else x)}

    net = Net()
    net.compile("adam", {"a": "mse"}, combine="pcgrad")
    net.fit(X, {"a": Y["a"]}, batch_size=8, verbose=0)
    assert net.norm.built
    assert len(net.optimizer.variables) == 2 + 2 * len(net.trainable_variables) == 10
