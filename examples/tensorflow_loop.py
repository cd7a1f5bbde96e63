"""A compiled training step of one's own on TensorFlow: `pt.gradients` inside `tf.function`.

KERAS_BACKEND=tensorflow python examples/tensorflow_loop.py
"""

import keras
import numpy as np
import tensorflow as tf

import polytape as pt

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
x = rng.normal(size=(256, 8)).astype("float32")
near, far = x[:, :1], np.tanh(x[:, 1:2] * 3 - x[:, :1])

inputs = keras.Input((8,))
hidden = keras.layers.Dense(32, activation="tanh")(inputs)
model = keras.Model(inputs, [keras.layers.Dense(1)(hidden), keras.layers.Dense(1)(hidden)])

optimizer = keras.optimizers.Adam(1e-2)
combiner = pt.Combiner(pt.PCGrad())


@tf.function
def train_step(x, near, far):
    def losses():
        first, second = model(x, training=True)
        return {
            "near": tf.reduce_mean((first - near) ** 2),
            "far": tf.reduce_mean((second - far) ** 2),
        }

    grads = pt.gradients(losses, model.trainable_variables)
    optimizer.apply(combiner(grads), model.trainable_variables)
    return grads.losses


for step in range(100):
    found = train_step(x, near, far)
    if step % 25 == 0:
        print(step, {name: round(float(loss), 4) for name, loss in found.items()})
assert all(float(loss) < 0.5 for loss in found.values())
