"""A loop of one's own, the same lines on every backend.

KERAS_BACKEND=torch python examples/own_loop.py        (or tensorflow, or jax)
"""

import keras
import numpy as np
from keras import ops

import polytape as pt

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
x = rng.normal(size=(256, 8)).astype("float32")
targets = x[:, :1], np.tanh(x[:, 1:2] * 3 - x[:, :1])
x, near, far = map(ops.convert_to_tensor, (x, *targets))

inputs = keras.Input((8,))
hidden = keras.layers.Dense(32, activation="tanh")(inputs)
model = keras.Model(inputs, [keras.layers.Dense(1)(hidden), keras.layers.Dense(1)(hidden)])

optimizer = keras.optimizers.Adam(3e-2)
combiner = pt.Combiner(pt.Chain(pt.Normalize(), pt.UPGrad()))


def losses() -> dict:
    """The forward pass and every loss of it: what is to be differentiated happens in here."""
    first, second = model(x, training=True)
    return {"near": ops.mean((first - near) ** 2), "far": ops.mean((second - far) ** 2)}


for step in range(40):
    grads = pt.gradients(losses, model.trainable_variables)
    optimizer.apply(combiner(grads), model.trainable_variables)
    if step % 13 == 0:
        shown = {name: round(float(loss), 4) for name, loss in grads.losses.items()}
        print(step, shown, "cosine", round(float(grads.cosines[0, 1]), 3))

assert all(float(loss) < 0.5 for loss in grads.losses.values())
