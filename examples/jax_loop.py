"""What `pt.compiled_step` does on JAX, by hand: all state goes in and comes out.

Needed where the step is to be something else than losses, method and optimizer.

KERAS_BACKEND=jax python examples/jax_loop.py
"""

import jax
import keras
import numpy as np
from keras import ops

import polytape as pt

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
x = rng.normal(size=(256, 8)).astype("float32")
near, far = x[:, :1], np.tanh(x[:, 1:2] * 3 - x[:, :1])

inputs = keras.Input((8,))
hidden = keras.layers.Dense(32, activation="tanh")(inputs)
hidden = keras.layers.Dropout(0.1)(hidden)
model = keras.Model(inputs, [keras.layers.Dense(1)(hidden), keras.layers.Dense(1)(hidden)])

trainable = model.trainable_variables
optimizer = keras.optimizers.Adam(1e-2)
optimizer.build(trainable)
combiner = pt.Combiner(pt.Smoothed(pt.MGDA()))
combiner.prepare(["near", "far"], trainable)  # its state exists before the first trace
others = [*model.non_trainable_variables, *optimizer.variables, *combiner.variables]
everything = [*trainable, *others]


@jax.jit
def train_step(values, x, near, far):
    with keras.StatelessScope(zip(everything, values, strict=True)) as scope:

        def losses():
            first, second = model(x, training=True)
            return {"near": ops.mean((first - near) ** 2), "far": ops.mean((second - far) ** 2)}

        grads = pt.gradients(losses, trainable)
        optimizer.apply(combiner(grads), trainable)
    return [scope.get_current_value(variable) for variable in everything], grads.losses


values = [variable.value for variable in everything]
for step in range(100):
    values, found = train_step(values, x, near, far)
    if step % 25 == 0:
        print(step, {name: round(float(loss), 4) for name, loss in found.items()})

for variable, value in zip(everything, values, strict=True):  # back into the Keras objects
    variable.assign(value)
assert all(float(loss) < 0.5 for loss in found.values())
