"""Hidden features kept smooth along time: a loss that reads the inside of the one forward pass.

Usual recipes call the first layers again to get at the hidden features: twice the work, another
dropout mask, statistics of normalisation updated twice. They take differences of consecutive rows
of a batch, which mean nothing once `fit` has shuffled it; and they blend lists of gradients as
alpha * g + (1 - alpha) * h, where the head's h is None. Here the features are an output like any
other, the differences run along the time axis within a sample, the blend is two weights; and the
features are normalised, since otherwise they become smooth by becoming small.

KERAS_BACKEND=torch python examples/patterns/smooth_features.py        (or tensorflow, or jax)
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

import polytape as pt

ALPHA = 0.7


def smoothness(step: pt.Step) -> Any:
    """Mean squared step of the features (N, time, units) along time."""
    features = step.outputs["features"]
    return ops.mean((features[:, 1:] - features[:, :-1]) ** 2)


def waves(count: int = 1024, length: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy signals and the clean ones, (count, length, 1)."""
    rng = np.random.default_rng(seed)
    speed, start = rng.uniform(0.1, 0.4, (count, 1)), rng.uniform(0, 2 * np.pi, (count, 1))
    clean = np.sin(speed * np.arange(length) + start)[..., None]
    noisy = clean + rng.normal(scale=0.5, size=clean.shape)
    return noisy.astype("float32"), clean.astype("float32")


def build() -> tuple[keras.Model, dict[str, Any]]:
    inputs = keras.Input((32, 1))
    trunk = layers.Conv1D(16, 7, padding="same", activation="tanh", name="first")(inputs)
    trunk = layers.Conv1D(16, 7, padding="same", name="second")(trunk)
    features = layers.LayerNormalization(center=False, scale=False)(trunk)
    signal = layers.Dense(1, name="signal")(features)

    model = pt.Model(inputs, {"signal": signal, "features": features})
    model.compile(
        objectives=[
            pt.Objective("signal", "mse", weight=ALPHA),
            pt.Objective("smoothness", smoothness, weight=1 - ALPHA),
        ],
        optimizer=keras.optimizers.Adam(1e-2),
    )
    noisy, clean = waves()
    return model, {"x": noisy, "y": {"signal": clean}, "batch_size": 128}


def main(epochs: int = 20) -> dict[str, float]:
    keras.utils.set_random_seed(0)
    model, data = build()
    before = model.evaluate(data["x"], data["y"], verbose=0, return_dict=True)
    model.fit(**data, epochs=epochs, verbose=0)
    after = model.evaluate(data["x"], data["y"], verbose=0, return_dict=True)
    for name in ("signal_loss", "smoothness_loss"):
        print(f"{name}: {before[name]:.4f} -> {after[name]:.4f}")
    return after


if __name__ == "__main__":
    main()
