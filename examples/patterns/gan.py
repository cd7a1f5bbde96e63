"""A generative adversarial network: two networks, two opposed losses, one compiled step.

By hand one sets `discriminator.trainable = False` at the right moment and compiles twice, or writes
a training step per backend; the generator's loss leaks into the discriminator, the two optimizers
are one, a second optimizer stands still on JAX, or noise drawn outside the step is a constant of
the compiled graph. Here the routes say who learns from what, and the phases in which order; every
phase makes a forward pass of its own, so with fresh noise and the discriminator just updated.

KERAS_BACKEND=torch python examples/patterns/gan.py        (or tensorflow, or jax)
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import polytape as pt

cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)


class Noise(layers.Layer):
    """Fresh noise, a row for each row of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(1)  # held by a layer: it advances in every step

    def call(self, rows: Any) -> Any:
        return keras.random.normal((ops.shape(rows)[0], 4), seed=self.seeds)


def forward(networks: Mapping[str, Any], real: Any) -> dict[str, Any]:
    fake = networks["generator"](networks["noise"](real))
    judge = networks["discriminator"]
    return {"fake": fake, "on real": judge(real), "on fake": judge(fake)}


def discrimination(step: pt.Step) -> Any:
    real, fake = step.outputs["on real"], step.outputs["on fake"]
    return cross_entropy(ops.ones_like(real), real) + cross_entropy(ops.zeros_like(fake), fake)


def generation(step: pt.Step) -> Any:
    fake = step.outputs["on fake"]
    return cross_entropy(ops.ones_like(fake), fake)


def network(size: int, out: int) -> keras.Model:
    hidden = [layers.Dense(64, activation="leaky_relu") for _ in range(2)]
    return keras.Sequential([keras.Input((size,)), *hidden, layers.Dense(out)])


def build() -> tuple[keras.Model, dict[str, Any]]:
    ring = np.random.default_rng(0).normal(size=(2048, 2))
    ring = (ring / np.linalg.norm(ring, axis=1, keepdims=True)).astype("float32")
    networks = {"noise": Noise(), "generator": network(4, 2), "discriminator": network(2, 1)}
    model = pt.Model(networks=networks, forward=forward)
    model.compile(
        objectives=[
            pt.Objective("discrimination", discrimination, trains="discriminator"),
            pt.Objective("generation", generation, trains="generator"),
        ],
        phases=["discrimination", "generation"],
        optimizer={
            "generator": keras.optimizers.Adam(1e-3, beta_1=0.5),
            "discriminator": keras.optimizers.Adam(2e-3, beta_1=0.5),
        },
    )
    return model, {"x": ring, "batch_size": 256}


def main(epochs: int = 25) -> dict[str, float]:
    keras.utils.set_random_seed(0)
    model, data = build()
    model.fit(**data, epochs=epochs, verbose=0)
    points = model.predict(data["x"], verbose=0)["fake"]
    quadrants = (points[:, 0] > 0) * 2 + (points[:, 1] > 0)
    found = {
        "off the ring": float(np.mean(np.abs(np.linalg.norm(points, axis=1) - 1))),
        "rarest quadrant": float(np.bincount(quadrants, minlength=4).min() / len(points)),
    }
    print({name: round(value, 3) for name, value in found.items()})
    return found


if __name__ == "__main__":
    main()
