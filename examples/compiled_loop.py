"""A compiled training step of one's own, the same lines on every backend.

An encoder, two heads on it, an optimizer for the encoder and one for all others.

KERAS_BACKEND=tensorflow python examples/compiled_loop.py        (or jax, or torch)
"""

import keras
import numpy as np
from keras import ops

import polytape as pt

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
x = rng.normal(size=(256, 8)).astype("float32")
near, far = x[:, :1], np.tanh(x[:, 1:2] * 3 - x[:, :1])


def network(name: str, size: int, *layers: keras.layers.Layer) -> keras.Sequential:
    return keras.Sequential([keras.Input((size,)), *layers], name=name)


networks = {
    "encoder": network(
        "encoder", 8, keras.layers.Dense(32, activation="tanh"), keras.layers.Dropout(0.1)
    ),
    "near": network("near", 32, keras.layers.Dense(1)),
    "far": network("far", 32, keras.layers.Dense(1)),
}


def losses(x, near, far):
    """The forward pass and every loss of it, and what else is wanted."""
    code = networks["encoder"](x, training=True)
    first, second = networks["near"](code), networks["far"](code)
    found = {"near": ops.mean((first - near) ** 2), "far": ops.mean((second - far) ** 2)}
    return found, {"far": second}


optimizers = {"encoder": keras.optimizers.Adam(1e-2), "*": keras.optimizers.SGD(1e-1)}
step = pt.compiled_step(losses, optimizers, pt.Combiner("upgrad"), networks)

for epoch in range(30):
    for start in range(0, 256, 64):
        batch = slice(start, start + 64)
        logs, outputs = step(x[batch], near[batch], far[batch])
    if epoch % 10 == 0:
        print(epoch, {name: round(float(loss), 4) for name, loss in logs.items()})

assert all(float(loss) < 0.5 for loss in logs.values())
assert outputs["far"].shape == (64, 1)
