"""Three objectives that pull apart, in Keras `fit`: one argument to `compile` is new.

KERAS_BACKEND=tensorflow python examples/fit.py        (or jax, or torch)
"""

import keras

import polytape as pt
from polytape.problems import load

problem = load("multidigits")  # two overlaid digits: name the left one, the right one, redraw both
x_train, y_train, x_val, y_val = problem.load_data()

keras.utils.set_random_seed(0)
inputs, outputs = problem.build()
model = pt.Model(inputs, outputs)
model.compile(
    optimizer=keras.optimizers.Adam(problem.learning_rate),
    loss=problem.losses,
    metrics=problem.metrics,
    combine=pt.Every(pt.UPGrad(), steps=4),  # settle the conflict in one step out of four
)
history = model.fit(
    x_train, y_train, validation_data=(x_val, y_val), batch_size=256, epochs=2, verbose=2
)
assert history.history["loss"][-1] < history.history["loss"][0]
