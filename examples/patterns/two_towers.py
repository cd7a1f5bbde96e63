"""Two pretrained towers, fine-tuned to match pairs: each with its own optimizer, partly frozen.

One tower reads the upper half of a digit, the other the lower half; a contrastive loss pulls halves
of the same image together. By hand an optimizer built on the wrong list trains one tower only and
nothing says so; freezing a layer after `compile` behaves in three ways on three backends; and one
learning rate for both either ruins the good tower or never moves the other. Here the names in
`optimizer` say which part learns how, a part that no objective reaches is an error, and the frozen
body is frozen before `compile`.

KERAS_BACKEND=torch python examples/patterns/two_towers.py        (or tensorflow, or jax)
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import polytape as pt


def forward(networks: Mapping[str, Any], halves: Mapping[str, Any]) -> dict[str, Any]:
    return {name: ops.normalize(networks[name](halves[name])) for name in ("upper", "lower")}


def matching(step: pt.Step) -> Any:
    """Each half finds the other among those of the batch, from either side."""
    upper, lower = step.outputs["upper"], step.outputs["lower"]
    logits = 10 * ops.matmul(upper, ops.transpose(lower))  # (N, N)
    own = ops.arange(ops.shape(logits)[0])
    losses = [
        keras.losses.sparse_categorical_crossentropy(own, scores, from_logits=True)
        for scores in (logits, ops.transpose(logits))
    ]
    return ops.mean(losses[0] + losses[1])


def tower(halves: np.ndarray, digits: np.ndarray, name: str) -> keras.Model:
    """A body that was trained elsewhere to name the digit, and a new head."""
    halves = halves.astype("float64")  # in float32 the outcome hangs on the processor
    found = MLPClassifier((64, 32), early_stopping=True, random_state=0).fit(halves, digits)
    body = [
        layers.Dense(64, activation="relu", name=f"{name}_first"),
        layers.Dense(32, activation="relu", name=f"{name}_second"),
    ]
    model = keras.Sequential([keras.Input((32,)), *body, layers.Dense(16)], name=name)
    for layer, kernel, bias in zip(body, found.coefs_, found.intercepts_, strict=False):
        layer.set_weights([kernel, bias])
    return model


def build() -> tuple[keras.Model, dict[str, Any]]:
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype("float32")
    halves = {"upper": images[:, :32], "lower": images[:, 32:]}
    towers = {name: tower(half, digits, name) for name, half in halves.items()}
    towers["upper"].get_layer("upper_first").trainable = False

    model = pt.Model(networks=towers, forward=forward)
    model.compile(
        objectives=[pt.Objective("matching", matching, trains=["upper", "lower"])],
        optimizer={
            "upper": keras.optimizers.Adam(3e-3),
            "lower": keras.optimizers.AdamW(1e-2, weight_decay=1e-4),
        },
    )
    return model, {"x": halves, "batch_size": 128}


def main(epochs: int = 15) -> dict[str, float]:
    keras.utils.set_random_seed(0)
    model, data = build()
    model.fit(**data, epochs=epochs, verbose=0)
    found = model.predict(data["x"], verbose=0)
    upper, lower = found["upper"][:200], found["lower"][:200]
    best = np.argsort(-upper @ lower.T, axis=1)[:, :10]
    share = float(np.mean(np.any(best == np.arange(200)[:, None], axis=1)))
    print(f"own half among the best 10 of 200: {share:.2f}")
    return {"found": share}


if __name__ == "__main__":
    main()
