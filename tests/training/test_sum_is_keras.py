"""combine="sum" is plain Keras, bit for bit: weights, slots, statistics, seeds, history."""

import keras
import numpy as np
import pytest
from keras import layers

import polytape as pt
from small import Array, arrays, assert_same, data, fill

pytestmark = pytest.mark.bits
BACKEND = keras.backend.backend()
X, Y = data(40)
LOWEST = np.float32([1, 0, 0, 0])


@keras.saving.register_keras_serializable(package="tests")
class Penalty(layers.Layer):
    """Adds a loss of its own."""

    def call(self, x: object) -> object:
        self.add_loss(0.01 * keras.ops.mean(x**2))
        return x


def busy(cls: type[keras.Model], policy: str = "float32") -> keras.Model:
    """BatchNorm, Dropout, add_loss, a regulariser."""
    inputs = keras.Input((4,))
    dense = layers.Dense(6, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-3))
    hidden = Penalty(dtype="float32")(layers.BatchNormalization()(dense(inputs)))
    hidden = layers.Dropout(0.3, seed=5)(hidden)
    heads = {name: layers.Dense(1, name=name, dtype="float32")(hidden) for name in "ab"}
    heads["c"] = layers.Dense(2, activation="softmax", name="c", dtype="float32")(hidden)
    return fill(cls(inputs, heads))


def masked(cls: type[keras.Model]) -> keras.Model:
    """An embedding with a mask, through an LSTM and a sequence output."""
    inputs = keras.Input((4,))
    codes = layers.Embedding(5, 3, mask_zero=True)(Tokens()(inputs))
    sequence = layers.LSTM(4, return_sequences=True)(codes)
    heads = {"a": layers.Dense(1, name="a")(sequence)}
    last = layers.GlobalAveragePooling1D()(sequence)
    heads["b"] = layers.Dense(1, name="b")(last)
    heads["c"] = layers.Dense(2, activation="softmax", name="c")(last)
    return fill(cls(inputs, heads))


@keras.saving.register_keras_serializable(package="tests")
class Tokens(layers.Layer):
    """Numbers 0 (masked) to 4, the first of them never masked."""

    def call(self, x: object) -> object:
        return keras.ops.cast(keras.ops.clip(keras.ops.abs(x) * 2.0, LOWEST, 4.0), "int32")

    def compute_output_spec(self, x: object) -> object:
        return keras.KerasTensor(x.shape, "int32")


def adam(**options: object) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(0.01, **options)


CASES = {
    "busy": (busy, adam, {}),
    "weights and clipping": (
        busy,
        lambda: adam(clipnorm=0.1, weight_decay=0.01),
        {"loss_weights": {"a": 0.5, "b": 2.0, "c": 0.0}},
    ),
    "accumulation and average": (
        busy,
        lambda: adam(gradient_accumulation_steps=3, use_ema=True, global_clipnorm=0.2),
        {},
    ),
    "mask": (masked, adam, {"jit_compile": BACKEND == "jax"}),
    "eager": (busy, adam, {"run_eagerly": True}),
    "no xla": (busy, adam, {"jit_compile": False}),
    "four steps at once": (busy, adam, {"steps_per_execution": 4}),
    "float16": (busy, adam, {}),
    "bfloat16": (busy, adam, {}),
}
if BACKEND == "tensorflow":  # JAX compiles all of them
    CASES["xla"] = busy, adam, {"jit_compile": True}


def train(cls: type[keras.Model], name: str) -> tuple[list[Array], dict[str, list[float]]]:
    build, optimizer, options = CASES[name]
    slow = BACKEND == "jax" and bool({"run_eagerly", "jit_compile"} & {*options})
    steps, epochs = (2, 1) if slow else (4, 5)
    before = keras.config.dtype_policy()
    if name.endswith("float16"):
        keras.config.set_dtype_policy(f"mixed_{name}")
    try:
        keras.utils.set_random_seed(0)
        model = build(cls)
        losses = {"a": "mse", "b": "mae", "c": "sparse_categorical_crossentropy"}
        model.compile(optimizer(), loss=losses, metrics={"c": ["accuracy"]}, **options)
        targets = dict(Y)
        weight = {n: np.linspace(0.5, 1.5, 40) for n in "abc"}
        if build is masked:
            targets["a"] = np.repeat(Y["a"][:, None], 4, axis=1)
            weight["a"] = np.repeat(weight["a"][:, None], 4, axis=1)
        history = model.fit(
            X, targets, sample_weight=weight, batch_size=40 // steps, epochs=epochs, verbose=0
        )
        return arrays([*model.variables, *model.optimizer.variables]), history.history
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("name", CASES)
def test_bit_for_bit(name: str) -> None:
    if name == "four steps at once" and BACKEND == "torch":
        pytest.skip("Keras has no steps_per_execution on PyTorch")
    state, history = train(keras.Model, name)  # 20 steps, 2 where JAX does not compile
    mine, told = train(pt.Model, name)
    assert told.keys() == history.keys()
    if BACKEND == "jax" and name in ("weights and clipping", "accumulation and average"):
        # XLA sums the norm and the average in another order: equal up to the last bits of float32.
        for one, other in zip([*mine, *told.values()], [*state, *history.values()], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        return
    assert told == history
    assert_same(mine, state)
