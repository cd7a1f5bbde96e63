"""An image, a table and a sequence of any length; some of them missing, and some labels too.

By hand a missing modality is a zero, which is a value like any other; a NaN that is masked after
the network instead of before turns every gradient into NaN; padding is read as data; and samples
without a label are dropped although their other labels are good. Here NaN means missing, in inputs
and in targets: the forward pass averages the encodings that are there, the sequence is masked by
Keras, and every loss is a mean over its own labels.

KERAS_BACKEND=torch python examples/patterns/multimodal.py        (or tensorflow, or jax)
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits

import polytape as pt

MODALITIES = ("image", "table", "rows")


def forward(networks: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    codes, there = [], []
    for name in MODALITIES:
        missing = ops.isnan(given[name])
        axes = tuple(range(1, len(missing.shape)))
        there.append(ops.cast(~ops.all(missing, axis=axes), "float32")[:, None])
        codes.append(networks[name](ops.where(missing, 0.0, given[name])))  # no NaN gets in
    fused = sum(code * here for code, here in zip(codes, there, strict=True)) / sum(there)
    return {"digit": networks["digit"](fused), "ink": networks["ink"](fused)}


def digits_in_parts() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Modalities and targets with holes, and the digits without."""
    images, digits = load_digits(return_X_y=True)
    images, rng = (images / 16).astype("float32").reshape(-1, 8, 8), np.random.default_rng(0)
    rows = images.copy()  # a sequence of 5 to 8 rows, padded with zeros
    rows[np.arange(8) >= rng.integers(5, 9, len(rows))[:, None]] = 0
    table = np.concatenate([images.mean(axis=1), images.mean(axis=2)], axis=1)  # (N, 16)
    modalities = {"image": images[..., None].copy(), "table": table, "rows": rows}
    lost = rng.integers(6, size=len(images))  # half of the samples lack one modality
    for place, name in enumerate(MODALITIES):
        modalities[name][lost == place] = np.nan
    targets = {"digit": digits.astype("float32"), "ink": images.mean(axis=(1, 2))[:, None]}
    for target in targets.values():
        target[rng.uniform(size=len(target)) < 0.3] = np.nan
    return modalities, targets, digits


def build() -> tuple[keras.Model, dict[str, Any]]:
    flat = [layers.Conv2D(8, 3, activation="relu"), layers.Flatten()]
    masked = [layers.Masking(0.0), layers.SimpleRNN(32)]
    networks = {
        "image": keras.Sequential([keras.Input((8, 8, 1)), *flat, layers.Dense(32)]),
        "table": keras.Sequential([keras.Input((16,)), layers.Dense(32, activation="relu")]),
        "rows": keras.Sequential([keras.Input((None, 8)), *masked, layers.Dense(32)]),
        "digit": keras.Sequential([keras.Input((32,)), layers.Dense(10)]),
        "ink": keras.Sequential([keras.Input((32,)), layers.Dense(1)]),
    }
    model = pt.Model(networks=networks, forward=forward)
    digit_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        objectives=[pt.Objective("digit", digit_loss), pt.Objective("ink", "mse")],
        optimizer={"rows": keras.optimizers.Adam(5e-3), "*": keras.optimizers.Adam(1e-2)},
        combine="upgrad",
    )
    modalities, targets, _ = digits_in_parts()
    return model, {"x": modalities, "y": targets, "batch_size": 256}


def main(epochs: int = 20) -> dict[str, float]:
    keras.utils.set_random_seed(0)
    model, data = build()
    model.fit(**data, epochs=epochs, verbose=0)
    outputs, (_, _, digits) = model.predict(data["x"], verbose=0), digits_in_parts()
    right = outputs["digit"].argmax(axis=1) == digits
    lacking = {
        name: np.isnan(data["x"][name]).reshape(len(right), -1).all(1) for name in MODALITIES
    }
    found = {f"without {name}": float(right[lacking[name]].mean()) for name in MODALITIES}
    found["all"] = float(right.mean())
    print("accuracy", {name: round(value, 3) for name, value in found.items()})
    return found


if __name__ == "__main__":
    main()
