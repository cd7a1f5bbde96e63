"""A Wasserstein GAN whose critic is held to slopes of one by a gradient penalty (WGAN-GP).

The penalty is a loss made of a derivative, which is differentiated again: by hand a tape in a tape,
`jax.grad` in `jax.grad` or `create_graph=True`, with the critic called inside and points watched.
`pt.derivative` does that on every backend. The critic is updated three times for each update of the
generator, each time with new noise, on the same batch; to train the generator in every third batch
instead, leave out the phases and give its objective `every=3`.

KERAS_BACKEND=torch python examples/patterns/wgan_gp.py        (or tensorflow, or jax)
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import make_moons

import polytape as pt


class Noise(layers.Layer):
    """Fresh noise for each row of the input: for the generator, and for the interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, rows: Any) -> Any:
        n, seed = ops.shape(rows)[0], self.seeds
        return keras.random.normal((n, 4), seed=seed), keras.random.uniform((n, 1), seed=seed)


def forward(networks: Mapping[str, Any], real: Any) -> dict[str, Any]:
    noise, share = networks["noise"](real)
    fake = networks["generator"](noise)
    return {"fake": fake, "between": share * real + (1 - share) * fake}


def criticism(step: pt.Step) -> Any:
    critic = step.networks["critic"]
    return ops.mean(critic(step.outputs["fake"])) - ops.mean(critic(step.inputs))


def penalty(step: pt.Step) -> Any:
    slopes = pt.derivative(step.networks["critic"], step.outputs["between"])  # (N, 2)
    return ops.mean((ops.norm(slopes, axis=1) - 1) ** 2)


def generation(step: pt.Step) -> Any:
    return -ops.mean(step.networks["critic"](step.outputs["fake"]))


def network(size: int, out: int) -> keras.Model:
    hidden = [layers.Dense(64, activation="swish") for _ in range(2)]
    return keras.Sequential([keras.Input((size,)), *hidden, layers.Dense(out)])


def build() -> tuple[keras.Model, dict[str, Any]]:
    moons = make_moons(2048, noise=0.05, random_state=0)[0].astype("float32")
    networks = {"noise": Noise(), "generator": network(4, 2), "critic": network(2, 1)}
    model = pt.Model(networks=networks, forward=forward)
    model.compile(
        objectives=[
            pt.Objective("criticism", criticism, trains="critic"),
            pt.Objective("penalty", penalty, trains="critic", weight=10.0),
            pt.Objective("generation", generation, trains="generator"),
        ],
        phases=[pt.Phase(["criticism", "penalty"], steps=3), pt.Phase("generation")],
        optimizer={
            "critic": keras.optimizers.Adam(2e-3, beta_1=0.0, beta_2=0.9),
            "generator": keras.optimizers.Adam(5e-4, beta_1=0.0, beta_2=0.9),
        },
    )
    return model, {"x": moons, "batch_size": 256}


def main(epochs: int = 25) -> dict[str, Any]:
    keras.utils.set_random_seed(0)
    model, data = build()
    model.fit(**data, epochs=epochs, verbose=0)
    outputs = model.predict(data["x"], verbose=0)
    slopes = ops.convert_to_numpy(pt.derivative(model.networks["critic"], outputs["between"]))
    steepness = float(np.linalg.norm(slopes, axis=1).mean())
    print(f"mean slope of the critic: {steepness:.3f}")
    return {"steepness": steepness, "points": outputs["fake"]}


if __name__ == "__main__":
    main()
