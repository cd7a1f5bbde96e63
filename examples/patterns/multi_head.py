"""One trunk, several heads: the losses of a multi-task network, their conflicts settled.

A noisy digit comes in; the heads name it, clean it up, and measure its ink. Written by hand this
goes wrong in three places: a loss does not reach the other heads, so its gradient there is None and
adding gradients fails; the loss with the largest gradient takes the trunk for itself; and a cross
entropy is fed raw scores without `from_logits=True`. Here every loss is an objective, named by its
output; heads take their own gradient, and the trunk a direction in which no loss rises.

KERAS_BACKEND=torch python examples/patterns/multi_head.py        (or tensorflow, or jax)
"""

from typing import Any

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import polytape as pt


def build() -> tuple[keras.Model, dict[str, Any]]:
    images, digits = (array[:1792] for array in load_digits(return_X_y=True))  # 7 whole batches
    images = (images / 16).astype("float32")
    noise = np.random.default_rng(0).normal(scale=0.3, size=images.shape).astype("float32")

    inputs = keras.Input((64,))
    trunk = layers.Dense(64, activation="relu")(inputs)
    trunk = layers.Dense(32, activation="relu")(trunk)
    heads = {
        "digit": layers.Dense(10, name="digit")(trunk),
        "image": layers.Dense(64, name="image")(trunk),
        "ink": layers.Dense(1, name="ink")(trunk),
    }
    model = pt.Model(inputs, heads)
    model.compile(
        optimizer=keras.optimizers.Adam(5e-3),
        loss={
            "digit": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "image": "mse",
            "ink": "mse",
        },
        metrics={"digit": "accuracy"},
        combine="upgrad",  # without it: the plain sum, as in Keras
    )
    targets = {"digit": digits, "image": images, "ink": images.mean(axis=1, keepdims=True)}
    return model, {"x": images + noise, "y": targets, "batch_size": 256}


def main(epochs: int = 30) -> dict[str, float]:
    keras.utils.set_random_seed(0)
    model, data = build()
    model.fit(**data, epochs=epochs, verbose=0)
    found = model.evaluate(data["x"], data["y"], verbose=0, return_dict=True)
    print({name: round(value, 4) for name, value in found.items()})
    return found


if __name__ == "__main__":
    main()
