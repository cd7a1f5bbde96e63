"""A sparse autoencoder: reconstruction trains both networks, sparsity the encoder only.

Two things go wrong by hand. The reconstruction is differentiated by the decoder's variables alone
("each loss has its network"), so the encoder never learns to keep what the decoder needs. Or the
encoder makes the code small instead of sparse, and the decoder makes up for it with large weights:
the sparsity falls to nothing and no unit is off. Here the routes are written down, one per
objective, and a constraint bounds the decoder's atoms, so that a small code costs reconstruction.

KERAS_BACKEND=torch python examples/patterns/sparse_autoencoder.py        (or tensorflow, or jax)
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits

import polytape as pt


def forward(networks: Mapping[str, Any], image: Any) -> dict[str, Any]:
    code = networks["encoder"](image)
    return {"code": code, "image": networks["decoder"](code)}


def sparsity(step: pt.Step) -> Any:
    return ops.mean(ops.abs(step.outputs["code"]))


def build() -> tuple[keras.Model, dict[str, Any]]:
    images = (load_digits().data / 16).astype("float32")
    encoder = keras.Sequential([keras.Input((64,)), layers.Dense(100, activation="relu")])
    atoms = layers.Dense(64, kernel_constraint=keras.constraints.MaxNorm(1.0, axis=1))
    decoder = keras.Sequential([keras.Input((100,)), atoms])

    model = pt.Model(networks={"encoder": encoder, "decoder": decoder}, forward=forward)
    model.compile(
        objectives=[
            pt.Objective("reconstruction", "mse", trains=["encoder", "decoder"], output="image"),
            pt.Objective("sparsity", sparsity, trains="encoder", weight=0.05),
        ],
        optimizer={"encoder": keras.optimizers.Adam(5e-3), "decoder": keras.optimizers.Adam(1e-2)},
    )
    return model, {"x": images, "y": {"image": images}, "batch_size": 256}


def main(epochs: int = 40) -> dict[str, float]:
    keras.utils.set_random_seed(0)
    model, data = build()
    model.fit(**data, epochs=epochs, verbose=0)
    outputs = model.predict(data["x"], verbose=0)
    found = {
        "error": float(np.mean((outputs["image"] - data["x"]) ** 2)),
        "units on": float(np.mean(outputs["code"] > 0.01)),
    }
    print({name: round(value, 4) for name, value in found.items()})
    return found


if __name__ == "__main__":
    main()
