"""Every example an objective: handwritten digits of scikit-learn, UPGrad against the mean.

Mean and sum let many easy examples outvote a few hard ones; UPGrad takes no step that hurts an
example of the batch (to first order). Both train the same network, each at the learning rate of a
small grid that serves it best, and neither sees more data than the other. As written it takes a
few steps of each, to show how; `python examples/per_example.py 20` trains 20 epochs, two seeds.
"""

import sys

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import polytape as pt

BATCH, RATES = 32, (0.1, 0.2, 0.4)
CROSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(seed: int, rate: float, method: str) -> pt.Model:
    """A small convolutional network of 8 x 8 pixels."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    hidden = layers.Conv2D(16, 3, activation="elu")(inputs)
    hidden = layers.Conv2D(32, 3, activation="elu")(hidden)
    hidden = layers.Flatten()(hidden)
    model = pt.Model(inputs, {"digit": layers.Dense(10, name="digit")(hidden)})
    model.compile(
        keras.optimizers.SGD(rate),
        objectives=[pt.Objective("digit", CROSS, per="example")],
        combine=method,
        metrics={"digit": "accuracy"},
        verbose=0,
    )
    return model


def main(epochs: int = 0) -> None:
    """Train with each method and each rate; zero epochs are one, of four batches."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = (digits.images[order, ..., None] / 16.0).astype("float32")
    y = digits.target[order].astype("int32")
    train, test = slice(0, 1280 if epochs else 4 * BATCH), slice(1280, None)
    rates, seeds = (RATES, range(2)) if epochs else (RATES[1:2], range(1))
    for method in ("sum", "upgrad"):  # as the losses are terms of a mean, their sum is the mean
        curves = {}
        for rate in rates:
            found = []
            for seed in seeds:
                model = network(seed, rate, method)
                history = model.fit(
                    x[train],
                    {"digit": y[train]},
                    batch_size=BATCH,
                    epochs=max(epochs, 1),
                    validation_data=(x[test], {"digit": y[test]}),
                    verbose=0,
                ).history
                found.append([history[key] for key in ("loss", "val_loss", "val_accuracy")])
            curves[rate] = np.mean(found, axis=0)
        best = min(rates, key=lambda rate: curves[rate][0][-1])
        loss, held_out, accuracy = curves[best]
        print(f"{method}: best rate {best}, loss by epoch {np.round(loss[:8], 4)}")
        print(f"  at the end {loss[-1]:.4f}, held out {held_out[-1]:.4f}, {accuracy[-1]:.2%} right")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
