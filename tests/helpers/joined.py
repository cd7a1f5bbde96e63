"""Two or three small networks with weights from NumPy, joined by a forward pass."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

import polytape as pt
from small import fill

X = np.random.default_rng(3).normal(size=(32, 4)).astype("float32")
Y = {"image": X, "label": (X[:, :1] > 0).astype("float32")}


def dense(name: str, size: int, units: int, hidden: int = 5) -> keras.Model:
    steps = [keras.Input((size,)), layers.Dense(hidden, activation="tanh"), layers.Dense(units)]
    return keras.Sequential(steps, name=f"{name}_network")


@keras.saving.register_keras_serializable(package="tests")
def forward(networks: Any, inputs: Any) -> Any:
    code = networks["encoder"](inputs)
    return {"code": code, "image": networks["decoder"](code), "label": networks["head"](code)}


@keras.saving.register_keras_serializable(package="tests")
def sparsity(step: Any) -> Any:
    return ops.mean(ops.square(step.outputs["code"]))


def networks() -> dict[str, keras.Model]:
    return {
        "encoder": dense("encoder", 4, 3),
        "decoder": dense("decoder", 3, 4),
        "head": dense("head", 3, 1),
    }


def objectives(**changes: dict[str, Any]) -> list[pt.Objective]:
    """Three objectives, with settings to add by name."""
    image = pt.Objective("image", "mse", **changes.get("image", {}))
    label = pt.Objective(
        "label", keras.losses.BinaryCrossentropy(from_logits=True), **changes.get("label", {})
    )
    return [image, label, pt.Objective("sparsity", sparsity, **changes.get("sparsity", {}))]


def rates() -> dict[str, Any]:
    return {
        "encoder": keras.optimizers.Adam(0.01),
        "decoder": keras.optimizers.SGD(0.1, momentum=0.9),
        "*": keras.optimizers.Adam(0.02),
    }


def joined(given: Any = None, optimizer: Any = None, **settings: Any) -> pt.Model:
    """Compiled, with three objectives and three optimizers unless others are given."""
    model = fill(pt.Model(networks=networks(), forward=forward, name="joined"))
    model.compile(
        objectives=objectives() if given is None else given,
        optimizer=rates() if optimizer is None else optimizer,
        **{"verbose": 0, **settings},
    )
    return model


def counts(model: pt.Model) -> dict[str, int]:
    """How often each optimizer has stepped."""
    return {
        name: int(ops.convert_to_numpy(model.optimizer[name].iterations))
        for name in model.optimizer
    }
