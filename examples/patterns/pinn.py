"""A physics-informed network: it solves -u'' = f with u(0) = u(1) = 0 from the equation alone.

There are no targets: one loss is the residual of the equation at points inside, the other the
values at the boundary. By hand the second derivative needs nested tapes or `jax.grad` per point;
both losses are forced into one batch although they have a different number of points; and the
residual, which is larger by orders of magnitude, drowns the boundary. `pt.derivative` taken twice
is the second derivative, losses may have a batch of their own, and the method sees to the scales.

KERAS_BACKEND=torch python examples/patterns/pinn.py        (or tensorflow, or jax)
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import polytape as pt

ENDS = np.array([[0.0], [1.0]], "float32")


def exact(x: Any) -> Any:
    return np.sin(np.pi * x) + 0.25 * np.sin(3 * np.pi * x)


def source(x: Any) -> Any:
    """-u'' of the exact solution."""
    return np.pi**2 * (ops.sin(np.pi * x) + 2.25 * ops.sin(3 * np.pi * x))


def forward(networks: Mapping[str, Any], x: Any) -> dict[str, Any]:
    u = networks["u"]
    curvature = pt.derivative(lambda x: pt.derivative(u, x), x)  # (N, 1), as x
    return {"u": u(x), "residual": curvature + source(x)}


def equation(step: pt.Step) -> Any:
    """At the points of the batch, (N, 1)."""
    return ops.mean(step.outputs["residual"] ** 2)


def boundary(step: pt.Step) -> Any:
    """At the two ends, (2, 1), whatever the batch is."""
    return ops.mean(step.networks["u"](ops.convert_to_tensor(ENDS)) ** 2)


def build() -> tuple[keras.Model, dict[str, Any]]:
    inside = np.random.default_rng(0).uniform(size=(1280, 1)).astype("float32")
    hidden = [layers.Dense(32, activation="tanh") for _ in range(2)]
    u = keras.Sequential([keras.Input((1,)), *hidden, layers.Dense(1)])
    model = pt.Model(networks={"u": u}, forward=forward)
    rate = keras.optimizers.schedules.CosineDecay(1e-2, decay_steps=400)
    model.compile(
        objectives=[pt.Objective("equation", equation), pt.Objective("boundary", boundary)],
        optimizer=keras.optimizers.Adam(rate),
        combine="config",  # no conflict, whatever the scales
    )
    return model, {"x": inside, "batch_size": 64}


def main(epochs: int = 20) -> dict[str, float]:
    keras.utils.set_random_seed(0)
    model, data = build()
    model.fit(**data, epochs=epochs, verbose=0)
    x = np.linspace(0, 1, 101, dtype="float32")[:, None]
    error = np.abs(model.predict(x, verbose=0)["u"] - exact(x))
    found = {"largest error": float(error.max())}
    print({name: round(value, 4) for name, value in found.items()})
    return found


if __name__ == "__main__":
    main()
