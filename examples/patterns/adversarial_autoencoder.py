"""An adversarial autoencoder: codes that look like samples of a prior, with a real adversary.

A discriminator learns to tell codes from samples of the prior, and the encoder learns to fool it.
By hand the adversary is often missing (a loss that pulls every code to a fixed vector is called
adversarial, and the codes collapse), or the fooling loss trains the discriminator as well and each
undoes the other's work, or the noise is drawn once, when the step is compiled. Here every objective
has its route. Reconstruction and fooling are in one phase: in two updates of its own each, an Adam
would level their gradients and the weight of 0.05 would mean little.

KERAS_BACKEND=torch python examples/patterns/adversarial_autoencoder.py     (or tensorflow, or jax)
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits

import polytape as pt

cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)


class Prior(layers.Layer):
    """A fresh sample of the prior for every code, in the shape of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(1)  # held by a layer: it advances in every step

    def call(self, code: Any) -> Any:
        return keras.random.normal(ops.shape(code), seed=self.seeds)


def forward(networks: Mapping[str, Any], image: Any) -> dict[str, Any]:
    code = networks["encoder"](image)
    judge = networks["discriminator"]
    verdicts = {"on code": judge(code), "on prior": judge(networks["prior"](code))}
    return {"code": code, "image": networks["decoder"](code), **verdicts}


def discrimination(step: pt.Step) -> Any:
    code, prior = step.outputs["on code"], step.outputs["on prior"]
    return cross_entropy(ops.zeros_like(code), code) + cross_entropy(ops.ones_like(prior), prior)


def fooling(step: pt.Step) -> Any:
    return cross_entropy(ops.ones_like(step.outputs["on code"]), step.outputs["on code"])


def network(size: int, out: int) -> keras.Model:
    hidden = [layers.Dense(64, activation="leaky_relu") for _ in range(2)]
    return keras.Sequential([keras.Input((size,)), *hidden, layers.Dense(out)])


def build() -> tuple[keras.Model, dict[str, Any]]:
    images = (load_digits().data / 16).astype("float32")
    networks = {"encoder": network(64, 2), "decoder": network(2, 64)}
    networks |= {"discriminator": network(2, 1), "prior": Prior()}
    model = pt.Model(networks=networks, forward=forward)
    model.compile(
        objectives=[
            pt.Objective("reconstruction", "mse", trains=["encoder", "decoder"], output="image"),
            pt.Objective("discrimination", discrimination, trains="discriminator"),
            pt.Objective("fooling", fooling, trains="encoder", weight=0.05),
        ],
        phases=["discrimination", pt.Phase(["reconstruction", "fooling"])],
        optimizer={"discriminator": keras.optimizers.Adam(5e-3), "*": keras.optimizers.Adam(2e-3)},
    )
    return model, {"x": images, "y": {"image": images}, "batch_size": 256}


def main(epochs: int = 40) -> dict[str, Any]:
    keras.utils.set_random_seed(0)
    model, data = build()
    model.fit(**data, epochs=epochs, verbose=0)
    outputs = model.predict(data["x"], verbose=0)
    found = {
        "error": np.mean((outputs["image"] - data["x"]) ** 2),
        "code mean": outputs["code"].mean(axis=0),
        "code deviation": outputs["code"].std(axis=0),
    }
    print({name: np.round(value, 3) for name, value in found.items()})
    return found


if __name__ == "__main__":
    main()
